"""How a step stands for those that wait for it: joins, groups of which one is enough, alternatives, skipped steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .definition import StepPlan
from .instance import Step
from .move import Move
from .occurrence import base_of
from .words import Phase, StepState

Standing = Literal["good", "skipped", "open", "failed"]
"""It succeeded, or failed without harm; it does not run; it may still succeed; it failed for good."""

_GOOD = frozenset((StepState.DONE, StepState.DEGRADED))


def own_standing(step: Step) -> Standing:
    """How a step stands by itself."""
    if step.given_up is not None:
        return "failed" if step.given_up == "failed" else "skipped"
    state = step.state
    if state is StepState.SKIPPED:
        return "skipped"
    return "good" if state in _GOOD and not step.early else "open"


class Standings(Move):
    """What the states of a running saga's steps mean for one another; it changes nothing."""

    def standing(self, plan: StepPlan) -> Standing:
        """How a step stands, its alternatives included: what its successors go by."""
        for each in self.definition.chains[plan.name]:
            own = self.own_standing(each)
            if own in ("good", "open") or (own == "skipped" and each is plan):
                return own
        return "failed"

    def own_standing(self, plan: StepPlan) -> Standing:
        """How a step stands by itself."""
        return own_standing(self.instance.steps[plan.name])

    def group_standing(self, group: Iterable[str]) -> Standing:
        """How a group stands of which one is enough."""
        found = {self.standing(self.definition.by_name[name]) for name in group}
        if "good" in found:
            return "good"
        if "open" in found:
            return "open"
        return "skipped" if found == {"skipped"} else "failed"

    def turn(self, plan: StepPlan) -> Literal["no", "yes", "skip"]:
        """Whether it is a step's turn, or clear that it will never be: all that it follows is skipped."""
        if plan.name[-1] == "]":  # an occurrence has its turn when the elements are known
            group = self.definition.by_name[base_of(plan.name)]
            decided = self._step(group).decided is not None
            return "skip" if self.own_standing(group) == "skipped" else "yes" if decided else "no"
        if plan.instead_of is not None and not self._is_called_for(self.definition.by_name[plan.instead_of]):
            return "no"
        before = [self.standing(other) for other in self.definition.predecessors[plan.name]]
        if plan.any_of:
            before += [self.group_standing(group) for group in plan.any_of]
        if "open" in before or "failed" in before:
            return "no"
        return "skip" if before and "good" not in before else "yes"

    def _is_called_for(self, replaced: StepPlan) -> bool:
        """Whether a step has failed for good and, where it may have happened, is undone: the next one has its turn."""
        own = self.own_standing(replaced)
        if own == "skipped":  # an alternative that does not apply; its own turn had come
            return replaced.instead_of is not None
        return own == "failed" and not self.unsettled(replaced)

    def is_unwanted(self, plan: StepPlan) -> bool:
        """Whether nobody waits any longer for a step that may still succeed."""
        chain = self._chain_of(plan)
        place = chain.index(plan)
        if any(self.own_standing(other) == "good" for other in chain[:place]):
            return True
        if place and self.own_standing(chain[0]) == "skipped":
            return True
        groups = self.definition.groups[chain[0].name]
        return bool(groups) and all(self.group_standing(group) == "good" for group in groups)

    def is_tolerated(self, plan: StepPlan) -> bool:
        """Whether another may still take the place of a step that has failed for good."""
        chain = self._chain_of(plan)
        if any(self.own_standing(other) in ("good", "open") for other in chain if other is not plan):
            return True
        head = chain[0].name
        groups = self.definition.groups[head]
        return bool(groups) and all(
            any(self.standing(self.definition.by_name[name]) in ("good", "open") for name in group if name != head)
            for group in groups
        )

    def is_wanted_after_all(self, plan: StepPlan) -> bool:
        """Whether the success of a step that had failed still counts: nothing else has taken its place yet."""
        chain = self._chain_of(plan)
        begun = any(self._step(later).state is not StepState.PENDING for later in chain[chain.index(plan) + 1 :])
        return self._step(plan).given_up == "failed" and not begun and not self.is_unwanted(plan)

    def settled(self, plan: StepPlan) -> bool:
        """Whether a running saga need not wait for a step any more."""
        step = self._step(plan)
        if step.given_up is not None:
            return not self.unsettled(plan)
        return not step.early and (step.state in _GOOD or step.state is StepState.SKIPPED)

    def _chain_of(self, plan: StepPlan) -> tuple[StepPlan, ...]:
        """Give a step with all that it replaces and that replace it, in their order."""
        while plan.instead_of is not None:
            plan = self.definition.by_name[plan.instead_of]
        return self.definition.chains[plan.name]

    def needs_undo(self, plan: StepPlan) -> bool:
        """Whether something may have happened that is to be undone, and no undo of it has been sent."""
        step = self._step(plan)
        if plan.undo is None:
            return False
        if self.instance.phase is Phase.RUNNING and (step.given_up is None or self.definition.observe_only):
            return False
        return step.state in (StepState.DONE, StepState.UNKNOWN) or (
            step.state is StepState.DEGRADED and not step.certain
        )

    def unsettled(self, plan: StepPlan) -> bool:
        """Whether the undo of a step has to be answered yet; what it depends on is not undone before."""
        return self.needs_undo(plan) or self._step(plan).state in (StepState.COMPENSATING, StepState.UNDO_FAILED)
