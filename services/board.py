"""What one batch transaction decides: job by job, in order, on what the inbox held when it began. Pure bookkeeping.

The rows that earlier jobs of the batch are about to write count for the later ones. So a step and its undo may stand in
the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ..events.envelope import Record
from .guard import judge_event, judge_undo
from .inbox import Entry, Key, Row, State, pack, unpack
from .job import Job, Kind, Later, Result, Stage
from .parking import ParkedRow

_SOON = 200_000
"""Longest pause of an undo that waits for a claim before it looks again, in microseconds."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do for the job once the transaction has committed."""

    kind: Kind


class Go(Enum):
    """The job may run: after the commit, or inside the transaction."""

    RUN = "run"
    TRANSACT = "transact"


Next = Finished | Later | Go


class Board:
    """The state of one batch transaction.

    Args:
        rows: what the inbox holds of the events that were looked up.
        lanes: the lanes in which something is parked.
        now: microseconds.
        claim: how long a claim holds, in microseconds.
        empty: answers an undo that has nothing to undo.
        position: gives a name that sorts after all that it gave before.
    """

    def __init__(
        self,
        rows: Mapping[Key, Row],
        lanes: Iterable[Key],
        *,
        now: int,
        claim: int,
        empty: Callable[[Job], Result],
        position: Callable[[int], str],
    ) -> None:
        self.rows = dict(rows)
        self.known = frozenset(rows)
        self.lanes = set(lanes)
        self.now = now
        self.entries: list[Entry] = []
        self.records: list[Record] = []
        self.park: list[ParkedRow] = []
        self.unpark: list[Key] = []
        self._claim = claim
        self._empty = empty
        self._position = position

    def decide(self, job: Job) -> Next:
        """Say what follows for a job, and note what is to be written."""
        match job.stage:
            case Stage.RECORD:
                return self._record(job)
            case Stage.BEHIND:
                return self._behind(job)
            case Stage.LOOK:
                return self._look(job) or Go.RUN
            case Stage.CLAIM:
                return self._claimed(job)
            case Stage.UNDO:
                return self._undo(job)
            case Stage.TX:
                return self._look(job) or Go.TRANSACT
            case Stage.RUN:
                return Go.RUN

    def _record(self, job: Job) -> Finished:
        result = job.result
        assert result is not None
        if result.state is not None:
            row = self.rows.get(job.key)
            if job.claimed is not None:
                if row is None or row.state != "claimed":
                    # Its claim ran out and an undo, or another process, went ahead: only its own outputs are dropped.
                    return Finished("duplicates" if row is not None and row.state == "done" else "refused")
            elif row is not None and judge_event(row, None, replayed=job.replayed, retried=job.retried) != "run":
                return Finished("duplicates")
            self._put(job, result)
        self.records += result.records
        return Finished(result.kind)

    def _behind(self, job: Job) -> Next:
        if job.lane not in self.lanes:
            job.stage = Stage.LOOK if job.route.stage is Stage.RUN else job.route.stage
            return self.decide(job)
        row = self.rows.get(job.key)
        verdict = judge_event(row, None, replayed=job.replayed)
        if verdict != "run":
            return self._met(job, row, verdict == "refused")
        waiting = ParkedRow(*job.key, job.lane[1], self._position(self.now), self.now, 0, None, job.delivery)
        self.park.append(waiting)
        self._write(job.key, "parked", row.until if row is not None else None)
        return Finished("parked")

    def _look(self, job: Job) -> Finished | None:
        """Say why the event must not run; None when it may."""
        row = self.rows.get(job.key)
        step = self.rows.get((job.route.name, job.step)) if job.step is not None and job.route.guarded else None
        verdict = judge_event(row, step, replayed=job.replayed, retried=job.retried)
        return None if verdict == "run" else self._met(job, row, verdict == "refused")

    def _met(self, job: Job, row: Row | None, refused: bool) -> Finished:
        if job.retried:
            self.unpark.append(job.key)
        if refused:
            if row is None:
                self._write(job.key, "refused")
            return Finished("refused")
        if row is not None and row.answer is not None:
            self.records += unpack(row.answer)
        return Finished("duplicates")

    def _claimed(self, job: Job) -> Next:
        met = self._look(job)
        if met is not None:
            return met
        job.claimed = self.now + self._claim
        self._write(job.key, "claimed", job.claimed)
        if job.step is not None:
            self._write((job.route.name, job.step), "claimed", job.claimed)
        return Go.RUN

    def _undo(self, job: Job) -> Next:
        met = self._look(job)
        if met is not None:
            return met
        route = job.route
        before = self.rows.get((route.name, job.step)) if job.step is not None else None
        if before is not None and before.state == "done":
            return self._answered(job, before)
        assert route.forward is not None
        found = judge_undo(route.forward, job.envelope.undoes, job.step, self.rows, self.now)
        if found.verdict == "wait":
            return Later(min(max(found.until - self.now, 1_000), _SOON))
        if before is not None and before.state == "empty" and found.verdict == "empty":
            return self._answered(job, before)
        for event_id, state in (found.marks or {}).items():
            key = (route.forward, event_id)
            row = self.rows.get(key)
            if row is not None and row.state == "parked":
                self.unpark.append(key)
            self._write(key, state, row.until if row is not None else None)
        if found.verdict == "run":
            return Go.TRANSACT if route.tx else Go.RUN
        job.result = self._empty(job)
        return self._record(job)

    def _answered(self, job: Job, before: Row) -> Finished:
        """Answer another attempt of an undo that was answered: the same answer, the effect is not repeated."""
        if job.retried:
            self.unpark.append(job.key)
        self._write(job.key, before.state, None, before.answer)
        if before.answer is not None:
            self.records += unpack(before.answer)
        return Finished("duplicates")

    def _put(self, job: Job, result: Result) -> None:
        assert result.state is not None
        answer = pack(result.records) if result.answered and result.records else None
        until = job.claimed if result.state in ("failed", "parked") else None
        self._write(job.key, result.state, until, answer)
        undone = job.route.forward is not None and result.state in ("done", "empty")
        if job.step is not None and (job.route.guarded or undone):
            self._write((job.route.name, job.step), result.state, until, answer if undone else None)
        if result.park is not None:
            place, park = job.lane[1], result.park
            waiting = ParkedRow(
                *job.key, place, self._position(self.now), park.due_at, park.attempts, park.error, job.delivery
            )
            self.park.append(waiting)
            self.lanes.add(job.lane)
        elif job.retried:
            self.unpark.append(job.key)

    def _write(self, key: Key, state: State, until: int | None = None, answer: str | None = None) -> None:
        self.rows[key] = Row(state, until, answer)
        self.entries.append(Entry(*key, state, until, answer))
