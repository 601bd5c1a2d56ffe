"""What one saga looks like to people and programs: pure values made of its state and history.

`status` is the shape `saga.status/v1` of `docs/schemas`; the command line and every other view draw from it. Shapes
only ever gain fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from ..tracing.ids import trace_id
from . import attempts, family, fan_report, pause_report
from .conditions import conditions as conditions
from .conditions import rfc3339 as rfc3339
from .definition import Definition, RetryPlan, StepPlan
from .instance import Failure, Instance, Step
from .names import kebab_case
from .occurrence import base_of, element_of, unfold
from .pace import Pace, forecasts
from .queries import Brakes, Entry, Found, SagaRow
from .queues import Line
from .step_notes import note_of
from .surroundings import Surroundings
from .words import Phase, StepState

STATUS = "saga.status/v1"
SUMMARY = "saga.summary/v1"
CHANGE = "saga.change/v1"
ENTRY = "saga.history/v1"

Reach = Literal["ok", "down", "unknown"]


class Observed(NamedTuple):
    """How fresh what is shown is, and what could be seen beside the store.

    Args:
        at: the store's clock, microseconds.
        broker: whether the broker answers; "unknown" where nobody asked, or the broker lives in another process.
        broker_error: why it does not.
        coordinators: members of the coordinators' group; None where that is not known.
        services: by event type, the services that say they produce it; empty where the catalog was not read.
        around: everything that was seen at the broker; None where nobody asked, or it did not answer.
        asked_at: when, microseconds.
    """

    at: int
    broker: Reach = "unknown"
    broker_error: str | None = None
    coordinators: int | None = None
    services: Mapping[str, str] = {}
    around: Surroundings | None = None
    asked_at: int = 0


class Segment(NamedTuple):
    """A stretch of a bar: somebody works, there is a pause before the next attempt, or an answer is awaited."""

    kind: Literal["work", "pause", "open"]
    start: int
    end: int


class StepReport(TypedDict):
    """A step, or (`compensates` names one) the undo of a step."""

    name: str
    state: str
    outcome: str | None
    service: str | None
    compensates: str | None
    command: str | None
    tries: int
    attempts: list[dict[str, Any]]
    ready_at: str | None
    ended_at: str | None
    duration_ms: int | None
    limit_at: str | None
    due_at: str | None
    overdue: bool
    next_try_at: str | None
    error_class: str | None
    message: str | None
    event_id: str | None
    note: str | None
    pivot: bool
    optional: bool
    after: list[str]
    any_of: list[list[str]]
    instead_of: str | None
    final: bool
    element: str | None
    elements: dict[str, int] | None


def status(
    found: Found,
    entries: Sequence[Entry],
    observed: Observed,
    brakes: Brakes,
    namespace: str,
    queued: Sequence[str] = (),
    line: Line | None = None,
    children: Mapping[str, str] | None = None,
    pace: Pace | None = None,
) -> dict[str, Any]:
    """Tell everything about one saga.

    Args:
        found: its state and definition.
        entries: its history, for who did what; may be empty.
        observed: what was seen beside the store.
        brakes: what holds all sagas back.
        namespace: of the deployment, for the trace's id.
        queued: what people asked of it and no coordinator has applied yet.
        line: its lock with the queue, where it has one.
        children: the sagas that it has begun, by step.
        pace: what is usual for its type.
    """
    definition, instance, updated_at = found
    expected = forecasts(instance, pace or {}, observed.at)
    steps = step_reports(definition, instance, entries, observed)
    last = instance.ended_at or observed.at
    coordinators = observed.coordinators
    return {
        "schema": STATUS,
        "id": instance.id,
        "type": instance.type,
        "key": instance.key,
        "run": instance.run,
        "definition": {
            "version": instance.version,
            "hash": instance.hash,
            "observe_only": definition.observe_only,
        },
        "phase": instance.phase.value,
        "paused": pause_report.told(instance),
        "step": instance.current_step,
        "started_at": rfc3339(instance.started_at),
        "updated_at": rfc3339(updated_at),
        "ended_at": rfc3339(instance.ended_at),
        "erased_at": rfc3339(instance.erased),
        "deadline_at": rfc3339(instance.deadline_at),
        "next_due_at": rfc3339(instance.next_step_due),
        "duration_ms": _ms(last - instance.started_at),
        "progress": progress(instance),
        "cause": _cause(instance, steps),
        "steps": steps,
        "conditions": conditions(instance, observed, brakes, line, expected),
        "forecast": [each.as_json() for each in expected],
        "lock": _lock(instance, line),
        **family.told(instance, children or {}),
        "queued_commands": list(queued),
        "trace": {
            "trace_id": f"{trace_id(namespace, instance.id, instance.epoch):032x}",
            "epoch": instance.epoch,
            "sampled": instance.sampled,
            "complete": instance.phase.ended,
            "url": None,
        },
        "observed": {
            "at": rfc3339(observed.at),
            "store": "ok",
            "broker": observed.broker,
            "broker_error": observed.broker_error,
            "coordinator": "unknown" if coordinators is None else "ok" if coordinators else "down",
            "coordinators": coordinators,
        },
    }


def summary(row: SagaRow, now: int) -> dict[str, Any]:
    """Tell of one saga what its columns say."""
    return {
        "schema": SUMMARY,
        "id": row.id,
        "type": row.type,
        "key": row.key,
        "run": row.run,
        "version": row.version,
        "phase": row.phase,
        "step": row.step,
        "error_class": row.error,
        "conditions": list(row.conditions),
        "started_at": rfc3339(row.started_at),
        "updated_at": rfc3339(row.updated_at),
        "ended_at": rfc3339(row.ended_at),
        "duration_ms": _ms((row.ended_at or now) - row.started_at),
    }


def history_entry(id_: str, entry: Entry) -> dict[str, Any]:
    """Tell one input of a saga's history."""
    return {
        "schema": ENTRY,
        "id": id_,
        "seq": entry.seq,
        "at": rfc3339(entry.at),
        "kind": entry.kind,
        "type": entry.type,
        "event_id": entry.event_id,
        "event_time": rfc3339(entry.event_time),
        "source": entry.source or None,
        "place": entry.place,
        "verdict": entry.verdict,
        "reason": entry.reason or None,
        "said": entry.said or None,
        "changes": [
            {"step": change.step, "state": change.state, "reason": change.reason or None} for change in entry.changes
        ],
        **attempts.work_of(entry),
    }


