"""The outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Create the outbox."""
    op.create_table(
        "choreo_outbox",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("timestamp", sa.BigInteger),
        sa.Column("partition", sa.Integer),
        sa.Column("free_at", sa.BigInteger, nullable=False),
    )
    op.create_index("choreo_outbox_free_at", "choreo_outbox", ["free_at", "id"])
