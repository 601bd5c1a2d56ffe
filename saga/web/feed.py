"""What has changed, as server-sent events: one reader of the store for all who look on.

The format is that of the HTML standard (server-sent events). A client that was away looks at its page again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import structlog
from sqlalchemy import Connection, select

from ...events.clock import SECOND
from ...events.database import Database
from ...events.errors import ChoreoError
from ...events.waiting import happens
from ..tables import saga
from ..words import Phase

log = structlog.get_logger("choreo.web")

MOST_CLIENTS = 100
"""Streams that are open at once; who comes later is asked to come again, and looks now and then meanwhile."""

_EVERY = 0.5
_BEAT = 15.0
_RETRY_MS = 2_000
_MOST_IDS = 200
_OVERLAP = 5 * SECOND
"""A transaction that took so long is not overlooked: its rows are as old as its beginning."""


class TooMany(Exception):
    """There are `MOST_CLIENTS` already."""


class Feed:
    """Reads what has changed while somebody looks on, and tells it to each.

    Args:
        most: clients at once.
    """

    def __init__(self, most: int = MOST_CLIENTS) -> None:
        self._most = most
        self._clients: set[_Client] = set()
        self._came = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.reads = 0
        """How often the store was read."""

    @property
    def clients(self) -> int:
        """How many look on."""
        return len(self._clients)

    def open(self, database: Database) -> None:
        """Begin."""
        self._closing.clear()
        self._task = asyncio.create_task(self._run(database), name="choreo-web-feed")

    async def close(self) -> None:
        """End every stream, and stop reading."""
        self.end()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def end(self) -> None:
        """End every stream: the process is to end."""
        self._closing.set()
        self._came.set()
        for client in self._clients:
            client.wake.set()

    def join(self) -> _Client:
        """Add a client.

        Raises:
            TooMany: there are enough.
        """
        if len(self._clients) >= self._most:
            raise TooMany
        client = _Client()
        self._clients.add(client)
        self._came.set()
        return client

    async def stream(self, client: _Client) -> AsyncIterator[str]:
        """Give the events of a client until it goes or the process ends."""
        try:
            yield f"retry: {_RETRY_MS}\nevent: hello\ndata: {{}}\n\n"
            while not self._closing.is_set():
                if not await happens(client.wake, _BEAT):
                    yield ": still here\n\n"
                    continue
                if not self._closing.is_set():
                    yield f"event: changed\ndata: {json.dumps({'ids': client.take()})}\n\n"
        finally:
            self._clients.discard(client)

    async def _run(self, database: Database) -> None:
        since: int | None = None
        known: dict[str, int] = {}
        while not self._closing.is_set():
            if not self._clients:
                since, known = None, {}
                self._came.clear()
                await self._came.wait()
                continue
            try:
                since, known = await self._look(database, since, known)
            except ChoreoError as error:
                log.warning("the store cannot be read", error=error.message)
            await happens(self._closing, _EVERY)

    async def _look(self, database: Database, since: int | None, known: dict[str, int]) -> tuple[int, dict[str, int]]:
        """Read what has changed and tell it; give from when on to read next, and what is known of that time."""
        self.reads += 1
        now, rows = await database.read(lambda c: (database.now(c), changed_since(c, since, _MOST_IDS + 1)))
        if since is None:
            return now - _OVERLAP, {}
        found = {id_: seq for id_, seq, _ in rows}
        fresh = [id_ for id_, seq in found.items() if known.get(id_) != seq]
        if fresh:
            for client in self._clients:
                client.tell(fresh if len(fresh) <= _MOST_IDS else None)
        return now - _OVERLAP, found


class _Client:
    """What one client has not been told yet."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._ids: set[str] | None = set()

    def tell(self, ids: Sequence[str] | None) -> None:
        """Note what has changed; None is everything."""
        if ids is None or self._ids is None or len(self._ids) + len(ids) > _MOST_IDS:
            self._ids = None
        else:
            self._ids.update(ids)
        self.wake.set()

    def take(self) -> list[str] | None:
        """Give what has changed since the last time; None is everything."""
        self.wake.clear()
        taken, self._ids = self._ids, set()
        return None if taken is None else sorted(taken)


def changed_since(connection: Connection, since: int | None, limit: int) -> list[tuple[str, int, int]]:
    """Read the sagas that were written since then, with the number of their last input and the time, the newest first.

    Args:
        connection: within a read.
        since: the store's clock, microseconds; None reads nothing.
        limit: at most so many of each phase.
    """
    if since is None:
        return []
    found: list[tuple[str, int, int]] = []
    for phase in Phase:  # each by its index
        query = select(saga.c.id, saga.c.seq, saga.c.updated_at)
        query = query.where(saga.c.phase == phase.value, saga.c.updated_at >= since)
        rows = connection.execute(query.order_by(saga.c.updated_at.desc()).limit(limit))
        found += [(id_, seq, at) for id_, seq, at in rows]
    return found
