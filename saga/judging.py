"""How sagas went: ends, lateness, and how long each step took."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from .instance import Instance
from .tables import saga
from .words import Condition, StepState

_PAGE = 1_000


@dataclass
class StepFigures:
    """How one step went in all sagas; durations in microseconds.

    Args:
        states: how often it is in each state.
        took: from its turn to its success.
        late: successes that came later than they were due.
        missed: it was due, and nothing has come so far.
        lateness: by how much the late ones were late, where that is known.
    """

    states: Counter[str] = field(default_factory=Counter)
    took: array[int] = field(default_factory=lambda: array("q"))
    late: int = 0
    missed: int = 0
    lateness: array[int] = field(default_factory=lambda: array("q"))


@dataclass
class Figures:
    """How all sagas of a type went.

    Args:
        phases: how many are in each phase.
        late: sagas of which anything was late: a step was due, a limit or the deadline passed.
        took: from start to end, of those that have completed.
        steps: by name, in the order of declaration.
    """

    phases: Counter[str] = field(default_factory=Counter)
    late: int = 0
    took: array[int] = field(default_factory=lambda: array("q"))
    steps: dict[str, StepFigures] = field(default_factory=dict)

    def add(self, instance: Instance) -> None:
        """Count one saga."""
        self.phases[instance.phase.value] += 1
        late = Condition.LATE in instance.conditions
        if instance.ended_at is not None and instance.phase == "COMPLETED":
            self.took.append(instance.ended_at - instance.started_at)
        for name, step in instance.steps.items():
            if "[" in name:
                continue  # an element's own: the step stands for all of them
            figures = self.steps.setdefault(name, StepFigures())
            figures.states[step.state.value] += 1
            if step.outcome is StepState.DONE and step.ready_at and step.ended_at is not None:
                figures.took.append(max(0, step.ended_at - step.ready_at))
            if step.overdue:
                late = True
                if step.done is None:
                    figures.missed += 1
                else:
                    figures.late += 1
                    if step.due_at is not None and step.ended_at is not None and step.ended_at > step.due_at:
                        figures.lateness.append(step.ended_at - step.due_at)
        self.late += late


def judge(connection: Connection, type_: str) -> Figures:
    """Count all sagas of a type in the store, a page at a time."""
    figures = Figures()
    after = ""
    query = select(saga.c.id, saga.c.state).where(saga.c.type == type_).order_by(saga.c.id).limit(_PAGE)
    while rows := connection.execute(query.where(saga.c.id > after)).all():
        after = rows[-1].id
        for row in rows:
            figures.add(Instance.from_json(row.state))
    return figures


def quantiles(values: Sequence[int]) -> dict[str, int] | None:
    """Give the median, the 95th percentile and the longest of durations, in milliseconds; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    places = {"p50_ms": last // 2, "p95_ms": (last * 95) // 100, "max_ms": last}
    return {name: ordered[place] // 1_000 for name, place in places.items()}


def told(figures: Figures) -> dict[str, Any]:
    """Tell figures as JSON."""
    return {
        "sagas": sum(figures.phases.values()),
        "phases": dict(sorted(figures.phases.items())),
        "late": figures.late,
        "took": quantiles(figures.took),
        "steps": [_step(name, step) for name, step in figures.steps.items()],
    }


def _step(name: str, figures: StepFigures) -> Mapping[str, Any]:
    return {
        "name": name,
        "states": dict(sorted(figures.states.items())),
        "took": quantiles(figures.took),
        "late": figures.late,
        "missed": figures.missed,
        "lateness": quantiles(figures.lateness),
    }
