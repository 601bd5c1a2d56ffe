"""Since when each open saga waits: so those that may be stuck are found however many are open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0010"
down_revision = "0009"


def upgrade(op: Operations) -> None:
    """Add the column and its index; open sagas are taken to wait since their last change."""
    op.add_column("choreo_saga", sa.Column("waits_since", sa.BigInteger))
    op.execute(sa.text("UPDATE choreo_saga SET waits_since = updated_at WHERE ended_at IS NULL"))
    open_ = sa.text("waits_since IS NOT NULL")
    op.create_index("choreo_saga_waits", "choreo_saga", ["waits_since"], sqlite_where=open_, postgresql_where=open_)
