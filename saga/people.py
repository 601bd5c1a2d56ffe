"""What people may ask of a saga."""

from __future__ import annotations

from .forward import Forward
from .inputs import (
    Operator,
)
from .occurrence import base_of
from .words import Phase, StepState


class People(Forward):
    """Decides which moves a person's command calls for."""

    def operate(self, command: Operator) -> None:
        if command.kind == "cancel":
            self._cancel(command)
            return
        plans = self.definition.steps
        names = [plan.name for plan in plans if command.step in (None, "", plan.name, base_of(plan.name))]
        wanted = {StepState.UNDO_FAILED}
        if command.kind == "mark-undone" and command.step:
            wanted.add(StepState.COMPENSATING)
        steps = [name for name in names if name in self.instance.steps and self.instance.steps[name].state in wanted]
        if not steps:
            what = f"step {command.step}" if command.step else "this saga"
            self.ignored = f"nothing to do: no undo of {what} has failed"
            return
        for name in steps:
            plan, step = self.definition.by_name[name], self.instance.steps[name]
            if command.kind == "retry-undo":
                self._reopen()
                step.undo_failures = []
                self._start_undo(plan, step, f"retried by {command.by or 'a person'}")
            else:
                self._compensated(plan, step, f"marked as undone by {command.by or 'a person'}: {command.reason}")

    def _cancel(self, command: Operator) -> None:
        instance, pivot = self.instance, self.definition.pivot
        if instance.phase is not Phase.RUNNING:
            self.ignored = f"it cannot be cancelled: it is {instance.phase} already"
        elif self.definition.observe_only:
            self.ignored = "it cannot be cancelled: this saga only observes"
        elif pivot is not None and not self._may_go_back():
            state = self._step(pivot).state
            self.ignored = f"it cannot be cancelled: the pivot {pivot.name} is {state}, from here it only goes forward"
        else:
            instance.cancelling = True
            self._compensate(None, "Cancelled", command.reason, None)