def progress(instance: Instance) -> dict[str, int]:
    """Count the steps that need nothing more, of all; the second number never changes."""
    settled = (StepState.DONE, StepState.DEGRADED, StepState.SKIPPED, StepState.COMPENSATED)
    declared = [step for name, step in instance.steps.items() if base_of(name) == name]
    given_up = (StepState.FAILED, StepState.UNKNOWN)
    done = [step for step in declared if step.state in settled or (step.given_up and step.state in given_up)]
    return {"done": len(done), "known": len(declared)}


def step_reports(
    definition: Definition, instance: Instance, entries: Sequence[Entry], observed: Observed
) -> list[StepReport]:
    """Tell every step in the order of declaration, then every undo in the order in which it runs."""
    definition = unfold(definition, instance)
    came = attempts.answers(definition, entries)
    who = _answerers(came)
    reports = [
        _action(definition, plan, instance, came, who, observed)
        for plan in fan_report.shown(definition.steps, instance)
    ]
    undoable = [plan for plan in reversed(definition.steps) if plan.undo is not None]
    if instance.phase in (Phase.RUNNING, Phase.COMPLETED):  # what it goes on without is undone all the same
        undoable = [plan for plan in undoable if instance.steps[plan.name].undo_ready_at]
    undoable.sort(key=lambda plan: -len(definition.ancestors[plan.name]))
    undoable = fan_report.shown(undoable, instance)
    return [*reports, *(_undo(plan, instance, came, who, observed) for plan in undoable)]


