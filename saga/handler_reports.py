"""What the report of a service that its handler gave up does to a saga (ruling R14)."""

from __future__ import annotations

from .definition import StepPlan
from .fanout import FanOut
from .inputs import (
    Change,
    HandlerGaveUp,
)
from .instance import Step
from .occurrence import base_of
from .words import Condition, Phase, StepState


class HandlerReports(FanOut):
    """Decides which moves a report calls for."""

    def handler_gave_up(self, report: HandlerGaveUp) -> None:
        for plan in self.definition.steps:
            step = self._step(plan)
            if report.event_type == plan.undo and step.state is StepState.COMPENSATING:
                if report.event_id == self._command_id(plan, "undo"):
                    self._undo_gave_up(plan, step, report)
                    return
            elif step.open and not self.instance.phase.ended and set(report.produces) & {*plan.done, *plan.failed}:
                concerned = self.concerned(plan, report)
                for each in concerned:
                    self._step_gave_up(each, self._step(each), report)
                if concerned:
                    return
            elif self._unread(plan, step, report):
                self._gave_up_unread(plan, step, report)
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
        delayed = self.instance.conditions.get(Condition.DELAYED)
        if delayed is not None and delayed.step == plan.name:
            del self.instance.conditions[Condition.DELAYED]
        self._remark(Condition.DEAD_LETTERED, report.error, f"{report.service} gave up on {report.event_type}", plan)
        if plan.send is None and step.caused_by is None:
            step.caused_by = report.event_id  # the undo's guard finds the step by what triggered it
        if step.given_up is not None or (self.instance.phase is Phase.COMPENSATING and not plan.final):
            self._note_failure(step, report.error, report.message)
            self.changes.append(Change(plan.name, step.state, f"{report.error} in {report.service}"))
            return
        # The handler may have had its effect before it raised: not certain, so it is undone too (row 16).
        self._fail(plan, step, report.error, report.message, certain=False, retry=True, event=report.event_id)

    def _unread(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> bool:
        """Whether it is about a step that the saga has not seen begin: its trigger was faster elsewhere (row 6)."""
        if not report.dead or plan.send is not None or base_of(plan.name) != plan.name or plan.final:
            return False
        if step.done is not None or not set(report.produces) & {*plan.done, *plan.failed}:
            return False
        if self.instance.phase is Phase.RUNNING and step.state is StepState.PENDING:
            return True
        if plan.undo is None or self.definition.observe_only:
            return False
        if step.state is StepState.SKIPPED:
            return True
        kept = self.instance.phase in (Phase.RUNNING, Phase.COMPLETED) and step.given_up is None
        return step.state is StepState.FAILED and step.failed is None and not kept  # nobody who did it has said so

    def _gave_up_unread(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        """Nothing else will tell that it may have happened: it is undone, like a success that comes late (S11).

        The saga has not seen the event that triggered it, either: the report names it to the undo's guard.
        """
        step.caused_by = report.event_id
        self._remark(Condition.OUT_OF_ORDER, "EarlyReport", f"{report.service} gave up before {plan.name} began", plan)
        self._remark(Condition.DEAD_LETTERED, report.error, f"{report.service} gave up on {report.event_type}", plan)
        if step.state is StepState.PENDING:
            self._fail(plan, step, report.error, report.message, certain=False, retry=False, event=report.event_id)
            return
        self._reopen()
        if self.instance.phase is Phase.RUNNING:
            step.given_up = step.given_up or "unwanted"
        self._note_failure(step, report.error, report.message)
        step.certain = False
        self._enter(plan, StepState.UNKNOWN, f"{report.error} in {report.service}: it may have happened")

    def _undo_gave_up(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        if not report.dead:
            self._parked(plan, step, report)
            return
        self._undo_went_wrong(plan, step, report.error, report.message)

    def _parked(self, plan: StepPlan, step: Step, report: HandlerGaveUp) -> None:
        if report.retry_topic:
            told = f"{report.service} gave up on {report.event_type} for now and tries again from {report.retry_topic}"
            self._remark(Condition.DELAYED, report.error, told, plan)
            self.changes.append(Change(plan.name, step.state, f"delayed by {report.service}: {report.error}"))
            return
        self._remark(
            Condition.KEY_PARKED, report.error, f"{report.service} parked {report.event_type} and tries again", plan
        )
        self.changes.append(Change(plan.name, step.state, f"parked by {report.service}: {report.error}"))
