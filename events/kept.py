"""SQLite connections that stay with their store from one transaction to the next.

A connection of a pool is fetched, told what it is for, given back and cleaned up for each transaction: twice what a
small transaction costs otherwise. The statements of `sqlite.SqliteConnection` wait for nothing, so a transaction that
only reads needs no event loop at all, and one that writes needs it for its commit alone.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import greenlet_spawn

from .sqlite import SqliteConnection

T = TypeVar("T")


class Kept:
    """The connections of one store: one that reads and one that writes, or one for both where there is only one.

    Args:
        engine: whose dialect is `sqlite.Sqlite`.
        option: the execution option that marks a connection whose transactions will write.
    """

    def __init__(self, engine: AsyncEngine, option: str) -> None:
        self._engine = engine
        self._option = option
        self._single = isinstance(engine.pool, StaticPool)
        self._open: dict[bool, AsyncConnection] = {}

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction."""
        connection = _sync(await self._get(writes=False))
        try:
            connection.begin()
            found = work(connection)
            connection.rollback()
        except BaseException:
            await self._mend(writes=False)
            raise
        return found

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that writes, and commit it; the caller sees to it that there is one at a time."""
        kept = await self._get(writes=True)
        connection = _sync(kept)
        try:
            if _begun(connection):
                connection.begin()
            else:
                await greenlet_spawn(connection.begin)
            yield kept
            await greenlet_spawn(connection.commit)
        except BaseException:
            await self._mend(writes=True)
            raise

    async def close(self) -> None:
        """Give the connections back."""
        while self._open:
            _, connection = self._open.popitem()
            await connection.close()

    async def _get(self, *, writes: bool) -> AsyncConnection:
        writes = writes or self._single
        if writes not in self._open:
            connection = await self._engine.connect()
            self._open[writes] = await connection.execution_options(**{self._option: writes})
        return self._open[writes]

    async def _mend(self, *, writes: bool) -> None:
        """Roll back what a connection has begun; one that cannot be used any more is let go of."""
        kept = self._open.get(writes or self._single)
        if kept is None:
            return
        connection = _sync(kept)
        with suppress(SQLAlchemyError):
            connection.rollback()
            if not connection.invalidated:
                return
        del self._open[writes or self._single]
        await asyncio.shield(kept.close())


def _sync(connection: AsyncConnection) -> Connection:
    assert connection.sync_connection is not None
    return connection.sync_connection


def _begun(connection: Connection) -> bool:
    """Begin at the driver, where nobody has to be waited for; say whether it has begun."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, SqliteConnection)
    try:
        return raw.begin_at_once()
    except sqlite3.Error:  # SQLAlchemy meets it once more, and tells it as whoever catches it expects
        return False
