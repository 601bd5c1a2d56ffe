"""When a step is expected, said by the saga's own start event: passing it makes the saga late, and nothing else.

`within=` is a limit: behind it a step is given up. `due=` is a promise to somebody, another one for each saga: it is
read from the start event by the user's code, comes in as a `Decided`, and is remarked when it passes.
"""

from __future__ import annotations

from ..events.clock import to_datetime
from .definition import StepPlan
from .inputs import Ask, Change, Decided, Observed
from .instance import Step
from .move import Move
from .words import Condition


def ask(move: Move) -> None:
    """Ask of every step that says so when it is due."""
    move.outputs.extend(Ask("due", plan.name) for plan in move.definition.steps if plan.due is not None)


def decided(move: Move, input_: Decided) -> None:
    """Remember when a step is due; None where the start event does not say."""
    step = move.instance.steps[input_.step]
    step.due_at = input_.value
    if input_.value is not None and step.done is not None and step.ended_at is not None:
        step.overdue = step.ended_at > input_.value


def passed(move: Move, plan: StepPlan, step: Step) -> None:
    """Remark that a step is later than it was due."""
    assert step.due_at is not None
    step.overdue = True
    message = f"{plan.name} was due at {to_datetime(step.due_at).isoformat(timespec='seconds')}"
    move._remark(Condition.LATE, "Due", message, plan)
    move.changes.append(Change(plan.name, step.state, "later than it was due"))


def answered(move: Move, step: Step, event: Observed) -> None:
    """Note whether a success came later than it was due: by its own time, since we may have been away."""
    if step.due_at is not None and min(move.now, event.time) > step.due_at:
        step.overdue = True
