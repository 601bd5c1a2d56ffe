"""The whole semantics of a saga, as one pure function: values in, values out, no clock and no I/O.

`begin` makes an instance from its start event; `advance` applies one more input. Everything else in this room only
fetches what they need and carries out what they decide. The cases are those of `docs/semantics.md`.
"""

from __future__ import annotations

from typing import assert_never

from ..events.clock import format_duration
from .definition import Definition, StepPlan
from .inputs import (
    Change,
    Decided,
    Elapsed,
    HandlerGaveUp,
    Input,
    Observed,
    Operator,
    Send,
    Transition,
    Unbuildable,
    command_id,
)
from .instance import Fact, Failure, Instance, Step, new_instance
from .move import Move
from .words import Condition, Phase, StepState


def begin(definition: Definition, key: str, run: int, event: Observed, now: int, *, sampled: bool = True) -> Transition:
    """Start an instance.

    Args:
        definition: what it runs under.
        key: its business key.
        run: 1, or higher for a key that ran before.
        event: the start event.
        now: the store's clock, microseconds.
        sampled: whether its trace is recorded.
    """
    instance = new_instance(definition, key, run)
    instance.seq = 1
    instance.started_at = instance.opened_at = now
    instance.started_by = Fact(event.type, event.id)
    instance.started_time = event.time
    instance.origin = event.traceparent
    instance.sampled = sampled
    instance.deadline_at = None if definition.deadline is None else now + definition.deadline
    move = _Advance(definition, instance, now)
    move.changes.append(Change(None, Phase.RUNNING, event.type))
    move.open_ready(event.id, event.traceparent)
    return move.transition()


def advance(definition: Definition, instance: Instance, input_: Input, now: int) -> Transition:
    """Apply one input to an instance; the given instance stays as it is.

    Args:
        definition: the one that the instance is pinned to.
        instance: its state.
        input_: an observed event, a report of a handler, due timers, or a person's command.
        now: the store's clock, microseconds; never earlier than a timer that may fire.

    Returns:
        The new state with everything to publish. An ignored input says why.
    """
    copy = instance.copy()
    copy.seq += 1
    move = _Advance(definition, copy, now)
    match input_:
        case Observed():
            move.trace = input_.traceparent
            move.observe(input_)
        case HandlerGaveUp():
            move.trace = input_.traceparent
            move.handler_gave_up(input_)
        case Elapsed():
            move.elapse(input_.until)
        case Operator():
            move.operate(input_)
        case Unbuildable():
            move.unbuildable(input_)
        case Decided():
            move.decided(input_)
        case _:
            assert_never(input_)
    return move.transition()


