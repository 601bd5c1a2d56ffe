"""Which sagas are open, and which wait to start, of the types that limit how many may be open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0011"
down_revision = "0010"


def upgrade(op: Operations) -> None:
    """Create the table; sagas that are open by now were let in without a limit."""
    op.create_table(
        "choreo_admission",
        sa.Column("saga_id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("nth", sa.Integer, nullable=False),
        sa.Column("admitted", sa.Boolean, nullable=False),
    )
    op.create_index("choreo_admission_place", "choreo_admission", ["type", "admitted", "at", "nth"])
