"""The engine helper: one small door to SQLite and PostgreSQL for every room that keeps tables.

Work is a plain function of a SQLAlchemy `Connection`; `Database.write` runs it as *one* transaction. So transactions
are tested without an event loop, and the same functions serve both databases.

SQLite: WAL, `synchronous=FULL`, `BEGIN IMMEDIATE` for writes (a deferred transaction that upgrades fails at once under
contention), one writer per process. PostgreSQL: READ COMMITTED for writes, REPEATABLE READ for reads; a write that
meets another (serialization failure, deadlock, a lock not had in time) runs again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, MetaData, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from . import sqlite
from .clock import Clock, system_clock
from .errors import ConfigurationError, StoreMismatch, StoreUnreachable
from .kept import Kept
from .trouble import conflicting, first_line, unreachable
from .wal import write_ahead

T = TypeVar("T")
Work = Callable[[Connection], T]

WRITE = "choreo_write"
"""The execution option of transactions that will write."""

BY_INDEX = {"enable_seqscan": "off", "jit": "off"}
"""Settings of PostgreSQL under which no table is walked where an index would do.

A statement that has run five times is planned for good, which may be while its table is empty: walking it is cheapest
then, and is what a catch-up of a million events would go on with until the table's next ANALYZE
(https://www.postgresql.org/docs/18/sql-prepare.html#SQL-PREPARE-NOTES). Up to version 17 a walk that cannot be
avoided counts as very dear by the first setting, and would be compiled but for the second.
"""

_ATTEMPTS = 6
_POOL_WAIT = 30.0
"""Seconds that a transaction waits until one of the pool's connections is free."""
BUSY = 10_000
"""Milliseconds that a SQLite transaction waits for another program's."""
_MEMORIES = itertools.count()


class Database:
    """A store's connection pool; make it with `Database.open`.

    Args:
        engine: the pool.
        clock: this process's clock; PostgreSQL's own is used in `now`.
        turns: held around every transaction, reads too, where the connection is shared with others.
    """

    def __init__(
        self, engine: AsyncEngine, clock: Clock = system_clock, *, turns: AbstractAsyncContextManager[Any] | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._writer = asyncio.Lock() if turns is None else turns
        self._shared = turns is not None or isinstance(engine.pool, StaticPool)
        self._anchor: sqlite3.Connection | None = None
        self._kept = Kept(engine, WRITE) if engine.dialect.driver == sqlite.DRIVER else None
        self._listeners: list[Callable[[Connection, bool], None]] = []
        self.dialect: Literal["sqlite", "postgresql"] = (
            "postgresql" if engine.dialect.name == "postgresql" else "sqlite"
        )

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Clock = system_clock,
        must_exist: bool = False,
        aside: bool = False,
        by_index: bool = False,
    ) -> Database:
        """Open a store.

        Args:
            url: `sqlite:PATH`, `sqlite::memory:` or `postgresql://user:password@host/database`.
            clock: used for SQLite, which has no clock of its own worth sharing.
            must_exist: refuse to create a SQLite file (for commands that only read).
            aside: run SQLite's statements in threads, for programs whose long reads must not hold up others.
            by_index: on PostgreSQL as `BY_INDEX` says, for programs that stay.

        Raises:
            ConfigurationError: the URL is not one of those, has an unknown option, or the file does not exist.
            StoreUnreachable: nothing answers there.
        """
        parsed = with_driver(parse_store_url(url), aside=aside)
        anchor = None
        if parsed.database in (None, "", ":memory:") and parsed.get_backend_name() == "sqlite":
            parsed, anchor = _memory(parsed.drivername)
            engine = _sqlite_engine(parsed, poolclass=StaticPool)
        elif parsed.get_backend_name() == "sqlite":
            _check_path(Path(str(parsed.database)), must_exist)
            engine = _sqlite_engine(parsed)
        else:
            engine = _postgres_engine(parsed, by_index)
        file = str(parsed.database) if engine.dialect.name == "sqlite" and anchor is None else None
        await reach(engine, url, "store", file)
        database = cls(engine, clock)
        database._anchor = anchor
        return database

    @property
    def url(self) -> str:
        """The store's address as one writes it, with the password masked."""
        if self._anchor is not None:
            return "sqlite::memory:"
        url = self._engine.url
        if self.dialect == "sqlite":
            return f"sqlite:{url.database}"
        return redacted(url.set(drivername="postgresql").render_as_string(hide_password=True))

    async def close(self) -> None:
        """Close every connection."""
        if self._kept is not None:
            await self._kept.close()
        await self._engine.dispose()
        if self._anchor is not None:
            self._anchor.close()

    def on_end(self, told: Callable[[Connection, bool], None]) -> None:
        """Have a function told of the end of each write transaction.

        Args:
            told: called with the connection, and whether it is known to be committed.
        """
        self._listeners.append(told)

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a read transaction, which sees one moment throughout, and give what it returns.

        Raises:
            StoreUnreachable: there is no connection, or it broke.
        """
        if self._shared:  # one connection for all: a read inside another task's write would end its transaction
            async with self._writer:
                return await self._read(work)
        return await self._read(work)

    async def _read(self, work: Work[T]) -> T:
        try:
            if self._kept is not None:
                return await self._kept.read(work)
            async with self._connect() as connection:
                if self.dialect == "postgresql":
                    connection = await connection.execution_options(isolation_level="REPEATABLE READ")
                return await connection.run_sync(work)
        except DBAPIError as error:
            if unreachable(error):
                raise StoreUnreachable(f"the store {self.url} does not answer: {first_line(error)}") from error
            raise

    async def write(self, work: Work[T]) -> T:
        """Run `work` as one transaction, committed when it returns and rolled back when it raises.

        On PostgreSQL a deadlock or serialization failure runs `work` again, so it must have no effects of its own.

        Raises:
            StoreUnreachable: there is no connection, or it broke; whether the transaction committed is then unknown,
                ask the inbox.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.transaction() as connection:
                    return await self.within(connection, work)
            except DBAPIError as error:
                if conflicting(error) and attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))
                    continue
                if unreachable(error):
                    raise StoreUnreachable(f"the store {self.url} does not answer: {first_line(error)}") from error
                raise
        raise AssertionError("unreachable")

    async def within(self, connection: AsyncConnection, work: Work[T]) -> T:
        """Run `work` in a transaction that `transaction` has opened, and give what it returns."""
        if self._kept is None:
            return await connection.run_sync(work)
        assert connection.sync_connection is not None
        return work(connection.sync_connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open one write transaction for code that needs to await between statements; prefer `write`."""
        if self.dialect == "sqlite":
            async with self._writer, self._begin() as connection:
                yield connection
        else:
            async with self._begin() as connection:
                yield connection

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        began: Connection | None = None
        committed = False
        try:
            async with self._pooled() if self._kept is None else self._kept.write() as connection:
                began = connection.sync_connection
                yield connection
            committed = True
        finally:
            if began is not None:
                for told in self._listeners:
                    told(began, committed)

    @asynccontextmanager
    async def _pooled(self) -> AsyncIterator[AsyncConnection]:
        async with self._connect() as connection:
            connection = await connection.execution_options(**{WRITE: True})
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection]:
        connected = False
        try:
            async with self._engine.connect() as connection:
                connected = True
                yield connection
        except (DBAPIError, PoolTimeout, OSError) as error:
            if connected:  # the work's own, an OSError of a handler among them
                raise
            raise StoreUnreachable(f"the store {self.url} does not answer: {first_line(error)}") from error

    def now(self, connection: Connection) -> int:
        """Read the store's clock, in microseconds: the database's own on PostgreSQL, the injected one on SQLite."""
        if self.dialect == "postgresql":
            return int(
                connection.execute(
                    text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
                ).scalar_one()
            )
        return self._clock()

    async def ensure_schema(self, room: str, metadata: MetaData, head: str) -> None:
        """Create this room's tables in a new store, or check that they are of this release.

        Args:
            room: `events`, `services` or `saga`; each keeps its own version.
            metadata: the room's tables.
            head: the newest migration's id.

        Raises:
            StoreMismatch: the tables are of an older or a newer release.
        """
        found = await self.read(lambda connection: schema_version(connection, room))
        if found is None:
            await self.write(lambda connection: _create(connection, room, metadata, head))
            return
        if found > head:
            raise newer_store(self.url, room, found, head)
        if found < head:
            raise StoreMismatch(
                f"the store {self.url} has {room} schema {found}, this release needs {head}: run `saga store upgrade`"
            )


def version_table(room: str) -> str:
    """Name the table in which Alembic keeps a room's version."""
    return f"choreo_{room}_version"


def schema_version(connection: Connection, room: str) -> str | None:
    """Read which migration a room's tables are at; None in a store without them."""
    if not inspect(connection).has_table(version_table(room)):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {version_table(room)}")).scalar()  # noqa: S608 - a constant name
    return None if found is None else str(found)


def newer_store(url: str, room: str, found: str, head: str) -> StoreMismatch:
    """Say that a room's tables are of a newer release than this one, which knows `head`."""
    return StoreMismatch(
        f"the store {url} has {room} schema {found}, this release of choreo knows {head}: "
        "it was written by a newer release; upgrade choreo here"
    )


def lock_schema(connection: Connection) -> None:
    """Keep others from changing tables until this transaction ends; on SQLite every write does so already."""
    if connection.dialect.name == "postgresql":
        # Two replicas may start on an empty database at once: the loser waits here and then finds the tables.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('choreo-schema'))"))


def _create(connection: Connection, room: str, metadata: MetaData, head: str) -> None:
    lock_schema(connection)
    if schema_version(connection, room) is not None:
        return
    metadata.create_all(connection)
    table = version_table(room)
    connection.execute(text(f"CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text(f"INSERT INTO {table} (version_num) VALUES (:head)"), {"head": head})  # noqa: S608 - a constant name


def parse_store_url(url: str) -> URL:
    """Turn `sqlite:PATH` or `postgresql://...` into SQLAlchemy's form with the async driver.

    Raises:
        ConfigurationError: it is neither.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and not rest.startswith("//"):
        return URL.create("sqlite+aiosqlite", database=rest or ":memory:")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"{redacted(url)!r} is not a store; write sqlite:PATH or postgresql://user:password@host/database"
        )
    if parsed.get_backend_name() == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite")
    query = dict(parsed.query)
    if "sslmode" in query:  # libpq's word; asyncpg takes the same values as `ssl`
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def with_driver(url: URL, *, aside: bool) -> URL:
    """Choose for SQLite how its statements are run: in threads of their own, or where they are asked for."""
    if url.get_backend_name() != "sqlite":
        return url
    return url.set(drivername="sqlite+aiosqlite" if aside else f"sqlite+{sqlite.DRIVER}")


def redacted(url: str) -> str:
    """Mask the passwords of a URL for messages and logs."""
    if url.startswith("sqlite:"):
        return url
    url = re.sub(r"(?i)(password=)[^&#]*", r"\1***", url)
    head, separator, tail = url.rpartition("@")
    if not separator:
        return url
    scheme, found, credentials = head.partition("://")
    if not found:
        return f"***@{tail}"
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{tail}"


def _check_path(path: Path, must_exist: bool) -> None:
    if must_exist and not path.exists():
        raise ConfigurationError(
            f"there is no store at {path}; name one with --store or CHOREO_STORE, or start with `saga run`"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnreachable(f"cannot open the store {path}: {first_line(error)}") from error


def _memory(driver: str) -> tuple[URL, sqlite3.Connection]:
    """Make a store in memory: its address, and a connection that holds it.

    A task that is cancelled takes its connection with it, and `:memory:` would go with that. The VFS `memdb` gives a
    name to it (https://sqlite.org/inmemorydb.html); it lives for as long as anybody is connected.
    """
    name = f"file:/choreo-{os.getpid()}-{next(_MEMORIES)}?vfs=memdb"
    url = URL.create(driver, database=name, query={"uri": "true"})
    return url, sqlite3.connect(name, uri=True, check_same_thread=False)


def _sqlite_engine(url: URL, **options: Any) -> AsyncEngine:
    engine = create_async_engine(url, hide_parameters=True, **options)  # values of events must not show in errors
    tame(engine, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864")
    return engine


def tame(engine: AsyncEngine, *pragmas: str) -> None:
    """Make a SQLite engine's transactions what they are here: writes begin as such, and whoever is locked out waits.

    Args:
        engine: fresh.
        pragmas: what each connection is set to beside that.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's documented way to take BEGIN into our own hands
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={BUSY}", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = bool(connection.get_execution_options().get(WRITE))
        raw = connection.connection.driver_connection
        if isinstance(raw, sqlite.SqliteConnection):
            raw.writes = writes
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine.sync_engine, "invalidate", _roll_back)


async def reach(engine: AsyncEngine, url: str, what: str, file: str | None = None) -> None:
    """Ask a database for anything; an engine that gets no answer is closed.

    Args:
        engine: of the database.
        url: as it was given.
        what: it is, for the message.
        file: a SQLite file that is opened once without aiosqlite before.

    Raises:
        StoreUnreachable: nothing answers there.
        ConfigurationError: the URL has an unknown option.
    """
    try:
        if file is not None:
            await asyncio.to_thread(_probe, file)
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (DBAPIError, sqlite3.Error, OSError) as error:
        await engine.dispose()
        raise StoreUnreachable(f"cannot open the {what} {redacted(url)}: {first_line(error)}") from error
    except TypeError as error:  # an option in the URL's query goes to the driver as a keyword
        await engine.dispose()
        raise ConfigurationError(f"cannot open the {what} {redacted(url)}: {first_line(error)}") from error


def _roll_back(connection: Any, _: object, __: object) -> None:
    """Give up the locks of a SQLite connection that a cancelled task leaves: an event hook of the pool.

    The connection is closed next, but SQLite keeps a closed one, and the write lock with it, until its last statement
    is gone (https://sqlite.org/c3ref/close.html), and the traceback of the cancellation may hold that for long.
    """
    if isinstance(connection, sqlite.SqliteConnection):
        connection.rollback()
        return
    with suppress(Exception, asyncio.CancelledError):  # it goes away in any case; a first cancellation is on its way
        connection.run_async(lambda driver: asyncio.shield(driver.rollback()))


def _probe(path: str) -> None:
    """Open the file once without aiosqlite, whose worker thread may die noisily after an open that failed."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA schema_version")
        write_ahead(connection, BUSY / 1_000)
    finally:
        connection.close()


def _postgres_engine(url: URL, by_index: bool) -> AsyncEngine:
    settings = {"idle_in_transaction_session_timeout": "60000", **(BY_INDEX if by_index else {})}
    try:
        return create_async_engine(
            url,
            pool_size=5,
            max_overflow=5,
            pool_timeout=_POOL_WAIT,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"server_settings": settings},
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise ConfigurationError("PostgreSQL needs the extra: pip install 'choreo[postgres]'") from None
