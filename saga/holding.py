"""A person pauses a saga: what happens is remembered, nothing follows from it, and time stands still until they resume it.

Pure, called by `advance`. Events are taken in as ever: steps get done, fail or answer their undo. But no step opens, no
step's failure leads to anything, nothing is undone and the saga does not end, for `settle` makes no move. What one of
the few moves that go on by themselves would send is kept, so that nothing at all goes out of a paused saga.
"""

from __future__ import annotations

from dataclasses import replace

from .forward import Forward
from .inputs import Change, Input, Operator, Tell, input_id
from .instance import Hold, Waiting
from .outputs import read_output, write_output
from .pausing import tell, wanted
from .words import Condition, StepState


class Holding(Forward):
    """The moves of a person who pauses and resumes."""

    def _pause(self, command: Operator) -> None:
        instance = self.instance
        if instance.phase.ended:
            self.ignored = f"it is {instance.phase} already: there is nothing to pause"
        elif instance.paused is not None:
            self.ignored = f"it is paused already, by {instance.paused.by or 'a person'}"
        else:
            instance.paused = Hold(self.now, command.by, command.reason)
            who, why = command.by or "a person", f": {command.reason}" if command.reason else ""
            self._remark(Condition.HELD, "ByPerson", f"paused by {who}{why}")
            self.changes.append(Change(None, instance.phase, f"paused by {who}{why}"))

    def _resume(self, command: Operator) -> None:
        hold = self.instance.paused
        if hold is None:
            self.ignored = "nothing to do: it is not paused"
            return
        why = f": {command.reason}" if command.reason else ""
        self.changes.append(Change(None, self.instance.phase, f"resumed by {command.by or 'a person'}{why}"))
        self.instance.paused = None
        self.instance.conditions.pop(Condition.HELD, None)
        self._move_timers(hold)
        self._let_out()
        self._decide_failures()

    def _move_timers(self, hold: Hold) -> None:
        """Give every timer the time that it has stood still: since the pause, or since it was set within it."""
        instance, now = self.instance, self.now
        for step in instance.steps.values():
            still = now - max(hold.at, step.since)
            for name in ("limit_at", "send_at", "undo_limit_at", "undo_send_at"):
                at = getattr(step, name)
                if at is not None:
                    setattr(step, name, at + still)
        if instance.deadline_at is not None:
            instance.deadline_at += now - hold.at
        if (lock := instance.lock) is not None and lock.until is not None:
            instance.lock = replace(lock, until=lock.until + now - max(hold.at, lock.since))

    def _let_out(self) -> None:
        held, self.instance.held = self.instance.held, []
        for each in held:
            output = read_output(each.output)
            if wanted(self, output):
                self.outputs.append(output)
            else:
                tell(self, output, "dropped: nobody waits for it any more")

    def _decide_failures(self) -> None:
        """What failed within the pause leads to what it would have led to."""
        for plan in self.definition.steps:
            step = self._step(plan)
            if step.state not in (StepState.FAILED, StepState.UNKNOWN) or step.outcome is not None:
                continue
            if step.given_up is not None or step.early or (plan.pivot and not step.certain):
                continue
            if self.instance.phase.value == "RUNNING":
                event = step.failed.id if step.failed is not None else None
                self._failed_for_good(plan, step, step.error or "", step.message or "", event)


def keep(move: Holding, input_: Input) -> None:
    """Keep what a paused saga would send; what a parent is told is no move of the saga, and goes out."""
    instance = move.instance
    cause = input_id(input_, instance.seq)
    kept = [each for each in move.outputs if not isinstance(each, Tell)]
    if kept:
        instance.held = [*instance.held, *(Waiting(move.now, cause, write_output(each)) for each in kept)]
        move.outputs = [each for each in move.outputs if isinstance(each, Tell)]
