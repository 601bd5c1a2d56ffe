"""What the report of a service that its handler gave up does to a saga (ruling R14)."""

from __future__ import annotations

from .definition import StepPlan
from .fanout import FanOut
from .inputs import (
    Change,
    HandlerGaveUp,
)
from .instance import Failure, Step
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
        if step.given_up is not None or (self.instance.phase is Phase.COMPENSATING and not plan.final):
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
