"""One transaction of the coordinator: lock the touched sagas, drop duplicates, apply `advance`, write everything.

A `Batch` lives inside one transaction and holds no state beyond it; when the transaction is rolled back, a new one is
made. One bad event never fails its batch: `advance` is pure, so an event on which it raises is left out and reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace
from sqlalchemy import Connection

from ..events.codec import UnknownSchema
from ..events.envelope import Record
from ..events.errors import EventError
from ..events.ids import derived_id
from ..services.logged import ids_of
from . import early, pausing, races, store, timers, turns
from .advance import advance, begin, begin_undone
from .crafting import Crafting
from .definition import Definition
from .inputs import (
    Admitted,
    Announce,
    Ask,
    Decided,
    Elapsed,
    HandlerGaveUp,
    Input,
    Loaded,
    Locked,
    Migrated,
    Observed,
    Output,
    Send,
    Tell,
    Transition,
    Unbuildable,
    UndoAsked,
    Unloaded,
    command_id,
    input_id,
)
from .instance import Instance, new_instance
from .knowledge import Knowledge
from .lock import LockKey
from .names import SagaName
from .occurrence import wire_of
from .outputs import read_output
from .past import history_row
from .refusals import Refused
from .routing import MOST_ID, Arrival, Target
from .turns import Turned, Turns
from .work import Kept, Moved, Work, child_of

if TYPE_CHECKING:
    from .alerts import Alert

log = structlog.get_logger("choreo.coordinator")

DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a defect of ours or of a user's function raises: one event, or one saga's timers, must not stop the others."""


