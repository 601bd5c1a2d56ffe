"""What no single decision of a saga may be: judged by the states before and after it, and by what lay on the broker.

A history that is folded again by the same function repeats that function's mistakes. So these rules do not ask it: they
say of each input what must not come of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...definition import StepPlan
from ...inputs import Elapsed, Observed, Operator, Send
from ...instance import Step
from ...words import Phase, StepState
from .broker import Sent
from .refold import Recorded, Refolded
from .simulation import Violation

_SETTLED = frozenset((StepState.DONE, StepState.DEGRADED, StepState.SKIPPED))
_OVER = frozenset((*_SETTLED, StepState.COMPENSATED, StepState.UNDO_FAILED))
_GIVEN_UP = frozenset((StepState.FAILED, StepState.UNKNOWN, StepState.DEGRADED, StepState.UNDO_FAILED))


def judge(saga: Recorded, log: Sequence[Sent]) -> None:
    """Judge every decision of a saga.

    Args:
        saga: with its history.
        log: everything on the broker; nothing where its times do not compare with the saga's.

    Raises:
        Violation: with the name of the rule and what broke it.
    """
    answers = [each for each in log if each.record.key == saga.instance.key.encode()]
    repeats: Counter[tuple[str, str, int]] = Counter()
    for step in saga.applied:
        if step.before is not None:
            _answered_timers(saga, step)
            _unread_answers(saga, step, answers)
            _way_back(saga, step)
        _forward(saga, step)
        _whole_limit(saga, step)
        _attempts(saga, step)
        _repeats(saga, step, repeats)
    _undone_after_all(saga)
    _only_optional(saga)


def _answered_timers(saga: Recorded, step: Refolded) -> None:
    """S12: the timer of a step that is answered has no effect."""
    if not isinstance(step.input, Elapsed) or step.before is None:
        return
    for name, after in step.transition.instance.steps.items():
        before = step.before.steps.get(name)
        if before is not None and before.state in _OVER and after.state in _GIVEN_UP and after.state != before.state:
            raise Violation("S12", f"{saga.id}: step {name} was {before.state}, and a timer made it {after.state}")


def _unread_answers(saga: Recorded, step: Refolded, answers: Sequence[Sent]) -> None:
    """R1, row 6: no step is given up whose answer has lain on the broker since before its limit, read or not."""
    if not isinstance(step.input, Elapsed) or step.before is None:
        return
    for name, after in step.transition.instance.steps.items():
        before = step.before.steps.get(name)
        if before is None or before.limit_at is None or len(after.failures) == len(before.failures):
            continue
        plan = step.definition.by_name[name]
        for each in answers:
            if each.header("ce_type") not in plan.done or each.at >= before.limit_at:
                continue
            if plan.by is None and each.header("saga-run") in ("", str(saga.instance.run)):
                told = f"{saga.id}: step {name} was given up, but {each.header('ce_type')} had come before its limit"
                raise Violation("R1", told)


def _way_back(saga: Recorded, step: Refolded) -> None:
    """S9, R7: no saga turns back from a pivot that has happened, or may have."""
    before, after, pivot = step.before, step.transition.instance, step.definition.pivot
    if before is None or pivot is None or before.phase is not Phase.RUNNING or after.phase is not Phase.COMPENSATING:
        return
    was, is_ = before.steps[pivot.name], after.steps[pivot.name]
    if is_.done is not None or is_.state is StepState.UNKNOWN or was.state in (StepState.DONE, StepState.SKIPPED):
        state = StepState.DONE if is_.done is not None else was.state
        raise Violation("S9", f"{saga.id} turns back although its pivot {pivot.name} is {state}")


def _whole_limit(saga: Recorded, step: Refolded) -> None:
    """S12: a step whose turn comes has all the time that its definition gives it."""
    for plan in step.definition.steps:
        before = step.before.steps.get(plan.name) if step.before is not None else None
        after = step.transition.instance.steps[plan.name]
        if after.state is not StepState.WAITING or (before is not None and before.state is not StepState.PENDING):
            continue
        if after.limit_at is not None and after.limit_at < step.row.at + plan.within:
            raise Violation("S12", f"{saga.id}: step {plan.name} is given less time than it is to have")


def _forward(saga: Recorded, step: Refolded) -> None:
    """S10: a step has its turn when all that it follows is settled."""
    definition, after = step.definition, step.transition.instance
    if definition.branching:
        return  # alternatives and groups settle for their members
    for plan in definition.steps:
        before = step.before.steps.get(plan.name) if step.before is not None else None
        began = before is None or before.state is StepState.PENDING
        if plan.each is not None or not began or after.steps[plan.name].state is not StepState.WAITING:
            continue
        early = [name for name in plan.after if after.steps[name].state not in _SETTLED]
        if early and after.phase is Phase.RUNNING:
            raise Violation("S10", f"{saga.id}: step {plan.name} has its turn, but {early[0]} is not settled")


def _attempts(saga: Recorded, step: Refolded) -> None:
    """R3, S11: only a known failure, a person, or a success that its undo did not cover makes a new command."""
    for output in step.transition.outputs:
        if not isinstance(output, Send) or output.again or output.attempt == 1 or isinstance(step.input, Operator):
            continue
        before = step.before.steps.get(output.step) if step.before is not None else None
        if before is None:
            continue
        told = f"{saga.id}: {output.type} is sent under a new id"
        if isinstance(step.input, Observed) and output.kind == "undo":
            if before.state is StepState.COMPENSATED and not _is_newer(before, step.input):
                raise Violation("S11", f"{told}, but the success that came late was older than the answer to its undo")
        elif (output.kind == "undo" and not before.undo_failures) or (output.kind == "do" and not before.failures):
            raise Violation("R3", f"{told}, but nobody had said that the last attempt failed")


def _is_newer(step: Step, event: Observed) -> bool:
    return step.undo_empty or step.undo_answered_at is None or event.time > step.undo_answered_at


def _repeats(saga: Recorded, step: Refolded, repeats: Counter[tuple[str, str, int]]) -> None:
    """S16: silence repeats a command no more often than it may."""
    for output in step.transition.outputs:
        if not isinstance(output, Send) or not output.again:
            continue
        key = output.step, output.kind, output.attempt
        repeats[key] += 1
        plan = step.definition.by_name[output.step]
        most = (plan.undo_resend if output.kind == "undo" else plan.resend).attempts
        if repeats[key] >= most:
            raise Violation("S16", f"{saga.id}: {output.type} was sent {repeats[key] + 1} times, at most {most}")


def _undone_after_all(saga: Recorded) -> None:
    """S11: in a saga that was undone, every step whose success is known is undone."""
    instance = saga.instance
    if instance.phase not in (Phase.COMPENSATED, Phase.CANCELLED) or saga.definition.observe_only:
        return
    for plan in saga.definition.steps:
        if _has_to_be_undone(plan, instance.steps[plan.name]):
            state = instance.steps[plan.name].state
            raise Violation("S11", f"{saga.id} is {instance.phase}, step {plan.name} had happened, and it is {state}")


def _has_to_be_undone(plan: StepPlan, step: Step) -> bool:
    return plan.undo is not None and step.done is not None and step.state is not StepState.COMPENSATED


def _only_optional(saga: Recorded) -> None:
    """S9: what is optional does not fail a saga."""
    name = (saga.instance.cause or {}).get("step")
    if name is not None and saga.definition.by_name[name].optional:
        raise Violation("S9", f"{saga.id} failed for step {name}, which is optional")
