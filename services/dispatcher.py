"""Jobs in flight: their lanes, the tasks that run them, the pauses between tries, and the committer at the end.

A handler that never waits costs no task of its own: one runner task works through all that are ready, and another
runner is started only when that one is suspended inside a handler.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Protocol

import structlog

from ..events.clock import SECOND
from ..events.codec import UnknownSchema
from ..events.errors import ChoreoError, EventError
from ..events.waiting import happens
from .batches import Collector, halves
from .board import Finished, Go
from .commit import Outcome
from .execution import Execution
from .gates import Gate, Rest
from .inbox import Key
from .job import Job, Kind, Later, Result, Route, Stage
from .lanes import Lanes
from .priorities import SHARE, Ranked

log = structlog.get_logger("choreo.services")

FAREWELL = 5.0
"""Seconds that a cancelled handler has for its clean-up."""

MOST_UNIMPORTANT = 1_000
"""Jobs that may be in flight before topics that are less important than others are not read any more."""

_MOST_COMMITTED = 1_000
_MOST_RANKED = 50  # where priorities are used: what is more important waits for one such transaction at most
_FIRST = -(2**63)
_REGISTRY_PAUSE = SECOND // 2
_NONE: frozenset[str] = frozenset()


class Committer(Protocol):
    """Makes the work of jobs durable."""

    async def commit(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do for each job what its stage asks; return when it is durable."""


