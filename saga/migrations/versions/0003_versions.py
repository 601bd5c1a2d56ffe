"""Which coordinator has loaded which version, and the sagas that wait for code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"


def upgrade(op: Operations) -> None:
    """Create the table and the index."""
    op.create_table(
        "choreo_loaded",
        sa.Column("group", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group", "client", "type", "version"),
    )
    paused = sa.text("conditions LIKE '%Paused%'")
    op.create_index(
        "choreo_saga_paused", "choreo_saga", ["type", "version"], sqlite_where=paused, postgresql_where=paused
    )
