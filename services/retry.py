"""Retries as decisions: the strategy says what to do next, the worker does it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ..events.clock import duration
from ..events.errors import DecodeError, DefinitionError, EncodeError, LimitExceeded, MissingKey, Permanent


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more after `delay` microseconds."""

    delay: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop trying: the error is permanent, or the attempts are exhausted."""

    reason: Literal["permanent", "exhausted"]


Decision = Again | GiveUp

# A retry cannot change what these say: the bytes, or the handler's own answer, stay as they are.
_PERMANENT = (Permanent, DecodeError, EncodeError, MissingKey, LimitExceeded, DefinitionError)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon to try again after an error.

    The pause doubles from `first` up to `most`; each is shortened by up to half at random, so that many do not retry in
    step.

    Args:
        attempts: how many tries there are in all, the first one included.
        first: pause after the first failure, e.g. `"200ms"`.
        most: the longest pause, e.g. `"30s"`.

    Raises:
        DefinitionError: fewer than one attempt, something that is not a duration, or `first` longer than `most`.
    """

    attempts: int = 5
    first: str | float | timedelta = "200ms"
    most: str | float | timedelta = "30s"

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise DefinitionError(f"Retry(attempts={self.attempts!r}): give a whole number of at least 1")
        if duration(self.first) > duration(self.most):
            raise DefinitionError(
                f"Retry(first={self.first!r}, most={self.most!r}): the first pause is longer than most"
            )

    def pause(self, attempt: int, randomness: float) -> int:
        """Give the pause after failed attempt number `attempt`, in microseconds.

        Args:
            attempt: counted from 1.
            randomness: a number from 0 to 1.
        """
        full = min(duration(self.most), duration(self.first) << min(attempt - 1, 40))
        return full - round(full * randomness / 2)

    def after(self, error: BaseException, attempt: int, randomness: float) -> Decision:
        """Decide what follows the failure of attempt number `attempt`.

        Args:
            error: what the handler raised; `Permanent` and events that cannot be read or written are never retried.
            attempt: counted from 1.
            randomness: a number from 0 to 1.
        """
        if isinstance(error, _PERMANENT):
            return GiveUp("permanent")
        if attempt >= self.attempts:
            return GiveUp("exhausted")
        return Again(self.pause(attempt, randomness))
