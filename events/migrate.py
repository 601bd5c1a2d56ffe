"""Bring the tables of one room of a store to this release: forward only, each room in one transaction.

A room (`events`, `services`, `saga`) owns its tables and, under `<room>/migrations/versions`, the steps that lead to
them.
How to write one:

1. Change the room's `metadata`; a new store is made from it (`Database.ensure_schema`).
2. Add `versions/<next number>_<what>.py`, never touch one that was released:

       revision = "0002"
       down_revision = "0001"

       def upgrade(op: Operations) -> None:
           op.add_column("choreo_outbox", sa.Column("lane", sa.String(20)))

   `op` is Alembic's `Operations` on the store, handed in instead of imported, so that nothing global is shared. The
   file imports nothing of choreo: a step must do the same in ten years. SQLite can alter little in place: there use
   `op.batch_alter_table`. Only add, or split into a step that adds and a later release's that removes: replicas of the
   old release may still be running.
3. Raise the room's `HEAD` to it. `tests/events/test_migrations.py` holds the two ways to a table against each other.
"""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from .database import Database, lock_schema, newer_store, schema_version, version_table
from .failpoints import failpoint

ROOMS = ("events", "services", "saga")
"""The rooms that keep tables, in the order in which they are upgraded."""


async def upgrade(database: Database, room: str) -> list[str]:
    """Apply the migrations that a store lacks, all or none; an empty store gets every one.

    Args:
        database: the store; on PostgreSQL two upgrades at once wait for each other.
        room: one of `ROOMS`.

    Returns:
        The ids that were applied, oldest first; none when the store is up to date.

    Raises:
        StoreMismatch: the store was written by a newer release.
        StoreUnreachable: the connection broke.
    """
    scripts = migrations(room)
    return await database.write(lambda connection: _upgrade(connection, room, scripts, database.url))


def missing(connection: Connection, room: str) -> list[str]:
    """List the ids of the migrations that a store lacks, oldest first; it may be a new one, which lacks all.

    Raises:
        StoreMismatch: the store was written by a newer release.
    """
    scripts = _missing(connection, room, migrations(room), connection.engine.url.render_as_string())
    return [script.revision for script in scripts]


def migrations(room: str) -> ScriptDirectory:
    """Give the migrations of a room, as Alembic knows them."""
    return ScriptDirectory(Path(__file__).parent.parent / room / "migrations")


def _upgrade(connection: Connection, room: str, scripts: ScriptDirectory, url: str) -> list[str]:
    lock_schema(connection)
    context = MigrationContext.configure(connection, opts={"version_table": version_table(room)})
    lacking = _missing(connection, room, scripts, url)
    operations = Operations(context)
    for script in lacking:
        script.module.upgrade(operations)
        failpoint("store.in_migration")
    if lacking:
        context.stamp(scripts, "head")
    return [script.revision for script in lacking]


def _missing(connection: Connection, room: str, scripts: ScriptDirectory, url: str) -> list[Script]:
    found = schema_version(connection, room)
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise newer_store(url, room, found, max(known))
    lacking = [script for script in scripts.iterate_revisions("head", found or "base") if script.revision != found]
    lacking.reverse()
    return lacking
