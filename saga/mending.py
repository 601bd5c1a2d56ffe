"""A person has a failed step tried again, or lets the saga go on without one."""

from __future__ import annotations

from .definition import StepPlan
from .holding import Holding
from .inputs import Operator
from .instance import Step
from .occurrence import base_of
from .words import Phase, StepState

_FAILED = (StepState.FAILED, StepState.UNKNOWN)
_OPEN = (StepState.PENDING, StepState.WAITING, StepState.RETRYING, *_FAILED)


class Mending(Holding):
    """The moves of a person who mends a saga step by step."""

    def _retry(self, command: Operator) -> None:
        """Send a failed step's command again, as an attempt of its own (ruling R3)."""
        self.ignored = self._not_now("tried again")
        if self.ignored:
            return
        plans = [plan for plan in self._named(command.step) if self._has_failed(plan)]
        if not plans:
            what = f"step {command.step}" if command.step else "no step of this saga"
            self.ignored = f"nothing to try again: {what} has {'not ' if command.step else ''}failed"
            if command.step and (named := self._named(command.step)):
                self.ignored += f", it is {self._step(named[0]).state}"
            return
        if len({base_of(plan.name) for plan in plans}) > 1:
            self.ignored = f"several steps have failed, name one: {', '.join(plan.name for plan in plans)}"
            return
        refused = [why for plan in plans if (why := self._not_again(plan, self._step(plan)))]
        if refused:
            self.ignored = refused[0]
            return
        for plan in plans:
            self._again(plan, self._step(plan), command)

    def _again(self, plan: StepPlan, step: Step, command: Operator) -> None:
        who, why = command.by or "a person", f": {command.reason}" if command.reason else ""
        step.limit_at = None  # it has its whole time once more
        self._resolve(plan)
        if (self.instance.cause or {}).get("step") == plan.name:
            self.instance.cause = None
        if plan.approval is not None:
            step.by, step.limit_at = None, self.now + plan.within
        else:
            self._send_do(plan, step)
        self._enter(plan, StepState.WAITING, f"tried again by {who}{why}")

    def _skip(self, command: Operator) -> None:
        """Let a saga go on without a step, as if it were optional and had failed."""
        self.ignored = self._not_now("skipped")
        plan = next(iter(self._named(command.step)), None) if command.step else None
        if plan is None:
            self.ignored = self.ignored or "which step shall be skipped?"
            return
        step = self._step(plan)
        self.ignored = self.ignored or self._not_without(plan, step)
        if self.ignored:
            return
        before = step.state
        step.limit_at = step.send_at = step.asked = None
        step.early = False
        if before is StepState.WAITING or (before is StepState.PENDING and plan.send is None):
            step.certain = False  # it was asked for, or nobody can keep it from happening
        if (self.instance.cause or {}).get("step") == plan.name:
            self.instance.cause = None
        who, why = command.by or "a person", f": {command.reason}" if command.reason else ""
        step.conclude(StepState.DEGRADED, self.now)
        self._enter(plan, StepState.DEGRADED, f"skipped by {who}{why}")
        self._resolve(plan)
        self.follows = (step.trigger or command.id, step.trace)

    # ---- what speaks against it --------------------------------------------------------------------------------

    def _named(self, step: str | None) -> list[StepPlan]:
        plans = [plan for plan in self.definition.steps if plan.name in self.instance.steps]
        return [plan for plan in plans if step in (None, "", plan.name, base_of(plan.name))]

    def _not_now(self, what: str) -> str:
        phase = self.instance.phase
        if self.definition.observe_only:
            return f"no step can be {what}: this saga only observes"
        if phase is Phase.COMPENSATING:
            return f"no step can be {what}: the saga is being undone, and what ran now would run behind its undo"
        if phase is not Phase.RUNNING:
            return f"no step can be {what}: the saga is {phase} already"
        if self.instance.waits_for_lock:
            return f"no step can be {what}: the saga waits for its lock, and has not begun"
        if self.instance.waits_to_start:
            return f"no step can be {what}: the saga waits to start, as many of its type are open as may be"
        return ""

    def _has_failed(self, plan: StepPlan) -> bool:
        step = self._step(plan)
        return step.state in (*_FAILED, StepState.RETRYING)

    def _not_again(self, plan: StepPlan, step: Step) -> str:
        if plan.child is not None:
            return f"{plan.name} is a saga of its own, of type {plan.child}: what failed is a step of that one"
        if step.given_up is not None:
            return f"{plan.name} has failed, and the saga goes on without it"
        if step.state is StepState.PENDING or step.early:
            return f"{plan.name} has failed before its turn; it counts when that comes"
        if plan.each is not None:
            return f"its each= has not said for which elements {plan.name} runs: there is nothing to send"
        if plan.send is None and plan.approval is None:
            return (
                f"nobody commands {plan.name}: who does it follows an event; "
                f"give that to them again, with saga dlq retry --saga {self.instance.id}"
            )
        return ""

    def _not_without(self, plan: StepPlan, step: Step) -> str:
        if plan.each is not None:
            return f"{plan.name} runs for each element; name one, as in {plan.name}[KEY]"
        if plan.pivot:
            return f"{plan.name} is the pivot: whether it happened decides whether this saga can be undone"
        if plan.approval is not None:
            return f"{plan.name} waits for {plan.approval}: say saga approve or saga reject"
        if step.state not in _OPEN or step.given_up is not None:
            gone = "the saga goes on without it already" if step.given_up is not None else f"it is {step.state}"
            return f"{plan.name} cannot be skipped: {gone}"
        return ""
