"""What explains the state of a step in a few words, for people."""

from __future__ import annotations

from .definition import Definition, StepPlan
from .instance import Instance
from .words import StepState


def note_of(definition: Definition, plan: StepPlan, instance: Instance) -> str | None:
    """Say what a step waits for, or why it does not run; None where its state says enough."""
    step = instance.steps[plan.name]
    if step.given_up == "unwanted":
        return "not needed any more"
    if step.given_up == "failed":
        other = definition.alternatives.get(plan.name)
        return f"{other.name} takes its place" if other is not None else "the saga goes on without it"
    if step.early:
        return "came before its turn"
    if step.asked == "when":
        return "its when= is asked"
    if step.open:
        return _awaited(plan) if plan.each is None else None
    if step.state is StepState.SKIPPED:
        return "its when= said no" if step.chosen is False else None
    if step.state is StepState.PENDING and plan.instead_of is not None:
        return f"only if {plan.instead_of} fails"
    return "runs at the end" if step.state is StepState.PENDING and plan.final else None


def _awaited(plan: StepPlan) -> str:
    approval = () if plan.approval is None else (f"the approval of {plan.approval}",)
    return f"waiting for {' or '.join((*approval, *plan.done, *plan.failed))}"
