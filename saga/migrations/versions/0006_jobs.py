"""What people ask of many sagas at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "choreo_job",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rate", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
    )
    op.create_index("choreo_job_next", "choreo_job", ["next_at"])
    op.create_table(
        "choreo_job_item",
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("nth", sa.Integer, nullable=False),
        sa.Column("command_id", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.Text),
        sa.PrimaryKeyConstraint("job_id", "target"),
    )
    op.create_index("choreo_job_item_nth", "choreo_job_item", ["job_id", "state", "nth"])
