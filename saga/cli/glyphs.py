"""How states look: always a word, beside it a glyph (one cell wide, with an ASCII twin) and a colour."""

from __future__ import annotations

from typing import Final, NamedTuple


class Look(NamedTuple):
    """A glyph and a rich style."""

    glyph: str
    style: str


_DONE = Look("✔", "green")
_RUNNING = Look("●", "cyan")
_BACK = Look("●", "yellow")
_WAITING = Look("◷", "cyan")
_RETRYING = Look("↺", "yellow")
_FAILED = Look("✖", "red")
_UNDONE = Look("↩", "yellow")
_NOT = Look("○", "dim")
_PERSON = Look("⚠", "red")

PHASES: Final = {
    "RUNNING": _RUNNING,
    "COMPENSATING": _BACK,
    "COMPLETED": _DONE,
    "COMPENSATED": _UNDONE,
    "FAILED": _FAILED,
    "CANCELLED": _UNDONE,
    "PAUSED": Look("⏸", "magenta"),
}
STEPS: Final = {
    "PENDING": _NOT,
    "WAITING": _WAITING,
    "RETRYING": _RETRYING,
    "DONE": _DONE,
    "DEGRADED": Look("⚠", "yellow"),
    "SKIPPED": _NOT,
    "FAILED": _FAILED,
    "UNKNOWN": Look("⚠", "yellow"),
    "COMPENSATING": _BACK,
    "COMPENSATED": _UNDONE,
    "UNDO_FAILED": _FAILED,
}

ASCII: Final = str.maketrans(
    {
        "✔": "+",
        "●": "*",
        "◷": ".",
        "↺": "r",
        "✖": "x",
        "↩": "<",
        "○": "-",
        "⏸": "=",
        "⚠": "!",
        "├": "|",
        "└": "`",
        "│": "|",
        "─": "-",
        "█": "#",
        "━": "=",
        "╺": "-",
        "▏": "|",
        "·": ".",
        "…": "~",
        "→": ">",
    }
)


def phase_look(phase: str, *, waits_for_person: bool = False) -> Look:
    """Give the look of a saga; one that waits for a person says so before anything else."""
    return _PERSON if waits_for_person else PHASES.get(phase, _NOT)


def step_look(state: str) -> Look:
    """Give the look of a step."""
    return STEPS.get(state, _NOT)
