"""Forward: a step has its turn when what comes before it is settled, and what becomes of a saga when one fails."""

from __future__ import annotations

from .backward import Backward
from .definition import StepPlan
from .inputs import Ask
from .instance import Step
from .occurrence import members
from .words import Phase, StepState

_SETTLED = frozenset((StepState.DONE, StepState.DEGRADED, StepState.SKIPPED))


class Forward(Backward):
    """The moves onward."""

    def open_ready(self, trigger: str, trace: str | None) -> None:
        """Give every step its turn whose predecessors are settled, and end the saga when all are."""
        if self.instance.phase is not Phase.RUNNING:
            return
        self._join()
        for plan in self.definition.steps:
            step = self._step(plan)
            if step.state is StepState.PENDING and all(
                self.instance.steps[name].state in _SETTLED for name in plan.after
            ):
                self._give_turn(plan, trigger, trace)
        if all(step.state in _SETTLED for step in self.instance.steps.values()):
            self._end(Phase.COMPLETED, self.definition.completed)

    def _give_turn(self, plan: StepPlan, trigger: str | None, trace: str | None) -> None:
        step = self._step(plan)
        step.ready_at, step.trigger, step.trace = self.now, trigger, trace
        if plan.each is None:
            step.limit_at = self.now + plan.within
        else:
            step.asked = "each"
            self.outputs.append(Ask("each", plan.name))
        self._enter(plan, StepState.WAITING, "")
        if plan.send is not None:
            self._send_do(plan, step)

    def _join(self) -> None:
        """Settle every step per element whose occurrences are all settled."""
        for plan in self.definition.steps:
            group = self._step(plan)
            if group.decided is None or group.state not in (StepState.WAITING, StepState.DEGRADED):
                continue
            states = {self.instance.steps[name].state for name in members(self.instance, plan.name)}
            if states <= {StepState.DONE, StepState.DEGRADED}:
                state = StepState.DEGRADED if StepState.DEGRADED in states else StepState.DONE
                if state is not group.state:
                    group.conclude(state, self.now)
                    self._enter(plan, state, "" if states else "no elements")

    def _fail(
        self, plan: StepPlan, step: Step, error: str, message: str, *, certain: bool, retry: bool, event: str | None
    ) -> None:
        """A step failed or was given up: send it again, go on without it, wait for a person, or undo."""
        self._note_failure(step, error, message)
        if retry and plan.send is not None and len(step.failures) < plan.retry.attempts:
            step.certain = certain
            step.send_at = self.now + plan.retry.pause(len(step.failures))
            self._enter(plan, StepState.RETRYING, error)
            self._resolve(plan)
            return
        step.limit_at = None
        step.certain = certain
        if plan.optional:
            step.send_at = None
            step.conclude(StepState.DEGRADED, self.now)
            self._enter(plan, StepState.DEGRADED, error)
            self._resolve(plan)
            self.open_ready(step.trigger or "", step.trace)
            return
        state = StepState.FAILED if certain else StepState.UNKNOWN
        if plan.pivot and not certain:
            # A pivot that may have happened blocks compensation (ruling R7): asked again if commanded, else a person.
            self._enter(plan, state, message or error)
            if step.send_at is None:
                self._needs_person(plan, "PivotUnknown", f"the outcome of the pivot {plan.name} is not known: {error}")
            return
        step.send_at = None
        self._enter(plan, state, message or error)
        if self._may_go_back():
            step.conclude(state, self.now)
            self._compensate(plan, error, message, event)
        else:
            self._set_cause(plan, error, message, event)
            self._needs_person(plan, "FailedAfterPivot", f"step {plan.name} failed after the pivot: {error}")