@dataclass
class Batch:
    """One transaction's worth of work.

    Args:
        connection: within the transaction.
        knowledge: what the coordinator knows.
        now: the store's clock, microseconds.
    """

    connection: Connection
    knowledge: Knowledge
    now: int
    records: list[Record] = field(default_factory=list)
    held: list[store.Held] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    ignored: dict[tuple[str, str, str, str], tuple[int, str]] = field(default_factory=dict)
    applied: int = 0
    duplicates: int = 0
    _runs: dict[tuple[str, str], dict[int, Work]] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _history: list[store.HistoryRow] = field(default_factory=list)
    _parked: dict[tuple[str, str], list[early.Parked]] = field(default_factory=dict)
    _to_park: dict[tuple[str, str], list[early.Parked]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._crafting = Crafting(self.connection, self.knowledge, self.now)
        self._turns = Turns(self.connection, self.knowledge.limits)
        self._hidden = self.knowledge.hidden

    def load(self, arrivals: Sequence[Arrival]) -> None:
        """Lock and load what these arrivals concern: three queries for the whole batch."""
        keys: set[tuple[str, str]] = set()
        starting: set[tuple[str, str]] = set()
        for arrival in arrivals:
            observed = arrival.input.__class__ is Observed
            for target in arrival.targets:
                key = (target.type, target.key)
                keys.add(key)
                if observed and self._starts(target.type, arrival.envelope.type):
                    starting.add(key)
        self._turns.look_for_room({type_ for type_, _ in starting})  # locks types, so before any saga
        self.load_keys(keys)
        pairs = [
            (work.id, arrival.input.id)
            for arrival in arrivals
            for target in arrival.targets
            for work in self._runs.get((target.type, target.key), {}).values()
        ]
        if pairs:
            self._seen = store.seen_events(self.connection, pairs)
        self._turns.look(self._wanted(arrivals))
        fresh = [key for key in starting if key not in self._runs]
        if fresh:
            self._parked = early.take(self.connection, fresh)

    def _wanted(self, arrivals: Sequence[Arrival]) -> set[LockKey]:
        """The locks that sagas want which may begin with these arrivals."""
        targets = [target for arrival in arrivals for target in arrival.targets if target.lock is not None]
        plans = [(self._newest(target.type).lock, target.lock) for target in targets]
        return {LockKey(plan.name, key) for plan, key in plans if plan is not None and key is not None}

    def load_keys(self, keys: Iterable[tuple[str, str]]) -> None:
        """Lock and load every run of these (type, key) pairs; what is loaded stays as this batch has made it."""
        wanted = [key for key in keys if key not in self._runs]
        for key, runs in store.lock_sagas(self.connection, wanted).items():
            self._runs[key] = {run: Work(instance.id, instance, instance) for run, instance in runs.items()}

    # ---- applying ----------------------------------------------------------------------------------------------

    def arrive(self, arrival: Arrival) -> None:
        """Apply one record to every saga that it concerns."""
        if not arrival.targets:
            self._ignore("", arrival, arrival.reason)
            return
        for target in arrival.targets:
            kept = self._keep((target.type, target.key))
            try:
                self._arrive_at(arrival, target)
            except UnknownSchema:
                raise
            except EventError as error:
                self._take_back(kept)
                self.refused.append(Refused(arrival, error.message))
            except DEFECTS as error:
                log.exception(
                    "an event was set aside: applying it raised",
                    saga_type=target.type,
                    **ids_of(arrival.envelope),
                )
                self._take_back(kept)
                self.refused.append(Refused(arrival, type(error).__name__))

    def _arrive_at(self, arrival: Arrival, target: Target) -> None:
        runs = self._runs.get((target.type, target.key), {})
        work = self._run_for(arrival, target, runs)
        if isinstance(arrival.input, UndoAsked):
            work = child_of(runs, arrival.input.parent) or work
            if work is None:
                self._begin_undone(target, arrival.input, arrival)
                return
        starts = False
        if isinstance(arrival.input, HandlerGaveUp) and work is not None and self._of_next_run(work, arrival.input):
            work = None
        if isinstance(arrival.input, Observed):
            starts = self._starts(target.type, arrival.input.type)
            seen = target.seen(arrival.input)
            if seen is not arrival.input:
                arrival = arrival._replace(input=seen)
            if starts and isinstance(arrival.input, Observed):
                work = child_of(runs, arrival.input.parent) or work
            if work is None and starts and runs:
                work = runs[max(runs)]  # a run that does not exist is no way around `rerun`
        if work is None:
            if starts:
                assert isinstance(arrival.input, Observed)
                self._begin(target, max(runs, default=0) + 1, arrival.input, arrival)
            elif isinstance(arrival.input, Observed | HandlerGaveUp):
                self._park(arrival, target, arrival.input)
            else:
                self._ignore(target.type, arrival, "no saga")
            return
        if (work.id, arrival.input.id) in self._seen:
            self.duplicates += 1
            self._ignore(target.type, arrival, "duplicate")
            return
        newest = self.knowledge.newest_of(target.type)
        if starts and work.instance.phase.ended and newest is not None and newest.rerun:
            assert isinstance(arrival.input, Observed)
            if child_of({work.instance.run: work}, arrival.input.parent) is not None:
                self.apply(work, arrival.input, arrival)  # that very child: it was undone before it began
                return
            self._begin(target, work.instance.run + 1, arrival.input, arrival)
            return
        self.apply(work, arrival.input, arrival)

    def _run_for(self, arrival: Arrival, target: Target, runs: Mapping[int, Work]) -> Work | None:
        """Choose the run: the header's, else the one that saw the cause, else the latest (ruling R12)."""
        if target.run is not None:
            return runs.get(target.run)
        if len(runs) < 2:
            return next(iter(runs.values()), None)
        cause = arrival.envelope.causation_id
        by_id = {work.instance.id: work for work in runs.values()}
        for saga_id, work in by_id.items():
            if (saga_id, arrival.input.id) in self._seen or (cause is not None and (saga_id, cause) in self._seen):
                return work
        found = store.run_of_cause(self.connection, list(by_id), cause) if cause is not None else None
        return by_id[found] if found in by_id else runs[max(runs)]

    def _of_next_run(self, work: Work, report: HandlerGaveUp) -> bool:
        """Whether a handler gave up on the start of a run that has not begun: the report was faster (row 6)."""
        newest, instance = self.knowledge.newest_of(work.instance.type), work.instance
        if newest is None or not newest.rerun or not instance.phase.ended or report.event_type not in newest.start:
            return False
        seen = {(instance.id, report.id), (instance.id, report.event_id)} & self._seen
        return not seen and store.run_of_cause(self.connection, [instance.id], report.event_id) is None

    def _begin(self, target: Target, run: int, event: Observed, arrival: Arrival) -> None:
        definition = self._newest(target.type)
        if event.parent is None and (queue := self._turns.place(target.type)) is not None:
            event = replace(event, queue=queue)  # a child is part of its parent, which was let in
        transition = begin(definition, target.key, run, event, self.now)
        instance = transition.instance
        instance.sampled = self.knowledge.sampled(instance.id, event.traceparent)
        instance.rotation = self.knowledge.rotation
        work = Work(instance.id, instance, None)
        self._runs.setdefault((target.type, target.key), {})[run] = work
        self._record(work, definition, transition, event, arrival)
        if instance.waits_for_lock:
            self.apply(work, self._turns.of(instance))
        key = (target.type, target.key)
        parked = self._parked if run == 1 else early.take(self.connection, [key])
        for waiting in (*parked.pop(key, ()), *self._to_park.pop(key, ())):
            if (instance.id, waiting.input.id) not in self._seen:
                self.apply(work, waiting.input, waiting.arrival(target))

    def _begin_undone(self, target: Target, asked: UndoAsked, arrival: Arrival) -> None:
        """Note that a child was undone before it began."""
        definition = self._newest(target.type)
        transition = begin_undone(definition, target.key, 1, asked, self.now)
        instance = transition.instance
        instance.sampled = self.knowledge.sampled(instance.id, asked.traceparent)
        instance.rotation = self.knowledge.rotation
        work = self._runs.setdefault((target.type, target.key), {})[1] = Work(instance.id, instance, None)
        self._record(work, definition, transition, asked, arrival)

    def apply(
        self, work: Work, input_: Input, arrival: Arrival | None = None, elements: bytes | None = None
    ) -> Transition:
        """Apply one input to one saga.

        Args:
            work: the saga.
            input_: what is applied.
            arrival: the record that it came from.
            elements: the elements that a `Decided` is about, as JSON.
        """
        definition = self._pinned(work.instance)
        transition = advance(definition, work.instance, input_, self.now)
        if isinstance(input_, Elapsed) and transition.verdict == "ignored":
            return transition
        self._record(work, definition, transition, input_, arrival, elements)
        return transition

    def migrate(self, work: Work, transition: Transition, input_: Migrated) -> None:
        """Write that a saga was moved to another version, and its state under that one (`replay.moved`)."""
        self._record(work, self._pinned(transition.instance), transition, input_, None)

    def saga(self, type_: str, key: str, run: int) -> Work | None:
        """Give a loaded saga."""
        return self._runs.get((type_, key), {}).get(run)

    def elapse(self, due: Iterable[tuple[Instance, int]]) -> None:
        """Fire the timers of loaded sagas, each up to its own time."""
        for instance, until in due:
            work = self.saga(instance.type, instance.key, instance.run)
            if work is not None:
                self._apply_alone(work, Elapsed(until))

    def give_turns(self, locks: Iterable[SagaName], rooms: Iterable[SagaName] = ()) -> None:
        """Tell loaded sagas that the lock that they wait for is theirs, and those that wait to start that they may."""
        for work in filter(None, (self.saga(*name) for name in locks)):
            if work.instance.waits_for_lock and self.knowledge.loads(work.instance):
                self._apply_alone(work, Locked(granted=True))
        for work in filter(None, (self.saga(*name) for name in rooms)):
            if work.instance.waits_to_start:
                self._apply_alone(work, Admitted())

    def _apply_alone(self, work: Work, input_: Elapsed | Locked | Admitted) -> None:
        """Apply what no event has led to; a defect puts off this saga's timers and stops no other saga."""
        instance = work.instance
        kept = self._keep((instance.type, instance.key))
        try:
            self.apply(work, input_)
        except DEFECTS:
            log.exception("timers were put off: applying them raised", saga_id=instance.id)
            self._take_back(kept)
            timers.put_off(self.connection, instance.id, self.now)

    def _keep(self, key: tuple[str, str]) -> Kept:
        runs = self._runs.get(key, {})
        return Kept(
            key,
            {run: work.instance for run, work in runs.items()},
            (len(self.records), len(self.held), len(self._history)),
            self._parked.get(key),
            self._to_park.get(key),
        )

    def _take_back(self, kept: Kept) -> None:
        """Undo what one input has led to so far, in memory: it is applied as a whole or not at all."""
        runs = self._runs.get(kept.key, {})
        for run in [run for run in runs if run not in kept.instances]:
            del runs[run]
        for run, instance in kept.instances.items():
            runs[run].instance = instance
        records, held, history = kept.sizes
        self._seen.difference_update((row.saga_id, row.event_id) for row in self._history[history:])
        del self.records[records:], self.held[held:], self._history[history:]
        if kept.parked is not None:
            self._parked[kept.key] = kept.parked
        if kept.to_park is not None:
            self._to_park[kept.key] = kept.to_park

    def _record(
        self,
        work: Work,
        definition: Definition,
        transition: Transition,
        input_: Input,
        arrival: Arrival | None,
        elements: bytes | None = None,
    ) -> None:
        if transition.instance.epoch != work.instance.epoch:
            work.ends[work.instance.epoch] = work.instance
        instance = work.instance = transition.instance
        event_id = input_id(input_, instance.seq)
        self._seen.add((work.id, event_id))
        if arrival is not None:
            work.values[event_id] = (arrival.kept.value, arrival.envelope.content_type)
        elif elements is not None:
            work.values[event_id] = (elements, "")
        if transition.verdict == "applied":
            self.applied += 1
        elif arrival is not None:
            self._ignore(instance.type, arrival, transition.reason)
        hidden = self._hidden
        self._history.append(history_row(instance, transition, input_, event_id, arrival, self.now, elements, hidden))
        outputs: Sequence[Output] = transition.outputs
        if outputs and not self.knowledge.loads(instance):
            outputs, waiting = pausing.divided(outputs)
            if waiting:
                self.apply(work, Unloaded(waiting, event_id))
        for output in outputs:
            if not isinstance(output, Ask):
                self._produce(work, definition, output, work.causes.get(output, event_id))
        for output in outputs:  # behind what is sent: an answer is an input of its own
            if isinstance(output, Ask):
                self._answer(work, output)

    def release(self, work: Work) -> None:
        """Let go what a saga could not send because its code was not loaded; under the cause that it had then."""
        work.causes = {read_output(each.output): each.cause for each in work.instance.waiting}
        self.apply(work, Loaded())
        work.causes = {}

    # ---- producing ---------------------------------------------------------------------------------------------

    def _produce(self, work: Work, definition: Definition, output: Send | Announce | Tell, cause: str) -> None:
        instance = work.instance
        if isinstance(output, Tell):
            self.records.append(self._crafting.outcome(instance, output, cause))
            return
        if isinstance(output, Announce):
            id_ = derived_id("announce", instance.id, output.type)
            try:
                self.records.append(self._crafting.record(work, definition, output, id_, cause))
            except EventError as error:
                if isinstance(error, UnknownSchema):
                    raise
                log.error(
                    "the saga's own event cannot be built", saga_id=instance.id, type=output.type, error=error.message
                )
            return
        id_ = command_id(instance.id, *wire_of(output.step), output.kind, output.attempt)
        if output.again:
            if (record := store.load_sent(self.connection, id_)) is not None:
                self.records.append(record)
            return
        try:
            record = self._crafting.record(work, definition, output, id_, cause)
        except EventError as error:
            if isinstance(error, UnknownSchema):
                raise
            self.apply(work, Unbuildable(output.step, output.kind, error.message))
            return
        self.held.append(store.Held(id_, instance.id, output.step, output.kind, record))

    def _answer(self, work: Work, output: Ask) -> None:
        """Ask a function of the user, and apply what it says."""
        if output.kind != "due" and work.instance.steps[output.step].asked != output.kind:
            return  # what came in between has settled it
        try:
            value, elements = self._crafting.answer(work, output)
        except EventError as error:
            if isinstance(error, UnknownSchema):
                raise
            self.apply(work, Unbuildable(output.step, output.kind, error.message))
            return
        self.apply(work, Decided(output.step, output.kind, value), elements=elements)

    # ---- writing -----------------------------------------------------------------------------------------------

    def write(self) -> list[Moved]:
        """Write everything and tell what moved.

        Raises:
            LostRace: another coordinator was faster; nothing of this transaction may be kept.
        """
        for refused in self.refused:
            self._ignore("", refused.arrival, "undecodable")
        works = [work for runs in self._runs.values() for work in runs.values()]
        new = [work.instance for work in works if work.before is None]
        changed = [
            (work.before.seq, work.instance)
            for work in sorted(works, key=attrgetter("id"))
            if work.before is not None and work.instance.seq != work.before.seq
        ]
        turned = [work for work in works if work.instance.lock is not None or work.instance.admission is not None]
        if turned:
            turns.write(self.connection, [Turned(work.before, work.instance) for work in turned])
        traced = not self.knowledge.emits
        store.insert_sagas(self.connection, new, self.now, traced=traced)
        races.check_started(self.connection, {(instance.type, instance.key) for instance in new})
        store.update_sagas(self.connection, changed, self.now, traced=traced)
        store.insert_history(self.connection, self._history)
        waiting = [row for rows in (*self._to_park.values(), *self._parked.values()) for row in rows]
        if waiting:
            races.check_absent(self.connection, self._awaited({(row.type, row.key) for row in waiting}), self.now)
            for row in early.park(self.connection, waiting, self.now + early.PARK_FOR, early.MOST_PARKED):
                self._count(row.type, row.delivery.topic, row.event_type, "no room to park", row.input.id)
        store.count_ignored(self.connection, self.ignored, self.now)
        return [move for work in works for move in work.moves(self._pinned(work.instance))]

    def _awaited(self, keys: Iterable[tuple[str, str]]) -> list[Instance]:
        """Make the sagas that would take these parked events, if they started."""
        return [
            new_instance(self._newest(type_), key, max(self._runs.get((type_, key), ()), default=0) + 1)
            for type_, key in keys
        ]

    def count_expired(self, row: Any) -> None:
        """Count a parked event whose saga never came."""
        self._count(row.type, row.topic, row.event_type, "unmatched", row.event_id)

    def _park(self, arrival: Arrival, target: Target, event: Observed | HandlerGaveUp) -> None:
        newest = self.knowledge.newest_of(target.type)
        # A handler may give up on the start before we have read that: other topics are read at their own pace.
        coming = newest is not None and isinstance(event, HandlerGaveUp) and event.event_type in newest.start
        if newest is None or (newest.unmatched == "ignore" and not coming):
            self._ignore(target.type, arrival, "unmatched" if newest is not None else "not loaded")
            return
        content_type = arrival.envelope.content_type
        row = early.Parked(target.type, target.key, self.now, event, arrival.kept, content_type)
        # Written at the end: its saga may still start within this batch.
        self._to_park.setdefault((target.type, target.key), []).append(row)

    def _ignore(self, saga_type: str, arrival: Arrival, reason: str) -> None:
        self._count(saga_type, arrival.delivery.topic, arrival.envelope.type, reason, arrival.input.id)

    def _count(self, saga_type: str, topic: str, type_: str, reason: str, id_: str) -> None:
        key = (saga_type, topic, _plain(type_), reason)
        self.ignored[key] = (self.ignored.get(key, (0, ""))[0] + 1, _plain(id_))

    def _starts(self, saga_type: str, event_type: str) -> bool:
        newest = self.knowledge.newest_of(saga_type)
        return newest is not None and event_type in newest.start

    def _newest(self, saga_type: str) -> Definition:
        return self.knowledge.newest[saga_type].definition

    def _pinned(self, instance: Instance) -> Definition:
        return self.knowledge.definition(instance)


def _plain(text: str) -> str:
    """Make a stranger's text fit a column: it is only shown."""
    return text[:MOST_ID].replace("\x00", "")
