"""Where a handler's work waits for its turn: for a place, for its rate, or until its breaker lets it through.

A job that waits here keeps the turn in its lane, so its key waits too; other keys wait behind it only at the same gate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from .breaker import Circuit, Position
from .job import Job
from .limits import Bucket, Limits

log = structlog.get_logger("choreo.services")

MOST_HELD = 500
"""Jobs of one gate that may be in flight; beyond it the topics of its handler are not read."""

_DUST = 1e-5  # what a sum of floats leaves of a time that has come, in seconds


class Rest(NamedTuple):
    """A handler that is left alone by its breaker; in seconds, and of one moment.

    Args:
        since: how long ago the breaker opened.
        left: how long it is until a call is let through, to see.
        waiting: jobs that wait for it.
        error: class of the last failure.
    """

    since: float
    left: float
    waiting: int
    error: str


class Gate:
    """The gate of one handler in one worker.

    Args:
        name: of the handler, for the log.
        limits: what it says.
        go: called with a job whose turn it is.
    """

    def __init__(self, name: str, limits: Limits, go: Callable[[Job], None]) -> None:
        self._name = name
        self._most = limits.concurrency if limits.batch is None else None  # of batches: see `Collector`
        self._rate = limits.rate
        self._bucket: Bucket | None = None  # its time begins with the loop's
        self._circuit = Circuit(limits.breaker) if limits.breaker is not None else None
        self._go = go
        self._waiting: deque[Job] = deque()
        self._inside: dict[Job, bool] = {}
        self._sleeper: asyncio.Task[None] | None = None
        self._error = ""
        self.load = 0
        """Jobs of this handler in flight, waiting in their lanes or anywhere else."""

    @property
    def position(self) -> Position | None:
        """Where its breaker stands; None without one."""
        return self._circuit.position if self._circuit is not None else None

    def rest(self) -> Rest | None:
        """Tell of its breaker while that is not closed."""
        circuit = self._circuit
        if circuit is None or circuit.position is Position.CLOSED:
            return None
        now = asyncio.get_running_loop().time()
        return Rest(now - circuit.since, circuit.rests(now), self.load, self._error)

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should be read."""
        return self.load >= MOST_HELD

    def enter(self, job: Job) -> None:
        """Let a job through when it may go: at once, or later."""
        if job in self._inside:
            self._go(job)
            return
        self._waiting.append(job)
        self._let()

    def leave(self, job: Job) -> None:
        """Note that a job's try is over; one that was not inside changes nothing."""
        probe = self._inside.pop(job, None)
        if probe is None:
            return
        if self._circuit is not None:
            self._circuit.forget(probe)
        self._let()

    def ended(self, job: Job, error: BaseException | None) -> bool:
        """Note how a call ended; say whether its failure is not to count, since the breaker had opened meanwhile."""
        circuit = self._circuit
        if circuit is None:
            return False
        probe = self._inside.get(job, False)
        before = circuit.position
        failed = circuit.counts(error)
        if failed:
            self._error = type(error).__name__
        circuit.end(failed, probe, asyncio.get_running_loop().time())
        if circuit.position is not before:
            if circuit.position is Position.OPEN:
                log.warning("breaker opens, the handler is left alone", handler=self._name, waiting=self.load)
            elif circuit.position is Position.CLOSED:
                log.info("breaker closes, the handler goes on", handler=self._name)
        return failed and not probe and before is not Position.CLOSED

    def drop(self, unwanted: Callable[[Job], bool]) -> list[Job]:
        """Take out the waiting jobs that `unwanted` says yes to."""
        gone = [job for job in self._waiting if unwanted(job)]
        for job in gone:
            self._waiting.remove(job)
        return gone

    def close(self) -> list[asyncio.Task[None]]:
        """Give the task that sleeps, to be cancelled."""
        return [self._sleeper] if self._sleeper is not None else []

    def _let(self) -> None:
        """Let through what may go now, and see to it that somebody looks again when more may."""
        while self._waiting:
            now = asyncio.get_running_loop().time()
            wait = self._wait(now)
            if wait is None:
                return  # the end of a call that is under way brings it here again
            if wait > _DUST:
                if self._sleeper is None:
                    self._sleeper = asyncio.create_task(self._sleep(wait), name="choreo-gate")
                return
            job = self._waiting.popleft()
            if self._bucket is not None:
                self._bucket.take(now)
            self._inside[job] = self._circuit is not None and self._circuit.begin()
            self._go(job)

    def _wait(self, now: float) -> float | None:
        if self._most is not None and len(self._inside) >= self._most:
            return None
        wait = self._circuit.wait(now) if self._circuit is not None else 0.0
        if wait is None or self._rate is None:
            return wait
        if self._bucket is None:
            self._bucket = Bucket(self._rate, now)
        return max(wait, self._bucket.wait(now))

    async def _sleep(self, seconds: float) -> None:
        # A task of its own: whoever waits for time to pass must be seen to wait (`saga/testing/loop.py`).
        await asyncio.sleep(seconds)
        self._sleeper = None
        self._let()
