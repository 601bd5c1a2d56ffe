"""Durations judged against their own past: what is usual for a step, and whether one has taken longer. Pure.

Plain statistics: a duration is slow when it is longer than 95 (or 99) of 100 that ended well before it. Where nothing
is wrong, so many are slow by chance: `docs/cli.md` has the measured rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..events.clock import SECOND, format_duration
from .instance import Instance, Step
from .occurrence import base_of
from .words import Phase, StepState

LEAST = 30
"""Durations that must be known before anything is said of what is usual."""

LEAST_P99 = 200
"""Durations that must be known before a 99th percentile means anything."""

FLOOR = SECOND
"""What took less is never slow: the coordinator's clock stands still within a batch."""

Kind = Literal["saga", "do", "undo"]
Beyond = Literal["P95", "P99"]


class Stretch(NamedTuple):
    """Something that takes time: a whole saga (`step` is empty), a step, or the undo of a step."""

    kind: Kind
    step: str = ""


SAGA = Stretch("saga")


class Usual(NamedTuple):
    """What is usual: of how many durations, their median, and what 95 and 99 of 100 were within; microseconds."""

    size: int
    p50: int
    p95: int
    p99: int

    def __str__(self) -> str:
        return f"usually done in {format_duration(self.p50)}, 95 % in {format_duration(self.p95)}"

    def beyond(self, duration: int) -> Beyond | None:
        """Say whether a duration is slow, and how; None also where too little is known."""
        if self.size < LEAST or duration <= max(self.p95, FLOOR):
            return None
        return "P99" if self.size >= LEAST_P99 and duration > self.p99 else "P95"


Pace = Mapping[Stretch, Usual]
"""What is usual for the sagas of one type."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long something has taken, beside what is usual for it.

    Args:
        stretch: what.
        took: so far, or in all; microseconds.
        since: when it began.
        usual: its past.
        ended: it has ended.
    """

    stretch: Stretch
    took: int
    since: int
    usual: Usual
    ended: bool = False

    @property
    def slow(self) -> Beyond | None:
        """Whether it has taken longer than usual."""
        return self.usual.beyond(self.took)

    @property
    def slow_since(self) -> int:
        """When it became slow, microseconds."""
        return self.since + max(FLOOR, self.usual.p99 if self.slow == "P99" else self.usual.p95)

    def __str__(self) -> str:
        so_far = "" if self.ended else " so far"
        return f"{format_duration(self.took)}{so_far}, {self.usual}"

    @property
    def name(self) -> str:
        """Name what takes time, for people."""
        kind, step = self.stretch
        return "the saga" if kind == "saga" else f"the undo of {step}" if kind == "undo" else step

    def as_json(self) -> dict[str, Any]:
        """Tell it with milliseconds."""
        usual = self.usual
        return {
            "step": self.stretch.step or None,
            "undo": self.stretch.kind == "undo",
            "took_ms": self.took // 1_000,
            "ended": self.ended,
            "count": usual.size,
            "p50_ms": usual.p50 // 1_000,
            "p95_ms": usual.p95 // 1_000,
            "p99_ms": usual.p99 // 1_000,
            "slow": self.slow,
            "message": str(self),
        }


def forecasts(instance: Instance, pace: Pace, now: int) -> list[Forecast]:
    """Tell how everything that takes time now stands to its past: the saga as a whole first, then its open steps.

    A saga that has ended well is judged as a whole; one that ended otherwise has no such past.

    Args:
        instance: the saga.
        pace: what is usual for its type.
        now: the store's clock, microseconds.
    """
    found: list[Forecast] = []
    if instance.paused is not None:
        return found  # its time stands still
    if (usual := _known(pace, SAGA)) is not None and instance.phase in (Phase.RUNNING, Phase.COMPLETED):
        end = instance.ended_at if instance.ended_at is not None else now
        took = max(0, end - instance.started_at)
        found.append(Forecast(SAGA, took, instance.started_at, usual, instance.phase.ended))
    if instance.phase.ended:
        return found
    for name, step in instance.steps.items():
        stretch, since = _open(name, step)
        if stretch is not None and (usual := _known(pace, stretch)) is not None:
            found.append(Forecast(stretch, max(0, now - since), since, usual))
    return found


def _known(pace: Pace, stretch: Stretch) -> Usual | None:
    usual = pace.get(stretch)
    return usual if usual is not None and usual.size >= LEAST else None


def _open(name: str, step: Step) -> tuple[Stretch | None, int]:
    """Name what of a step takes time now, and since when; elements are part of their step."""
    if base_of(name) != name:
        return None, 0
    if step.state is StepState.COMPENSATING and step.undo_ready_at:
        return Stretch("undo", name), step.undo_ready_at
    if step.state in (StepState.WAITING, StepState.RETRYING) and step.ready_at and step.given_up is None:
        return Stretch("do", name), step.ready_at
    return None, 0


class Lasted(NamedTuple):
    """A duration that has ended well: of what, how long, and when it ended; microseconds."""

    stretch: Stretch
    took: int
    at: int


def lasted(before: Instance | None, after: Instance) -> list[Lasted]:
    """List what has ended well since `before`: steps that were done, undos that were done, and the saga itself.

    What was answered before its turn, or read in one batch with it, has no duration that anybody knows; it is left out.
    """
    found = []
    same = before is not None and before.opened_in == after.opened_in
    for name, step in after.steps.items():
        if (step.ended_at is None and step.undo_ended_at is None) or name[-1] == "]":
            continue
        known = before.steps.get(name) if same and before is not None else None
        if known is not None and (known.ended_at, known.undo_ended_at) == (step.ended_at, step.undo_ended_at):
            continue
        if step.outcome is StepState.DONE and (known is None or known.ended_at is None):
            ended = step.ended_at
            if ended is not None and 0 < step.ready_at < ended:
                found.append(Lasted(Stretch("do", name), ended - step.ready_at, ended))
        if step.undo_outcome is StepState.COMPENSATED and (known is None or known.undo_ended_at is None):
            ended = step.undo_ended_at
            if ended is not None and 0 < step.undo_ready_at < ended:
                found.append(Lasted(Stretch("undo", name), ended - step.undo_ready_at, ended))
    if after.phase is Phase.COMPLETED and after.ended_at is not None:
        was_open = before is None or before.ended_at is None
        if was_open and after.opened_in == 0 and after.ended_at > after.started_at:
            found.append(Lasted(SAGA, after.ended_at - after.started_at, after.ended_at))
    return found
