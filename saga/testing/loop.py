"""An event loop on virtual time: it never waits, and its clock stands still until somebody moves it.

Everything in asyncio that waits asks its loop for a timer, so whatever runs in this loop follows the virtual clock,
a handler's own `asyncio.sleep` too, and no code under test needs to know of it. A moment is *settled* when nothing is
left that could run without time going on; then the clock may be moved to the next moment at which there is work.

Parts that look for work now and then (a poll, a tick) hold timers as well. They are never a reason to move the clock:
else three quiet days would be a million looks at nothing. When the clock is moved they all look, once.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, NamedTuple, TypeVar, TypeVarTuple, Unpack
from weakref import WeakSet

from ...events.clock import SECOND
from ...events.errors import ChoreoError
from ...services.provided import BACKGROUND

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_TURNS = 20_000
"""Turns of the loop at one moment, after which it is taken for one that never settles; a thousand orders of the demo's
shop need a hundred."""

EARLY = 0.25 / SECOND
"""By how much timers are set before their moment, seconds: less than the clock can show.

After some weeks a float cannot tell a loop's time from the same with asyncio's own allowance added, and a timer that is
due exactly now would never be."""

_THREAD_LOOK = 0.05


class NeverSettles(ChoreoError):
    """At one and the same moment there was always more to do."""


class _Timer(NamedTuple):
    at: int
    number: int
    handle: asyncio.TimerHandle
    owner: asyncio.Task[Any] | None

    @property
    def live(self) -> bool:
        return not self.handle.cancelled()


class _Selector(selectors.DefaultSelector):
    """Asks `rest` what to do where a loop would wait: it gives the seconds to wait in earnest."""

    rest: Callable[[float | None], float]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        pause = self.rest(timeout)
        return super().select(pause) if pause else []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs tasks on virtual time.

    While nobody awaits `settled`, it moves on to the next timer by itself, as it must for parts to start and stop.

    Args:
        now: the time in the beginning, microseconds since the epoch.
    """

    def __init__(self, now: int) -> None:
        self._start = now
        self._now = now
        self._turns = 0
        self._threads = 0
        self._timers: list[_Timer] = []
        self._count = 0
        self._watchers: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._rest: asyncio.Future[None] | None = None
        selector = _Selector()
        selector.rest = self._resting
        super().__init__(selector)
        self.slow_callback_duration = math.inf  # a callback that moves the clock is not slow

    def clock(self) -> int:
        """Give the time, microseconds since the epoch."""
        return self._now

    def time(self) -> float:
        """Give the loop's own time: seconds since the beginning."""
        return (self._now - self._start) / SECOND

    def move(self, to: int) -> None:
        """Move the clock on to a time, microseconds since the epoch; timers that are then due fire."""
        self._now = max(self._now, to)
        self._turns = 0

    async def settled(self) -> None:
        """Wait until nothing can run before the clock is moved.

        Raises:
            NeverSettles: there is always more, so something answers itself without end.
        """
        self._rest = self.create_future()
        await self._rest

    def watch(self) -> None:
        """Take the tasks that hold a timer now, while there is nothing to do, for those that only look for work."""
        self._watchers.update(timer.owner for timer in self._timers if timer.live and timer.owner is not None)
        self._timers = []

    def next_due(self) -> int | None:
        """Give the next time at which some work goes on that sleeps now; None if there is none."""
        timers = self._timers
        while timers and (not timers[0].live or timers[0].at <= self._now):
            heappop(timers)
        return timers[0].at if timers else None

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        handle = super().call_at(when - EARLY, callback, *args, context=context)
        try:
            owner = asyncio.current_task(self)
        except RuntimeError:
            owner = None
        background = BACKGROUND.get() if context is None else context.get(BACKGROUND, False)
        if not background and (owner is None or owner not in self._watchers):
            self._count += 1
            heappush(self._timers, _Timer(self.moment(when), self._count, handle, owner))
        return handle

    def moment(self, when: float) -> int:
        """Turn the loop's own time into microseconds since the epoch."""
        # Beyond a thousandth of a microsecond a sum of floats holds nothing but its error.
        return self._start + math.ceil(round(when * SECOND, 3))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """See `asyncio.loop.run_in_executor`; while a thread works the moment is not settled."""
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._threads -= 1

    def _resting(self, timeout: float | None) -> float:
        """Nothing came from outside: decide what happens next."""
        waiting = self._rest
        if timeout is not None and timeout <= 0:
            self._turns += 1
            if self._turns > MOST_TURNS and waiting is not None:
                self._rest = None
                error = NeverSettles("there is always more to do at the same moment: does something answer itself?")
                waiting.set_exception(error)
            return 0
        if self._threads:
            return _THREAD_LOOK
        if waiting is not None:
            self._rest, self._turns = None, 0
            waiting.set_result(None)
            return 0
        if timeout is None:
            raise RuntimeError("the virtual loop waits for something that cannot come")
        self.move(self._now + math.ceil(timeout * SECOND))
        return 0


def earliest(times: Sequence[int | None]) -> int | None:
    """Give the earliest of the times that are known."""
    return min((time for time in times if time is not None), default=None)
