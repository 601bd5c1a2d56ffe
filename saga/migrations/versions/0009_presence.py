"""Presence: which coordinator reads what and how quickly it decides, and when each service was seen last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0009"
down_revision = "0008"


def upgrade(op: Operations) -> None:
    """Create both tables."""
    op.create_table(
        "choreo_coordinator",
        sa.Column("group", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("partitions", sa.Text, nullable=False),
        sa.Column("batches", sa.Integer, nullable=False),
        sa.Column("delay_p50", sa.BigInteger),
        sa.Column("delay_p99", sa.BigInteger),
        sa.PrimaryKeyConstraint("group", "client"),
    )
    op.create_table(
        "choreo_group",
        sa.Column("group", sa.Text, primary_key=True),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
