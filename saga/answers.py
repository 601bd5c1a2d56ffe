"""What an observed event does to a saga: a success, a failure, the answer to an undo, in time, early or late."""

from __future__ import annotations

from .children import FAILED, OUTCOMES, REFUSED, Children
from .definition import StepPlan
from .fanout import FanOut
from .inputs import (
    Change,
    Observed,
)
from .instance import Doubt, Fact, Step
from .occurrence import base_of
from .promise import answered
from .words import Condition, Phase, StepState


class Answers(FanOut, Children):
    """Decides which moves an event calls for."""

    def observe(self, event: Observed) -> None:
        definition = self.definition
        if event.type in OUTCOMES and event.step not in definition.children:
            self._ignore("NoChild", f"{event.type} came, but no step of this saga is that child")
        elif (declared := definition.done_step.get(event.type)) is not None:
            if declared.child is not None:  # every child says the same words: the header tells them apart
                declared = definition.children[event.step or ""]
            if (plan := self.meant(declared, event, early=True)) is not None:
                self._done(plan, event)
            else:
                self.no_element(event)
        elif event.type in definition.failed_steps:
            self._failed(event)
        elif event.type in definition.undone_steps:
            self._undone(event)
        elif event.type in definition.start:
            self.second_start(event)
            self._ignore("SecondStart", f"{event.type} came again, but a run of this key exists")
        else:
            self._ignore("OtherVersion", f"version {definition.version} does not know {event.type}", quiet=True)

    def _done(self, plan: StepPlan, event: Observed) -> None:
        step = self._step(plan)
        if step.done is not None or (step.by is not None and step.state is StepState.DONE):
            self._ignore("AlreadyDone", f"{event.type} came again for step {plan.name}")
            return
        phase = self.instance.phase
        over = phase is Phase.COMPLETED and not self._is_undone_alone(plan, step)
        if over or (phase.ended and plan.final):
            self._ignore("Late", f"{event.type} came after the end")
            return
        if not plan.final and (phase is not Phase.RUNNING or self._goes_on_without(plan, step)):
            self._late_success(plan, step, event)
            return
        early = step.state is StepState.PENDING
        self._record_done(step, event)
        if early:
            if not step.ready_at:
                step.trigger, step.trace, step.ready_at = event.causation_id, event.traceparent, self.now
            step.early = self.definition.branching and not plan.final
            self._remark(Condition.OUT_OF_ORDER, "EarlyEvent", f"{event.type} came before its turn", plan)
        step.given_up = None
        self._clear(step)
        self._enter(plan, StepState.DONE, event.type)
        self._resolve(plan)

    def _goes_on_without(self, plan: StepPlan, step: Step) -> bool:
        """Whether a running saga does not count on a step any more, so that its success comes too late."""
        if step.state in (StepState.SKIPPED, StepState.COMPENSATING, StepState.COMPENSATED, StepState.UNDO_FAILED):
            return True
        return step.given_up is not None and not self.is_wanted_after_all(plan)

    def _is_undone_alone(self, plan: StepPlan, step: Step) -> bool:
        """Whether a success that comes after the saga completed without it is undone."""
        without = step.given_up is not None or step.state is StepState.SKIPPED
        return without and plan.undo is not None and not self.definition.observe_only

    def _record_done(self, step: Step, event: Observed) -> None:
        step.done = Fact(event.type, event.id)
        answered(self, step, event)
        step.caused_by = event.causation_id
        step.certain = True
        step.conclude(StepState.DONE, self.now)

    def _late_success(self, plan: StepPlan, step: Step, event: Observed) -> None:
        """A success that arrives when nothing counts on it any more: undone exactly once (S11, ruling R5)."""
        self._record_done(step, event)
        self._remark(Condition.LATE, "LateSuccess", f"{event.type} came when step {plan.name} had been given up", plan)
        if step.state is StepState.COMPENSATING or step.state is StepState.UNDO_FAILED:
            self.changes.append(Change(plan.name, step.state, f"late {event.type}: its undo is under way"))
        elif step.state is StepState.COMPENSATED:
            # Both times are the participant's own, so they compare: an answer later than the success has undone it.
            answered = step.undo_answered_at
            if answered is not None and (step.undo_empty or event.time > answered):
                self._reopen()
                self._start_undo(plan, step, f"late {event.type}: it happened after the undo was answered")
            else:
                self.changes.append(Change(plan.name, step.state, f"late {event.type}: it was undone already"))
        else:
            if plan.undo is not None:
                self._reopen()
            if self.instance.phase is Phase.RUNNING:
                step.given_up = step.given_up or "unwanted"
            reason = f"late {event.type}" if plan.undo is not None else f"late {event.type}: nothing to undo"
            self._enter(plan, StepState.DONE, reason)
            if self.instance.phase is not Phase.RUNNING and self._lies_beyond(plan):
                message = f"{event.type} came late, and {plan.name} cannot be undone: it lies at or behind the pivot"
                self.instance.doubts = [
                    *self.instance.doubts,
                    Doubt(event.type, event.id, "late", message, self.now),
                ]

    def _lies_beyond(self, plan: StepPlan) -> bool:
        """Whether a step has no undo because nobody thought of going back from there."""
        pivot = self.definition.pivot
        return pivot is not None and plan.undo is None and plan.name not in self.definition.ancestors[pivot.name]

    def _failed(self, event: Observed) -> None:
        plans = self.definition.failed_steps[event.type]
        named = [plan for plan in plans if plan.name == event.step]
        candidates = self.expand(named or plans, event, early=self.instance.phase is Phase.RUNNING)
        if not candidates:
            self.no_element(event)
            return
        plan = next((p for p in candidates if self._step(p).open), None)
        if plan is None:
            plan = next((p for p in candidates if self._step(p).state is StepState.PENDING), None)
        if plan is None and not self.instance.phase.ended:
            plan = next((p for p in candidates if self._degraded_in_doubt(self._step(p))), None)
            if plan is not None:
                self._failed_already(plan, self._step(plan), event)
                return
        if plan is None or self.instance.phase.ended:
            reason = "Late" if self.instance.phase.ended else "AlreadyAnswered"
            self._ignore(reason, f"{event.type} came when no step expected it")
            return
        step = self._step(plan)
        if step.state is StepState.PENDING and plan.send is not None and not self.definition.observe_only:
            # It answers nobody: to try it again would be to send it before its turn.
            self._ignore("NotAsked", f"{event.type} came, but {plan.send} was not sent yet")
            return
        if event.attempt is not None and event.attempt < step.attempt:
            self._ignore(
                "EarlierAttempt", f"{event.type} answers attempt {event.attempt}, attempt {step.attempt} is out"
            )
            return
        if step.state is StepState.RETRYING and self.instance.phase is Phase.RUNNING:
            self._failed_already(plan, step, event)
            return
        if step.state is StepState.PENDING:
            self._remark(Condition.OUT_OF_ORDER, "EarlyEvent", f"{event.type} came before its turn", plan)
        certain = event.type != FAILED  # then what the child has done stands
        if not certain and (step.given_up is not None or self.instance.phase is Phase.COMPENSATING):
            self._note_failure(step, event.type, "")
            self.changes.append(Change(plan.name, step.state, f"{event.type}: what it did stands"))
            return
        if certain:
            step.failed = Fact(event.type, event.id)
        if step.given_up is not None or (self.instance.phase is Phase.COMPENSATING and not plan.final):
            # It is certain now that nothing happened, so nothing needs to be undone.
            step.certain = True
            self._note_failure(step, event.type, "")
            step.conclude(StepState.FAILED, self.now)
            self._enter(plan, StepState.FAILED, event.type)
            return
        self._fail(plan, step, event.type, "", certain=certain, retry=True, event=event.id)

    def _failed_already(self, plan: StepPlan, step: Step, event: Observed) -> None:
        """It is counted as failed: at most it is certain now that it was."""
        if step.certain:
            self._ignore("AlreadyAnswered", f"{event.type} came again for attempt {step.attempt} of step {plan.name}")
        else:
            step.certain, step.failed = True, Fact(event.type, event.id)
            self.changes.append(Change(plan.name, step.state, f"{event.type}: it is certain that it failed"))

    @staticmethod
    def _degraded_in_doubt(step: Step) -> bool:
        return step.state is StepState.DEGRADED and not step.certain

    def _undone(self, event: Observed) -> None:
        plans = self.expand(self.definition.undone_steps[event.type], event)
        plan = self._undo_answered_by(plans, event)
        if plan is None:
            plan = self._undone_elsewhere(plans)
            if plan is None:
                self._ignore("Unasked", f"{event.type} came, but no undo was expected")
                return
            step = self._step(plan)
            step.undo_event, step.undo_answered_at = event.id, event.time
            self.changes.append(Change(plan.name, step.state, f"{event.type}: undone by somebody else"))
            return
        step = self._step(plan)
        if event.nothing_undone and step.done is not None:
            self._undone_in_vain(plan, step, event)
            return
        if event.type == REFUSED:
            if step.state is StepState.COMPENSATING:
                self._undo_failed(plan, step, "Refused", f"the {plan.child} saga that it began cannot be undone")
            else:
                self._ignore("AlreadyAnswered", f"{event.type} came again for step {plan.name}", quiet=True)
            return
        step.undo_event, step.undo_answered_at, step.undo_empty = event.id, event.time, event.nothing_undone
        self._compensated(plan, step, "nothing to undo" if event.nothing_undone else event.type)

    def _undone_in_vain(self, plan: StepPlan, step: Step, event: Observed) -> None:
        """The guard has found nothing, and yet the success is known: the undo did not name what triggered the step.

        That is known by now, from the success.
        """
        if step.state is StepState.UNDO_FAILED:
            self._ignore("NothingUndone", f"{event.type} says that there was nothing to undo, but {plan.name} is done")
            return
        self._undo_went_wrong(plan, step, "NothingUndone", f"{plan.name} is done, and its undo found nothing")

    def _undo_answered_by(self, plans: tuple[StepPlan, ...], event: Observed) -> StepPlan | None:
        expected = [p for p in plans if self._step(p).state in (StepState.COMPENSATING, StepState.UNDO_FAILED)]
        for plan in expected:
            attempts = range(1, self._step(plan).undo_attempt + 1)
            if event.causation_id in {self._command_id(plan, "undo", n) for n in attempts}:
                return plan
        named = [plan for plan in expected if base_of(plan.name) == event.step]
        return next(iter(named or expected), None)

    def _undone_elsewhere(self, plans: tuple[StepPlan, ...]) -> StepPlan | None:
        """An observe-only saga may see the undo before the failure that caused it: the fact is remembered."""
        if not self.definition.observe_only or self.instance.phase is not Phase.RUNNING:
            return None
        return next((plan for plan in plans if self._step(plan).undo_event is None), None)
