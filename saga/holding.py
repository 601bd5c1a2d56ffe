"""A person pauses a saga: what happens is remembered, nothing follows from it, and its time stands still.

Pure, called by `advance`. Events are taken in as ever: steps get done, fail or answer their undo. But no step opens, no
step's failure leads to anything, nothing is undone and the saga does not end, for `settle` makes no move. What one of
the few moves that go on by themselves would send is kept, so that nothing at all goes out of a paused saga.
"""

from __future__ import annotations

from dataclasses import replace

from .forward import Forward
from .inputs import Change, Input, Operator, Tell, input_id
from .instance import Hold, Instance, Waiting
from .outputs import read_output, write_output
from .pausing import tell, wanted
from .words import Condition, Phase, StepState

_TIMERS = ("limit_at", "send_at", "undo_limit_at", "undo_send_at")


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
        """Give every timer the time that it has stood still: within a pause they are kept as of its beginning."""
        _shift(self.instance, self.now - hold.at)

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
            if step.state not in (StepState.FAILED, StepState.UNKNOWN):
                continue
            if step.given_up is not None or step.early or (plan.pivot and not step.certain):
                continue
            if self.instance.phase is Phase.RUNNING:
                event = step.failed.id if step.failed is not None else None
                self._failed_for_good(plan, step, step.error or "", step.message or "", event)


def keep(move: Holding, input_: Input, before: Instance) -> None:
    """Keep what a paused saga would send; what a parent is told is no move of the saga, and goes out.

    Args:
        move: what the input has led to.
        input_: the input.
        before: the saga before it.
    """
    instance, hold = move.instance, move.instance.paused
    assert hold is not None
    cause = input_id(input_, instance.seq)
    kept = [each for each in move.outputs if not isinstance(each, Tell)]
    if kept:
        instance.held = [*instance.held, *(Waiting(move.now, cause, write_output(each)) for each in kept)]
        move.outputs = [each for each in move.outputs if isinstance(each, Tell)]
    _shift(instance, hold.at - move.now, before)


def _shift(instance: Instance, by: int, unlike: Instance | None = None) -> None:
    """Move a saga's timers, or only those that are not what they were."""
    for name, step in instance.steps.items():
        was = None if unlike is None else unlike.steps.get(name)
        for timer in _TIMERS:
            at = getattr(step, timer)
            if at is not None and (was is None or at != getattr(was, timer)):
                setattr(step, timer, at + by)
    deadline, lock = instance.deadline_at, instance.lock
    if deadline is not None and (unlike is None or deadline != unlike.deadline_at):
        instance.deadline_at = deadline + by
    if lock is not None and lock.until is not None:
        was_lock = None if unlike is None else unlike.lock
        if was_lock is None or lock.until != was_lock.until:
            instance.lock = replace(lock, until=lock.until + by)
