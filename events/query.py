"""Rows of a SQL query, streamed: the database is read, never written, and values travel as parameters."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, String, bindparam, create_engine, make_url, text
from sqlalchemy.engine import Result
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .database import redacted
from .errors import ConfigurationError
from .rows import Malformed, Row

A = TypeVar("A")

_BATCH = 1_000


class QueryRows:
    """Reads what a query gives, row by row; iterate once.

    Args:
        database: SQLAlchemy's URL: `postgresql://...`, `sqlite:///shop.db`, `mysql+pymysql://...`; `sqlite:PATH` too.
        query: a SELECT, with `:name` where a parameter stands.
        parameters: their values, as text; CAST them where the database wants another type.

    Raises:
        ConfigurationError: the URL, the query or a parameter is wrong, or the database does not answer.
    """

    def __init__(self, database: str, query: str, parameters: Mapping[str, str] | None = None) -> None:
        self.name = redacted(database)
        self.total: int | None = None
        self.done = 0
        self._query = text(query)
        self._given = dict(parameters or {})
        wanted = set(self._query.compile().params)
        if missing := sorted(wanted - set(self._given)):
            raise ConfigurationError(f"the query needs :{missing[0]}; give it with --param {missing[0]}=...")
        if unknown := sorted(set(self._given) - wanted):
            raise ConfigurationError(f"the query has no :{unknown[0]}; leave out --param {unknown[0]}=")
        # Said to be text, so that PostgreSQL does not guess another type from where it stands.
        self._query = self._query.bindparams(*(bindparam(name, type_=String()) for name in wanted))
        url = _parse(database)
        self._connection: _Plain | _Looped = (_Looped if url.get_dialect().is_async else _Plain)(url)

    def close(self) -> None:
        """Give the connection back; nothing was written."""
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[int, Row] | Malformed]:
        try:
            columns = self._asked(lambda: self._connection.open(self._query, self._given))
            if columns is None:
                raise ConfigurationError("the query gives no rows; write a SELECT")
            if twice := sorted({name for name in columns if columns.count(name) > 1}):
                raise ConfigurationError(f"the query names the column {twice[0]} twice; write ... AS another_name")
            while rows := self._asked(self._connection.fetch):
                for row in rows:
                    self.done += 1
                    yield self.done, dict(zip(columns, row, strict=True))
        finally:
            self.close()

    def _asked(self, ask: Callable[[], A]) -> A:
        try:
            return ask()
        except Exception as error:  # drivers have errors of their own
            where = f" (after row {self.done}; what was published is not published again)" if self.done else ""
            raise ConfigurationError(f"{self.name}: {_told(error)}{where}") from None


class _Plain:
    """A connection of a driver that blocks; it is used from a thread."""

    def __init__(self, url: URL) -> None:
        self._engine: Engine = create_engine(url, hide_parameters=True, **_options(url))
        self._connection: Connection | None = None
        self._result: Result[Any] | None = None

    def open(self, query: Any, parameters: Mapping[str, str]) -> list[str] | None:
        connection = self._connection = self._engine.connect()
        for statement in _reading(connection.dialect.name):
            connection.execute(text(statement))
        options = {"stream_results": True, "yield_per": _BATCH}
        result = self._result = connection.execute(query, dict(parameters), execution_options=options)
        return list(result.keys()) if result.returns_rows else None

    def fetch(self) -> list[Any]:
        assert self._result is not None
        return list(self._result.fetchmany(_BATCH))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back
            self._connection = None
        self._engine.dispose()


class _Looped:
    """A connection of a driver that awaits, in a loop of its own: it is read from threads, one after another."""

    def __init__(self, url: URL) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine: AsyncEngine = create_async_engine(url, hide_parameters=True)
        self._connection: AsyncConnection | None = None
        self._result: Any = None

    def open(self, query: Any, parameters: Mapping[str, str]) -> list[str] | None:
        async def begin() -> list[str] | None:
            connection = self._connection = await self._engine.connect()
            for statement in _reading(connection.dialect.name):
                await connection.execute(text(statement))
            options = {"yield_per": _BATCH}
            try:
                self._result = await connection.stream(query, dict(parameters), execution_options=options)
            except InvalidRequestError:
                return None
            return list(self._result.keys())

        return self._loop.run_until_complete(begin())

    def fetch(self) -> list[Any]:
        async def more() -> list[Any]:
            return list(await self._result.fetchmany(_BATCH))

        return self._loop.run_until_complete(more())

    def close(self) -> None:
        if self._loop.is_closed():
            return

        async def end() -> None:
            if self._connection is not None:
                await self._connection.close()  # rolls back
            await self._engine.dispose()

        self._loop.run_until_complete(end())
        self._loop.close()


def _parse(database: str) -> URL:
    scheme, _, rest = database.partition(":")
    try:
        url = URL.create("sqlite", database=rest) if scheme == "sqlite" and "//" not in rest[:2] else make_url(database)
        if url.drivername == "postgresql":
            query = dict(url.query)
            if "sslmode" in query:  # libpq's word; asyncpg takes the same values as `ssl`
                query["ssl"] = query.pop("sslmode")
            url = url.set(drivername="postgresql+asyncpg", query=query)
        elif url.drivername in ("mysql", "mariadb"):
            url = url.set(drivername=f"{url.drivername}+asyncmy")
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigurationError(
            f"--database {redacted(database)!r} is no database; write sqlite:PATH, postgresql://user@host/name, or any "
            "URL of SQLAlchemy"
        ) from None
    except ImportError as error:
        raise ConfigurationError(
            f"the driver of {redacted(database)!r} is not installed ({error.name}); pip install it, for PostgreSQL "
            "'choreo[postgres]', for MariaDB and MySQL 'choreo[mysql]'"
        ) from None
    return url


def _options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return {}
    # A file that is not there must not be made by reading it, and the rows are read in threads, one after another.
    target = url.database if url.database.startswith("file:") else f"file:{quote(url.database)}?mode=ro"
    return {"creator": lambda: sqlite3.connect(target, uri=True, check_same_thread=False)}


def _reading(dialect: str) -> tuple[str, ...]:
    """Give what makes a connection of a dialect read only."""
    if dialect == "sqlite":
        return ("PRAGMA query_only = ON",)
    if dialect in ("mysql", "mariadb"):  # the session, for a statement may commit and so begin another transaction
        return ("SET SESSION TRANSACTION READ ONLY",)
    return ("SET TRANSACTION READ ONLY",) if dialect == "postgresql" else ()


def _told(error: Exception) -> str:
    """Say what a database says, its first line; not of errors in data, which quote them."""
    original = getattr(error, "orig", None) or error
    if isinstance(error, DBAPIError) and not isinstance(error, (ProgrammingError, OperationalError, InterfaceError)):
        return f"the database refuses a value ({type(original).__name__})"
    lines = str(original).splitlines() or [type(original).__name__]
    return lines[0].rpartition(">: ")[2][:200]
