"""Making results durable, many at once: one transaction per batch with a store, one send per batch without.

With a store, inbox rows, guard rows, what handlers write through their `Transaction` and outgoing events commit
together; then who committed publishes (ruling R10). One event never fails its batch: a handler's error is undone to its
savepoint, and when the database refuses the batch as a whole it is halved until the culprit stands alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable, Sequence

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from ..events.database import Database
from ..events.envelope import Record
from ..events.errors import ChoreoError, EventError, StoreUnreachable
from ..events.failpoints import failpoint
from ..events.outbox import OutboxRow, Relay
from ..events.transport import Transport
from ..events.trouble import conflicting, first_line, unreachable
from . import inbox, parking
from .batches import halves
from .board import Board, Finished, Go, Next
from .context import Transaction
from .execution import Execution
from .job import Job, Later, Result, Route, Stage
from .logged import ids_of

log = structlog.get_logger("choreo.services")

Outcome = tuple[Job, Next]
Followers = Callable[[Job], Sequence[Job]]
"""Gives the jobs that wait in the lane behind one."""

_MOST_FOLLOWERS = 500
_CONFLICTS = 5  # another process inserting the same rows; more in a row is a fault to be found by halving


class StoreCommit:
    """Commits to a store.

    Args:
        database: the service's store.
        relay: of its outbox.
        execution: runs handlers inside the transaction.
        claim: how long a claim holds, in microseconds.
        followers: so that a key's events with a `tx` handler share a transaction.
        owner: names this process in the order of what it parks; by default at random.
    """

    def __init__(
        self,
        database: Database,
        relay: Relay,
        execution: Execution,
        claim: int,
        followers: Followers,
        owner: str | None = None,
    ) -> None:
        self._database = database
        self._relay = relay
        self._execution = execution
        self._claim = claim
        self._followers = followers
        self._counter = itertools.count()
        self._owner = os.urandom(4).hex() if owner is None else owner
        self._last = 0
        self.transactions = 0
        """How many were committed."""

    async def commit(self, jobs: Sequence[Job], *, alone: bool = False) -> list[Outcome]:
        """Do for each job what its stage asks, in one transaction; give what follows, in order.

        It returns only when that is durable: while the store does not answer, it waits.

        Args:
            jobs: the work.
            alone: what waits behind a job in its lane does not come along.
        """
        careful = False
        conflicts = unreachable = 0
        while True:
            try:
                outcomes, rows = await self._transact(jobs, careful, with_followers=not (alone or conflicts))
            except _CutShort as cut:
                return await self._without(cut, jobs)
            except Exception as error:
                # Whether it committed is unknown, or another process was first: look everything up before the next try.
                careful = True
                if conflicting(error):
                    await asyncio.sleep(0.01)
                elif _away(error):
                    unreachable += 1
                    log.warning("the store does not answer, work waits for it", error=first_line(error))
                    await asyncio.sleep(min(0.1 * 2**unreachable, 5.0))
                elif isinstance(error, IntegrityError) and conflicts < _CONFLICTS:
                    conflicts += 1
                elif len(jobs) > 1:
                    log.warning(
                        "the database refuses a batch, it is halved", jobs=len(jobs), error=type(error).__name__
                    )
                    half = len(jobs) // 2
                    return [*await self.commit(jobs[:half]), *await self.commit(jobs[half:])]
                else:
                    return await self._refused(jobs[0], error)
                continue
            failpoint("service.after_commit")
            self.transactions += 1
            self._relay.publish(rows)
            failpoint("service.after_publish")
            return outcomes

    async def _without(self, cut: _CutShort, jobs: Sequence[Job]) -> list[Outcome]:
        """Commit the others; the one whose time limit broke the connection has failed by itself."""
        if cut.job not in jobs:  # it came along: its own turn follows
            return await self.commit(jobs, alone=True)
        others = [job for job in jobs if job is not cut.job]
        outcomes = await self.commit(others) if others else []
        cut.job.attempt = cut.attempt
        if isinstance(cut.result, Later):
            return [*outcomes, (cut.job, cut.result)]
        cut.job.result, cut.job.stage = cut.result, Stage.RECORD
        return [*outcomes, *await self.commit([cut.job])]

    async def _transact(
        self, jobs: Sequence[Job], careful: bool, *, with_followers: bool
    ) -> tuple[list[Outcome], list[OutboxRow]]:
        saved = [_Saved(job) for job in jobs]
        try:
            async with self._database.transaction() as connection:
                within = self._database.within
                board = await within(connection, lambda c: self._open(c, jobs, careful, with_followers))
                outcomes: list[Outcome] = []
                together: dict[Route, list[Job]] = {}
                for job in jobs:
                    if together and job.stage is Stage.UNDO:  # it must find what they did
                        outcomes += await self._run_batches(connection, board, together)
                    following = board.decide(job)
                    if following is Go.TRANSACT and job.route.collector is not None:
                        together.setdefault(job.route, []).append(job)
                    elif following is Go.TRANSACT:
                        following = await self._run(connection, board, job)
                        outcomes.append((job, following))
                        if with_followers and _goes_on(following):
                            outcomes += await self._follow(connection, board, job, saved)
                    else:
                        outcomes.append((job, following))
                outcomes += await self._run_batches(connection, board, together)
                rows = await within(connection, lambda c: self._close(c, board))
                failpoint("service.before_commit")
            return outcomes, rows
        except BaseException:
            for each in saved:
                each.restore()
            raise

    async def _follow(self, connection: AsyncConnection, board: Board, job: Job, saved: list[_Saved]) -> list[Outcome]:
        """Run what waits behind a job in its lane, until one has to wait."""
        outcomes: list[Outcome] = []
        for each in list(itertools.islice(self._followers(job), _MOST_FOLLOWERS)):
            if each.stage is not Stage.TX:
                break
            if each.dropped:  # while the one before it ran
                continue
            try:
                self._execution.decode(each)
            except EventError:
                break  # told when it is its turn
            saved.append(_Saved(each))
            each.active = True
            following = board.decide(each)
            if following is Go.TRANSACT:
                following = await self._run(connection, board, each)
            outcomes.append((each, following))
            if not _goes_on(following):
                break
        return outcomes

    async def _run_batches(
        self, connection: AsyncConnection, board: Board, together: dict[Route, list[Job]]
    ) -> list[Outcome]:
        """Run batch handlers, each call in a savepoint; one that fails is halved until the culprit stands alone."""
        outcomes: list[Outcome] = []
        for route, jobs in together.items():
            batch = route.handler.limits.batch
            assert batch is not None
            waiting = [jobs[start : start + batch.most] for start in range(0, len(jobs), batch.most)][::-1]
            while waiting:
                chosen = waiting.pop()
                tx = Transaction(connection, whole=route.handler.limits.timeout is not None)
                savepoint = await connection.begin_nested()
                results = await self._execution.run_batch(chosen, tx)
                tx.end()
                _check_kept(tx)
                _check_whole(connection, savepoint, route)
                done = results is not None and not isinstance(results[0], Later) and results[0].state == "done"
                await (savepoint.commit() if done else savepoint.rollback())
                if results is None:
                    first, second = halves(chosen)
                    waiting += [second, first]
                    continue
                for job, result in zip(chosen, results, strict=True):
                    if isinstance(result, Later):
                        outcomes.append((job, result))
                    else:
                        job.result, job.stage = result, Stage.RECORD
                        outcomes.append((job, board.decide(job)))
        together.clear()
        return outcomes

    async def _run(self, connection: AsyncConnection, board: Board, job: Job) -> Next:
        tx = Transaction(connection, whole=job.route.handler.limits.timeout is not None)
        savepoint = await connection.begin_nested()
        result = await self._execution.run(job, tx)
        tx.end()
        _check_kept(tx)
        failed = isinstance(result, Later) or result.state != "done"
        if failed and connection.invalidated and job.route.handler.limits.timeout is not None:
            raise _CutShort(job, result)
        _check_whole(connection, savepoint, job.route)
        await (savepoint.rollback() if failed else savepoint.commit())
        if isinstance(result, Later):
            return result
        job.result = result
        job.stage = Stage.RECORD
        return board.decide(job)

    def _open(self, connection: Connection, jobs: Sequence[Job], careful: bool, with_followers: bool) -> Board:
        ids: set[str] = set()
        lanes: set[inbox.Key] = set()
        chosen: Iterable[Job] = jobs
        if with_followers:
            behind = (itertools.islice(self._followers(job), _MOST_FOLLOWERS) for job in jobs if job.stage is Stage.TX)
            chosen = [*jobs, *itertools.chain.from_iterable(behind)]
        for job in chosen:
            if job.stage is Stage.BEHIND:
                lanes.add(job.lane)
            if careful or job.stage is not Stage.RECORD or job.claimed is not None or job.retried or job.replayed:
                ids.add(job.envelope.id)
                if job.step is not None:
                    ids.add(job.step)
                if job.route.forward is not None:
                    ids.update(job.envelope.undoes)
            elif job.step is not None and (job.route.guarded or job.route.forward is not None):
                ids.add(job.step)
        return Board(
            inbox.look_up(connection, ids, lock=True) if ids else {},
            parking.lanes(connection, lanes) if lanes else (),
            now=self._database.now(connection),
            claim=self._claim,
            empty=self._execution.empty,
            position=self._position,
        )

    def _close(self, connection: Connection, board: Board) -> list[OutboxRow]:
        inbox.write(connection, board.entries, board.known, board.now)
        parking.remove(connection, board.unpark)
        parking.add(connection, board.park)
        self._relay.settle(connection)
        return self._relay.put(connection, board.records)

    def _position(self, now: int) -> str:
        self._last = max(self._last, now)
        return f"{self._last:015x}-{next(self._counter):010x}-{self._owner}"

    async def _refused(self, job: Job, error: Exception) -> list[Outcome]:
        """Give a job that the database refuses to the dead letters, without an inbox row if it must be."""
        log.error(
            "the database refuses an event",
            **ids_of(job.envelope),
            handler=job.route.name,
            error=type(error).__name__,
        )
        result = self._execution.dead(job, error)
        pause = 0.1
        while True:
            for state in (result.state, None):
                result.state = state
                job.result, job.stage = result, Stage.RECORD
                try:
                    outcomes, rows = await self._transact([job], careful=state is not None, with_followers=False)
                except Exception as again:
                    log.warning("its dead letter is refused too", event_id=job.envelope.id, error=first_line(again))
                    continue
                self.transactions += 1
                self._relay.publish(rows)
                return outcomes
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


class StatelessCommit:
    """Sends results straight to the broker: at least once, nothing is remembered.

    Args:
        transport: the broker.
        acknowledged: told of the records that the broker has.
    """

    def __init__(self, transport: Transport, acknowledged: Callable[[Sequence[Record]], None]) -> None:
        self._transport = transport
        self._acknowledged = acknowledged
        self.transactions = 0
        """Always 0: there are none."""

    async def commit(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Send what the jobs publish and return when the broker has it; while it does not answer, wait."""
        records = [record for job in jobs if job.result is not None for record in job.result.records]
        pause = 0.1
        while records:
            try:
                await self._transport.send(records)
                break
            except ChoreoError as error:
                log.warning("the broker does not take what was published, work waits", error=error.message)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        if records:
            self._acknowledged(records)
        failpoint("service.after_publish")
        # A copy of an event in flight has no result: there is no inbox to look in, so it runs, under the same ids.
        ends = {kind: Finished(kind) for kind in {job.result.kind for job in jobs if job.result is not None}}
        return [(job, Go.RUN if job.result is None else ends[job.result.kind]) for job in jobs]


