"""Processes within one event loop: each may be killed or stopped at any moment, as the operating system does it.

A process is what runs in a context of its own: whatever its tasks schedule carries the process along. One that is dead
gets no turn any more: no `finally` runs, no lock is given back, nothing is committed. One that is frozen gets all its
turns later, in order, and does not know it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from heapq import heappop, heappush
from typing import Any, TypeVar, TypeVarTuple, Unpack

from ....services.provided import BACKGROUND
from ..loop import EARLY, VirtualLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROCESS: ContextVar[Process | None] = ContextVar("choreo_process", default=None)
"""The process that runs; None for the simulation itself."""

LOOKERS = (" poll", " tick", " offsets", "choreo-relay", "choreo-coordinator")
"""How the names of tasks end that only look for work now and then."""


class Killed(BaseException):
    """The process that runs has just died."""


class State(Enum):
    """What a process is."""

    UP = "up"
    FROZEN = "frozen"
    DEAD = "dead"
    BURIED = "buried"  # its coroutines are being closed; nothing that they do counts


class Process:
    """One process.

    Args:
        kind: what it runs: a service's name, or `coordinator`.
        number: which of its kind, counted over the whole run.
        loop: the loop.
    """

    def __init__(self, kind: str, number: int, loop: SimulationLoop) -> None:
        self.kind = kind
        self.number = number
        self.state = State.UP
        self.started = False
        self.leaving = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._loop = loop
        self._backlog: list[tuple[Context, Callable[..., object], tuple[Any, ...]]] = []
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.kind}-{self.number}"

    @property
    def alive(self) -> bool:
        """Whether it may do anything, now or later."""
        return self.state in (State.UP, State.FROZEN)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task of it."""
        return self._loop.create_task(work, name=name, context=self._context)

    def run(self, context: Context, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Give it a turn, if it is to have one."""
        if self.state is State.UP or self.state is State.BURIED:
            callback(*args)
        else:
            self._backlog.append((context, callback, args))

    def kill(self) -> None:
        """Let it have no turn any more. Its tasks are kept as they are: closing them would run their clean-up."""
        self.state = State.DEAD

    def freeze(self) -> None:
        """Let it have no turn for a while; one that has died meanwhile must not come back to life."""
        if self.state is State.UP:
            self.state = State.FROZEN

    def thaw(self) -> None:
        """Let it go on, with everything that it missed."""
        self.state = State.UP
        self._catch_up()

    async def bury(self) -> None:
        """Close what is left of its tasks, when nothing that they do counts any more."""
        self.state = State.BURIED
        for _ in range(20):
            left = [task for task in self.tasks if not task.done()]
            for task in left:
                task.cancel()
            self._catch_up()
            if not left:
                return
            await asyncio.wait(left, timeout=0.001)

    def _catch_up(self) -> None:
        backlog, self._backlog = self._backlog, []
        for context, callback, args in backlog:
            self._loop.call_soon(callback, *args, context=context)


class SimulationLoop(VirtualLoop):
    """A virtual loop that knows processes, and tells work that sleeps from tasks that only look for work.

    Args:
        now: the time in the beginning, microseconds since the epoch.
    """

    def __init__(self, now: int) -> None:
        super().__init__(now)
        self._work: list[tuple[int, int, asyncio.TimerHandle, Process | None]] = []
        self._looks: list[tuple[int, int, asyncio.TimerHandle, Process | None]] = []
        self._handles = 0
        self.turns = 0
        """How many it has had."""

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        if context is None:
            context = copy_context()
        process = context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(process.run, context, callback, args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        if context is None:
            context = copy_context()
        process = context.get(PROCESS)
        if process is None:
            handle = asyncio.SelectorEventLoop.call_at(self, when - EARLY, callback, *args, context=context)
        else:
            handle = asyncio.SelectorEventLoop.call_at(
                self, when - EARLY, process.run, context, callback, args, context=context
            )
        try:
            task = asyncio.current_task(self)
        except RuntimeError:
            task = None
        name = task.get_name() if task is not None else ""
        looks = name.endswith(LOOKERS) or name.startswith("member ") or context.get(BACKGROUND, False)
        self._handles += 1
        heappush(self._looks if looks else self._work, (self.moment(when), self._handles, handle, process))
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """See `asyncio.loop.create_task`."""
        task = super().create_task(coro, **options)
        context: Context | None = options.get("context")
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run it at once, on the loop: two threads would end in an order that no seed repeats."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _resting(self, timeout: float | None) -> float:
        self.turns += 1
        return super()._resting(timeout)

    def next_work(self) -> int | None:
        """Give the next time at which some work goes on that sleeps now."""
        return self._next(self._work)

    def next_look(self) -> int | None:
        """Give the next time at which anything goes on, be it but a look for work."""
        times = [time for time in (self._next(self._work), self._next(self._looks)) if time is not None]
        return min(times, default=None)

    def _next(self, timers: list[tuple[int, int, asyncio.TimerHandle, Process | None]]) -> int | None:
        now = self.clock()
        while timers:
            at, _, handle, process = timers[0]
            if at > now and not handle.cancelled() and (process is None or process.alive):
                return at
            heappop(timers)
        return None
