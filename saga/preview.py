"""What a cancellation would do, before anybody asks for it: played forward on the saga's present state. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .advance import advance
from .definition import Definition
from .inputs import Operator, OperatorKind, Send
from .instance import Instance
from .words import StepState


@dataclass(frozen=True, slots=True)
class Undo:
    """One undo that would go out.

    Args:
        step: whose.
        command: the event type that is sent.
        certain: the step is known to have happened; otherwise nobody knows, and it is undone to be sure.
    """

    step: str
    command: str
    certain: bool


@dataclass(frozen=True, slots=True)
class CancelPlan:
    """What `saga cancel` would do.

    Args:
        refused: why it would be refused; then nothing else is told.
        waves: the undos, those that go out together in one wave; each wave waits for the answers to the one before.
        untouched: steps that have happened and have nothing to undo.
    """

    refused: str | None
    waves: tuple[tuple[Undo, ...], ...] = ()
    untouched: tuple[str, ...] = ()


def cancel_plan(definition: Definition, instance: Instance, now: int) -> CancelPlan:
    """Say what a cancellation would undo, in which order, if every undo is answered at once.

    Args:
        definition, instance: of the saga as it stands.
        now: the store's clock, microseconds.
    """
    transition = advance(definition, instance, Operator("plan", "cancel"), now)
    if transition.verdict == "ignored":
        return CancelPlan(transition.reason)
    before, present, outputs = instance.steps, transition.instance, transition.outputs
    waves: list[tuple[Undo, ...]] = []
    while wave := [output for output in outputs if isinstance(output, Send) and output.kind == "undo"]:
        waves.append(tuple(Undo(send.step, send.type, before[send.step].done is not None) for send in wave))
        outputs = []
        for send in wave:
            answered = advance(definition, present, Operator(f"plan:{send.step}", "mark-undone", step=send.step), now)
            present = answered.instance
            outputs += answered.outputs
    undone = {undo.step for sent in waves for undo in sent}
    kept = [name for name, step in before.items() if step.state is StepState.DONE and name not in undone]
    return CancelPlan(None, tuple(waves), tuple(kept))


def tried(
    definition: Definition,
    instance: Instance,
    kind: OperatorKind,
    step: str | None,
    by: str,
    reason: str,
    now: int,
) -> tuple[str | None, list[str]]:
    """Say what would come of a person's command, were it applied now.

    Args:
        definition, instance: of the saga as it stands.
        kind, step, by, reason: the command.
        now: the store's clock, microseconds.

    Returns:
        Why it would be refused, or None; and what would change.
    """
    transition = advance(definition, instance, Operator("try", kind, by, reason, step), now)
    if transition.verdict == "ignored":
        return transition.reason, []
    told = [
        f"{each.step or 'saga'} {each.state}{': ' + each.reason if each.reason else ''}" for each in transition.changes
    ]
    sent = [f"{each.type} goes out" for each in transition.outputs if isinstance(each, Send)]
    return None, [*told, *sent]
