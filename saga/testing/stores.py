"""Stores in memory that answer without a thread, so that the order of a run does not hang on the machine.

The stores of production reach SQLite through aiosqlite, one thread per connection: which of two answers first is up to
the operating system. Here the same SQLAlchemy, the same SQL and the same SQLite run in the loop's own thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from ...events.clock import Clock
from ...events.database import Database

_DIALECT = "choreo_inline"


def open_memory(clock: Clock) -> Database:
    """Open a new, empty store in memory.

    Args:
        clock: its clock.
    """
    registry.register(f"sqlite.{_DIALECT}", __name__, "InlineSqlite")
    engine = create_async_engine(f"sqlite+{_DIALECT}:///:memory:", poolclass=StaticPool)

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return Database(engine, clock)


class InlineSqlite(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect for SQLite, with calls that are awaited and never wait."""

    driver = _DIALECT
    is_async = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """Give the driver."""
        return _Driver()

    def get_driver_connection(self, connection: Any) -> Any:
        """Give the connection beneath the adapter."""
        return connection.driver_connection


class _Driver:
    """The `sqlite3` module, but that its connections are awaited."""

    def connect(self, *args: Any, **options: Any) -> Any:
        connection = sqlite3.connect(*args, **{**options, "check_same_thread": False, "isolation_level": None})
        connection.execute("PRAGMA foreign_keys=ON")
        return adapted(connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)


def adapted(connection: Any) -> Any:
    """Make of a connection of `sqlite3`, or of what behaves like one, what the dialect takes."""
    awaited: Any = _Connection(connection)
    return _Adapted(_Driver(), awaited)


class _Adapted(AsyncAdapt_dbapi_connection):
    """What SQLAlchemy's synchronous core sees of a connection that is awaited."""

    def create_function(self, *args: Any, **options: Any) -> None:
        self.driver_connection.create_function(*args, **options)


class _Connection:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.create_function = connection.create_function

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection.cursor())

    async def commit(self) -> None:
        self._connection.commit()

    async def rollback(self) -> None:
        self._connection.rollback()

    async def close(self) -> None:
        self._connection.close()


class _Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.arraysize = 1

    async def __aenter__(self) -> _Cursor:
        return self

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._cursor.lastrowid

    async def execute(self, operation: str, parameters: Any = ()) -> None:
        self._cursor.execute(operation, parameters)

    async def executemany(self, operation: str, parameters: Any) -> None:
        self._cursor.executemany(operation, parameters)

    async def fetchall(self) -> Sequence[Any]:
        return self._cursor.fetchall()

    async def close(self) -> None:
        self._cursor.close()
