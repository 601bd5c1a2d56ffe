"""The first tables of a service: its inbox and what is parked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Create them."""
    op.create_table(
        "choreo_inbox",
        sa.Column("event_id", sa.String(255), primary_key=True),
        sa.Column("handler", sa.String(255), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger),
        sa.Column("answer", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "choreo_parked",
        sa.Column("event_id", sa.String(255), primary_key=True),
        sa.Column("handler", sa.String(255), primary_key=True),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("position", sa.String(48), nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.Text, nullable=False),
    )
    op.create_index("choreo_parked_lane", "choreo_parked", ["handler", "lane", "position"])
    op.create_index("choreo_parked_due_at", "choreo_parked", ["due_at"])
