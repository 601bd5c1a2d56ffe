"""The moves of one saga: forward step by step, backward undo by undo. The half of `advance` that changes state.

`advance.py` decides which move an input calls for; the rules of the moves themselves stand here, once.
"""

from __future__ import annotations

from typing import Literal

from .definition import Definition, StepPlan
from .inputs import Announce, Ask, Change, Kind, Send, Transition, command_id
from .instance import Fact, Failure, Instance, Remark, Step
from .words import Condition, Phase, StepState

_SETTLED = frozenset((StepState.DONE, StepState.DEGRADED, StepState.SKIPPED))
_IN_FLIGHT = frozenset((StepState.WAITING, StepState.UNKNOWN))


class Move:
    """One application of an input; it owns the instance that it is given."""

    def __init__(self, definition: Definition, instance: Instance, now: int) -> None:
        self.definition = definition
        self.instance = instance
        self.now = now
        self.changes: list[Change] = []
        self.outputs: list[Send | Announce | Ask] = []
        self.ignored = ""
        self.trace: str | None = None  # traceparent of the input, the trigger of what it starts

    def transition(self) -> Transition:
        self._wait_for_person_no_longer()
        verdict: Literal["applied", "ignored"] = "ignored" if self.ignored else "applied"
        return Transition(self.instance, verdict, self.ignored, list(self.outputs), self.changes)

    # ---- forward -----------------------------------------------------------------------------------------------

    def open_ready(self, trigger: str, trace: str | None) -> None:
        """Give every step its turn whose predecessors are settled, and end the saga when all are."""
        if self.instance.phase is not Phase.RUNNING:
            return
        for plan in self.definition.steps:
            step = self._step(plan)
            if step.state is StepState.PENDING and all(
                self.instance.steps[name].state in _SETTLED for name in plan.after
            ):
                step.ready_at, step.trigger, step.trace = self.now, trigger, trace
                step.limit_at = self.now + plan.within
                self._enter(plan, StepState.WAITING, "")
                if plan.send is not None:
                    self._send_do(plan, step)
        if all(step.state in _SETTLED for step in self.instance.steps.values()):
            self._end(Phase.COMPLETED, self.definition.completed)

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

    def _may_go_back(self) -> bool:
        """Before the pivot everything can be undone; from the moment that it may have happened nothing can."""
        if self.definition.pivot is None:
            return True
        pivot = self._step(self.definition.pivot)
        return pivot.certain and pivot.state not in (*_IN_FLIGHT, StepState.DONE)

    # ---- backward ----------------------------------------------------------------------------------------------

    def _compensate(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        self._set_cause(plan, error, message, event)
        self.instance.phase = Phase.COMPENSATING
        self.changes.append(Change(None, Phase.COMPENSATING, f"{plan.name}: {error}" if plan else error))
        for other in self.definition.steps:
            step = self._step(other)
            self._clear(step)
            if step.state is StepState.PENDING:
                if self._may_run_unasked(other):
                    step.conclude(StepState.SKIPPED, self.now)  # the parent of what its handler does all the same
                self._enter(other, StepState.SKIPPED, "")
            elif step.state is StepState.RETRYING:
                state = StepState.FAILED if step.certain else StepState.UNKNOWN
                step.conclude(state, self.now)
                self._enter(other, state, "not tried again")
            elif step.state is StepState.WAITING:
                step.certain = False
                step.conclude(StepState.UNKNOWN, self.now)
                self._enter(other, StepState.UNKNOWN, "given up while in flight")
        self._continue_undo()

    def _may_run_unasked(self, plan: StepPlan) -> bool:
        """Whether a step's trigger may be out though the saga gives it up: nobody stops what is choreographed."""
        before = [self.instance.steps[name] for name in plan.after]
        return plan.send is None and any(
            step.done is not None
            or step.state in (StepState.WAITING, StepState.UNKNOWN)
            or step.outcome is StepState.SKIPPED
            for step in before
        )

    def _needs_undo(self, plan: StepPlan) -> bool:
        step = self._step(plan)
        if plan.undo is None:
            return False
        return step.state in (StepState.DONE, StepState.UNKNOWN) or (
            step.state is StepState.DEGRADED and not step.certain
        )

    def _continue_undo(self) -> None:
        """Undo in reverse order of dependency: a step waits until all that depend on it are undone (row 18, S10)."""
        if self.instance.phase is not Phase.COMPENSATING:
            return
        for plan in reversed(self.definition.steps):
            if self._needs_undo(plan) and not any(
                self._unsettled(self.definition.by_name[name]) for name in self.definition.descendants[plan.name]
            ):
                step = self._step(plan)
                if step.undo_event is not None:
                    step.undo_ready_at = self.now
                    step.conclude_undo(StepState.COMPENSATED, self.now)
                    self._enter(plan, StepState.COMPENSATED, "undone by somebody else")
                else:
                    self._start_undo(plan, step, "")
        self._finish_undo()

    def _unsettled(self, plan: StepPlan) -> bool:
        return self._needs_undo(plan) or self._step(plan).state in (StepState.COMPENSATING, StepState.UNDO_FAILED)

    def _start_undo(self, plan: StepPlan, step: Step, reason: str) -> None:
        step.undo_attempt += 1
        step.undo_sends = 1
        step.undo_ready_at = self.now
        step.undo_ended_at = step.undo_outcome = step.undo_event = step.undo_answered_at = None
        step.undo_empty = False
        step.undo_trace = self.trace
        step.undo_limit_at = self.now + plan.undo_within
        step.undo_send_at = self.now + plan.undo_resend.pause(1) if plan.undo_resend.attempts > 1 else None
        self._enter(plan, StepState.COMPENSATING, reason)
        self._send_undo(plan, step, again=False)

    def _undo_failed(self, plan: StepPlan, step: Step, error: str, message: str) -> None:
        step.error, step.message = error, message
        step.conclude_undo(StepState.UNDO_FAILED, self.now)
        self._clear(step)
        self._enter(plan, StepState.UNDO_FAILED, message or error)
        self._needs_person(plan, "UndoFailed", f"the undo of step {plan.name} failed for good: {error}")
        self._continue_undo()

    def _finish_undo(self) -> None:
        states = [self._step(plan).state for plan in self.definition.steps]
        if self.instance.phase is not Phase.COMPENSATING or StepState.COMPENSATING in states:
            return
        if StepState.UNDO_FAILED in states:
            self._end(Phase.FAILED, None)
        elif self.definition.observe_only and StepState.COMPENSATED not in states:
            self._end(Phase.FAILED, None)  # we undo nothing, and saw nobody else do it
        elif self.instance.cancelling:
            self._end(Phase.CANCELLED, self.definition.compensated)
        else:
            self._end(Phase.COMPENSATED, self.definition.compensated)

    def _reopen(self) -> None:
        """What ended is opened again, in a trace of its own (ruling R11)."""
        if not self.instance.phase.ended:
            return
        self.instance.phase = Phase.COMPENSATING
        self.instance.ended_at = None
        self.instance.epoch += 1
        self.instance.opened_at = self.now
        self.changes.append(Change(None, Phase.COMPENSATING, "opened again"))

    # ---- small pieces ------------------------------------------------------------------------------------------

    def _end(self, phase: Phase, announce: str | None) -> None:
        self.instance.phase = phase
        self.instance.ended_at = self.now
        self.changes.append(Change(None, phase))
        if announce is not None and self.instance.announced is None and not self.definition.observe_only:
            self.instance.announced = announce
            self.outputs.append(Announce(announce))

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
        facts = [self.instance.started_by, *(other.done for other in self.instance.steps.values() if other is not step)]
        undoes = [fact for fact in facts if fact is not None]
        if plan.send is not None:
            undoes += [Fact("", self._command_id(plan, "do", n)) for n in range(1, step.attempt + 1)]
        if step.caused_by is not None:
            undoes.append(Fact("", step.caused_by))
        self._output(Send("undo", plan.name, plan.undo or "", step.undo_attempt, again=again, undoes=tuple(undoes)))

    def _output(self, send: Send) -> None:
        if not self.definition.observe_only:
            self.outputs.append(send)

    def _command_id(self, plan: StepPlan, kind: Kind, attempt: int | None = None) -> str:
        step = self._step(plan)
        latest = step.undo_attempt if kind == "undo" else step.attempt
        return command_id(self.instance.id, plan.name, "", kind, latest if attempt is None else attempt)

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
        step.failures.append(Failure(self.now, error))
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
        for condition in (Condition.KEY_PARKED, Condition.DEAD_LETTERED):
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
        if self.instance.phase is not Phase.RUNNING:
            return step.state is StepState.UNDO_FAILED
        return step.state in (StepState.FAILED, StepState.UNKNOWN) and step.send_at is None

    def _ignore(self, reason: str, message: str, *, quiet: bool = False) -> None:
        self.ignored = reason
        if not quiet:
            self._remark(Condition.UNEXPECTED, reason, message)
