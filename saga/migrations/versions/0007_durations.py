"""How long things usually take, and which sagas failed the same way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations) -> None:
    """Create the tables and the index."""
    op.create_table(
        "choreo_duration",
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("week", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("sketch", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("type", "kind", "step", "week"),
    )
    op.create_table(
        "choreo_usual",
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("p50", sa.BigInteger, nullable=False),
        sa.Column("p95", sa.BigInteger, nullable=False),
        sa.Column("p99", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("type", "kind", "step"),
    )
    failed = sa.text("error IS NOT NULL")
    op.create_index(
        "choreo_saga_error", "choreo_saga", ["error", "updated_at"], sqlite_where=failed, postgresql_where=failed
    )
