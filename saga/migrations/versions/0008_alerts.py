"""Alerts: what happened that somebody should hear of, and whether it was told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0008"
down_revision = "0007"


def upgrade(op: Operations) -> None:
    """Create the table, and the indexes of what is not told yet and of each kind."""
    op.create_table(
        "choreo_alert",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("saga", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("step", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("remedies", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("told_at", sa.BigInteger),
    )
    op.create_index("choreo_alert_told", "choreo_alert", ["told_at", "at"])
    op.create_index("choreo_alert_kind", "choreo_alert", ["kind", "at"])