def segments(plan: StepPlan, step: Step, now: int) -> list[Segment]:
    """Divide a step's time: work up to each failure, the pause after it, and what is still awaited."""
    if not step.ready_at:
        return []
    return _segments(step.ready_at, step.ended_at, step.failures, plan.retry if plan.send else None, now)


def undo_segments(plan: StepPlan, step: Step, now: int) -> list[Segment]:
    """Divide the time of a step's undo."""
    if not step.undo_ready_at:
        return []
    return _segments(step.undo_ready_at, step.undo_ended_at, step.undo_failures, plan.undo_retry, now)


def _lock(instance: Instance, line: Line | None) -> dict[str, Any] | None:
    """Tell how a saga stands with its lock."""
    lock = instance.lock
    if lock is None:
        return None
    places = [each.saga_id for each in line.waiting] if line is not None else []
    return {
        "name": lock.name,
        "key": lock.key,
        "state": lock.state,
        "since": rfc3339(lock.since),
        "until": rfc3339(lock.until),
        "holder": line.holder.saga_id if line is not None and line.holder is not None else None,
        "place": places.index(instance.id) + 1 if instance.id in places else None,
        "waiting": len(places),
    }


def _answerers(came: attempts.Answers) -> dict[tuple[str, bool], str]:
    """Find who answered each step, and (True) who answered its undo: whose event or report changed it last."""
    latest: dict[tuple[str, bool], Entry] = {}
    for (name, undo), entries in came.items():
        for entry in entries:
            names = {name, base_of(name)} if entry.kind == "event" and not undo else {name}
            for each in names if entry.source else ():
                if (each, undo) not in latest or latest[each, undo].seq < entry.seq:
                    latest[each, undo] = entry
    return {key: entry.source for key, entry in latest.items()}


def _action(
    definition: Definition,
    plan: StepPlan,
    instance: Instance,
    came: attempts.Answers,
    who: Mapping[tuple[str, bool], str],
    observed: Observed,
) -> StepReport:
    step = instance.steps[plan.name]
    awaited = step.open and step.given_up is None
    ended = step.ended_at if not awaited else None
    return {
        "name": plan.name,
        "state": fan_report.state_of(plan, instance).value,
        "outcome": step.outcome.value if step.outcome is not None else None,
        "service": who.get((plan.name, False)) or _producer(observed, (*plan.done, *plan.failed)),
        "compensates": None,
        "command": plan.send,
        "tries": max(step.attempt, len(step.failures), 1 if step.ready_at else 0),
        "attempts": attempts.ended(
            step.failures, came.get((plan.name, False), ()), step.done.id if step.done is not None else None, ended
        ),
        "ready_at": rfc3339(step.ready_at or None),
        "ended_at": rfc3339(ended),
        "duration_ms": _ms((ended or observed.at) - step.ready_at) if step.ready_at else None,
        "limit_at": rfc3339(step.limit_at),
        "due_at": rfc3339(step.due_at),
        "overdue": step.overdue,
        "next_try_at": rfc3339(step.send_at) if step.state is StepState.RETRYING else None,
        "error_class": step.error,
        "message": step.message,
        "event_id": step.done.id if step.done is not None else None,
        "note": note_of(definition, plan, instance),
        "pivot": plan.pivot,
        "optional": plan.optional,
        "after": [name for name in plan.after if base_of(name) == name],
        "any_of": [list(group) for group in plan.any_of],
        "instead_of": plan.instead_of,
        "final": plan.final,
        "element": element_of(plan.name),
        "elements": fan_report.counted(plan, instance),
    }


