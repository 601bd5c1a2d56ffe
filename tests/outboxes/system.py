"""An existing system, in all the ways in which it may talk to its database: it writes an order and tells of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from choreo import Event, Outbox
from choreo.events.outboxes.database import SystemDatabase
from choreo.events.outboxes.relay import open_tables
from choreo.events.outboxes.table import Tables

metadata = MetaData()
orders = Table("orders", metadata, Column("number", String(40)), Column("total", Integer))


class Ordered(Event, topic="orders", key="number", format="json"):
    number: str
    total: int = 1


class Paid(Event, topic="payments", key="number", format="json"):
    number: str


class Undo(Exception):
    """The system changes its mind in the middle of a transaction."""


@dataclass
class System:
    """A database with the system's own table and an outbox.

    Args:
        url: as `saga relay` takes it.
        database: open.
        tables: of the outbox.
    """

    url: str
    database: SystemDatabase
    tables: Tables

    @classmethod
    async def make(cls, url: str) -> System:
        database = await SystemDatabase.open(url, must_exist=False)
        tables = await open_tables(database, "choreo_event_outbox", create=True)
        await database.write(metadata.create_all)
        return cls(url, database, tables)

    async def rows(self) -> list[Any]:
        """What stands in the outbox."""
        chosen = self.tables.outbox.select().order_by(self.tables.outbox.c.seq)
        return list(await self.database.read(lambda connection: connection.execute(chosen).all()))

    async def orders(self) -> list[str]:
        """What the system itself has written."""
        return list(await self.database.read(lambda connection: connection.execute(orders.select()).scalars().all()))

    async def add(self, outbox: Outbox, *events: Event) -> None:
        """Write events in a transaction of their own."""
        async with self.database.transaction() as connection:
            await outbox.add(connection, *events)

    def engine_url(self, driver: str) -> str:
        """The URL for SQLAlchemy with a driver."""
        if self.url.startswith("sqlite:"):
            return f"{driver}:///{self.url.removeprefix('sqlite:')}"
        return make_url(self.url).set(drivername=driver).render_as_string(hide_password=False)


Write = Callable[[System, Outbox, Sequence[Event], bool], Awaitable[None]]
"""Write an order and its events in one transaction; with the last argument, change one's mind."""


def _changes_mind(changes: bool) -> None:
    if changes:
        raise Undo


def session(driver: str) -> Write:
    async def write(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
        engine = create_engine(system.engine_url(driver))
        try:
            with Session(engine) as session, session.begin():
                session.execute(insert(orders), {"number": "4711", "total": 1})
                outbox.add(session, *events)
                _changes_mind(undo)
        finally:
            engine.dispose()

    return write


def connection(driver: str) -> Write:
    async def write(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
        engine = create_engine(system.engine_url(driver))
        try:
            with engine.begin() as connection:
                connection.execute(insert(orders), {"number": "4711", "total": 1})
                outbox.add(connection, *events)
                _changes_mind(undo)
        finally:
            engine.dispose()

    return write


def async_session(driver: str) -> Write:
    async def write(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
        engine = create_async_engine(system.engine_url(driver))
        try:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(insert(orders), {"number": "4711", "total": 1})
                await outbox.add(session, *events)
                _changes_mind(undo)
        finally:
            await engine.dispose()

    return write


def async_connection(driver: str) -> Write:
    async def write(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
        engine = create_async_engine(system.engine_url(driver))
        try:
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO orders VALUES ('4711', 1)"))
                await outbox.add(connection, *events)
                _changes_mind(undo)
        finally:
            await engine.dispose()

    return write


async def plain_sqlite(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
    connection = sqlite3.connect(system.url.removeprefix("sqlite:"))
    try:
        with connection:
            connection.execute("INSERT INTO orders VALUES (?, ?)", ("4711", 1))
            outbox.add(connection, *events)
            _changes_mind(undo)
    finally:
        connection.close()


async def plain_psycopg(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
    with psycopg.connect(system.url) as connection:
        connection.execute("INSERT INTO orders VALUES (%s, %s)", ("4711", 1))
        outbox.add(connection, *events)
        _changes_mind(undo)


async def async_psycopg(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
    async with await psycopg.AsyncConnection.connect(system.url) as connection:
        await connection.execute("INSERT INTO orders VALUES (%s, %s)", ("4711", 1))
        await outbox.add(connection, *events)
        _changes_mind(undo)


async def plain_asyncpg(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
    connection = await asyncpg.connect(system.url)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO orders VALUES ($1, $2)", "4711", 1)
            await outbox.add(connection, *events)
            _changes_mind(undo)
    finally:
        await connection.close()


async def pooled_asyncpg(system: System, outbox: Outbox, events: Sequence[Event], undo: bool) -> None:
    async with (
        asyncpg.create_pool(system.url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await connection.execute("INSERT INTO orders VALUES ($1, $2)", "4711", 1)
        await outbox.add(connection, *events)
        _changes_mind(undo)


WAYS: dict[str, tuple[tuple[str, Write], ...]] = {
    "sqlite": (
        ("sqlite3", plain_sqlite),
        ("session", session("sqlite")),
        ("connection", connection("sqlite")),
        ("async session", async_session("sqlite+aiosqlite")),
        ("async connection", async_connection("sqlite+aiosqlite")),
    ),
    "postgres": (
        ("psycopg", plain_psycopg),
        ("async psycopg", async_psycopg),
        ("asyncpg", plain_asyncpg),
        ("asyncpg's pool", pooled_asyncpg),
        ("session", session("postgresql+psycopg")),
        ("connection", connection("postgresql+psycopg")),
        ("async session", async_session("postgresql+asyncpg")),
        ("async connection", async_connection("postgresql+psycopg")),
    ),
    "mariadb": (
        ("session", session("mysql+pymysql")),
        ("connection", connection("mariadb+pymysql")),
        ("async session", async_session("mysql+asyncmy")),
        ("async connection", async_connection("mariadb+asyncmy")),
    ),
}
