"""What people may ask of a saga."""

from __future__ import annotations

from .cancelling import Cancelling
from .definition import StepPlan
from .inputs import Change, Operator
from .mending import Mending
from .words import Condition, StepState


def _why(command: Operator) -> str:
    return f": {command.reason}" if command.reason else ""


class People(Cancelling, Mending):
    """Decides which moves a person's command calls for."""

    def operate(self, command: Operator) -> None:
        moves = {
            "cancel": self._cancel,
            "approve": self._approve,
            "reject": self._reject,
            "dismiss": self._dismiss,
            "pause": self._pause,
            "resume": self._resume,
            "retry": self._retry,
            "skip": self._skip,
            "retry-undo": self._retry_undo,
            "mark-undone": self._mark_undone,
        }
        moves[command.kind](command)

    def _retry_undo(self, command: Operator) -> None:
        """Send undos that have failed for good again, each with all its tries."""
        for plan in self._undos(command, StepState.UNDO_FAILED):
            self._reopen()
            step = self._step(plan)
            step.undo_failures = []
            self._start_undo(plan, step, f"retried by {command.by or 'a person'}")

    def _mark_undone(self, command: Operator) -> None:
        """A person has undone it by other means; they may name what is under way still."""
        under_way = (StepState.COMPENSATING,) if command.step else ()
        for plan in self._undos(command, StepState.UNDO_FAILED, *under_way):
            reason = f"marked as undone by {command.by or 'a person'}: {command.reason}"
            self._compensated(plan, self._step(plan), reason)

    def _undos(self, command: Operator, *states: StepState) -> list[StepPlan]:
        plans = [plan for plan in self._named(command.step) if self._step(plan).state in states]
        if not plans:
            what = f"step {command.step}" if command.step else "this saga"
            self.ignored = f"nothing to do: no undo of {what} has failed"
        return plans

    def _approve(self, command: Operator) -> None:
        """A person approves a step that waits for it."""
        for plan in self._asked_for(command):
            step = self._step(plan)
            step.by = command.by or "a person"
            self._clear(step)
            step.certain = True
            step.conclude(StepState.DONE, self.now)
            self._enter(plan, StepState.DONE, f"approved by {step.by}{_why(command)}")
            self.follows = (command.id, None)

    def _reject(self, command: Operator) -> None:
        """A person rejects a step that waits for their approval."""
        for plan in self._asked_for(command):
            step = self._step(plan)
            step.by = command.by or "a person"
            message = f"rejected by {step.by}{_why(command)}"
            self._fail(plan, step, "Rejected", message, certain=True, retry=False, event=command.id)

    def _asked_for(self, command: Operator) -> list[StepPlan]:
        """Give the one step that a person answers; none, and why, where that is not clear."""
        waiting = [plan for plan in self.definition.steps if self.is_asked(plan)]
        named = [plan for plan in waiting if command.step in (None, "", plan.name)]
        if not named:
            what = f"step {command.step}" if command.step else "this saga"
            self.ignored = f"nothing to do: {what} waits for no approval"
        elif len(named) > 1:
            names = ", ".join(plan.name for plan in named)
            self.ignored = f"several steps wait for an approval, name one: {names}"
            return []
        return named

    def is_asked(self, plan: StepPlan) -> bool:
        """Tell whether a step waits for a person's approval."""
        return plan.approval is not None and self._step(plan).state is StepState.WAITING

    def _dismiss(self, command: Operator) -> None:
        """A person says that what came in vain is of no importance."""
        if not self.instance.doubts:
            self.ignored = "nothing to do: this saga asks about no event"
            return
        who = command.by or "a person"
        for doubt in self.instance.doubts:
            self.changes.append(Change(None, self.instance.phase, f"{doubt.type} dismissed by {who}: {command.reason}"))
        self.instance.doubts = []

    def _compensate(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        for other in self.definition.steps:
            if self.is_asked(other):  # nothing is in flight: nobody need answer any more
                step = self._step(other)
                self._clear(step)
                step.conclude(StepState.SKIPPED, self.now)
                self._enter(other, StepState.SKIPPED, "nobody is asked any more")
        self.instance.doubts = []
        super()._compensate(plan, error, message, event)

    def _wait_for_person_no_longer(self) -> None:
        """Wait for a person as long as a step is stuck, an approval is asked for, or an event is in doubt."""
        if not (self.instance.conditions or self.instance.doubts or self.definition.approvals):
            return
        before = self.instance.conditions.get(Condition.WAITING_FOR_PERSON)
        super()._wait_for_person_no_longer()
        if Condition.WAITING_FOR_PERSON in self.instance.conditions:
            return
        asked = next((plan for plan in self.definition.approvals if self.is_asked(plan)), None)
        if asked is not None:
            self._needs_person(asked, "Approval", f"step {asked.name} waits for the approval of {asked.approval}")
        elif self.instance.doubts:
            doubt = self.instance.doubts[0]
            self._remark(
                Condition.WAITING_FOR_PERSON, doubt.stray.capitalize(), f"{doubt.message}: what shall be done?"
            )
        remark = self.instance.conditions.get(Condition.WAITING_FOR_PERSON)
        if remark is not None and before is not None and (remark.reason, remark.step) == (before.reason, before.step):
            self.instance.conditions[Condition.WAITING_FOR_PERSON] = remark._replace(since=before.since)
