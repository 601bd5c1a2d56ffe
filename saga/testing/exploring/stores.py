"""Stores that processes share, survive them, and stumble when they are told to.

One SQLite connection in memory is the disk of one store. Whoever opens a transaction has it for himself; when that
process dies, what it had not committed is rolled back. Between two runs the connection is kept and its content is
replaced, so that statements need not be compiled again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from ....events import outbox
from ....events.clock import Clock
from ....events.database import Database
from ....events.errors import StoreUnreachable
from ....services import inbox
from ... import tables as saga_tables
from .. import stores
from .broker import Content
from .process import PROCESS, Process, State

Commit = Callable[[str], str]
"""Told of each commit of a store; says what becomes of it: "" or one of `BUSY`, `LOST`."""

BUSY = "busy"
"""The commit fails and nothing is kept."""
LOST = "lost"
"""The commit succeeds, but who asked for it hears of an error."""


class Turns:
    """Who may use a store's connection: one task at a time, in the order in which they asked.

    Args:
        connection: the store's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._holder: tuple[Process | None, asyncio.Task[Any] | None] | None = None
        self._waiting: deque[tuple[Process | None, asyncio.Task[Any] | None, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> bool:
        """Whether somebody is within a transaction."""
        return self._holder is not None

    async def __aenter__(self) -> None:
        process, task = PROCESS.get(), asyncio.current_task()
        if self._holder is None:
            self._holder = process, task
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((process, task, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if self._holder is not None and self._holder[1] is task:
                self._next()
            turn.cancel()
            raise

    async def __aexit__(self, *_: object) -> None:
        if self._holder is not None and self._holder[1] is asyncio.current_task():
            self._next()

    def died(self, process: Process) -> None:
        """Take the turn from a process that died, and undo what it had not committed."""
        if self._holder is None or self._holder[0] is not process or self._holder[1] is _current_task():
            return  # the task that dies right now unwinds by itself
        self._connection.rollback()
        self._next()

    def reset(self) -> None:
        """Forget everybody."""
        self._holder = None
        self._waiting.clear()

    def _next(self) -> None:
        self._holder = None
        while self._waiting:
            process, task, turn = self._waiting.popleft()
            if turn.done() or (process is not None and not process.alive):
                continue
            self._holder = process, task
            turn.set_result(None)
            return


class Disk:
    """One store: what is left when every process is dead.

    Args:
        name: whose store it is: a service's name, or `coordinator`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.turns = Turns(self.raw)
        self.committed: Commit = _silent
        self.opened: dict[AsyncConnection, None] = {}
        """Connections that are in use, those of the dead among them."""
        registry.register("sqlite.choreo_inline", stores.__name__, "InlineSqlite")
        self._engine = create_async_engine(
            "sqlite+choreo_inline:///:memory:",
            poolclass=NullPool,
            creator=lambda: stores.adapted(_Stumbling(self.raw, self._commit)),
            hide_parameters=True,
        )
        self._reader = create_engine(
            "sqlite://", poolclass=StaticPool, creator=lambda: self.raw, pool_reset_on_return=None
        )
        self._template = sqlite3.connect(":memory:", check_same_thread=False)

        @event.listens_for(self._engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    @property
    def reader(self) -> Engine:
        """For looking at what is committed, while nobody is within a transaction."""
        return self._reader

    def open(self, clock: Clock, reach: Callable[[str], None]) -> Database:
        """Open it for one process.

        Args:
            clock: the process's.
            reach: raises where the store cannot be reached.
        """
        return _Shared(self, clock, reach)

    def clear(self) -> None:
        """Make it as it was when `keep` was called; before that, empty."""
        self.turns.reset()
        if self.raw.in_transaction:
            self.raw.rollback()
        self._template.backup(self.raw)

    def keep(self) -> None:
        """Remember what a new store is given: its tables, with what their makers put into them."""
        for metadata in (saga_tables.metadata, inbox.metadata, outbox.metadata):
            for table in metadata.sorted_tables:
                if self.count(table.name):
                    self.raw.execute(f"DELETE FROM {table.name}")  # noqa: S608 - a constant name
        self.raw.backup(self._template)

    def count(self, table: str) -> int:
        """Count the rows of a table, 0 where there is none."""
        try:
            found = self.raw.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a constant name
        except sqlite3.OperationalError:
            return 0
        return int(found[0])

    def outbox(self) -> dict[str, Content]:
        """Give what waits to be sent, by the ids of the rows; nothing where there is no such table."""
        try:
            found = self.raw.execute("SELECT id, topic, key, value FROM choreo_outbox").fetchall()
        except sqlite3.OperationalError:
            return {}
        return {id_: (topic, key, value) for id_, topic, key, value in found}

    def dump(self) -> list[str]:
        """Write its rows as text, to compare them; those of the audit have a salt, and are never the same."""
        lines = (line for line in self.raw.iterdump() if line.startswith("INSERT"))
        return [line for line in lines if not line.startswith('INSERT INTO "choreo_audit"')]

    async def bury(self) -> None:
        """Close the connections that the dead have left open."""
        opened, self.opened = self.opened, {}
        for connection in opened:
            await connection.close()

    def close(self) -> None:
        """Let go of it."""
        self._reader.dispose()
        self.raw.close()
        self._template.close()

    def _commit(self) -> str:
        return self.committed(self.name)


def _silent(_: str) -> str:
    return ""


class Outboxes:
    """Watches the outboxes of a run: a row leaves when the broker has what it holds, not before (S5)."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Content]] = {}

    def forgotten(self, disks: Mapping[str, Disk], held: Collection[Content]) -> str:
        """Tell of a row that has gone since the last look though the broker has not what it held; "" if there is none.

        Args:
            disks: by name.
            held: what the broker has ever taken.
        """
        for name, disk in disks.items():
            if disk.turns.taken:
                continue  # what stands there now may still be rolled back
            before, now = self._waiting.get(name, {}), disk.outbox()
            self._waiting[name] = now
            for id_, content in before.items():
                if id_ not in now and content not in held:
                    return f"a record for {content[0]} left the outbox of {name} before the broker had it"
        return ""


class _Shared(Database):
    """A process's door to a disk."""

    def __init__(self, disk: Disk, clock: Clock, reach: Callable[[str], None]) -> None:
        super().__init__(disk._engine, clock, turns=disk.turns)
        self._disk = disk
        self._reach = reach

    async def close(self) -> None:
        """The disk stays."""

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncConnection]:
        self._reach(self._disk.name)
        used: AsyncConnection | None = None
        try:
            async with super()._connect() as connection:
                used = connection
                self._disk.opened[connection] = None
                yield connection
        finally:
            if used is not None and used.closed:  # else its process died before it was
                del self._disk.opened[used]


class _Stumbling:
    """A connection whose commits may fail, before or after they happened."""

    def __init__(self, connection: sqlite3.Connection, commit: Callable[[], str]) -> None:
        self._connection = connection
        self._commit = commit
        self.create_function = connection.create_function

    def cursor(self) -> sqlite3.Cursor:
        return self._connection.cursor()

    def commit(self) -> None:
        process = PROCESS.get()
        if process is not None and process.state is not State.UP:
            return
        fault = self._commit()
        if fault == BUSY:
            raise sqlite3.OperationalError("database is locked")
        self._connection.commit()
        if fault == LOST:
            raise sqlite3.OperationalError("disk I/O error")

    def rollback(self) -> None:
        process = PROCESS.get()
        if process is None or process.state is not State.BURIED:
            self._connection.rollback()

    def close(self) -> None:
        pass


def unreachable(name: str) -> StoreUnreachable:
    """Make the error of a store that does not answer."""
    return StoreUnreachable(f"the store of {name} does not answer")


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
