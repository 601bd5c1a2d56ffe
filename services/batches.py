"""Batch handlers: events of one class that are at hand go into one call, `async def f(orders: list[OrderPlaced])`.

A batch holds at most one event of a key: what waits behind it in its lane comes with a later one, so order within a key
holds as ever, and a failed event takes none of its key along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..events.clock import SECOND, duration
from .job import Job, Stage
from .limits import Batch


class Collector:
    """Collects the jobs of one batch handler, and lets no more of its batches run at once than it says.

    Args:
        batch: how they are collected.
        at_once: how many calls may run at once.
        submit: takes a job that something is to be looked up or committed for before it may run, or while it runs.
        run: takes jobs that are to run in one call.
    """

    def __init__(
        self, batch: Batch, at_once: int, submit: Callable[[Job], None], run: Callable[[list[Job]], None]
    ) -> None:
        self._most = batch.most
        self._seconds = 0.0 if batch.wait is None else duration(batch.wait) / SECOND
        self._at_once = at_once
        self._submit = submit
        self._run = run
        self._collected: list[Job] = []
        self._ready: list[Job] = []
        self._running = 0
        self._sleeper: asyncio.Task[None] | None = None

    def add(self, job: Job) -> None:
        """Take a job whose turn it is."""
        if job.stage is Stage.BEHIND:
            self._submit(job)
            return
        self._collected.append(job)
        if len(self._collected) >= self._most:
            self._release()
        elif self._sleeper is None:
            # A task of its own: whoever waits for time to pass must be seen to wait (`saga/testing/loop.py`).
            self._sleeper = asyncio.create_task(self._wait(), name="choreo-batch")

    def start(self, job: Job) -> None:
        """Take a job that may run now: all that may at this moment go into one call."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._start)
        self._ready.append(job)

    def ended(self) -> None:
        """Note that a call has ended."""
        self._running -= 1
        self._start()

    def drop(self, unwanted: Callable[[Job], bool]) -> list[Job]:
        """Take out the waiting jobs that `unwanted` says yes to."""
        gone = [job for job in (*self._collected, *self._ready) if unwanted(job)]
        self._collected = [job for job in self._collected if job not in gone]
        self._ready = [job for job in self._ready if job not in gone]
        return gone

    def close(self) -> list[asyncio.Task[None]]:
        """Give the task that sleeps, to be cancelled."""
        return [self._sleeper] if self._sleeper is not None else []

    async def _wait(self) -> None:
        await asyncio.sleep(self._seconds)
        self._sleeper = None
        self._release()

    def _release(self) -> None:
        jobs, self._collected = self._collected, []
        for job in jobs:
            if job.stage is Stage.RUN:
                self.start(job)
            else:
                self._submit(job)

    def _start(self) -> None:
        while self._ready and self._running < self._at_once:
            jobs, self._ready = self._ready[: self._most], self._ready[self._most :]
            self._running += 1
            self._run(jobs)


def halves(jobs: list[Job]) -> tuple[list[Job], list[Job]]:
    """Split a batch that failed, to find out which event is at fault."""
    middle = len(jobs) // 2
    return jobs[:middle], jobs[middle:]
