"""Definitions, sagas, history, parked and ignored events, commands, positions and switches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None


def upgrade(op: Operations) -> None:
    """Create the coordinator's tables."""
    _sagas(op)
    _events(op)
    _work(op)


def _sagas(op: Operations) -> None:
    op.create_table(
        "choreo_definition",
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(32), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("registered_at", sa.BigInteger, nullable=False),
        sa.Column("active_from", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("type", "version"),
    )
    op.create_table(
        "choreo_saga",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("step", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("conditions", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("next_due", sa.BigInteger),
        sa.Column("limit_due", sa.BigInteger),
        sa.Column("traced", sa.Boolean, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.UniqueConstraint("type", "key", "run"),
    )
    op.create_index("choreo_saga_key", "choreo_saga", ["key"])
    op.create_index("choreo_saga_phase", "choreo_saga", ["phase", "updated_at"])
    op.create_index("choreo_saga_type", "choreo_saga", ["type", "started_at"])
    op.create_index("choreo_saga_started", "choreo_saga", ["started_at"])
    _partial_index(op, "choreo_saga_due", "choreo_saga", "next_due", sa.column("next_due").isnot(None))
    _partial_index(op, "choreo_saga_limit", "choreo_saga", "limit_due", sa.column("limit_due").isnot(None))
    _partial_index(op, "choreo_saga_untraced", "choreo_saga", "id", sa.column("traced", sa.Boolean).is_(False))


def _events(op: Operations) -> None:
    op.create_table(
        "choreo_history",
        sa.Column("saga_id", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("topic", sa.Text),
        sa.Column("partition", sa.Integer),
        sa.Column("offset", sa.BigInteger),
        sa.Column("content_type", sa.Text),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("saga_id", "seq"),
        sa.UniqueConstraint("saga_id", "event_id"),
    )
    op.create_table(
        "choreo_saga_parked",
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.Text),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("type", "key", "event_id"),
    )
    op.create_index("choreo_saga_parked_expiry", "choreo_saga_parked", ["expires_at"])
    op.create_table(
        "choreo_ignored",
        sa.Column("saga_type", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("last_event_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("saga_type", "topic", "event_type", "reason"),
    )


def _work(op: Operations) -> None:
    op.create_table(
        "choreo_sent",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("saga_id", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("release_at", sa.BigInteger),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.Text, nullable=False),
    )
    op.create_index("choreo_sent_saga", "choreo_sent", ["saga_id"])
    _partial_index(op, "choreo_sent_held", "choreo_sent", "release_at", sa.column("release_at").isnot(None))
    op.create_table(
        "choreo_position",
        sa.Column("group", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("read_until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group", "topic", "partition"),
    )
    op.create_table(
        "choreo_command",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("saga_id", sa.Text),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("done_at", sa.BigInteger),
    )
    op.create_index("choreo_command_state", "choreo_command", ["state", "at"])
    op.create_table(
        "choreo_control",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )


def _partial_index(op: Operations, name: str, table: str, column: str, where: sa.ColumnElement[bool]) -> None:
    op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)
