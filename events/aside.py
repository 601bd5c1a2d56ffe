"""Work that may wait for a disk, out of the event loop's way; where the disk is quick, it is done on the spot.

To hand a commit to a thread and back takes two switches of threads and a turn of the loop, more than many a commit
waits for its disk. So the time of each piece of work is watched: where it has been quick lately it is done where it is
asked for, and one that was slow sends those after it back to the thread for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_QUICK = 0.001
"""Seconds; what takes less on average is not worth a thread."""
_WEIGHT = 1 / 8
"""Of the latest time in the average."""


class Aside:
    """Does one piece of work after the other, each in one thread or on the spot.

    Args:
        name: of the thread.
        timer: gives seconds, to compare.
    """

    def __init__(self, name: str, timer: Callable[[], float] = time.perf_counter) -> None:
        self._name = name
        self._timer = timer
        self._executor: ThreadPoolExecutor | None = None
        self._under_way = 0
        self._average = _QUICK

    async def run(self, work: Callable[[], T]) -> T:
        """Do some work and give what it returns.

        A task that is cancelled meanwhile goes on waiting, and is cancelled at its end: nobody may touch before what
        the work is about.
        """
        if self.idle and self.quick:
            return self.on_the_spot(work)
        return await self.in_thread(work)

    @property
    def quick(self) -> bool:
        """Whether what was done lately was not worth a thread."""
        return self._average < _QUICK

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do some work in the thread; see `run`."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._under_way += 1
        done = asyncio.get_running_loop().run_in_executor(self._executor, self.on_the_spot, work)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            while not done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({done})
            raise
        finally:
            self._under_way -= 1
        return done.result()

    def close(self) -> None:
        """Let the thread go; work that is under way is finished."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def on_the_spot(self, work: Callable[[], T]) -> T:
        """Do some work here and now, while nothing is under way."""
        began = self._timer()
        try:
            return work()
        finally:
            self._average += (self._timer() - began - self._average) * _WEIGHT
