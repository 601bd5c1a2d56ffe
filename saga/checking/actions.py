"""What happens in the model, and what it is called."""

from __future__ import annotations

from typing import NamedTuple

from ..inputs import Input, Operator, OperatorKind
from .participant import Role, Said


class Action(NamedTuple):
    """One thing that happens.

    Args:
        kind: "start", "read", "timer", "person".
        label: what names it among everything that may happen in its state.
        before: what participants did unseen before it.
        input: what the coordinator is given.
        step: the step that it is about.
    """

    kind: str
    label: str
    before: tuple[str, ...] = ()
    input: Input | None = None
    step: str | None = None

    @property
    def line(self) -> str:
        """What happens, as one line: no two things that may happen in one state have the same."""
        return "; ".join((*self.before, self.label))


TIMERS = {
    "limit_at": "its limit passes",
    "send_at": "its command is due again",
    "undo_limit_at": "the limit of its undo passes",
    "undo_send_at": "its undo is due again",
    "deadline_at": "its deadline passes",
}
"""What it means that a timer is due, by its field."""


def person(kind: OperatorKind, step: str | None) -> Action:
    """Make a person's command."""
    label = f"a person: {kind}" + (f" {step}" if step else "")
    return Action("person", label, input=Operator(f"{kind}:{step or ''}", kind, "ann", "", step), step=step)


def spelled(role: Role, message: int) -> str:
    """Name a message that lies before a participant: which attempt, of the step or of its undo."""
    if message < 0:
        return f"undo of {role.name}" if message == -1 else f"undo {-message} of {role.name}"
    return role.name if message == 1 else f"{role.name} ({message})"


def said_of(name: str, said: Said) -> str:
    """Name what a participant says."""
    what = {
        "done": "the success",
        "failed": "the failure",
        "gave-up": "the giving up",
        "undone": "the undoing",
        "undo-gave-up": "the giving up of the undo",
    }[said.kind]
    number = "" if said.number == 1 else f" ({said.number})"
    order = "" if said.time <= 2 else f" at {said.time}"
    return f"{what} of {name}{number}{order}{', a copy' if said.copy else ''}{', empty' if said.empty else ''}"
