"""What the passing of time does to a saga: limits, resends, retries and its deadline."""

from __future__ import annotations

from ..events.clock import format_duration
from .definition import StepPlan
from .inputs import (
    Change,
    Send,
)
from .instance import Step
from .locking import Locking
from .promise import passed
from .words import Condition, Phase, StepState

TURNED = "its trace goes on in another one"
"""Why a saga is where it was: nothing but its trace has changed."""


class Elapsing(Locking):
    """Decides which moves a due timer calls for."""

    def elapse(self, until: int) -> None:
        """Fire what is due, the earliest first; a state that has moved on has no such timer any more (row 24)."""
        while (due := self.instance.next_due) is not None and due <= until:
            if self.instance.deadline_at == due and self.instance.phase is Phase.RUNNING:
                self._deadline()
                self.settle()
            elif self.instance.turn_due == due:
                self._turn()
            elif self.instance.lock_due == due:
                self.lock_elapsed()
                self.settle()
            else:
                self._fire_all(due)
        if not self.changes and not self.outputs:
            self.ignored = "nothing was due"

    def _fire_all(self, due: int) -> None:
        """Fire every timer of one moment; many elements of one step have theirs together."""
        for plan in [plan for plan in self.definition.steps if due in self._step(plan).timers()]:
            step = self._step(plan)
            if self.instance.phase.ended or due not in step.timers():
                return  # what fired before has decided otherwise: look again
            before = step.state
            self._fire(plan, due)
            if step.state is not before:
                self.settle()

    def _fire(self, plan: StepPlan, due: int) -> None:
        step = self._step(plan)
        if step.overdue_from == due:
            passed(self, plan, step)
        elif step.limit_at == due:
            self._limit(plan, step)
        elif step.send_at == due:
            self._send_due(plan, step)
        elif step.undo_limit_at == due:
            message = f"no answer to {plan.undo} within {format_duration(plan.undo_within)}"
            self._undo_failed(plan, step, "Timeout", message)
        else:
            self._undo_send_due(plan, step)

    def _turn(self) -> None:
        """Let its trace go on in another one: what is looked up by day is found only where no trace lasts for many."""
        self.instance.turned = [*self.instance.turned, self.now]  # a copy of the instance has the same list
        self.instance.epoch += 1
        self.changes.append(Change(None, self.instance.phase, TURNED))

    def _deadline(self) -> None:
        self.instance.deadline_at = None
        message = "the saga's deadline passed"
        self._remark(Condition.LATE, "Deadline", message)
        if self._may_go_back():
            self._compensate(None, "Deadline", message, None)
        else:
            self.changes.append(
                Change(None, self.instance.phase, f"its deadline passed; {self._why_forward()} it only goes forward")
            )

    def _limit(self, plan: StepPlan, step: Step) -> None:
        awaited = f"answer of {plan.approval}" if plan.approval else " or ".join((*plan.done, *plan.failed))
        message = f"no {awaited} within {format_duration(plan.within)}"
        self._remark(Condition.LATE, "Timeout", message, plan)
        # Nobody has approved it, or every attempt so far is known to have failed.
        certain = plan.approval is not None or (step.state is StepState.RETRYING and step.certain)
        self._fail(plan, step, "Timeout", message, certain=certain, retry=False, event=None)

    def _send_due(self, plan: StepPlan, step: Step) -> None:
        if step.sends == 0:  # the attempt before is known to have failed; a pivot's limit may have passed meanwhile
            self._send_do(plan, step)
            self._enter(plan, StepState.WAITING, f"attempt {step.attempt}")
            return
        step.sends += 1
        step.send_at = self._next_send(plan, step)
        self._output(Send("do", plan.name, plan.send or "", step.attempt, again=True))
        self.changes.append(Change(plan.name, step.state, f"no answer so far: {plan.send} is sent again"))
        if step.state is StepState.UNKNOWN and step.send_at is None:
            self._needs_person(plan, "PivotUnknown", f"the outcome of the pivot {plan.name} is not known")

    def _undo_send_due(self, plan: StepPlan, step: Step) -> None:
        again = step.undo_sends > 0
        if not again:
            step.undo_attempt += 1
        step.undo_sends += 1
        left = step.undo_sends < plan.undo_resend.attempts
        step.undo_send_at = self.now + plan.undo_resend.pause(step.undo_sends) if left else None
        self._send_undo(plan, step, again=again)
        reason = "no answer so far: its undo is sent again" if again else f"attempt {step.undo_attempt} of its undo"
        self.changes.append(Change(plan.name, step.state, reason))
