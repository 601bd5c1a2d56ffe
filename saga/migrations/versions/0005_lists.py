"""Lists of very many sagas, page by page: by phase and age, and those that have a condition."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    """Create the indexes."""
    op.create_index("choreo_saga_listed", "choreo_saga", ["phase", "started_at"])
    remarked = sa.text("conditions <> ''")
    op.create_index(
        "choreo_saga_remarked",
        "choreo_saga",
        ["phase", "started_at"],
        sqlite_where=remarked,
        postgresql_where=remarked,
    )
