"""A definition as the checks read it: who waits for whom, stated once more and not asked of the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from ..definition import Definition, StepPlan


def declared(name: str) -> str:
    """Give the declared step of a step's name: an occurrence `pack[a]` is one of `pack`."""
    return name.partition("[")[0]


def groups(plan: StepPlan) -> tuple[tuple[str, ...], ...]:
    """List what must have happened before a step: of each group one member."""
    return (*((name,) for name in plan.after), *plan.any_of)


class Shape:
    """The graph of one definition.

    Args:
        definition: as it is checked.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.plans: Mapping[str, StepPlan] = {plan.name: plan for plan in definition.steps}

    def plan(self, name: str) -> StepPlan:
        """Give the plan of a step or of one of its occurrences."""
        return self.plans[declared(name)]

    @cached_property
    def pivot(self) -> StepPlan | None:
        """The point of no return."""
        return next((plan for plan in self.plans.values() if plan.pivot), None)

    @cached_property
    def below(self) -> Mapping[str, frozenset[str]]:
        """For each declared step those that depend on it, directly or not."""
        direct = {name: self._waits_for(plan) for name, plan in self.plans.items()}
        found: dict[str, frozenset[str]] = {}
        for name in self.plans:
            reached: set[str] = set()
            grows = True
            while grows:
                more = {other for other, before in direct.items() if before & (reached | {name})} - reached
                grows = bool(more)
                reached |= more
            found[name] = frozenset(reached)
        return found

    @cached_property
    def replaceable(self) -> frozenset[str]:
        """Steps that may be undone while the saga goes on: it may go on without them, and they may happen all the same.

        They are members of an `any_of`, those with an alternative, and those that may be skipped.
        """
        members = {name for plan in self.plans.values() for group in plan.any_of for name in group}
        replaced = {plan.instead_of for plan in self.plans.values() if plan.instead_of is not None}
        wider = {alternative for name in members for alternative in self.replacements(name)}
        return frozenset(members | replaced | wider | self._skippable())

    def _skippable(self) -> set[str]:
        """List the steps that may be skipped: by a condition, as an alternative, or with all that they follow."""
        found = {name for name, plan in self.plans.items() if plan.when or plan.instead_of is not None}
        while more := {
            name
            for name, plan in self.plans.items()
            if name not in found and groups(plan) and all(other in found for group in groups(plan) for other in group)
        }:
            found |= more
        return found

    def replacements(self, name: str) -> tuple[str, ...]:
        """List the alternatives of a step, and theirs."""
        found: list[str] = []
        ahead = [name]
        while ahead:
            one = ahead.pop()
            more = [other for other, plan in self.plans.items() if plan.instead_of == one]
            found += more
            ahead += more
        return tuple(found)

    def _waits_for(self, plan: StepPlan) -> frozenset[str]:
        named = {name for group in groups(plan) for name in group}
        named |= {other for name in tuple(named) for other in self.replacements(name)}
        return frozenset(named if plan.instead_of is None else {*named, plan.instead_of})
