"""Semantic locks with their queues, and the schedules of sagas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"


def upgrade(op: Operations) -> None:
    """Create the tables of locks and schedules."""
    op.create_table(
        "choreo_lock",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("saga_id", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "key"),
    )
    op.create_table(
        "choreo_lock_queue",
        sa.Column("saga_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("nth", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("choreo_lock_queue_place", "choreo_lock_queue", ["name", "key", "at", "nth"])
    op.create_table(
        "choreo_schedule",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("cron", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("missed", sa.String(8), nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("look_at", sa.BigInteger),
        sa.Column("last_at", sa.BigInteger),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
    )
