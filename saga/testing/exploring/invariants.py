"""The rules that every run must keep, by the names of `docs/guarantees.md`: safety (S) and liveness (V).

Histories and the broker's log are append-only, so what they show at the end of a run they would have shown at each
moment before: the rules of safety are judged once, on everything that happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from sqlalchemy import Connection, select

from ....events.clock import to_datetime
from ....events.ids import derived_id
from ....services.inbox import inbox
from ....services.service import Handler
from ...ends import end_id, has_ended
from ...inputs import Announce, Elapsed, HandlerGaveUp, Operator, Send, Unbuildable, command_id
from ...occurrence import wire_of
from ...outcomes import SagaEnded
from ...replay import changes_text
from ...tables import history, ignored, parked, sent
from ...words import Condition, Phase, StepState
from .broker import Sent
from .decisions import judge
from .participants import judge_participants
from .refold import Recorded, Refolded, read_recorded
from .simulation import Simulation, Violation
from .troubles import COORDINATOR

_HAPPENED = (StepState.DONE, StepState.UNKNOWN)


def check(run: Simulation) -> None:
    """Judge a run that is at its end.

    Raises:
        Violation: with the name of the rule and what broke it.
    """
    log = run.broker.log
    _same_id_same_bytes(log, {topic for service in run.services.values() for topic in service.retry_topics})
    recorded: list[Recorded] = []
    if run.parts.sagas:
        with run.saga_disk.reader.connect() as connection:
            recorded = read_recorded(connection)
            # A limit that was set before the clock jumped says nothing of when an answer came.
            steady = not any(fault.kind.startswith("clock") for fault in run.plan.faults)
            for each in recorded:
                _judge(each)
                judge(each, log if steady else ())
            _outputs(recorded, log, connection)
            _read_by_coordinator(run, connection)
    _services(run)
    judge_participants(run)
    _lively(run, recorded)


def _judge(saga: Recorded) -> None:
    _once(saga)
    _folds(saga)
    for step in saga.applied:
        _after_the_end(saga, step)
        _epochs(saga, step)
        _timers(saga, step)
        _undo_order(saga, step)
    _one_outcome(saga)
    _late_success(saga)
    _decisions(saga)
    _budgets(saga)


def _once(saga: Recorded) -> None:
    """S1, S2: each input once, as many as the version says."""
    ids = Counter(step.event_id for step in saga.applied)
    twice = [id_ for id_, count in ids.items() if count > 1]
    if twice:
        raise Violation("S1", f"{saga.id} has applied {twice[0]} {ids[twice[0]]} times")
    if [step.row.seq for step in saga.applied] != list(range(1, saga.instance.seq + 1)):
        raise Violation("S2", f"{saga.id} is at input {saga.instance.seq}, its history has {len(saga.applied)}")


def _folds(saga: Recorded) -> None:
    """S3, S17: the history folds to the state, decision by decision, under the definition that it began with."""
    for step in saga.applied:
        now, then = step.transition, step.row
        if (changes_text(now.changes), now.verdict) != (then.changes, then.verdict):
            raise Violation("S3", f"{saga.id}: input {then.seq} folds to other decisions than the history has")
    last = saga.applied[-1].transition.instance
    if last.to_json() != saga.state:
        raise Violation("S3", f"{saga.id}: its history folds to another state than the store has")


def _after_the_end(saga: Recorded, step: Refolded) -> None:
    """S8: what has ended sends nothing, unless it was opened again."""
    if step.before is None or not step.before.phase.ended or not step.transition.outputs:
        return
    if step.transition.instance.epoch == step.before.epoch:
        raise Violation("S8", f"{saga.id} had ended, and input {step.row.seq} made it send something")


def _epochs(saga: Recorded, step: Refolded) -> None:
    """R11: what is opened again has a trace of its own, and nothing else has."""
    before, after = step.before, step.transition.instance
    if before is None:
        return
    opened = before.phase.ended and not after.phase.ended
    if after.epoch != before.epoch + opened and not has_ended(before, after):
        told = f"{saga.id}: input {step.row.seq} made epoch {before.epoch} of it epoch {after.epoch}"
        raise Violation("R11", f"{told}, it was {before.phase} and is {after.phase}")


def _timers(saga: Recorded, step: Refolded) -> None:
    """S12: no timer fires before its time."""
    if isinstance(step.input, Elapsed) and step.input.until > step.row.at:
        raise Violation("S12", f"{saga.id}: timers up to {to_datetime(step.input.until)} fired before that")


def _undo_order(saga: Recorded, step: Refolded) -> None:
    """S10: only what may have happened is undone, after all that depends on it."""
    after = step.transition.instance
    for output in step.transition.outputs:
        if not isinstance(output, Send) or output.kind != "undo" or output.again:
            continue
        if isinstance(step.input, Operator):
            continue  # a person may ask again
        for name in step.definition.descendants.get(output.step, ()):
            plan, other = step.definition.by_name[name], after.steps[name]
            if other.state is StepState.COMPENSATING or (plan.undo is not None and other.state in _HAPPENED):
                told = f"{saga.id}: step {output.step} is undone while {name}, which depends on it, is {other.state}"
                raise Violation("S10", told)
        if step.before is not None:
            state = step.before.steps[output.step].state
            certain = step.before.steps[output.step].certain
            # A handler that gave up may have had its effect, whatever the saga thought of its step.
            reported = isinstance(step.input, HandlerGaveUp) or after.steps[output.step].done is not None
            if state in (StepState.SKIPPED, StepState.FAILED) and certain and not reported:
                raise Violation("S10", f"{saga.id}: step {output.step} is undone, but it was {state}")


def _one_outcome(saga: Recorded) -> None:
    """S9: never both completed and undone; after the pivot nothing before it is undone."""
    outputs = [output for step in saga.applied for output in step.transition.outputs]
    announced = {output.type for output in outputs if isinstance(output, Announce)}
    definition = saga.definition
    if saga.instance.phase is Phase.COMPLETED and announced - {definition.completed}:
        raise Violation("S9", f"{saga.id} is completed and has announced {', '.join(sorted(announced))}")
    if len(announced) > 1:
        raise Violation("S9", f"{saga.id} has announced {', '.join(sorted(announced))}")
    pivot = definition.pivot
    if pivot is None:
        return
    before = definition.ancestors[pivot.name]
    for step in saga.applied:
        if step.before is None or step.before.steps[pivot.name].done is None:
            continue
        for output in step.transition.outputs:
            if isinstance(output, Send) and output.kind == "undo" and not output.again and output.step in before:
                told = f"{saga.id}: the undo of step {output.step} was sent after the pivot {pivot.name} was done"
                raise Violation("S9", told)


def _late_success(saga: Recorded) -> None:
    """S11: a saga that was undone has undone every step that happened, also one whose success came late."""
    if saga.instance.phase not in (Phase.COMPENSATED, Phase.CANCELLED) or saga.definition.observe_only:
        return
    for plan in saga.definition.steps:
        step = saga.instance.steps[plan.name]
        if plan.undo is not None and step.state in (*_HAPPENED, StepState.COMPENSATING):
            raise Violation("S11", f"{saga.id} is {saga.instance.phase}, but step {plan.name} is {step.state}")


def _decisions(saga: Recorded) -> None:
    """R11 and S11: no end while an undo is unanswered, and no undo of what surely did not happen."""
    for applied in saga.applied:
        after = applied.transition.instance
        if has_ended(applied.before, after):
            for name, step in after.steps.items():
                if step.state is StepState.COMPENSATING:
                    raise Violation("R11", f"{saga.id} ended, and the undo of step {name} was not answered")
        for output in applied.transition.outputs:
            if isinstance(output, Send) and output.kind == "undo":
                step = after.steps[output.step]
                if step.done is None and step.certain and step.failures:
                    raise Violation("S11", f"{saga.id}: step {output.step} surely failed, and is undone")


def _budgets(saga: Recorded) -> None:
    """S16: nothing is tried more often than it may be."""
    for plan in saga.definition.steps:
        step = saga.instance.steps[plan.name]
        if plan.send is not None and step.attempt > plan.retry.attempts:
            raise Violation("S16", f"{saga.id}: step {plan.name} was tried {step.attempt} times")


def _same_id_same_bytes(log: Sequence[Sent], again: Collection[str]) -> None:
    """S6: what has the same id is the same, but on the topics where it is tried again."""
    known: dict[str, Sent] = {}
    for each in log:
        id_ = each.header("ce_id")
        if not id_ or each.record.topic.endswith(".dlq") or each.record.topic in again:
            continue
        first = known.setdefault(id_, each)
        one, other = first.record, each.record
        if (one.topic, one.key, one.value) != (other.topic, other.key, other.value):
            raise Violation("S6", f"{each.header('ce_type')} {id_} was sent twice, and not with the same bytes")


def _outputs(recorded: Iterable[Recorded], log: Sequence[Sent], connection: Connection) -> None:
    """S2, S4, V2: exactly what the histories decide was sent."""
    held = {row.id for row in connection.execute(select(sent.c.id).where(sent.c.release_at.isnot(None)))}
    there = {each.header("ce_id") for each in log}
    decided: set[str] = set()
    for saga in recorded:
        inputs = [step.input for step in saga.applied]
        unbuildable = {(each.step, each.kind) for each in inputs if isinstance(each, Unbuildable)}
        for step in saga.applied:
            if has_ended(step.before, step.transition.instance) and not saga.definition.observe_only:
                decided.add(id_ := end_id(saga.id, step.transition.instance.epoch))
                if id_ not in there:
                    raise Violation("S2", f"{saga.id}: input {step.row.seq} ended it, and nobody was told")
            for output in step.transition.outputs:
                if isinstance(output, Announce):
                    id_ = derived_id("announce", saga.id, output.type)
                elif not isinstance(output, Send) or (output.step, output.kind) in unbuildable:
                    continue
                else:
                    id_ = command_id(saga.id, *wire_of(output.step), output.kind, output.attempt)
                decided.add(id_)
                if id_ not in there and id_ not in held:
                    what = output.type
                    raise Violation(
                        "S2", f"{saga.id}: input {step.row.seq} decided to send {what}, and it never was sent"
                    )
    for each in log:
        if each.header("ce_source").startswith("choreo/") and each.header("ce_id") not in decided:
            if each.header("ce_source") == "choreo/operator" or not (each.header("saga-id") or _is_end(each)):
                continue
            whose = each.header("saga-id") or (each.record.key or b"").decode()
            told = f"{each.header('ce_type')} for {whose} was sent, but no history decides it"
            raise Violation("S4", told)


def _is_end(sent: Sent) -> bool:
    return sent.header("ce_type") == SagaEnded.spec().type


def _consumed(run: Simulation, topics: Iterable[str]) -> Iterator[Sent]:
    wanted = set(topics)
    return (each for each in run.broker.log if each.record.topic in wanted)


def _read_by_coordinator(run: Simulation, connection: Connection) -> None:
    """S15: what was read was applied, counted as ignored, or is parked; nothing that can be read is set aside."""
    for each in run.broker.log:
        if each.by.startswith(COORDINATOR) and each.record.topic.endswith(".dlq"):
            raise Violation("S15", f"{each.header('ce_type')} {each.header('ce_id')} was set aside by {each.by}")
    definitions = [cls.definition() for cls in run.parts.sagas]
    seen = set(connection.execute(select(history.c.event_id)).scalars())
    waiting = set(connection.execute(select(parked.c.event_id)).scalars())
    counted: Counter[str] = Counter()
    for event_type, count in connection.execute(select(ignored.c.event_type, ignored.c["count"])):
        counted[event_type] += count
    missing: Counter[str] = Counter()
    known = {type_ for definition in definitions for type_ in definition.consumed}
    for each in _consumed(run, {topic for definition in definitions for topic in definition.consumed_topics}):
        type_ = each.header("ce_type")
        if type_ in known and each.header("ce_id") not in seen and each.header("ce_id") not in waiting:
            missing[type_] += 1
    for type_, count in missing.items():
        if counted[type_] < count:
            told = f"{count} {type_} changed no saga, but only {counted[type_]} are counted as ignored"
            raise Violation("S15", told)


def _services(run: Simulation) -> None:
    """S4, S14, S15: what a service read has a result, and what it sent has a cause in its inbox."""
    for name, service in run.services.items():
        if service.store is None:
            continue
        with run.disks[name].reader.connect() as connection:
            rows = {(row.handler, row.event_id): row.state for row in connection.execute(select(inbox))}
        there = {each.header("ce_id") for each in run.broker.log if not each.record.topic.endswith(".dlq")}
        dead = {each.header("ce_id") for each in run.broker.log if each.record.topic.endswith(".dlq")}
        for handler in service.handlers:
            types = {event.spec().type for event in handler.events}
            topics = {event.spec().topic for event in handler.events}
            for each in _consumed(run, topics):
                if each.header("ce_type") not in types:
                    continue
                state = rows.get((handler.full_name, each.header("ce_id")))
                if state is None:
                    told = f"{handler.full_name} has read {each.header('ce_type')} and left no result"
                    raise Violation("S14", told)
                if state == "claimed":
                    raise Violation("S15", f"{handler.full_name} began with {each.header('ce_type')} and never ended")
                # An undo may have taken the row over since; the news of the failure stays.
                failed = state == "failed" or _gave_up(handler, each) in there
                if failed and each.header("ce_id") not in dead:
                    raise Violation(
                        "S15", f"{handler.full_name} gave up {each.header('ce_type')} without a dead letter"
                    )
        met = {event_id for _, event_id in rows}
        for each in run.broker.log:
            if each.header("ce_source") == name and each.header("causation-id") not in met:
                told = f"{name} has sent {each.header('ce_type')}, but its inbox knows no cause of it"
                raise Violation("S4", told)


def _gave_up(handler: Handler, sent: Sent) -> str:
    """Give the id of the news that a handler has given an event up for good."""
    return derived_id("failed", sent.header("ce_id"), handler.service, handler.name, "dead")


def _lively(run: Simulation, recorded: Sequence[Recorded]) -> None:
    """V1, V2, V5: all is read, all is sent, and every saga ends or waits for a person."""
    if not run.at_rest:
        states = ", ".join(f"{s.id} {s.instance.phase}" for s in recorded if not s.instance.phase.ended)
        raise Violation("V1", f"nothing is due any more, but it is not at rest: {states or run.unrest()}")
    for saga in recorded:
        instance = saga.instance
        if not instance.phase.ended and Condition.WAITING_FOR_PERSON not in instance.conditions:
            raise Violation("V1", f"{saga.id} is {instance.phase}, and waits for nobody")
    for name, disk in run.disks.items():
        if left := disk.count("choreo_outbox"):
            raise Violation("V2", f"{left} rows are left in the outbox of {name}")
    for group, place, committed, end in run.lag:
        raise Violation("V5", f"{group} has committed {committed} of {end} in {place.topic}[{place.partition}]")
