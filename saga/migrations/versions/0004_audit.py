"""The record of changes, as a chain of hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0004"
down_revision = "0003"


def upgrade(op: Operations) -> None:
    """Create the table and its indexes."""
    op.create_table(
        "choreo_audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("via", sa.String(16), nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("command_id", sa.Text),
        sa.Column("sealed", sa.Text),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("choreo_audit_target", "choreo_audit", ["target"])
    op.create_index("choreo_audit_command", "choreo_audit", ["command_id"])
