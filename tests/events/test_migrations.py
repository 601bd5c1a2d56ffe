"""The two ways to a room's tables, from its metadata and through its migrations, lead to the same place."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from typing import Any, NamedTuple

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text

from choreo.events.database import Database, schema_version, version_table
from choreo.events.errors import StoreMismatch
from choreo.events.migrate import ROOMS, migrations, upgrade


class Room(NamedTuple):
    name: str
    metadata: MetaData
    head: str


_TABLES = {"events": "choreo.events.outbox", "services": "choreo.services.inbox", "saga": "choreo.saga.tables"}


@pytest.fixture(params=ROOMS)
def room(request: pytest.FixtureRequest) -> Room:
    module = importlib.import_module(_TABLES[request.param])
    return Room(request.param, module.metadata, module.HEAD)


def _plain(index: Any) -> str:
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def _tables(connection: Connection, metadata: MetaData) -> dict[str, Any]:
    """Everything that the database says of the room's tables."""
    found = inspect(connection)
    return {
        name: {
            "columns": [{**column, "type": str(column["type"])} for column in found.get_columns(name)],
            "primary key": found.get_pk_constraint(name)["constrained_columns"],
            # SQLite's partial indexes come with a clause, which compares by identity.
            "indexes": sorted(_plain(index) for index in found.get_indexes(name)),
            "unique": sorted(found.get_unique_constraints(name), key=str),
            "checks": sorted(found.get_check_constraints(name), key=str),
            "foreign keys": sorted(found.get_foreign_keys(name), key=str),
        }
        for name in metadata.tables
    }


async def test_migrations_make_the_tables_that_the_metadata_describes(room: Room, store_url: str) -> None:
    database = await Database.open(store_url)
    try:
        applied = await upgrade(database, room.name)
        assert applied == sorted(applied)
        assert applied[-1] == room.head

        def differences(connection: Connection) -> list[Any]:
            options = {"version_table": version_table(room.name), "compare_server_default": True}
            return compare_metadata(MigrationContext.configure(connection, opts=options), room.metadata)

        assert await database.read(differences) == []
        migrated = await database.read(lambda connection: _tables(connection, room.metadata))
        await database.write(room.metadata.drop_all)
        await database.write(room.metadata.create_all)
        assert migrated == await database.read(lambda connection: _tables(connection, room.metadata))
    finally:
        await database.close()


async def test_a_store_made_new_needs_no_migration(room: Room, store_url: str) -> None:
    database = await Database.open(store_url)
    try:
        await database.ensure_schema(room.name, room.metadata, room.head)
        assert await upgrade(database, room.name) == []
    finally:
        await database.close()


async def test_a_migrated_store_passes_the_check_at_start(room: Room, store_url: str) -> None:
    database = await Database.open(store_url)
    try:
        await upgrade(database, room.name)
        await database.ensure_schema(room.name, room.metadata, room.head)
        assert await database.read(lambda connection: schema_version(connection, room.name)) == room.head
        assert await upgrade(database, room.name) == []
    finally:
        await database.close()


def test_head_is_the_newest_migration_and_names_ascend(room: Room) -> None:
    scripts = migrations(room.name)
    assert scripts.get_heads() == [room.head]
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert revisions == [f"{number:04d}" for number in range(1, len(revisions) + 1)]


async def test_a_store_of_a_newer_release_is_not_touched(room: Room, store_url: str) -> None:
    database = await Database.open(store_url)
    try:
        await database.ensure_schema(room.name, room.metadata, room.head)
        table = version_table(room.name)
        await database.write(lambda connection: connection.execute(text(f"UPDATE {table} SET version_num = '9999'")))
        with pytest.raises(StoreMismatch, match="written by a newer release"):
            await upgrade(database, room.name)
        assert await database.read(lambda connection: schema_version(connection, room.name)) == "9999"
    finally:
        await database.close()


async def test_a_migration_that_fails_leaves_the_store_as_it_was(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(store_url)
    script = migrations("events").get_revision("head")
    assert script is not None

    def half(op: Any) -> None:
        op.execute("CREATE TABLE choreo_half (id INTEGER)")
        raise RuntimeError("the machine broke")

    class Broken:
        revision = script.revision
        module = type("module", (), {"upgrade": staticmethod(half)})

    class Scripts:
        def walk_revisions(self) -> list[type[Broken]]:
            return [Broken]

        def iterate_revisions(self, upper: str, lower: str) -> list[type[Broken]]:
            return [Broken]

    monkeypatch.setattr("choreo.events.migrate.migrations", lambda room: Scripts())
    try:
        with pytest.raises(RuntimeError, match="the machine broke"):
            await upgrade(database, "events")
        assert await database.read(lambda connection: inspect(connection).get_table_names()) == []
    finally:
        await database.close()


async def test_fault_12_a_migration_that_is_killed_after_any_step_is_made_whole_by_the_next_start(
    room: Room, store_url: str
) -> None:
    program = (
        "import asyncio, sys\n"
        "from choreo.events.database import Database\n"
        "from choreo.events.migrate import upgrade\n"
        "async def main():\n"
        "    database = await Database.open(sys.argv[1])\n"
        "    await upgrade(database, sys.argv[2])\n"
        "asyncio.run(main())\n"
    )
    database = await Database.open(store_url)
    try:
        for step in range(1, int(room.head) + 1):
            killed = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                program,
                store_url,
                room.name,
                env={**os.environ, "CHOREO_CRASH_AT": f"store.in_migration:{step}"},
            )
            async with asyncio.timeout(60):
                assert await killed.wait() == -signal.SIGKILL
            assert await database.read(lambda connection: schema_version(connection, room.name)) is None
            left = await database.read(lambda connection: inspect(connection).get_table_names())
            assert set(room.metadata.tables).isdisjoint(left), "a room is migrated as a whole or not at all"
        assert (await upgrade(database, room.name))[-1] == room.head
    finally:
        await database.close()
