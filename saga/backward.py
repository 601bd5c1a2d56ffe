"""Backward: steps are undone, the last one first, each undo waiting for its answer; and the ends of a saga."""

from __future__ import annotations

from .definition import StepPlan
from .inputs import (
    Announce,
    Change,
)
from .instance import Failure, Step
from .occurrence import members
from .standing import Standings
from .words import Phase, StepState

_IN_FLIGHT = frozenset((StepState.WAITING, StepState.UNKNOWN))


class Backward(Standings):
    """The moves back, and the end."""

    def _may_go_back(self) -> bool:
        """Before the pivot everything can be undone; from the moment that it may have happened nothing can."""
        if self.instance.kept:
            return False
        if self.definition.pivot is None:
            return True
        pivot = self._step(self.definition.pivot)
        # A pivot that was skipped is behind us as well: what follows it has no undo.
        return pivot.certain and pivot.state not in (*_IN_FLIGHT, StepState.DONE, StepState.SKIPPED)

    def _why_forward(self) -> str:
        return "every step is settled," if self.instance.kept else "after the pivot"

    def _compensate(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        self._set_cause(plan, error, message, event)
        self.instance.phase = Phase.COMPENSATING
        self.changes.append(Change(None, Phase.COMPENSATING, f"{plan.name}: {error}" if plan else error))
        for other in self.definition.steps:
            step = self._step(other)
            if other.final or step.state is StepState.COMPENSATING:
                continue
            self._clear(step)
            step.asked, step.early = None, False
            if step.state is StepState.PENDING:
                if self._may_run_unasked(other):
                    step.conclude(StepState.SKIPPED, self.now)  # the parent of what its handler does all the same
                self._enter(other, StepState.SKIPPED, "")
            elif step.state is StepState.RETRYING:
                state = StepState.FAILED if step.certain else StepState.UNKNOWN
                step.conclude(state, self.now)
                self._enter(other, state, "not tried again")
            elif step.state is StepState.WAITING and other.each is not None:
                self._give_up_group(other)
            elif step.state is StepState.WAITING:
                step.certain = False
                step.conclude(StepState.UNKNOWN, self.now)
                self._enter(other, StepState.UNKNOWN, "given up while in flight")

    def _give_up_group(self, plan: StepPlan) -> None:
        """Say of the group of a step per element what the worst of its occurrences says."""
        states = {self.instance.steps[name].state for name in members(self.instance, plan.name)}
        state = StepState.FAILED if StepState.FAILED in states else StepState.UNKNOWN
        group = self._step(plan)
        group.asked = None
        group.conclude(state, self.now)
        self._enter(plan, state, "")

    def _may_run_unasked(self, plan: StepPlan) -> bool:
        """Whether a step's trigger may be out though the saga gives it up: nobody stops what is choreographed."""
        before = [(name, self.instance.steps[name]) for name in self.definition.edges[plan.name]]
        return plan.send is None and any(
            step.state in (StepState.WAITING, StepState.UNKNOWN)
            or (
                step.state is StepState.FAILED
                if name == plan.instead_of
                else step.done is not None or step.outcome is StepState.SKIPPED
            )
            for name, step in before
        )

    def _continue_undo(self) -> bool:
        """Undo in reverse order of dependency: a step waits until all that depend on it are undone (row 18, S10).

        While a saga is running, these are the steps that it goes on without.

        Returns:
            Whether anything changed.
        """
        changed = False
        for plan in self.definition.undoable:
            if self.needs_undo(plan) and self._may_be_undone(plan):
                changed = True
                step = self._step(plan)
                if step.undo_event is not None:
                    step.undo_ready_at = self.now
                    step.conclude_undo(StepState.COMPENSATED, self.now)
                    self._enter(plan, StepState.COMPENSATED, "undone by somebody else")
                else:
                    self._start_undo(plan, step, "")
        return changed

    def _may_be_undone(self, plan: StepPlan) -> bool:
        """Whether nothing that depends on a step is left: neither an undo, nor what came before its turn."""
        later = [self.definition.by_name[name] for name in self.definition.descendants[plan.name]]
        if any(self.unsettled(other) for other in later):
            return False
        for other in later:
            groups = [group for group in other.any_of if plan.name in group]
            if self._step(other).early and any(self.group_standing(group) != "good" for group in groups):
                return False  # it may rest on this one; it counts, or is undone first, when the group is decided
        return True

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

    def _undo_went_wrong(self, plan: StepPlan, step: Step, error: str, message: str) -> None:
        """An attempt of an undo has failed: the next one after a pause, or a person."""
        step.undo_failures = [*step.undo_failures, Failure(self.now, error)]
        step.message = message
        if len(step.undo_failures) < plan.undo_retry.attempts:
            step.undo_sends = 0
            step.undo_send_at = self.now + plan.undo_retry.pause(len(step.undo_failures))
            self.changes.append(
                Change(plan.name, StepState.COMPENSATING, f"its undo failed: {error}; it is sent again")
            )
            return
        self._undo_failed(plan, step, error, message)

    def _undo_failed(self, plan: StepPlan, step: Step, error: str, message: str) -> None:
        step.error, step.message = error, message
        step.conclude_undo(StepState.UNDO_FAILED, self.now)
        self._clear(step)
        self._enter(plan, StepState.UNDO_FAILED, message or error)
        self._needs_person(plan, "UndoFailed", f"the undo of step {plan.name} failed for good: {error}")
        if self.instance.phase is Phase.RUNNING and self._may_go_back():
            self._compensate(plan, error, message, None)

    def _compensated(self, plan: StepPlan, step: Step, reason: str) -> None:
        if self.instance.phase.ended:
            self._reopen()
            step.undo_ready_at, step.undo_ended_at = self.now, None
        step.conclude_undo(StepState.COMPENSATED, self.now)
        self._clear(step)
        self._enter(plan, StepState.COMPENSATED, reason)
        self._resolve(plan)

    def _finish_undo(self) -> None:
        states = [self._step(plan).state for plan in self.definition.steps]
        if StepState.UNDO_FAILED in states:
            self._end(Phase.FAILED, None)
        elif self.definition.observe_only and StepState.COMPENSATED not in states:
            self._end(Phase.FAILED, None)  # we undo nothing, and saw nobody else do it
        elif self.instance.cancelling:
            self._end(Phase.CANCELLED, self.definition.compensated)
        else:
            self._end(Phase.COMPENSATED, self.definition.compensated)

    def _reopen(self) -> None:
        """What ended is opened again, in a trace of its own (ruling R11); what had completed stays as it is."""
        if not self.instance.phase.ended:
            return
        self.instance.kept = self.instance.phase is Phase.COMPLETED
        self.instance.phase = Phase.RUNNING if self.instance.kept else Phase.COMPENSATING
        self.instance.ended_at = None
        self.instance.epoch += 1
        self.instance.opened_at = self.now
        self.instance.turned = []
        self.changes.append(Change(None, self.instance.phase, "opened again"))

    def _end(self, phase: Phase, announce: str | None) -> None:
        self.instance.phase = phase
        self.instance.ended_at = self.now
        self.changes.append(Change(None, phase))
        if announce is not None and self.instance.announced is None and not self.definition.observe_only:
            self.instance.announced = announce
            self.outputs.append(Announce(announce))
