"""What is told of a saga that a person has paused: who, since when, why, and which timers stand still."""

from __future__ import annotations

from typing import Any

from ..events.clock import format_duration, to_datetime
from .instance import Instance

PAUSED = "PAUSED"
"""What is shown in the place of the phase; the phase itself is what it was."""


def timers(instance: Instance) -> list[int]:
    """Give how much time is left to each of a paused saga's timers once it goes on, microseconds, the least first."""
    hold = instance.paused
    if hold is None:
        return []
    left = [at - hold.at for step in instance.steps.values() for at in step.timers()]
    if instance.deadline_at is not None:
        left.append(instance.deadline_at - hold.at)
    if (lock := instance.lock) is not None and lock.until is not None:
        left.append(lock.until - hold.at)
    return sorted(max(0, each) for each in left)


def told(instance: Instance) -> dict[str, Any] | None:
    """Tell it as JSON has it; None where nobody has paused it."""
    hold = instance.paused
    if hold is None:
        return None
    left = timers(instance)
    since = to_datetime(hold.at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "by": hold.by,
        "reason": hold.reason or None,
        "since": since,
        "timers": len(left),
        "next_timer_in_ms": left[0] // 1_000 if left else None,
        "held": len(instance.held),
    }


def sentence(instance: Instance, now: int) -> str:
    """Say it in one sentence; "" where nobody has paused it."""
    hold = instance.paused
    if hold is None:
        return ""
    why = f": {hold.reason}" if hold.reason else ""
    left = timers(instance)
    still = f"; {len(left)} timers stand still, the first has {format_duration(left[0])} left" if left else ""
    return f"{hold.by or 'a person'} paused it {format_duration(max(0, now - hold.at))} ago{why}{still}"