class _CutShort(Exception):
    """A handler's time limit ended while a statement of its own ran, and with it the connection."""

    def __init__(self, job: Job, result: Result | Later) -> None:
        super().__init__(job.route.name)
        self.job = job
        self.result = result
        self.attempt = job.attempt


class _Saved:
    """A job as it was before a transaction, for when that is rolled back."""

    __slots__ = ("active", "attempt", "claimed", "job", "result", "stage")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stage, self.attempt, self.claimed = job.stage, job.attempt, job.claimed
        self.result, self.active = job.result, job.active

    def restore(self) -> None:
        job = self.job
        if self.result is None:  # it ran inside, if at all: what it would have sent is void
            for sent in job.sends:
                sent.discard()
            job.sends.clear()
        job.stage, job.attempt, job.claimed = self.stage, self.attempt, self.claimed
        job.result, job.active = self.result, self.active


def _goes_on(following: Next) -> bool:
    """Say whether what is behind a job in its lane may follow in the same transaction."""
    return isinstance(following, Finished) and following.kind != "parked"


def _check_kept(tx: Transaction) -> None:
    """Make sure that the database has not given up the transaction of which the handler is only a part."""
    if tx.gave_up is not None:
        raise StoreUnreachable(f"the transaction is lost: {first_line(tx.gave_up)}") from tx.gave_up


def _check_whole(connection: AsyncConnection, savepoint: AsyncTransaction, route: Route) -> None:
    """Make sure that a handler left the transaction as it must."""
    if connection.invalidated:
        raise StoreUnreachable("the connection broke inside a handler")
    if not savepoint.is_active:
        raise RuntimeError(f"{route.name} ended the transaction that it is only a part of")


def _away(error: Exception) -> bool:
    return unreachable(error) if isinstance(error, DBAPIError) else isinstance(error, (StoreUnreachable, OSError))
