"""Where pages get what they show: the store, and the broker as it was some seconds ago, asked once for all who look."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar

from ...events.database import Database
from ...events.errors import ChoreoError
from ...events.settings import Settings
from .. import queries
from ..cli.observing import survey
from ..cli.shell import Shell
from ..looking import opened, producers
from ..report import Observed
from ..surroundings import Surroundings

T = TypeVar("T")

_MOST_KEPT = 200
_PATIENCE = 2.0
"""Seconds that a page waits for the broker; later pages have what comes then."""


class Kept(Generic[T]):
    """A value that is asked for once for all, and kept for some seconds.

    Args:
        ask: how it is found out.
        seconds: how long it is good.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """Give it, found out anew where it is too old."""
        if self._task is None or (self._task.done() and (time.monotonic() >= self._until or self._failed(self._task))):
            self._until = time.monotonic() + self._seconds
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # whoever waits is told it
        return await asyncio.shield(self._task)

    async def soon(self, seconds: float) -> T | None:
        """Give it if it is there within so many seconds; it is found out all the same."""
        try:
            async with asyncio.timeout(seconds):
                return await self.get()
        except TimeoutError:
            return None

    def forget(self) -> None:
        """Find it out anew when it is asked for next."""
        self._until = 0.0

    async def close(self) -> None:
        """Stop finding out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> T:
        found = await self._ask()
        self._until = time.monotonic() + self._seconds
        return found

    @staticmethod
    def _failed(task: asyncio.Task[T]) -> bool:
        return task.cancelled() or task.exception() is not None


class Sources:
    """The store and the broker of one web view.

    Args:
        settings: where they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shell = Shell.silent(settings)
        """What functions of the command line want; it prints nothing."""
        self._stack = AsyncExitStack()
        self._database: Database | None = None
        self._around = Kept(self._survey, 4.0)
        self._many: OrderedDict[str, Kept[Any]] = OrderedDict()

    async def open(self) -> Database:
        """Open the store.

        Raises:
            StoreUnreachable, StoreMismatch: it is not there, or of another release.
        """
        self._database = await self._stack.enter_async_context(opened(self.settings.store_url, aside=True))
        return self._database

    async def close(self) -> None:
        """Close it."""
        for kept in (self._around, *self._many.values()):
            await kept.close()
        await self._stack.aclose()
        self._database = None

    @property
    def database(self) -> Database:
        """The store."""
        assert self._database is not None, "the web view is not open"
        return self._database

    def kept(self, name: str, ask: Callable[[], Awaitable[T]], seconds: float) -> Kept[T]:
        """Give the value of a name, which is found out by `ask` where it is too old: once for all who look."""
        found = self._many.setdefault(name, Kept(ask, seconds))
        self._many.move_to_end(name)
        while len(self._many) > _MOST_KEPT:
            self._many.popitem(last=False)
        return found

    def forget(self) -> None:
        """Find everything out anew: somebody has changed something."""
        for kept in self._many.values():
            kept.forget()

    async def surroundings(self) -> Surroundings:
        """Tell what is around, as it was some seconds ago at most; a broker that is slow is told as one."""
        found = await self._around.soon(_PATIENCE)
        return Surroundings(f"it has not answered within {_PATIENCE:.0f}s") if found is None else found

    async def observed(self) -> Observed:
        """Tell the same as every status has it."""
        now = await self.database.read(self.database.now)
        if self.settings.broker_url.startswith("memory:"):
            return Observed(now)
        around = await self.surroundings()
        if around.trouble is not None:
            return Observed(now, "down", around.trouble)
        return Observed(now, "ok", None, around.members(self.settings.group), producers(around.services))

    async def _survey(self) -> Surroundings:
        try:
            known = await self.database.read(queries.newest_definitions)
        except ChoreoError as error:
            return Surroundings(error.message)
        return await survey(self.settings, {topic for each in known for topic in each.topics.values()})
