"""The pieces that every move of a saga is made of: entering a state, sending, remarking. No rule stands here."""

from __future__ import annotations

from typing import Literal

from .definition import Definition, StepPlan
from .inputs import (
    Ask,
    Change,
    Kind,
    Output,
    Send,
    Transition,
    command_id,
)
from .instance import Fact, Failure, Instance, Remark, Step
from .occurrence import base_of, unfold, wire_of
from .words import Condition, Phase, StepState


class Move:
    """One application of an input; it owns the instance that it is given."""

    def __init__(self, definition: Definition, instance: Instance, now: int) -> None:
        self.definition = unfold(definition, instance)
        self.instance = instance
        self.now = now
        self.changes: list[Change] = []
        self.outputs: list[Output] = []
        self.ignored = ""
        self.trace: str | None = None  # traceparent of the input, the trigger of what it starts

    def transition(self) -> Transition:
        self._wait_for_person_no_longer()
        verdict: Literal["applied", "ignored"] = "ignored" if self.ignored else "applied"
        outputs = [each for each in self.outputs if not isinstance(each, Ask) or self._is_asked(each)]
        return Transition(self.instance, verdict, self.ignored, outputs, self.changes)

    def _is_asked(self, ask: Ask) -> bool:
        """Whether nothing in between has settled it; when a step is due is asked whatever its state."""
        return ask.kind == "due" or self.instance.steps[ask.step].asked == ask.kind

    def _send_do(self, plan: StepPlan, step: Step) -> None:
        step.attempt += 1
        step.sends = 1
        step.send_at = self._next_send(plan, step)
        if step.limit_at is None:  # a pivot that was given up and then said that it had failed
            step.limit_at = self.now + plan.within
        self._output(Send("do", plan.name, plan.send or "", step.attempt))

    def _next_send(self, plan: StepPlan, step: Step) -> int | None:
        return self.now + plan.resend.pause(step.sends) if step.sends < plan.resend.attempts else None

    def _send_undo(self, plan: StepPlan, step: Step, *, again: bool) -> None:
        # What was done for another element has triggered nothing for this one (ruling R5).
        base = base_of(plan.name)
        others = [other for name, other in self.instance.steps.items() if base_of(name) != base]
        facts = [self.instance.started_by, *(fact for other in others for fact in (other.done, other.failed))]
        undoes = [fact for fact in facts if fact is not None]
        if plan.send is not None:
            undoes += [Fact("", self._command_id(plan, "do", n)) for n in range(1, step.attempt + 1)]
        if step.caused_by is not None:
            undoes.append(Fact("", step.caused_by))
        if plan.instead_of is not None and step.trigger:
            undoes.append(Fact("", step.trigger))  # the failure that it follows is no fact of the saga
        self._output(Send("undo", plan.name, plan.undo or "", step.undo_attempt, again=again, undoes=tuple(undoes)))

    def _output(self, send: Send) -> None:
        if not self.definition.observe_only:
            self.outputs.append(send)

    def _command_id(self, plan: StepPlan, kind: Kind, attempt: int | None = None) -> str:
        step = self._step(plan)
        latest = step.undo_attempt if kind == "undo" else step.attempt
        return command_id(self.instance.id, *wire_of(plan.name), kind, latest if attempt is None else attempt)

    def _step(self, plan: StepPlan) -> Step:
        return self.instance.steps[plan.name]

    def _enter(self, plan: StepPlan, state: StepState, reason: str) -> None:
        step = self._step(plan)
        step.state = state
        step.since = self.now
        self.changes.append(Change(plan.name, state, reason))

    def _clear(self, step: Step) -> None:
        step.limit_at = step.send_at = step.undo_limit_at = step.undo_send_at = None

    def _note_failure(self, step: Step, error: str, message: str) -> None:
        step.failures = [*step.failures, Failure(self.now, error)]
        step.error, step.message = error, message or None

    def _set_cause(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        if self.instance.cause is None:
            self.instance.cause = {
                "step": plan.name if plan else None,
                "error": error,
                "message": message,
                "event": event,
                "at": self.now,
            }

    def _remark(self, condition: Condition, reason: str, message: str, plan: StepPlan | None = None) -> None:
        since = self.instance.conditions[condition].since if condition in self.instance.conditions else self.now
        self.instance.conditions[condition] = Remark(reason, message, since, plan.name if plan else None)

    def _needs_person(self, plan: StepPlan, reason: str, message: str) -> None:
        self._remark(Condition.WAITING_FOR_PERSON, reason, message, plan)

    def _resolve(self, plan: StepPlan) -> None:
        if not self.instance.conditions:
            return
        for condition in (Condition.KEY_PARKED, Condition.DELAYED, Condition.DEAD_LETTERED):
            if (remark := self.instance.conditions.get(condition)) is not None and remark.step == plan.name:
                del self.instance.conditions[condition]

    def _wait_for_person_no_longer(self) -> None:
        """Wait for a person exactly as long as one step needs one: the remark passes on to the next such step."""
        remark = self.instance.conditions.get(Condition.WAITING_FOR_PERSON)
        if remark is None:
            return
        stuck = [plan for plan in self.definition.steps if self._is_stuck(self._step(plan))]
        if remark.step in [plan.name for plan in stuck]:
            return
        del self.instance.conditions[Condition.WAITING_FOR_PERSON]
        if stuck:
            step = self._step(stuck[0])
            reason = "UndoFailed" if step.state is StepState.UNDO_FAILED else "FailedAfterPivot"
            self._needs_person(stuck[0], reason, f"step {stuck[0].name}: {step.error}")

    def _is_stuck(self, step: Step) -> bool:
        if step.state is StepState.UNDO_FAILED or self.instance.phase is not Phase.RUNNING:
            return step.state is StepState.UNDO_FAILED
        if step.given_up is not None or step.early or step.send_at is not None:
            return False
        # While a saga runs, nothing but what it goes on without is undone: this one has nobody to take its place.
        undone = (StepState.COMPENSATING, StepState.COMPENSATED)
        return step.state in (StepState.FAILED, StepState.UNKNOWN, *undone)

    def _ignore(self, reason: str, message: str, *, quiet: bool = False) -> None:
        self.ignored = reason
        if not quiet:
            self._remark(Condition.UNEXPECTED, reason, message)
