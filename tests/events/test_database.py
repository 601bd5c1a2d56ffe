"""The store's small door: one contract over a SQLite file and PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from choreo.events import database as database_module
from choreo.events.clock import SECOND
from choreo.events.database import Database, parse_store_url, redacted, schema_version
from choreo.events.errors import ConfigurationError, StoreMismatch, StoreUnreachable
from choreo.events.outboxes.database import SystemDatabase
from choreo.events.sqlite import SqliteConnection
from tests.support.postgres import PostgresServer

metadata = MetaData()
notes = Table("notes", metadata, Column("id", BigInteger, primary_key=True), Column("said", Text))


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    database = await Database.open(store_url)
    await database.write(metadata.create_all)
    yield database
    await database.close()


def _say(connection: Connection, number: int) -> None:
    connection.execute(insert(notes), {"id": number, "said": f"note {number}"})


def _count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(notes)).scalar_one()


async def test_a_write_is_committed_when_the_work_returns(database: Database, store_url: str) -> None:
    await database.write(lambda connection: _say(connection, 1))
    again = await Database.open(store_url)
    assert await again.read(_count) == 1
    await again.close()


async def test_a_write_is_rolled_back_when_the_work_raises(database: Database) -> None:
    def fails(connection: Connection) -> None:
        _say(connection, 1)
        raise RuntimeError("the work broke")

    with pytest.raises(RuntimeError, match="the work broke"):
        await database.write(fails)
    assert await database.read(_count) == 0


async def test_a_read_keeps_nothing_that_it_wrote(database: Database) -> None:
    await database.read(lambda connection: _say(connection, 1))
    assert await database.read(_count) == 0


async def test_an_error_of_the_work_stays_what_it_is(database: Database) -> None:
    def no_such_file(connection: Connection) -> None:
        raise FileNotFoundError("a handler's own file")

    with pytest.raises(FileNotFoundError, match="a handler's own file"):
        await database.write(no_such_file)
    with pytest.raises(DBAPIError, match="nowhere"):  # a mistake in a statement: retrying it would never end
        await database.write(lambda connection: connection.execute(text("SELECT * FROM nowhere")))
    with pytest.raises(DBAPIError, match="nowhere"):
        await database.read(lambda connection: connection.execute(text("SELECT * FROM nowhere")))


async def test_a_cancelled_write_leaves_nothing_and_the_store_usable(database: Database) -> None:
    written = asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as connection:
            await connection.run_sync(lambda c: _say(c, 1))
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(slow())
    await written.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await database.read(_count) == 0
    await database.write(lambda connection: _say(connection, 2))
    assert await database.read(_count) == 1


async def test_concurrent_writers_of_one_process_all_get_through(database: Database) -> None:
    await asyncio.gather(*(database.write(lambda c, n=number: _say(c, n)) for number in range(50)))
    assert await database.read(_count) == 50


_WRITES = """
import asyncio, sys
from sqlalchemy import text
from choreo.events.database import Database

async def main():
    database = await Database.open(sys.argv[1])

    def count_up(connection):
        found = connection.execute(text("SELECT said FROM notes WHERE id = 0" + sys.argv[2])).scalar_one()
        connection.execute(text("UPDATE notes SET said = :said WHERE id = 0"), {"said": str(int(found) + 1)})

    for _ in range(100):
        await database.write(count_up)
    await database.close()

asyncio.run(main())
"""


async def test_ruling_15_two_processes_that_read_then_write_neither_fail_nor_overwrite(
    database: Database, store_url: str
) -> None:
    await database.write(lambda connection: connection.execute(insert(notes), {"id": 0, "said": "0"}))
    lock = "" if database.dialect == "sqlite" else " FOR UPDATE"  # there every write transaction locks at its begin
    command = [sys.executable, "-c", _WRITES, store_url, lock]
    processes = [await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    found = await database.read(lambda connection: connection.execute(select(notes.c.said)).scalar_one())
    assert found == "200"


async def test_a_read_sees_one_moment_whatever_is_committed_meanwhile(postgres_url: str) -> None:
    """As on SQLite: a saga's state and its history, read one after the other, belong together."""
    database = await Database.open(postgres_url)
    await database.write(metadata.create_all)

    def twice(connection: Connection) -> tuple[int, int]:
        first = _count(connection)
        connection.execute(text("SELECT pg_sleep(0.5)"))
        return first, _count(connection)

    reading = asyncio.create_task(database.read(twice))
    await asyncio.sleep(0.2)
    await database.write(lambda connection: _say(connection, 1))
    first, second = await reading
    assert first == second
    assert await database.read(_count) == 1
    await database.close()


