"""A saga whose version's code is not loaded: it goes on taking in events, and what needs the code waits (fault 49).

Pure, called by `advance`. What happened is never lost: facts are applied at once, by whoever reads them. Only what must
be made by the user's code waits in the instance, until a coordinator that has the code finds it. Timers stand still
meanwhile: a step must not run out of time because nobody could ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .inputs import Announce, Ask, Change, Loaded, Output, Send, Tell, Unloaded
from .instance import Waiting
from .move import Move
from .outputs import read_output, write_output
from .words import Condition, StepState

_ASKED = (StepState.WAITING, StepState.UNKNOWN)


def hold(move: Move, input_: Unloaded) -> None:
    """Keep outputs until somebody has the code."""
    instance = move.instance
    waiting = [Waiting(move.now, input_.cause, output) for output in input_.outputs]
    instance.waiting = [*instance.waiting, *waiting]
    move._remark(
        Condition.PAUSED,
        "NotLoaded",
        f"version {instance.version} of {instance.type} is loaded nowhere; run it with `saga run`",
    )
    for output in map(read_output, input_.outputs):
        tell(move, output, f"paused: {_called(output)} waits for the code")


def release(move: Move, _: Loaded) -> None:
    """Let go what waited, with the time that it was promised; what nobody wants any more is dropped."""
    instance = move.instance
    if not instance.waiting:
        move.ignored = "nothing waits"
        return
    waiting, instance.waiting = instance.waiting, []
    instance.conditions.pop(Condition.PAUSED, None)
    for each in waiting:
        output = read_output(each.output)
        if wanted(move, output):
            _give_time(move, output, move.now - each.at)
            move.outputs.append(output)
            tell(move, output, f"the code is loaded: {_called(output)} goes out")
        else:
            tell(move, output, f"{_called(output)} is dropped: nobody waits for it any more")


def divided(outputs: Sequence[Output]) -> tuple[list[Output], tuple[str, ...]]:
    """Divide outputs into what anybody can publish (bytes that went out before, news for a parent), and the rest."""
    again: list[Output] = [o for o in outputs if isinstance(o, Tell) or (isinstance(o, Send) and o.again)]
    return again, tuple(write_output(output) for output in outputs if output not in again)


def tell(move: Move, output: Output, reason: str) -> None:
    """Note in the history what becomes of an output."""
    step = None if isinstance(output, (Announce, Tell)) else output.step
    state = move.instance.phase if step is None else move.instance.steps[step].state
    move.changes.append(Change(step, state, reason))


def _called(output: Output) -> str:
    return f"{output.kind}=" if isinstance(output, Ask) else output.type


def wanted(move: Move, output: Output) -> bool:
    """Whether what was kept is of use still."""
    if isinstance(output, (Announce, Tell)):
        return True
    if isinstance(output, Ask):
        return output.kind == "due" or move.instance.steps[output.step].asked == output.kind
    step = move.instance.steps[output.step]
    if output.kind == "undo":
        return step.state is StepState.COMPENSATING and step.undo_attempt == output.attempt
    return step.state in _ASKED and step.attempt == output.attempt and not move.instance.phase.ended


def _give_time(move: Move, output: Output, waited: int) -> None:
    if not isinstance(output, Send):
        return
    step = move.instance.steps[output.step]
    names = ("undo_limit_at", "undo_send_at") if output.kind == "undo" else ("limit_at", "send_at")
    for name in names:
        at = getattr(step, name)
        if at is not None:
            setattr(step, name, at + waited)