def _undo(
    plan: StepPlan,
    instance: Instance,
    came: attempts.Answers,
    who: Mapping[tuple[str, bool], str],
    observed: Observed,
) -> StepReport:
    step = instance.steps[plan.name]
    state, note = _undo_state(plan, step, instance)
    started = step.undo_ready_at or None
    return {
        "name": kebab_case(plan.undo or "") + plan.name.removeprefix(base_of(plan.name)),
        "state": state.value,
        "outcome": step.undo_outcome.value if step.undo_outcome is not None else None,
        "service": who.get((plan.name, True)) or _producer(observed, plan.undone),
        "compensates": plan.name,
        "command": plan.undo,
        "tries": max(step.undo_attempt, len(step.undo_failures)),
        "attempts": attempts.ended(
            step.undo_failures, came.get((plan.name, True), ()), step.undo_event, step.undo_ended_at
        ),
        "ready_at": rfc3339(started),
        "ended_at": rfc3339(step.undo_ended_at),
        "duration_ms": _ms((step.undo_ended_at or observed.at) - started) if started else None,
        "limit_at": rfc3339(step.undo_limit_at),
        "due_at": None,
        "overdue": False,
        "next_try_at": rfc3339(step.undo_send_at),
        "error_class": step.error if state is StepState.UNDO_FAILED else None,
        "message": step.message if state is StepState.UNDO_FAILED else None,
        "event_id": step.undo_event,
        "note": note,
        "pivot": False,
        "optional": False,
        "after": [],
        "any_of": [],
        "instead_of": None,
        "final": False,
        "element": element_of(plan.name),
        "elements": None,
    }


def _undo_state(plan: StepPlan, step: Step, instance: Instance) -> tuple[StepState, str | None]:
    """Give the state of a step's undo, and what explains it."""
    if step.state is StepState.COMPENSATING:
        return step.state, f"waiting for {' or '.join(plan.undone)}" if plan.undone else None
    if step.state in (StepState.UNDO_FAILED, StepState.COMPENSATED):
        return step.state, "there was nothing to undo" if step.undo_empty else None
    if not instance.phase.ended and step.state in (StepState.DONE, StepState.UNKNOWN):
        return StepState.PENDING, "waits for the undo of later steps"
    words = {
        StepState.FAILED: "nothing was done",
        StepState.SKIPPED: "it never ran",
        StepState.DEGRADED: "nothing was done",
    }
    return StepState.SKIPPED, words.get(step.state)


def _segments(
    start: int, ended: int | None, failures: Sequence[Failure], retry: RetryPlan | None, now: int
) -> list[Segment]:
    end = now if ended is None else ended
    found: list[Segment] = []
    at = start
    for number, failure in enumerate(failures, start=1):
        failed = min(max(failure.at, at), end)
        found.append(Segment("work", at, failed))
        at = min(end, failed + retry.pause(number)) if retry is not None else failed
        if at > failed:
            found.append(Segment("pause", failed, at))
    if at < end or not found:
        found.append(Segment("open" if ended is None else "work", at, end))
    return found


def _cause(instance: Instance, steps: Sequence[StepReport]) -> dict[str, Any] | None:
    cause = instance.cause
    if cause is None:
        return None
    name = cause.get("step")
    step = instance.steps.get(name) if name else None
    service = next((each["service"] for each in steps if each["name"] == name and each["compensates"] is None), None)
    first = step.failures[0].at if step is not None and step.failures else cause.get("at")
    return {
        "step": name,
        "service": service,
        "attempt": max(step.attempt, len(step.failures), 1) if step is not None else None,
        "error_class": cause.get("error"),
        "message": cause.get("message") or None,
        "event_id": cause.get("event"),
        "at": rfc3339(cause.get("at")),
        "first_error_at": rfc3339(first),
        "cancelled": instance.cancelling,
    }


def _producer(observed: Observed, types: Sequence[str]) -> str | None:
    return next((observed.services[type_] for type_ in types if type_ in observed.services), None)


def _ms(microseconds: int) -> int:
    return max(0, microseconds) // 1_000