async def test_fault_37_deadlocked_writes_are_run_again(postgres_url: str) -> None:
    database = await Database.open(postgres_url)
    await database.write(metadata.create_all)
    await database.write(lambda connection: [_say(connection, number) for number in (1, 2)])
    runs = 0
    update = text("UPDATE notes SET said = 'x' WHERE id = :id")
    begun: set[int] = set()

    def crossed(connection: Connection, first: int, second: int) -> None:
        nonlocal runs
        runs += 1
        connection.execute(update, {"id": first})
        begun.add(first)
        while len(begun) < 2:  # the other one has its first, too
            connection.execute(text("SELECT pg_sleep(0.01)"))
        connection.execute(update, {"id": second})

    await asyncio.gather(
        database.write(lambda connection: crossed(connection, 1, 2)),
        database.write(lambda connection: crossed(connection, 2, 1)),
    )
    assert runs == 3
    await database.close()


async def test_fault_37_who_waits_too_long_for_a_lock_tries_again(postgres_url: str) -> None:
    """An administrator may have set `lock_timeout`; the one who holds the lock is soon done, or is not."""
    database = await Database.open(postgres_url)
    await database.write(metadata.create_all)
    await database.write(lambda connection: _say(connection, 1))
    holds, free = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE notes SET said = 'held' WHERE id = 1"))
            holds.set()
            await free.wait()

    runs = 0

    def impatient(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            free.set()
        else:
            connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
        connection.execute(text("UPDATE notes SET said = said || ', then mine' WHERE id = 1"))

    holding = asyncio.create_task(hold())
    await holds.wait()
    await database.write(impatient)
    await holding
    assert await database.read(lambda c: c.execute(select(notes.c.said)).scalar_one()) == "held, then mine"
    holds.clear()
    free.clear()
    holding, runs = asyncio.create_task(hold()), 2
    await holds.wait()
    with pytest.raises(StoreUnreachable, match="lock timeout") as raised:
        await database.write(impatient)
    assert raised.value.retryable
    free.set()
    await holding
    await database.close()


async def test_fault_37_a_pool_that_is_used_up_is_waited_for_within_bounds(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(connection: Connection, seconds: float) -> None:
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    database = await Database.open(postgres_url)
    await asyncio.gather(*(database.write(lambda connection: slow(connection, 0.1)) for _ in range(30)))
    await database.close()
    monkeypatch.setattr(database_module, "_POOL_WAIT", 0.2)
    database = await Database.open(postgres_url)
    done = await asyncio.gather(
        *(database.write(lambda connection: slow(connection, 3)) for _ in range(11)), return_exceptions=True
    )
    [refused] = [each for each in done if each is not None]
    assert isinstance(refused, StoreUnreachable)
    assert refused.retryable
    assert "QueuePool" in refused.message, "the ten connections were busy"
    await database.write(lambda connection: slow(connection, 0))
    await database.close()


async def test_the_clock_is_the_databases_on_postgres_and_ours_on_sqlite(store_url: str) -> None:
    database = await Database.open(store_url, clock=lambda: 42)
    now = await database.read(database.now)
    if database.dialect == "sqlite":
        assert now == 42
    else:
        system = await database.read(lambda c: c.execute(text("SELECT extract(epoch FROM now())")).scalar_one())
        assert abs(now - int(system * SECOND)) < 60 * SECOND
    await database.close()


# -- versions of the tables -------------------------------------------------------------------------------------------


async def _set_version(database: Database, version: str) -> None:
    statement = text("UPDATE choreo_events_version SET version_num = :version")
    await database.write(lambda connection: connection.execute(statement, {"version": version}))


async def test_a_new_store_gets_the_tables_once(store_url: str) -> None:
    database = await Database.open(store_url)
    await database.ensure_schema("events", metadata, "0002")
    await database.write(lambda connection: _say(connection, 1))
    await database.ensure_schema("events", metadata, "0002")
    assert await database.read(_count) == 1
    assert await database.read(lambda connection: schema_version(connection, "events")) == "0002"
    await database.close()


async def test_replicas_that_start_at_once_on_an_empty_store_agree(store_url: str) -> None:
    replicas = [await Database.open(store_url) for _ in range(4)]
    await asyncio.gather(*(replica.ensure_schema("events", metadata, "0001") for replica in replicas))
    for replica in replicas:
        assert await replica.read(_count) == 0
        await replica.close()


async def test_a_store_of_a_newer_release_is_refused(store_url: str) -> None:
    database = await Database.open(store_url)
    await database.ensure_schema("events", metadata, "0002")
    await _set_version(database, "0003")
    with pytest.raises(StoreMismatch, match=r"events schema 0003, this release of choreo knows 0002.*upgrade choreo"):
        await database.ensure_schema("events", metadata, "0002")
    await database.close()


async def test_a_store_of_an_older_release_says_how_to_upgrade(store_url: str) -> None:
    database = await Database.open(store_url)
    await database.ensure_schema("events", metadata, "0002")
    await _set_version(database, "0001")
    with pytest.raises(StoreMismatch, match=r"events schema 0001, this release needs 0002: run `saga store upgrade`"):
        await database.ensure_schema("events", metadata, "0002")
    await database.close()


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://choreo:swordfish@127.0.0.1:1/shop",
        "postgresql://choreo@127.0.0.1:1/shop?password=swordfish",
        "postgresql://choreo:swordfish@127.0.0.1:1/shop?sslmode=require",
        "postgresql://choreo:swordfish@/shop?host=/no/such/folder",
        "sqlite:/proc/no-such-folder/store.db",
        "sqlite:/proc",
        f"sqlite:{__file__}",
    ],
)
async def test_a_store_that_cannot_be_opened_is_one_line_without_secrets(url: str) -> None:
    with pytest.raises(StoreUnreachable, match="cannot open the store") as caught:
        await Database.open(url)
    assert "\n" not in str(caught.value)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://choreo:swordfish@127.0.0.1/shop",
        "postgres://choreo:swordfish@127.0.0.1/shop",
        "postgresql://choreo:swordfish@127.0.0.1:port/shop",
        "choreo:swordfish@127.0.0.1",
        "store.db",
        "",
    ],
)
async def test_what_is_not_a_store_is_said_without_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write sqlite:PATH or postgresql://") as caught:
        await Database.open(url)
    assert "swordfish" not in str(caught.value)