class Dispatcher:
    """Brings jobs from admission to their end.

    Args:
        execution: runs handlers.
        concurrency: how many may be suspended inside a handler at once.
        finished: told of the jobs whose results are durable.
        routes: all handlers; those that say so get a gate.
    """

    def __init__(
        self,
        execution: Execution,
        concurrency: int,
        finished: Callable[[Sequence[tuple[Job, Kind]]], None],
        routes: Sequence[Route] = (),
    ) -> None:
        self._execution = execution
        self._concurrency = concurrency
        self._gates: dict[Route, Gate] = {}
        self._collectors: dict[Route, Collector] = {}
        for route in routes:
            if not route.handler.limits.gated:
                continue
            limits, go = route.handler.limits, self._go
            if limits.batch is not None:
                collector = Collector(limits.batch, limits.concurrency or 1, self._submit, self._start_batch)
                route.collector = self._collectors[route] = collector
                go = collector.add
            route.gate = self._gates[route] = Gate(route.name, limits, go)
        self._finished = finished
        self._lanes: Lanes[Job] = Lanes()
        ranks = {rank for route in routes for rank in route.ranks.values()}
        self._least = {topic for route in routes for topic, rank in route.ranks.items() if rank < max(ranks)}
        """Topics that are less important than others."""
        self._ready: deque[Job] | Ranked[Job] = deque() if len(ranks) < 2 else Ranked(_rank)
        self._rounds = 0
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._submitted: list[Job] = []
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._runners: set[asyncio.Task[None]] = set()
        self._learners: set[asyncio.Task[None]] = set()
        self._pumping: asyncio.Task[None] | None = None
        self.jobs: set[Job] = set()
        """All that are admitted and not at their end."""
        self.met: dict[Key, Job] = {}
        """The first job in flight of each event and handler."""
        self.parked: set[Key] = set()
        """Lanes in which something may be parked; the store knows."""
        self.retries = 0
        """How often a handler was tried again."""

    def followers(self, job: Job) -> Sequence[Job]:
        """Give the jobs that wait in the lane behind one whose turn it is, and that may run along with it."""
        return self._lanes.waiting(job.lane) if job.route.gate is None else ()

    def resting(self) -> dict[str, Rest]:
        """Tell, by handler, of the breakers that are not closed."""
        return {route.handler.name: rest for route, gate in self._gates.items() if (rest := gate.rest()) is not None}

    def held(self) -> frozenset[str]:
        """Name the topics of which nothing more should be read, since too much of a handler waits at its gate."""
        if not self._gates and not self._least:
            return _NONE
        full = [route.handler for route, gate in self._gates.items() if gate.full]
        held = frozenset(event.spec().topic for handler in full for event in handler.events)
        # There is always room for what is more important.
        return held | self._least if len(self.jobs) >= MOST_UNIMPORTANT else held

    def admit(self, job: Job) -> None:
        """Take a job in."""
        self.jobs.add(job)
        if job.route.gate is not None:
            job.route.gate.load += 1
        if job.stage is Stage.RECORD:  # a duplicate: nothing to run, nobody to wait for
            self._submit(job)
            return
        if self.met.setdefault(job.key, job) is not job and job.stage is Stage.RUN:
            job.stage = Stage.LOOK
        if self._lanes.enter(job.lane, job):
            self._turn(job)

    async def commit_forever(self) -> None:
        """Commit what is submitted, everything at hand in one go; ends only by cancellation."""
        while True:
            await self._wake.wait()
            # One turn of the loop, so that whoever is about to submit still comes along.
            await asyncio.sleep(0)
            self._wake.clear()
            while self._submitted:
                most = _MOST_COMMITTED
                if self._least and len(self._submitted) > _MOST_RANKED:
                    most = self._rank_submitted()
                jobs, self._submitted = self._submitted[:most], self._submitted[most:]
                await self._commit(jobs)

    def _rank_submitted(self) -> int:
        """Put the more important of what waits for a transaction first; give how many may go into the next one."""
        self._rounds += 1
        if self._rounds % SHARE:
            self._submitted.sort(key=lambda job: _FIRST if job.stage is Stage.RECORD else -_rank(job))
        return _MOST_RANKED

    def use(self, commit: Callable[[Sequence[Job]], Awaitable[list[Outcome]]]) -> None:
        """Set what makes results durable."""
        self._make_durable = commit

    def drop(self, unwanted: Callable[[Job], bool]) -> None:
        """Forget the jobs that `unwanted` says yes to and that have not begun, or wait for another try."""
        gone = self._lanes.drop(lambda job: not job.active and unwanted(job))
        for job in [each for each in self._timers if unwanted(each)]:
            self._timers.pop(job).cancel()
            gone.append(job)
        for gate in self._gates.values():
            gone += gate.drop(unwanted)
        for collector in self._collectors.values():
            gone += collector.drop(unwanted)
        for queue in (self._ready, self._submitted):
            taken = [job for job in queue if not job.active and job.stage is not Stage.RECORD and unwanted(job)]
            for job in taken:
                queue.remove(job)
            gone += taken
        for job in gone:
            job.dropped = True
        for job in gone:
            self._leave(job)

    async def drain(self, unwanted: Callable[[Job], bool], timeout: float) -> bool:
        """Drop what has not begun and wait for what runs; False when `timeout` seconds were not enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            self.drop(unwanted)  # again and again: what fails meanwhile is not tried another time
            if not any(unwanted(job) for job in self.jobs):
                return True
            self._moved.clear()
            if not await happens(self._moved, max(0.0, end - loop.time())):
                for job in self.jobs:
                    job.dropped |= unwanted(job)  # what it has done counts, but it is not tried again
                return False

    async def room(self, most: int, least: int, seconds: float) -> int:
        """Say how many more jobs may be in flight, after waiting until it is so many, but not for long.

        Args:
            most: that may be in flight.
            least: that are waited for.
            seconds: at most.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (room := most - len(self.jobs)) < least and (left := end - loop.time()) > 0:
            self._moved.clear()
            await happens(self._moved, left)
        return room

    def forget_parked(self) -> None:
        """Note that nothing is parked, unless something in flight may be about to be."""
        if not self.jobs:
            self.parked.clear()

    async def close(self) -> None:
        """Cancel what still runs; it counts as never begun."""
        for handle in self._timers.values():
            handle.cancel()
        tasks: list[asyncio.Task[None]] = [*self._runners, *self._learners]
        for gate in self._gates.values():
            tasks += gate.close()
        for collector in self._collectors.values():
            tasks += collector.close()
        if self._pumping is not None:
            tasks.append(self._pumping)
        await farewell(tasks)

    # -- a job's way --------------------------------------------------------------------------------------------------

    def _turn(self, job: Job) -> None:
        """It is the job's turn in its lane."""
        job.holds = True
        if self.parked and job.lane in self.parked and not job.retried:
            job.stage = Stage.BEHIND
        self._prepare(job)

    def _prepare(self, job: Job) -> None:
        if job.stage is Stage.RUN and job.route.gate is None:
            self._start(job)  # it is decoded where it runs: what lies around decoded is slow to come back to
        elif not self._decoded(job):
            pass
        elif job.route.gate is not None:
            job.route.gate.enter(job)
        else:
            self._go(job)

    def _decoded(self, job: Job) -> bool:
        """Decode a job's event; where that is not possible, see to what follows and say no."""
        try:
            self._execution.decode(job)
            return True
        except UnknownSchema as error:
            task = asyncio.create_task(self._learn(job, error.schema_id))
            self._learners.add(task)
            task.add_done_callback(self._learners.discard)
        except EventError as error:
            job.result, job.stage = self._execution.dead(job, error), Stage.RECORD
            self._submit(job)
        return False

    def _go(self, job: Job) -> None:
        if job.stage is Stage.RUN:
            self._start(job)
        else:
            self._submit(job)

    async def _learn(self, job: Job, schema_id: int) -> None:
        """Fetch the writer's schema; a registry that does not answer is waited for."""
        job.active = True
        try:
            await self._execution.learn(schema_id)
        except EventError as error:
            job.result, job.stage = self._execution.dead(job, error), Stage.RECORD
            self._submit(job)
            return
        except ChoreoError as error:
            log.warning("the schema registry does not answer, the event waits", error=error.message)
            self._pause(job, _REGISTRY_PAUSE)
            return
        except Exception:
            # A task that dies here would take its lane with it: the events of this key would wait for a restart.
            log.exception("the schema registry's client failed, the event waits", event_id=job.envelope.id)
            self._pause(job, _REGISTRY_PAUSE)
            return
        job.active = False
        self._prepare(job)

    def _start(self, job: Job) -> None:
        self._ready.append(job)
        if self._pumping is None:
            self._pumping = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        """Start runners until everything that is ready is taken or enough are suspended."""
        burst = 1
        try:
            while self._ready and len(self._runners) < self._concurrency:
                for _ in range(min(burst, len(self._ready), self._concurrency - len(self._runners))):
                    runner = asyncio.create_task(self._run())
                    self._runners.add(runner)
                    runner.add_done_callback(self._runners.discard)
                await asyncio.sleep(0)
                burst *= 2
        finally:
            self._pumping = None

    async def _run(self) -> None:
        while self._ready:
            job = self._ready.popleft()
            job.active = True
            if job.event is None and not self._decoded(job):
                continue
            try:
                result = await self._execution.run(job)
            except Exception as error:  # of ours, around the handler: no other key may wait for it
                result = self._execution.failed(job, error)
            if job.route.gate is not None:
                job.route.gate.leave(job)
            self._ran(job, result)

    def _ran(self, job: Job, result: Result | Later) -> None:
        if isinstance(result, Later):
            self.retries += 1
            job.stage = job.route.stage
            self._pause(job, result.delay)
            return
        job.result, job.stage = result, Stage.RECORD
        job.event = None  # thousands may wait for their commit
        if result.kind == "parked":
            self.parked.add(job.lane)
        self._submit(job)
        if job.route.stage is Stage.RUN:
            self._leave_lane(job)  # the next of its key need not wait for the commit

    def _start_batch(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.active = True
        runner = asyncio.create_task(self._run_batch(jobs))
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    async def _run_batch(self, jobs: list[Job]) -> None:
        """Run a batch; one that fails is halved, until the event that is at fault stands alone."""
        collector = jobs[0].route.collector
        assert collector is not None
        waiting = [jobs]
        try:
            while waiting:
                chosen = waiting.pop()
                try:
                    results = await self._execution.run_batch(chosen)
                except Exception as error:  # of ours, around the handler: no other key may wait for it
                    results = [self._execution.failed(job, error) for job in chosen]
                if results is None:
                    first, second = halves(chosen)
                    waiting += [second, first]
                    continue
                for job, result in zip(chosen, results, strict=True):
                    if job.route.gate is not None:
                        job.route.gate.leave(job)
                    self._ran(job, result)
        finally:
            collector.ended()

    def _submit(self, job: Job) -> None:
        self._submitted.append(job)
        self._wake.set()

    async def _commit(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.active = True
        behind = [job for job in jobs if job.stage is Stage.BEHIND]
        outcomes = await self._make_durable(jobs)
        if behind:  # those that were not left waiting have found their lane free
            self.parked.difference_update(job.lane for job in behind if job.stage is not Stage.BEHIND)
        finished: list[tuple[Job, Kind]] = []
        for job, following in outcomes:
            if isinstance(following, Finished):
                if following.kind == "parked":
                    self.parked.add(job.lane)
                finished.append((job, following.kind))
        self._finished(finished)
        for job, following in outcomes:
            if isinstance(following, Finished):
                self._leave(job)
            elif following is Go.RUN:
                job.stage, job.active = Stage.RUN, False
                if job.dropped:
                    self._leave(job)
                elif job.route.collector is not None:
                    job.route.collector.start(job)
                else:
                    self._start(job)
            elif isinstance(following, Later):
                if job.attempt:
                    self.retries += 1
                self._pause(job, following.delay)
        self._moved.set()

    def _pause(self, job: Job, delay: int) -> None:
        job.active = False
        if job.route.gate is not None:
            job.route.gate.leave(job)
        if job.dropped:
            self._leave(job)
            return
        self._timers[job] = asyncio.get_running_loop().call_later(delay / SECOND, self._resume, job)
        self._moved.set()

    def _resume(self, job: Job) -> None:
        del self._timers[job]
        self._prepare(job)

    def _leave(self, job: Job) -> None:
        """The job is at its end."""
        self.jobs.discard(job)
        if (gate := job.route.gate) is not None:
            gate.load -= 1
            gate.leave(job)
        if self.met.get(job.key) is job:
            del self.met[job.key]
        self._leave_lane(job)
        self._moved.set()

    def _leave_lane(self, job: Job) -> None:
        if not job.holds:
            return
        job.holds = False
        following = self._lanes.leave(job.lane)
        if following is None:
            return
        if following.active:  # it ran in the same transaction as the one before it
            following.holds = True
        else:
            self._turn(following)


def _rank(job: Job) -> int:
    return job.route.ranks.get(job.delivery.topic, 0)


async def farewell(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end, but not for ever: a handler may swallow its cancellation."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=FAREWELL)
        if left:
            log.error("handlers do not end though they are cancelled; the stop goes on without them", tasks=len(left))


def of_places(places: Iterable[object]) -> Callable[[Job], bool]:
    """Give a test for jobs whose record was read from these partitions."""
    chosen = frozenset(places)
    return lambda job: job.receipt is not None and job.receipt.place in chosen
