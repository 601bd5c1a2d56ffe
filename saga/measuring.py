"""What is measured of sagas: what a transaction moved, and how the store stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, func, select

from ..events.clock import SECOND
from ..events.database import Database
from ..events.outbox import OutboxRow
from ..services.measuring import Observed, StoreMeter, observe_spans
from ..tracing.instruments import CONDITION, GROUP, PART, PHASE, STATUS, STEP, STEP_KIND, STEP_OUTCOME, TYPE
from ..tracing.meters import Meters, Recorder
from ..tracing.spans import Tracing
from . import retention, timers
from .definition import Definition
from .ends import has_ended
from .instance import Instance
from .occurrence import base_of
from .tables import parked, saga
from .words import Phase
from .work import Moved

_OPEN = (Phase.RUNNING.value, Phase.COMPENSATING.value, Phase.FAILED.value)


class SagaMeter:
    """Measures one coordinator.

    Args:
        group: its consumer group.
        database: its store.
        tracing: its own.
        meters: where it goes.
    """

    def __init__(self, group: str, database: Database, tracing: Tracing, meters: Meters) -> None:
        self._meters = meters
        self._database = database
        self._group = {GROUP: group}
        self._store = StoreMeter(group, meters)
        self._recorders: dict[tuple[str, ...], Recorder] = {}
        self._dead = 0
        self._seen: _Seen | None = None
        self._ends = [
            meters.observe("saga.active", lambda: self._observed("active")),
            meters.observe("saga.conditions", lambda: self._observed("conditions")),
            meters.observe("choreo.parked.messages", lambda: self._observed("parked")),
            meters.observe("choreo.timers.held", lambda: self._observed("held")),
            meters.observe("choreo.undo.stopped", lambda: self._observed("stopped")),
            meters.observe("choreo.retention.removed", lambda: self._observed("removed")),
            meters.observe("choreo.dead.letters", lambda: iter([(self._dead, self._group)])),
            observe_spans(group, tracing, meters),
        ]

    def committed(self, rows: Sequence[OutboxRow], moves: Iterable[Moved]) -> None:
        """Measure what a transaction did, once it is committed: counters once for the whole batch."""
        self._dead += sum(row.record.topic.endswith(".dlq") for row in rows)
        started: Counter[str] = Counter()
        finished: Counter[tuple[str, str]] = Counter()
        for definition, before, after in moves:
            if before is None:
                started[after.type] += 1
            for name, kind, outcome, duration in ended_steps(definition, before, after):
                self._step(after.type, name, kind, outcome, duration)
            if has_ended(before, after):
                status = after.phase.value.lower()
                finished[after.type, status] += 1
                self._duration(after, status)
        for type_, count in started.items():
            self._meters.add("saga.started", count, {TYPE: type_})
        for (type_, status), count in finished.items():
            self._meters.add("saga.finished", count, {TYPE: type_, STATUS: status})

    async def measure(self) -> None:
        """Look into the store.

        Raises:
            StoreError: it does not answer; what was seen last stays.
        """
        await self._store.measure(self._database)
        self._seen = await self._database.read(_look)

    def forget(self) -> None:
        """Observe nothing any more."""
        for end in (*self._ends, self._store.forget):
            end()

    def _duration(self, instance: Instance, status: str) -> None:
        assert instance.ended_at is not None
        key = (instance.type, status)
        recorder = self._recorders.get(key)
        if recorder is None:
            attributes = {TYPE: instance.type, STATUS: status}
            recorder = self._recorders[key] = self._meters.recorder("saga.duration", attributes)
        recorder.record(max(0, instance.ended_at - instance.started_at) / SECOND)

    def _step(self, type_: str, name: str, kind: str, outcome: str, duration: int) -> None:
        key = (type_, name, kind, outcome)
        recorder = self._recorders.get(key)
        if recorder is None:
            attributes = {TYPE: type_, STEP: name, STEP_KIND: kind, STEP_OUTCOME: outcome}
            recorder = self._recorders[key] = self._meters.recorder("saga.step.duration", attributes)
        recorder.record(max(0, duration) / SECOND)

    def _observed(self, what: str) -> Observed:
        seen = self._seen
        if seen is None:
            return
        if what == "active":
            for (type_, phase), count in seen.active.items():
                yield count, {TYPE: type_, PHASE: phase}
        elif what == "conditions":
            for (type_, condition), count in seen.conditions.items():
                yield count, {TYPE: type_, CONDITION: condition}
        elif what == "removed":
            for part, count in seen.removed._asdict().items():
                yield count, {PART: part}
        elif what == "parked":
            yield seen.parked, self._group
        else:
            yield float(seen.held if what == "held" else seen.stopped), {}


def ended_steps(
    definition: Definition, before: Instance | None, after: Instance
) -> Iterator[tuple[str, str, str, int]]:
    """Tell which steps ended between two states: name, kind, outcome, and how long it took in microseconds.

    Args:
        definition: of the saga.
        before: None for a new one.
        after: its state now.
    """
    known = before.steps if before is not None else {}
    for name, step in after.steps.items():
        was = known.get(name)
        if was is step:
            continue
        base = base_of(name)
        ended, undone = step.ended_at, step.undo_ended_at
        if ended is not None and step.ready_at and (was is None or was.ended_at != ended):
            plan = definition.by_name.get(base)
            kind = "wait" if plan is not None and plan.approval is not None else "action"
            yield base, kind, str(step.outcome or step.state).lower(), ended - step.ready_at
        if undone is not None and (was is None or was.undo_ended_at != undone):
            yield base, "compensation", str(step.undo_outcome or step.state).lower(), undone - step.undo_ready_at


class _Seen:
    """How the store stood."""

    def __init__(self) -> None:
        self.active: dict[tuple[str, str], int] = {}
        self.conditions: dict[tuple[str, str], int] = {}
        self.parked = 0
        self.held = False
        self.stopped = False
        self.removed = retention.Removed()


def _look(connection: Connection) -> _Seen:
    seen = _Seen()
    # A type that has ever run is told with 0 too: an alert on what is absent would never end.
    for type_ in connection.execute(select(saga.c.type).distinct()).scalars():
        seen.active.update({(type_, phase): 0 for phase in _OPEN})
    counted = select(saga.c.type, saga.c.phase, saga.c.conditions, func.count()).where(saga.c.phase.in_(_OPEN))
    for type_, phase, text, count in connection.execute(counted.group_by(saga.c.type, saga.c.phase, saga.c.conditions)):
        seen.active[type_, phase] = seen.active.get((type_, phase), 0) + count
        for condition in filter(None, text.split(",")):
            seen.conditions[type_, condition] = seen.conditions.get((type_, condition), 0) + count
    seen.parked = connection.execute(select(func.count()).select_from(parked)).scalar_one()
    seen.held, seen.stopped = timers.held(connection), timers.stopped(connection)
    seen.removed = retention.removed(connection)
    return seen