async def test_an_unknown_option_in_the_url_is_named(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="colour"):
        await Database.open(f"{postgres_url}&colour=blue")


async def test_a_command_that_only_reads_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no store at"):
        await Database.open(f"sqlite:{tmp_path / 'none.db'}", must_exist=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://choreo:swordfish@db/shop", "postgresql://choreo:***@db/shop"),
        ("postgresql://choreo:sword@fish@db/shop", "postgresql://choreo:***@db/shop"),
        ("postgresql://choreo@db/shop", "postgresql://choreo@db/shop"),
        (
            "postgresql://db/shop?user=choreo&password=swordfish&x=1",
            "postgresql://db/shop?user=choreo&password=***&x=1",
        ),
        ("choreo:swordfish@db", "***@db"),
        ("sqlite:/home/me@work/store.db", "sqlite:/home/me@work/store.db"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert redacted(url) == shown


async def test_a_store_tells_its_address_as_one_writes_it(store_url: str) -> None:
    database = await Database.open(store_url)
    assert parse_store_url(database.url) == parse_store_url(store_url)
    assert database.url.startswith(("sqlite:/", "postgresql://"))
    await database.close()


_LONG = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000000) SELECT max(x) FROM n"


@pytest.mark.parametrize("where", ["memory", "aside", "system"])
async def test_a_write_that_is_cancelled_leaves_neither_a_lock_nor_its_rows(where: str, tmp_path: Path) -> None:
    """Cancelled while a statement runs: the store is there afterwards, and the next write need not wait for anybody."""
    url = "sqlite::memory:" if where == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    kind = SystemDatabase if where == "system" else Database
    database = await kind.open(url, must_exist=False, aside=True)
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE kept (x INTEGER)"))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO kept VALUES (1)")
        loop.call_later(0.01, begun.set)
        connection.exec_driver_sql(_LONG)

    writing = asyncio.create_task(database.write(work))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await database.write(lambda connection: connection.exec_driver_sql("INSERT INTO kept VALUES (2)"))
    found = await database.read(lambda connection: connection.exec_driver_sql("SELECT x FROM kept").scalars().all())
    assert found == [2]
    await database.close()


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_a_write_that_is_cancelled_while_it_commits_is_whole_and_leaves_no_lock(
    where: str, tmp_path: Path
) -> None:
    """Whoever is cancelled cannot know whether it committed; all of it did, or nothing."""
    database = await Database.open("sqlite::memory:" if where == "memory" else f"sqlite:{tmp_path / 'store.db'}")
    await database.write(metadata.create_all)
    loop = asyncio.get_running_loop()

    def work(connection: Connection) -> None:
        _say(connection, 1)
        loop.call_soon(writing.cancel)
        _say(connection, 2)

    writing = asyncio.create_task(database.write(work))
    await asyncio.wait({writing})  # cancelled, unless the commit was done on the spot
    assert await database.read(_count) in (0, 2)
    await database.write(lambda connection: _say(connection, 3))
    assert await database.read(_count) in (1, 3)
    await database.close()


