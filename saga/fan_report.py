"""How a step that runs once per element looks to people: the group as one line, its occurrences below it while they
are few, and of many only those that need a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .definition import StepPlan
from .instance import Instance
from .occurrence import base_of, members
from .words import StepState

MOST_SHOWN = 20
"""Occurrences that are listed one by one: of more only those that are not in order, and no more of them either."""

_IN_ORDER = frozenset((StepState.DONE, StepState.COMPENSATED, StepState.SKIPPED, StepState.PENDING))
_BACK = (StepState.UNDO_FAILED, StepState.COMPENSATING, StepState.COMPENSATED)


def shown(plans: Sequence[StepPlan], instance: Instance) -> list[StepPlan]:
    """Leave out occurrences where there are too many to be read."""
    counts = Counter(base_of(plan.name) for plan in plans)
    left: Counter[str] = Counter()
    found = []
    for plan in plans:
        base = base_of(plan.name)
        if plan.name != base and counts[base] > MOST_SHOWN:
            if instance.steps[plan.name].state in _IN_ORDER or left[base] >= MOST_SHOWN:
                continue
            left[base] += 1
        found.append(plan)
    return found


def counted(plan: StepPlan, instance: Instance) -> dict[str, int] | None:
    """Count the occurrences of a step by their state; None for a step that has none."""
    if plan.each is None:
        return None
    states = Counter(instance.steps[name].state.value for name in members(instance, plan.name))
    return dict(sorted(states.items()))


def state_of(plan: StepPlan, instance: Instance) -> StepState:
    """Give the state of a step; that of a group follows its occurrences once they are being undone."""
    if plan.each is not None:
        states = {instance.steps[name].state for name in members(instance, plan.name)}
        for state in _BACK:
            if state in states:
                return state
    return instance.steps[plan.name].state
