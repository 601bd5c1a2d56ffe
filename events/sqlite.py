"""SQLite without a thread for each statement: a SQLAlchemy dialect whose connections live in the loop's own thread.

aiosqlite hands every call to a thread and back, four times for one SELECT. What that costs is many times what SQLite
takes for a statement by primary key: six statements in one transaction took 1.7 ms of CPU there. Here a statement runs
where it is asked for, and only what may last is waited for: a commit that waits for a slow disk runs in a thread, and
whoever finds the database locked by another program sleeps and asks again.

For programs that read much and must answer others meanwhile, `Database.open(..., aside=True)` has aiosqlite.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from .aside import Aside

DRIVER = "choreo"
"""The driver's name in SQLAlchemy's URLs, `sqlite+choreo:///...`."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
"""Seconds between two questions for the write lock."""

registry.register(f"sqlite.{DRIVER}", __name__, "Sqlite")


class SqliteConnection(sqlite3.Connection):
    """A connection whose commit may be waited for in a thread; everything else answers at once."""

    def __init__(self, database: str, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        self._aside = Aside("choreo-commit")
        self.writes = False
        """Whether the next transaction will write."""
        self._waits = "vfs=memdb" not in database  # else there is no disk to wait for
        self._changes = 0
        """Rows that had been changed when the transaction began."""
        self._longest: int | None = None
        self._patient = True

    def cursor(self, factory: Any = None) -> Any:
        """Make a cursor, by default one that has all rows when its statement returns."""
        return super().cursor(factory or SqliteCursor)

    def commit(self) -> None:
        """Commit; for what has changed something, a disk that is slow is waited for in a thread."""
        if self._waits and self.in_transaction and self.total_changes != self._changes:
            await_only(self._aside.run(super().commit))
        else:
            super().commit()

    def begin(self) -> None:
        """Begin a transaction; while another program has one that writes, sleep, as long as `busy_timeout` says.

        Raises:
            sqlite3.OperationalError: it is locked for longer, or something else is wrong with it.
        """
        if self.in_transaction:  # by `begin_at_once`
            return
        if not self.writes:
            self._be_patient(True)
            sqlite3.Cursor(self).execute("BEGIN")
            return
        until = time.monotonic() + self._patience() / 1_000
        pause = _FIRST_PAUSE
        while not self.begin_at_once(last=time.monotonic() >= until):
            await_only(asyncio.sleep(pause))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def begin_at_once(self, *, last: bool = False) -> bool:
        """Begin a transaction that writes, unless another program has one; say whether it has begun.

        Args:
            last: an error is raised in any case.

        Raises:
            sqlite3.OperationalError: something else is wrong with the file.
        """
        self._be_patient(False)
        try:
            sqlite3.Cursor(self).execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if last or not str(error.sqlite_errorname).startswith("SQLITE_BUSY"):
                raise
            return False
        self._changes = self.total_changes
        return True

    def _be_patient(self, patient: bool) -> None:
        """Let SQLite wait for another program, or not: within a transaction that writes nobody can be in its way."""
        if patient != self._patient:
            longest = self._patience()
            sqlite3.Cursor(self).execute(f"PRAGMA busy_timeout={longest if patient else 0}")
            self._patient = patient

    def _patience(self) -> int:
        """Give how long a statement waits for another program, milliseconds: as the connection was set up."""
        if self._longest is None:
            self._longest = int(sqlite3.Cursor(self).execute("PRAGMA busy_timeout").fetchone()[0])
        return self._longest

    def close(self) -> None:
        """Close it."""
        self._aside.close()
        super().close()


class StreamingCursor(sqlite3.Cursor):
    """A cursor whose rows are read one by one, while its statement is open."""

    def execute(self, operation: str, parameters: Any = ()) -> Self:
        """Run a statement."""
        if in_greenlet():
            await_only(_at_once())
        super().execute(operation, parameters)
        return self

    def executemany(self, operation: str, parameters: Any) -> Self:
        """Run a statement for each row of parameters."""
        if in_greenlet():
            await_only(_at_once())
        super().executemany(operation, parameters)
        return self

    async def _async_soft_close(self) -> None:
        """Nothing: SQLAlchemy asks it of every cursor of an async dialect."""


class SqliteCursor(StreamingCursor):
    """A cursor that has fetched all rows when `execute` returns, so that no statement stays open."""

    _rows: deque[Any]

    def execute(self, operation: str, parameters: Any = ()) -> Self:
        """Run a statement."""
        super().execute(operation, parameters)
        self._rows = deque(super().fetchall()) if self.description else deque()
        return self

    def fetchone(self) -> Any:
        """Give the next row."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Give the next rows."""
        count = self.arraysize if size is None else size
        return [self._rows.popleft() for _ in range(min(count, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        """Give all rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        return rows


async def _at_once() -> None:
    """Wait for nothing: SQLAlchemy insists that a statement of an async dialect waits for something."""


class _Context(SQLiteExecutionContext):
    def create_server_side_cursor(self) -> Any:
        return self._dbapi_connection.cursor(StreamingCursor)


class Sqlite(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect for SQLite, with connections that answer where they are asked."""

    driver = DRIVER
    is_async = True
    supports_statement_cache = True
    supports_server_side_cursors = True
    execution_ctx_cls = _Context

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Give the pool of async engines."""
        return AsyncAdaptedQueuePool

    def create_connect_args(self, url: URL) -> tuple[Sequence[str], dict[str, Any]]:
        """Give what the driver is called with."""
        args, options = super().create_connect_args(url)
        return args, {**options, "factory": SqliteConnection, "check_same_thread": False}

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin a transaction."""
        dbapi_connection.begin()

    def get_driver_connection(self, connection: Any) -> Any:
        """Give the connection itself: nothing is between it and SQLAlchemy."""
        return connection
