"""What a test sees: a saga, an event that was published, a dead letter, as values that are easy to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from ...events.clock import format_duration, to_datetime
from ...events.envelope import Delivery
from ...events.event import Event
from ...services.dead_letters import PREFIX
from ..instance import Instance
from ..queries import Entry
from ..words import Condition, Phase, StepState


class Published(NamedTuple):
    """One event on the broker, as often as it was sent.

    Args:
        event: the event.
        id, source: its id, and who published it.
        at: when it was sent.
        saga_id: the saga that it names in its headers, if any.
    """

    event: Event
    id: str
    source: str
    at: datetime
    saga_id: str | None


class DeadLetter(NamedTuple):
    """An event that a handler gave up on, or that nobody could read.

    Args:
        topic, type, key, id: of the event.
        service, handler: who gave up.
        error, message: class and text of the error.
        attempts: how often it was tried.
    """

    topic: str
    type: str
    key: str
    id: str
    service: str
    handler: str
    error: str
    message: str
    attempts: int


class Cause(NamedTuple):
    """Why a saga does not simply go on: the step that failed, class and text of the error."""

    step: str | None
    error: str
    message: str

    def __str__(self) -> str:
        told = f"{self.error}: {self.message}" if self.message else self.error
        return f"{self.step}: {told}" if self.step else told


@dataclass(frozen=True)
class SagaView:
    """Where a saga is, and how it came there.

    Args:
        id: its name.
        phase: where it is as a whole.
        steps: the state of each step, in the order of declaration.
        conditions: what is remarkable about it.
        cause: why it does not simply go on.
        commands: the types of the commands that were sent for it, each once, in order.
        history: every input, with what it changed.
        started_at, ended_at: when it began and ended.
        next_due: when its next timer is due.
    """

    id: str
    phase: Phase
    steps: Mapping[str, StepState]
    conditions: frozenset[Condition]
    cause: Cause | None
    commands: tuple[str, ...]
    history: tuple[Entry, ...]
    started_at: datetime
    ended_at: datetime | None
    next_due: datetime | None

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {state}" for name, state in self.steps.items())
        why = (
            f"; {self.cause.step or 'the saga'}: {self.cause.error} {self.cause.message}".rstrip() if self.cause else ""
        )
        marks = f" [{', '.join(sorted(self.conditions))}]" if self.conditions else ""
        lines = [f"{self.id} is {self.phase}{marks}: {steps}{why}"]
        for entry in self.history:
            since = format_duration(max(0, entry.at - self.history[0].at))
            changes = ", ".join(f"{change.step or 'saga'} {change.state}" for change in entry.changes)
            said = changes or f"{entry.verdict}: {entry.reason}".rstrip(": ")
            lines.append(f"  +{since} {entry.type or entry.kind}: {said}")
        return "\n".join(lines)


def saga_view(instance: Instance, history: Sequence[Entry], commands: Sequence[str]) -> SagaView:
    """Make the view of a saga.

    Args:
        instance: its state.
        history: its inputs.
        commands: types of its commands.
    """
    cause = instance.cause
    return SagaView(
        id=instance.id,
        phase=instance.phase,
        steps={name: step.state for name, step in instance.steps.items()},
        conditions=frozenset(Condition(word) for word in instance.conditions),
        cause=Cause(cause.get("step"), cause.get("error") or "", cause.get("message") or "") if cause else None,
        commands=tuple(commands),
        history=tuple(history),
        started_at=to_datetime(instance.started_at),
        ended_at=_moment(instance.ended_at),
        next_due=_moment(instance.next_due),
    )


def read_dead_letter(delivery: Delivery) -> DeadLetter:
    """Read a record of a dead-letter topic."""
    told = {name: value.decode(errors="replace") for name, value in delivery.headers}
    return DeadLetter(
        topic=told.get(f"{PREFIX}topic", ""),
        type=told.get("ce_type", ""),
        key=(delivery.key or b"").decode(errors="replace"),
        id=told.get("ce_id", ""),
        service=told.get(f"{PREFIX}service", ""),
        handler=told.get(f"{PREFIX}handler", ""),
        error=told.get(f"{PREFIX}error", ""),
        message=told.get(f"{PREFIX}message", ""),
        attempts=int(told.get(f"{PREFIX}attempts", "0")),
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else to_datetime(at)
