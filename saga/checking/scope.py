"""How far a model check goes: how many faults, attempts and seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...events.errors import ConfigurationError
from ..definition import Definition, RetryPlan

MOST_FAULTS = 7
"""Of each kind: they are counted in three bits."""

KINDS = ("duplicates", "crashes", "commands")
"""The faults that are counted, in the order of their bits."""

_BITS = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """A small world in which everything is tried.

    How steps and undos end (in success, in a failure that is said, in a handler that gives up, in silence: what is lost
    is never read), in what order things happen and which timer fires first is never limited. What could go on for ever
    is.

    Args:
        sagas: instances that share the faults below.
        duplicates: events that come a second time under another id, and commands that are sent again to who has them.
        crashes: of a service between its effect and its answer.
        commands: what people ask for: cancel, retry-undo, mark-undone.
        attempts: retries and resends of each command, at most; a definition's higher numbers are cut to this.
        undo_attempts: the same of retries of each undo.
        depth: longest run, in actions; 0 for no limit.
        seconds: stop after this time; 0 for no limit.
        states: stop after so many states; 0 for no limit.
    """

    sagas: int = 2
    duplicates: int = 1
    crashes: int = 1
    commands: int = 1
    attempts: int = 2
    undo_attempts: int = 1
    depth: int = 0
    seconds: float = 0
    states: int = 0

    def __post_init__(self) -> None:
        for name in KINDS:
            if not 0 <= getattr(self, name) <= MOST_FAULTS:
                raise ConfigurationError(f"{name}={getattr(self, name)}; give a number from 0 to {MOST_FAULTS}")
        for name, least in (
            ("sagas", 1),
            ("attempts", 1),
            ("undo_attempts", 1),
            ("depth", 0),
            ("seconds", 0),
            ("states", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)}; give a number of at least {least}")

    @property
    def budget(self) -> int:
        """The counted faults as one number, three bits for each kind."""
        return sum(getattr(self, name) << (_BITS * place) for place, name in enumerate(KINDS))

    def cut(self, definition: Definition) -> Definition:
        """Give the definition with no more attempts of anything than this scope has."""
        steps = tuple(
            replace(
                step,
                retry=_fewer(step.retry, self.attempts),
                resend=_fewer(step.resend, self.attempts),
                undo_retry=_fewer(step.undo_retry, self.undo_attempts),
                undo_resend=_fewer(step.undo_resend, self.attempts),
            )
            for step in definition.steps
        )
        return replace(definition, steps=steps)


def _fewer(plan: RetryPlan, attempts: int) -> RetryPlan:
    return replace(plan, attempts=min(plan.attempts, attempts))


def cost(kind: str) -> int:
    """Give what one fault of a kind takes from a budget."""
    return 1 << (_BITS * KINDS.index(kind))


def left(budget: int, kind: str) -> int:
    """Give how many faults of a kind a budget still has."""
    return (budget >> (_BITS * KINDS.index(kind))) & MOST_FAULTS


def covers(more: int, less: int) -> bool:
    """Tell whether a budget has at least what another has, of every kind."""
    return all(left(more, kind) >= left(less, kind) for kind in KINDS)
