"""Forward: a step has its turn when what comes before it is settled, and what becomes of a saga when one fails.

Every input ends with `settle`: it makes the moves that follow by themselves until none is left, so that nothing else
has to know what a change leads to.
"""

from __future__ import annotations

from .backward import Backward
from .definition import StepPlan
from .inputs import Ask, Change
from .instance import Step
from .occurrence import members
from .standing import own_standing
from .words import Condition, Phase, StepState

_OUT = frozenset((StepState.DONE, StepState.DEGRADED, StepState.SKIPPED))


class Forward(Backward):
    """The moves onward, and what follows by itself."""

    follows: tuple[str, str | None] = ("", None)
    """Id and traceparent of the event that what opens now follows."""

    def settle(self) -> None:
        """Make every move that follows by itself: open what is ready, let go of what is unwanted, undo, end."""
        if self.instance.waits_for_lock or self.instance.waits_to_start or self.instance.paused is not None:
            return
        while self.instance.phase is Phase.RUNNING and self._go_on():
            pass
        while self.instance.phase is Phase.COMPENSATING and self._continue_undo():
            pass
        if self._awaits_nothing() and self._finally():
            if self.instance.phase is Phase.RUNNING:
                self._end(Phase.COMPLETED, self.definition.completed)
            else:
                self._finish_undo()

    def _awaits_nothing(self) -> bool:
        """Whether nothing but the finally-steps stands between an open saga and its end."""
        if self.instance.phase is Phase.RUNNING:
            return all(self.settled(plan) for plan in self.definition.steps if not plan.final)
        undoing = any(step.state is StepState.COMPENSATING for step in self.instance.steps.values())
        return self.instance.phase is Phase.COMPENSATING and not undoing

    def _go_on(self) -> bool:
        """Make one round through the steps of a running saga; tell whether anything changed."""
        definition, steps = self.definition, self.instance.steps
        changed = bool(definition.fans) and self._join()
        for plan in definition.steps:
            step = steps[plan.name]
            if plan.final or step.asked is not None or own_standing(step) != "open":
                continue
            if definition.branching and self.is_unwanted(plan):
                self._let_go(plan, step, "not needed any more")
            elif step.state is not StepState.PENDING and not step.early:
                continue
            elif (turn := self.turn(plan)) == "skip":
                self._let_go(plan, step, "what it follows was skipped")
            elif turn == "yes":
                self._take_turn(plan, step)
            else:
                continue
            if self.instance.phase is not Phase.RUNNING:
                return True
            changed = True
        return self._continue_undo() or self._give_in() or changed

    def _finally(self) -> bool:
        """Give the finally-steps their turn, once in a saga's life; tell whether they are over."""
        finals = self.definition.finals
        for plan in finals:
            step = self._step(plan)
            if step.state is StepState.PENDING and step.asked is None:
                before = [self.instance.steps[name].state for name in plan.after]
                if not all(state in _OUT for state in before):
                    continue
                if self.instance.phase is Phase.RUNNING:
                    self.instance.kept = True
                if before and all(state is StepState.SKIPPED for state in before):
                    self._let_go(plan, step, "what it follows was skipped")
                else:
                    self._take_turn(plan, step)
        return all(self._step(plan).state in _OUT for plan in finals)

    def _take_turn(self, plan: StepPlan, step: Step) -> None:
        """It is a step's turn: ask its `when` first, if it has one."""
        if step.state is StepState.PENDING and not step.ready_at:
            step.ready_at = self.now
            step.trigger, step.trace = self.follows
        if plan.when and step.chosen is None:
            step.asked = "when"
            self.outputs.append(Ask("when", plan.name))
        elif step.early:
            self._count(plan, step)
        else:
            self._begin(plan, step)

    def _begin(self, plan: StepPlan, step: Step) -> None:
        if plan.only_undo:
            step.conclude(StepState.DONE, self.now)
            self._enter(plan, StepState.DONE, "it has only an undo")
            return
        if plan.each is None:
            step.limit_at = self.now + plan.within
        else:
            step.asked = "each"
            self.outputs.append(Ask("each", plan.name))
        self._enter(plan, StepState.WAITING, "")
        if plan.send is not None:
            self._send_do(plan, step)

    def _join(self) -> bool:
        """Settle every step per element whose occurrences are all settled; tell whether there was one."""
        changed = False
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
                    changed = True
        return changed

    def _count(self, plan: StepPlan, step: Step) -> None:
        """What came before its turn counts now."""
        step.early = False
        self.changes.append(Change(plan.name, step.state, "its turn has come"))
        if step.state is not StepState.DONE:
            self._failed_for_good(plan, step, step.error or "", step.message or "", None)

    def _decide(self, plan: StepPlan, step: Step, *, runs: bool) -> None:
        """Its `when` has said whether it runs."""
        step.asked, step.chosen = None, runs
        self.follows = (step.trigger or "", step.trace)
        if runs:
            self._take_turn(plan, step)
        else:
            step.conclude(StepState.SKIPPED, self.now)
            self._let_go(plan, step, "its when= said no")

    def _let_go(self, plan: StepPlan, step: Step, reason: str) -> None:
        """Go on without a step; where it may have happened, it is undone by itself."""
        state = step.state
        step.early = False
        if state is not StepState.COMPENSATING:
            self._clear(step)
        if state is StepState.PENDING:
            if step.ready_at or self._may_run_unasked(plan):
                step.conclude(StepState.SKIPPED, self.now)
            self._enter(plan, StepState.SKIPPED, reason)
            return
        step.given_up = "unwanted"
        step.conclude(StepState.SKIPPED, self.now)
        self._resolve(plan)
        if state is StepState.WAITING or (state is StepState.RETRYING and not step.certain):
            step.certain = False
            undone = plan.undo is not None and not self.definition.observe_only
            self._enter(plan, StepState.UNKNOWN if undone else StepState.SKIPPED, reason)
        elif state is StepState.RETRYING:
            self._enter(plan, StepState.SKIPPED, reason)
        else:
            self.changes.append(Change(plan.name, state, reason))

    def _fail(
        self, plan: StepPlan, step: Step, error: str, message: str, *, certain: bool, retry: bool, event: str | None
    ) -> None:
        """A step failed or was given up: send it again, go on without it, wait for a person, or undo."""
        self._note_failure(step, error, message)
        if retry and plan.send is not None and len(step.failures) < plan.retry.attempts:
            step.certain = certain
            step.sends, step.send_at = 0, self.now + plan.retry.pause(len(step.failures))
            self._enter(plan, StepState.RETRYING, error)
            self._resolve(plan)
            return
        # A step whose function raised has its turn; one that failed before it may fail again before it.
        early = (step.early or step.state is StepState.PENDING) and step.asked is None
        step.limit_at = None
        step.certain = certain
        if plan.optional or plan.final:
            step.send_at = None
            step.conclude(StepState.DEGRADED, self.now)
            self._enter(plan, StepState.DEGRADED, error)
            self._resolve(plan)
            self.follows = (step.trigger or "", step.trace)
            if plan.final:
                self._remark(Condition.UNEXPECTED, "FinallyFailed", f"finally-step {plan.name} failed: {error}", plan)
            return
        state = StepState.FAILED if certain else StepState.UNKNOWN
        self._enter(plan, state, message or error)
        if plan.pivot and not certain:
            # A pivot that may have happened blocks compensation (ruling R7): asked again if commanded, else a person.
            if step.send_at is None:
                self._needs_person(plan, "PivotUnknown", f"the outcome of the pivot {plan.name} is not known: {error}")
            return
        step.send_at = None
        if early and self.definition.branching and not plan.pivot:
            step.early = True  # it may turn out that nobody wants it
            step.conclude(state, self.now)
            return
        if self.instance.paused is not None:
            return  # what it leads to is decided when the saga goes on
        self._failed_for_good(plan, step, error, message, event)

    def _failed_for_good(self, plan: StepPlan, step: Step, error: str, message: str, event: str | None) -> None:
        """Let another take its place, undo, or, where there is no way back, wait for a person."""
        if self.is_tolerated(plan):
            step.given_up = "failed"
            step.conclude(step.state, self.now)
            self._resolve(plan)
            self.follows = (event or step.trigger or "", self.trace or step.trace)
        elif self._may_go_back():
            step.conclude(step.state, self.now)
            self._compensate(plan, error, message, event)
        else:
            self._set_cause(plan, error, message, event)
            self._needs_person(plan, "FailedAfterPivot", f"step {plan.name} failed after the pivot: {error}")

    def _give_in(self) -> bool:
        """Fail the saga for a step whose place nobody can take any more; tell whether there was one."""
        if not self.definition.branching:
            return False
        for plan in self.definition.steps:
            failed = [other for other in self.definition.chains[plan.name] if self._step(other).given_up == "failed"]
            if plan.instead_of is not None or not failed or not self._is_missed(plan):
                continue
            step = self._step(failed[-1])
            step.given_up = None  # where there is no way back, a late success still heals it
            self._failed_for_good(failed[-1], step, step.error or "", step.message or "", None)
            return True
        return False

    def _is_missed(self, plan: StepPlan) -> bool:
        """Whether nothing can go on without a step and its alternatives."""
        if self.standing(plan) != "failed":
            return False
        groups = self.definition.groups[plan.name]
        return not groups or any(self.group_standing(group) == "failed" for group in groups)
