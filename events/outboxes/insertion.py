"""One INSERT through whatever the system talks to its database with: told by its class, nothing is imported.

Each way refuses a connection on which no transaction is open: the event would be committed by itself, and the point of
an outbox is that it is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import insert

from ..errors import ConfigurationError
from .table import COLUMNS, Row, Tables, insert_statement

_TAKEN = (
    "a SQLAlchemy session or connection (sync or async), a sqlite3, psycopg or asyncpg connection, "
    "or Django's `connection`"
)


class BlockingConnection(Protocol):
    """A session or connection that blocks: SQLAlchemy's, `sqlite3`'s, psycopg's, Django's."""

    def commit(self) -> None:
        """End the transaction: the caller's to do, never the outbox's."""


class AwaitedConnection(Protocol):
    """A session or connection that is awaited: SQLAlchemy's async ones, psycopg's `AsyncConnection`."""

    def commit(self) -> Awaitable[None]:
        """End the transaction: the caller's to do, never the outbox's."""


class AsyncpgConnection(Protocol):
    """asyncpg's connection, or one of its pool's."""

    def is_in_transaction(self) -> bool:
        """Say whether a transaction is open."""


Way = Callable[[Any, Tables, Sequence[Row]], Any]


def awaited(connection: object) -> bool:
    """Say whether this connection's work has to be awaited.

    Raises:
        ConfigurationError: it is none that an outbox can write through.
    """
    return _way(connection)[1]


def insert_rows(connection: object, tables: Tables, rows: Sequence[Row]) -> Awaitable[None] | None:
    """Insert rows inside the transaction that is open on `connection`; awaitable where `awaited` says so.

    Raises:
        ConfigurationError: it is none that an outbox can write through, or no transaction is open on it.
    """
    found: Awaitable[None] | None = _way(connection)[0](connection, tables, rows)
    return found


def _way(connection: object) -> tuple[Way, bool]:
    for cls in type(connection).__mro__:
        found = _WAYS.get((cls.__module__.partition(".")[0], cls.__name__))
        if found is not None:
            return found
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise ConfigurationError(f"an outbox cannot write through a {kind}; give it {_TAKEN}")


def _no_transaction(how: str) -> ConfigurationError:
    return ConfigurationError(
        f"no transaction is open on this connection, so the event would be committed without your own writes; {how}"
    )


def _values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]


def _sqlalchemy_session(session: Any, tables: Tables, rows: Sequence[Row]) -> None:
    # First what the session holds back: its row locks then order this event behind those of earlier transactions.
    session.flush()
    _in_transaction(session.connection())
    session.execute(insert(tables.outbox), _values(rows))


def _sqlalchemy_connection(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    _in_transaction(connection)
    connection.execute(insert(tables.outbox), _values(rows))


async def _sqlalchemy_async_session(session: Any, tables: Tables, rows: Sequence[Row]) -> None:
    await session.flush()
    _in_transaction(await session.connection())
    await session.execute(insert(tables.outbox), _values(rows))


async def _sqlalchemy_async_connection(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    _in_transaction(connection.sync_connection)
    await connection.execute(insert(tables.outbox), _values(rows))


def _in_transaction(connection: Any) -> None:
    """SQLAlchemy begins by itself, unless it was told that every statement commits."""
    options = connection.sync_connection if hasattr(connection, "sync_connection") else connection
    if options.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise _no_transaction("use one without isolation_level='AUTOCOMMIT'")


def _sqlite3(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    # With an isolation level sqlite3 begins a transaction before the INSERT; `autocommit` is Python 3.12's.
    begins = connection.isolation_level is not None and getattr(connection, "autocommit", False) is not True
    if not connection.in_transaction and not begins:
        raise _no_transaction("execute BEGIN first")
    connection.executemany(insert_statement(_name(tables), ["?"] * len(COLUMNS)), rows)


def _psycopg(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    _psycopg_open(connection)
    with connection.cursor() as cursor:
        cursor.executemany(insert_statement(_name(tables), ["%s"] * len(COLUMNS)), rows)


async def _psycopg_async(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    _psycopg_open(connection)
    async with connection.cursor() as cursor:
        await cursor.executemany(insert_statement(_name(tables), ["%s"] * len(COLUMNS)), rows)


def _psycopg_open(connection: Any) -> None:
    if connection.autocommit and connection.info.transaction_status == 0:  # libpq's PQTRANS_IDLE
        raise _no_transaction("use `with connection.transaction():`")


async def _asyncpg(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    if not connection.is_in_transaction():
        raise _no_transaction("use `async with connection.transaction():`")
    places = [f"${number}" for number in range(1, len(COLUMNS) + 1)]
    await connection.executemany(insert_statement(_name(tables), places), rows)


def _django(connection: Any, tables: Tables, rows: Sequence[Row]) -> None:
    if connection.get_autocommit():
        raise _no_transaction("use `with transaction.atomic():`")
    with connection.cursor() as cursor:
        cursor.executemany(insert_statement(_name(tables), ["%s"] * len(COLUMNS)), rows)


def _name(tables: Tables) -> str:
    return tables.outbox.fullname


_WAYS: dict[tuple[str, str], tuple[Way, bool]] = {
    ("sqlalchemy", "Session"): (_sqlalchemy_session, False),
    ("sqlalchemy", "scoped_session"): (_sqlalchemy_session, False),
    ("sqlalchemy", "Connection"): (_sqlalchemy_connection, False),
    ("sqlalchemy", "AsyncSession"): (_sqlalchemy_async_session, True),
    ("sqlalchemy", "async_scoped_session"): (_sqlalchemy_async_session, True),
    ("sqlalchemy", "AsyncConnection"): (_sqlalchemy_async_connection, True),
    ("sqlite3", "Connection"): (_sqlite3, False),
    ("psycopg", "Connection"): (_psycopg, False),
    ("psycopg", "AsyncConnection"): (_psycopg_async, True),
    ("asyncpg", "Connection"): (_asyncpg, True),
    ("asyncpg", "PoolConnectionProxy"): (_asyncpg, True),
    ("django", "BaseDatabaseWrapper"): (_django, False),
    ("django", "ConnectionProxy"): (_django, False),
}
