"""What is remarkable about a saga: what it notes itself and what only shows from outside. Pure.

The one place where that is computed, for the command line, the web view, metrics and alerts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..events.clock import SECOND, format_duration, to_datetime
from .instance import Instance
from .pace import Forecast
from .queries import Brakes
from .queues import Line
from .words import Condition, Phase, StepState

if TYPE_CHECKING:
    from .report import Observed

LAGGING_AFTER = 2 * SECOND
"""How long a timer may be due before a saga says that its coordinator lags."""


def conditions(
    instance: Instance,
    observed: Observed,
    brakes: Brakes,
    line: Line | None = None,
    expected: Sequence[Forecast] = (),
) -> list[dict[str, Any]]:
    """Tell what is remarkable, what the saga itself notes and what only shows from outside."""
    now = {Condition.WAITING_FOR_LOCK: _place(instance, line, observed.at)} if line is not None else {}
    told = [
        condition(word, remark.reason, now.get(Condition(word), remark.message), remark.since, remark.step)
        for word, remark in instance.conditions.items()
    ]
    version = (instance.type, instance.version)
    nowhere = version in brakes.unloaded and not instance.phase.ended
    if nowhere and Condition.PAUSED not in instance.conditions:
        message = f"version {instance.version} of {instance.type} is loaded nowhere; run it with `saga run`"
        told.append(condition(Condition.PAUSED, "NotLoaded", message, observed.at))
    due = instance.next_due
    if not nowhere and due is not None and due + LAGGING_AFTER < observed.at:
        reason, message = _why_late(instance, observed, brakes)
        late = format_duration(observed.at - due)
        told.append(condition(Condition.COORDINATOR_LAGGING, reason, f"a timer is due since {late}: {message}", due))
    told += _without(instance)
    if is_incomplete(instance):
        message = "its trace was not sampled: it has what the coordinator saw, and not what services did"
        told.append(condition(Condition.TRACE_INCOMPLETE, "NotSampled", message, instance.ended_at or observed.at))
    for each in expected:
        if each.slow is not None:
            message = f"{each.name}: {each}"
            told.append(condition(Condition.SLOW, each.slow, message, each.slow_since, each.stretch.step or None))
    return sorted(told, key=lambda each: str(each["since"]))


def _without(instance: Instance) -> list[dict[str, Any]]:
    """Name the steps that a saga has gone on without."""
    return [
        condition(
            Condition.DEGRADED,
            "WithoutStep",
            f"it goes on without {name}: {step.error or 'a person skipped it'}",
            step.since,
            name,
        )
        for name, step in instance.steps.items()
        if step.state is StepState.DEGRADED
    ]


def is_incomplete(instance: Instance) -> bool:
    """Tell whether a trace is shown of a saga that has ended, and lacks what services did, as it was not sampled."""
    shown = instance.phase in (Phase.FAILED, Phase.COMPENSATED) or Condition.LATE in instance.conditions
    return instance.ended_at is not None and not instance.sampled and shown


def _place(instance: Instance, line: Line, now: int) -> str:
    """Say who holds the lock that a saga waits for, and how many are before it, as it is now."""
    holder = line.holder
    held = (
        "it is passed on" if holder is None else f"held by {holder.saga_id} for {format_duration(now - holder.since)}"
    )
    ids = [each.saga_id for each in line.waiting]
    place = f", {ids.index(instance.id) + 1} of {len(ids)} in the queue" if instance.id in ids else ""
    return f"waits for the lock {line.of}: {held}{place}"


def _why_late(instance: Instance, observed: Observed, brakes: Brakes) -> tuple[str, str]:
    if brakes.timers_held and instance.phase is Phase.RUNNING:
        return "Held", "too many sagas would time out at once; `saga resume` lets them"
    if brakes.undo_stopped and instance.phase is Phase.COMPENSATING:
        return "Stopped", "compensation is stopped; `saga resume` lets it go on"
    if observed.coordinators == 0:
        return "NoCoordinator", "no coordinator is running; start one with `saga run`"
    return "Unread", "held until every answer before it has been read"


def condition(word: str, reason: str, message: str, since: int, step: str | None = None) -> dict[str, Any]:
    """Tell one condition as JSON has it.

    Args:
        word: of `Condition`.
        reason: a machine-readable word.
        message: for people.
        since: microseconds.
        step: of which step, where it is about one.
    """
    return {
        "type": str(word),
        "status": True,
        "reason": reason,
        "message": message,
        "since": rfc3339(since),
        "step": step,
    }


def rfc3339(at: int | None) -> str | None:
    """Write a time as JSON has it: RFC 3339 in UTC, milliseconds."""
    if at is None:
        return None
    return to_datetime(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