class _Advance(Move):
    """Decides which moves an input calls for."""

    # ---- events ------------------------------------------------------------------------------------------------

    def observe(self, event: Observed) -> None:
        definition = self.definition
        if (plan := definition.done_step.get(event.type)) is not None:
            self._done(plan, event)
        elif event.type in definition.failed_steps:
            self._failed(event)
        elif event.type in definition.undone_steps:
            self._undone(event)
        elif event.type in definition.start:
            self._ignore("SecondStart", f"{event.type} came again, but a run of this key exists")
        else:
            self._ignore("OtherVersion", f"version {definition.version} does not know {event.type}", quiet=True)

    def _done(self, plan: StepPlan, event: Observed) -> None:
        step = self._step(plan)
        if step.done is not None:
            self._ignore("AlreadyDone", f"{event.type} came again for step {plan.name}")
            return
        if self.instance.phase is Phase.COMPLETED:
            self._ignore("Late", f"{event.type} came after the end")
            return
        if self.instance.phase is not Phase.RUNNING:
            self._late_success(plan, step, event)
            return
        early = step.state is StepState.PENDING
        self._record_done(step, event)
        if early:
            step.trigger, step.trace, step.ready_at = event.causation_id, event.traceparent, self.now
            self._remark(Condition.OUT_OF_ORDER, "EarlyEvent", f"{event.type} came before its turn", plan)
        self._clear(step)
        self._enter(plan, StepState.DONE, event.type)
        self._resolve(plan)
        self.open_ready(event.id, event.traceparent)

    def _record_done(self, step: Step, event: Observed) -> None:
        step.done = Fact(event.type, event.id)
        step.caused_by = event.causation_id
        step.certain = True
        step.conclude(StepState.DONE, self.now)

    def _late_success(self, plan: StepPlan, step: Step, event: Observed) -> None:
        """A success that arrives when the saga is being undone, or was: undone exactly once (S11, ruling R5)."""
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
            reason = f"late {event.type}" if plan.undo is not None else f"late {event.type}: nothing to undo"
            self._enter(plan, StepState.DONE, reason)
            self._continue_undo()

    def _failed(self, event: Observed) -> None:
        plans = self.definition.failed_steps[event.type]
        named = [plan for plan in plans if plan.name == event.step]
        candidates = named or plans
        plan = next((p for p in candidates if self._step(p).open), None)
        if plan is None:
            plan = next((p for p in candidates if self._step(p).state is StepState.PENDING), None)
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
        if step.state is StepState.PENDING:
            self._remark(Condition.OUT_OF_ORDER, "EarlyEvent", f"{event.type} came before its turn", plan)
        if self.instance.phase is Phase.COMPENSATING:
            # It is certain now that nothing happened, so nothing needs to be undone.
            step.certain = True
            self._note_failure(step, event.type, "")
            step.conclude(StepState.FAILED, self.now)
            self._enter(plan, StepState.FAILED, event.type)
            self._continue_undo()
            return
        self._fail(plan, step, event.type, "", certain=True, retry=True, event=event.id)

    def _undone(self, event: Observed) -> None:
        plans = self.definition.undone_steps[event.type]
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
        step.undo_event, step.undo_answered_at, step.undo_empty = event.id, event.time, event.nothing_undone
        self._compensated(plan, step, "nothing to undo" if event.nothing_undone else event.type)

    def _undo_answered_by(self, plans: tuple[StepPlan, ...], event: Observed) -> StepPlan | None:
        expected = [p for p in plans if self._step(p).state in (StepState.COMPENSATING, StepState.UNDO_FAILED)]
        for plan in expected:
            attempts = range(1, self._step(plan).undo_attempt + 1)
            if event.causation_id in {command_id(self.instance.id, plan.name, "", "undo", n) for n in attempts}:
                return plan
        named = [plan for plan in expected if plan.name == event.step]
        return next(iter(named or expected), None)

    def _undone_elsewhere(self, plans: tuple[StepPlan, ...]) -> StepPlan | None:
        """An observe-only saga may see the undo before the failure that caused it: the fact is remembered."""
        if not self.definition.observe_only or self.instance.phase is not Phase.RUNNING:
            return None
        return next((plan for plan in plans if self._step(plan).undo_event is None), None)

    def _compensated(self, plan: StepPlan, step: Step, reason: str) -> None:
        if self.instance.phase.ended:
            self._reopen()
            step.undo_ready_at, step.undo_ended_at = self.now, None
        step.conclude_undo(StepState.COMPENSATED, self.now)
        self._clear(step)
        self._enter(plan, StepState.COMPENSATED, reason)
        self._resolve(plan)
        self._continue_undo()

    # ---- reports of handlers -----------------------------------------------------------------------------------

    def handler_gave_up(self, report: HandlerGaveUp) -> None:
        for plan in self.definition.steps:
            step = self._step(plan)
            if report.event_type == plan.undo and step.state is StepState.COMPENSATING:
                if report.event_id == self._command_id(plan, "undo"):
                    self._undo_gave_up(plan, step, report)
                    return
            elif step.open and not self.instance.phase.ended and set(report.produces) & {*plan.done, *plan.failed}:
                self._step_gave_up(plan, step, report)
                return
        self._ignore(
            "NoStep",
            f"handler {report.handler} of {report.service} gave up on {report.event_type}: no open step",
            quiet=True,
        )

    def _step_gave_up(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        if not report.dead:
            self._parked(plan, step, report)
            return
        self._remark(Condition.DEAD_LETTERED, report.error, f"{report.service} gave up on {report.event_type}", plan)
        if self.instance.phase is Phase.COMPENSATING:
            self._note_failure(step, report.error, report.message)
            self.changes.append(Change(plan.name, step.state, f"{report.error} in {report.service}"))
            return
        # The handler may have had its effect before it raised: not certain, so it is undone too (row 16).
        self._fail(plan, step, report.error, report.message, certain=False, retry=True, event=report.event_id)

    def _undo_gave_up(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        if not report.dead:
            self._parked(plan, step, report)
            return
        step.undo_failures.append(Failure(self.now, report.error))
        step.message = report.message
        if len(step.undo_failures) < plan.undo_retry.attempts:
            step.undo_sends = 0
            step.undo_send_at = self.now + plan.undo_retry.pause(len(step.undo_failures))
            self.changes.append(
                Change(plan.name, StepState.COMPENSATING, f"its undo failed: {report.error}; it is sent again")
            )
            return
        self._undo_failed(plan, step, report.error, report.message)

    def _parked(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        self._remark(
            Condition.KEY_PARKED, report.error, f"{report.service} parked {report.event_type} and tries again", plan
        )
        self.changes.append(Change(plan.name, step.state, f"parked by {report.service}: {report.error}"))

    def unbuildable(self, input_: Unbuildable) -> None:
        plan = self.definition.by_name[input_.step]
        step = self._step(plan)
        if input_.kind == "undo":
            self._undo_failed(plan, step, "Unbuildable", input_.message)
        else:
            self._fail(plan, step, "Unbuildable", input_.message, certain=step.certain, retry=False, event=None)

    def decided(self, input_: Decided) -> None:
        self._ignore("Unasked", f"{input_.kind}= of step {input_.step} was not asked", quiet=True)

    # ---- time --------------------------------------------------------------------------------------------------

    def elapse(self, until: int) -> None:
        """Fire what is due, the earliest first; a state that has moved on has no such timer any more (row 24)."""
        while (due := self.instance.next_due) is not None and due <= until:
            if self.instance.deadline_at == due and self.instance.phase is Phase.RUNNING:
                self._deadline()
                continue
            plan = next(p for p in self.definition.steps if due in self._step(p).timers())
            step = self._step(plan)
            if step.limit_at == due:
                self._limit(plan, step)
            elif step.send_at == due:
                self._send_due(plan, step)
            elif step.undo_limit_at == due:
                message = f"no answer to {plan.undo} within {format_duration(plan.undo_within)}"
                self._undo_failed(plan, step, "Timeout", message)
            else:
                self._undo_send_due(plan, step)
        if not self.changes and not self.outputs:
            self.ignored = "nothing was due"

    def _deadline(self) -> None:
        self.instance.deadline_at = None
        message = "the saga's deadline passed"
        self._remark(Condition.LATE, "Deadline", message)
        if self._may_go_back():
            self._compensate(None, "Deadline", message, None)
        else:
            self.changes.append(
                Change(None, self.instance.phase, "its deadline passed; after the pivot it only goes forward")
            )

    def _limit(self, plan: StepPlan, step: Step) -> None:
        message = f"no {' or '.join((*plan.done, *plan.failed))} within {format_duration(plan.within)}"
        self._remark(Condition.LATE, "Timeout", message, plan)
        certain = step.state is StepState.RETRYING and step.certain  # every attempt so far is known to have failed
        self._fail(plan, step, "Timeout", message, certain=certain, retry=False, event=None)

    def _send_due(self, plan: StepPlan, step: Step) -> None:
        if step.state is StepState.RETRYING:
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

    # ---- a person ----------------------------------------------------------------------------------------------

    def operate(self, command: Operator) -> None:
        if command.kind == "cancel":
            self._cancel(command)
            return
        names = [command.step] if command.step else [plan.name for plan in self.definition.steps]
        wanted = {StepState.UNDO_FAILED}
        if command.kind == "mark-undone" and command.step:
            wanted.add(StepState.COMPENSATING)
        steps = [name for name in names if name in self.instance.steps and self.instance.steps[name].state in wanted]
        if not steps:
            what = f"step {command.step}" if command.step else "this saga"
            self.ignored = f"nothing to do: no undo of {what} has failed"
            return
        for name in steps:
            plan, step = self.definition.by_name[name], self.instance.steps[name]
            if command.kind == "retry-undo":
                self._reopen()
                step.undo_failures = []
                self._start_undo(plan, step, f"retried by {command.by or 'a person'}")
            else:
                self._compensated(plan, step, f"marked as undone by {command.by or 'a person'}: {command.reason}")

    def _cancel(self, command: Operator) -> None:
        instance, pivot = self.instance, self.definition.pivot
        if instance.phase is not Phase.RUNNING:
            self.ignored = f"it cannot be cancelled: it is {instance.phase} already"
        elif self.definition.observe_only:
            self.ignored = "it cannot be cancelled: this saga only observes"
        elif pivot is not None and not self._may_go_back():
            state = self._step(pivot).state
            self.ignored = f"it cannot be cancelled: the pivot {pivot.name} is {state}, from here it only goes forward"
        else:
            instance.cancelling = True
            self._compensate(None, "Cancelled", command.reason, None)