async def test_a_write_that_cannot_even_begin_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    """As with a disk that can only be read by now: whoever writes waits for it, and does not end with a traceback."""
    database = await Database.open(f"sqlite:{tmp_path / 'store.db'}")
    await database.write(metadata.create_all)
    await database.write(lambda connection: connection.exec_driver_sql("PRAGMA query_only=ON"))
    with pytest.raises(StoreUnreachable, match="readonly"):
        await database.write(lambda connection: _say(connection, 1))
    with pytest.raises(OperationalError, match="readonly"):  # SQLAlchemy's: who takes it for an event's fault loses one
        async with database.transaction():
            pass
    assert await database.read(_count) == 0
    await database.close()


async def test_whoever_waits_for_another_program_s_transaction_holds_nobody_up(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite:{tmp_path / 'store.db'}")
    await database.write(metadata.create_all)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.write(lambda connection: _say(connection, 1)))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not writing.done(), "the loop went on while it waited"
    assert await database.read(_count) == 0, "and so did reads"
    other.execute("COMMIT")
    await writing
    assert await database.read(_count) == 1
    other.close()
    await database.close()


def test_a_connection_that_wrote_waits_for_other_programs_again_when_it_reads(tmp_path: Path) -> None:
    """Not with a write-ahead log, where nobody keeps a reader waiting; files of others may have none."""
    path = tmp_path / "shop.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection = sqlite3.connect(str(path), isolation_level=None, factory=SqliteConnection, timeout=60)
    with closing(other), closing(connection):
        assert connection.begin_at_once()
        connection.execute("CREATE TABLE notes (said TEXT)")
        connection.execute("COMMIT")
        other.execute("BEGIN EXCLUSIVE")
        assert not connection.begin_at_once(), "whoever writes is told at once"
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        connection.begin()
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
        release.join()


async def test_rows_are_streamed_to_whoever_asks_for_it(database: Database) -> None:
    await database.write(lambda connection: [_say(connection, number) for number in range(5)])
    by_id = select(notes.c.id).order_by(notes.c.id)
    async with database.transaction() as connection, connection.stream(by_id) as rows:
        assert [row.id async for row in rows] == [0, 1, 2, 3, 4]


async def test_two_stores_in_memory_are_two() -> None:
    first, second = await Database.open("sqlite::memory:"), await Database.open("sqlite::memory:")
    await first.write(lambda connection: connection.exec_driver_sql("CREATE TABLE mine (x INTEGER)"))
    assert not await second.read(lambda connection: inspect(connection).get_table_names())
    assert first.url == second.url == "sqlite::memory:"
    await first.close()
    await second.close()


async def test_a_store_in_memory_serves_reads_beside_a_write() -> None:
    database = await Database.open("sqlite::memory:")
    await database.write(metadata.create_all)
    inside, done = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with database.transaction() as connection:
            await connection.run_sync(lambda c: _say(c, 1))
            inside.set()
            await done.wait()

    writing = asyncio.create_task(write())
    await inside.wait()
    reading = asyncio.create_task(database.read(_count))
    await asyncio.sleep(0.01)
    done.set()
    await writing
    assert await reading == 1
    await database.close()


async def test_a_postgres_that_goes_away_is_unreachable_and_found_again(postgres_server: PostgresServer) -> None:
    server = PostgresServer(postgres_server.programs)  # one of its own, to be stopped under our feet
    try:
        server.start()
        database = await Database.open(server.create_database())
        await database.write(metadata.create_all)
        server.kill()
        for work in (database.read, database.write):
            with pytest.raises(StoreUnreachable, match="does not answer") as caught:
                await work(_count)
            assert "\n" not in str(caught.value)
        server.resume()
        assert await database.read(_count) == 0
        await database.close()
    finally:
        server.stop()


async def test_durability_is_switched_on(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite:{tmp_path / 'store.db'}")

    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names]

    assert await database.read(pragmas) == ["wal", 2, 1]
    await database.close()
