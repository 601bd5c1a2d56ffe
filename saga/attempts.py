"""The attempts of a step that have ended, for people: when, with what, and what the handler said of its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..events.handled import parse_handled
from .conditions import rfc3339
from .definition import Definition
from .instance import Failure
from .queries import Entry
from .words import StepState

UNDOING = frozenset((StepState.COMPENSATING, StepState.UNDO_FAILED))

Answers = Mapping[tuple[str, bool], Sequence[Entry]]
"""What answered each step, and (True) its undo, in the order in which it came."""


def work_of(entry: Entry | None) -> dict[str, Any]:
    """Tell how long an answer's handler was waited for and ran, and its span; nothing where it did not say."""
    told = parse_handled(entry.handled) if entry is not None and entry.handled else None
    return {
        "queued_ms": None if told is None else told.queued,
        "run_ms": None if told is None else told.ran,
        "span_id": None if told is None else told.span_id,
    }


def answers(definition: Definition, entries: Sequence[Entry]) -> Answers:
    """Find what answered each step.

    Args:
        definition: of the saga, its steps per element unfolded.
        entries: of its history.
    """
    found: dict[tuple[str, bool], list[Entry]] = {}
    for entry in entries:
        changed = [change for change in entry.changes if change.step is not None]
        if entry.kind == "failure" and changed:
            # A report is about one step, which it changes first; what follows from it is not its sender's doing.
            found.setdefault((str(changed[0].step), changed[0].state in UNDOING), []).append(entry)
        for name in dict.fromkeys(str(change.step) for change in changed) if entry.kind == "event" else ():
            plan = definition.by_name.get(name)
            if plan is None:  # an occurrence that was answered before its turn, and turned out to be none
                continue
            if entry.type in (*plan.done, *plan.failed):
                found.setdefault((name, False), []).append(entry)
            elif entry.type in plan.undone:
                found.setdefault((name, True), []).append(entry)
    return found


def ended(
    failures: Sequence[Failure], came: Sequence[Entry], success: str | None, ended_at: int | None
) -> list[dict[str, Any]]:
    """List the attempts that have ended: those that failed, and the one that went well.

    Args:
        failures: of the step.
        came: what answered it.
        success: id of the event that told its success; None where it has not succeeded.
        ended_at: when its action was concluded, microseconds.
    """
    left = [entry for entry in came if entry.event_id != success]
    told = []
    for number, failure in enumerate(failures, start=1):
        # A limit that passed is a failure, too, and nobody's answer; time tells them apart.
        answer = next((entry for entry in left if entry.at == failure.at), None)
        if answer is not None:
            left.remove(answer)
        told.append(_attempt(number, failure.at, failure.error, answer))
    if success is not None:
        answer = next((entry for entry in came if entry.event_id == success), None)
        at = answer.at if answer is not None else ended_at
        told.append(_attempt(len(failures) + 1, at, None, answer, event_id=success))
    return told


def _attempt(
    number: int, at: int | None, error: str | None, answer: Entry | None, event_id: str | None = None
) -> dict[str, Any]:
    return {
        "n": number,
        "ended_at": rfc3339(at),
        "failed_at": rfc3339(at) if error is not None else None,
        "error_class": error,
        "event_id": answer.event_id if answer is not None else event_id,
        **work_of(answer),
    }
