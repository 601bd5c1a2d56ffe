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
Errors = type[Exception] | tuple[type[Exception], ...]

# A retry cannot change what these say: the bytes, or the handler's own answer, stay as they are.
PERMANENT = (Permanent, DecodeError, EncodeError, MissingKey, LimitExceeded, DefinitionError)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon to try again after an error, and after which.

    The pause doubles from `first` up to `most`; each is shortened at random by up to the share `jitter`, so that many
    do not retry in step.

    Args:
        attempts: how many tries there are in all, the first one included.
        first: pause after the first failure, e.g. `"200ms"`.
        most: the longest pause, e.g. `"30s"`.
        jitter: from 0 (always the full pause) to 1; by default half.
        within: no try begins later than this after the first failure, e.g. `"2m"`; by default only `attempts` counts.
        on: error classes that are tried again; any other is given up at once, as `Permanent` is. By default all.
        not_on: error classes that are given up at once, also where `on` names a base class of theirs.

    Raises:
        DefinitionError: fewer than one attempt, something that is not a duration, `first` longer than `most`, or
            something that is no error class.
    """

    attempts: int = 5
    first: str | float | timedelta = "200ms"
    most: str | float | timedelta = "30s"
    jitter: float = 0.5
    within: str | float | timedelta | None = None
    on: Errors = Exception
    not_on: Errors = ()

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise DefinitionError(f"Retry(attempts={self.attempts!r}): give a whole number of at least 1")
        if duration(self.first) > duration(self.most):
            raise DefinitionError(
                f"Retry(first={self.first!r}, most={self.most!r}): the first pause is longer than most"
            )
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= 1:
            raise DefinitionError(f"Retry(jitter={self.jitter!r}): give a share from 0 to 1")
        if self.within is not None:
            duration(self.within)
        for name, given in (("on", self.on), ("not_on", self.not_on)):
            check_errors(given, f"Retry({name}=...)")
        if self.on == ():
            raise DefinitionError("Retry(on=()): nothing would ever be tried again; write attempts=1 for that")

    @property
    def timing_only(self) -> bool:
        """Whether it says no more than how often and how soon, which is all that a saga's commands know of."""
        return self.on is Exception and self.not_on == () and self.within is None and self.jitter == 0.5

    def pause(self, attempt: int, randomness: float) -> int:
        """Give the pause after failed attempt number `attempt`, in microseconds.

        Args:
            attempt: counted from 1.
            randomness: a number from 0 to 1.
        """
        full = min(duration(self.most), duration(self.first) << min(attempt - 1, 40))
        return full - round(full * randomness * self.jitter)

    def after(self, error: BaseException, attempt: int, randomness: float, since: int = 0) -> Decision:
        """Decide what follows the failure of attempt number `attempt`.

        Args:
            error: what the handler raised; `Permanent` and events that cannot be read or written are never retried.
            attempt: counted from 1.
            randomness: a number from 0 to 1.
            since: time since the first failure, in microseconds.
        """
        if isinstance(error, PERMANENT) or not isinstance(error, self.on) or isinstance(error, self.not_on):
            return GiveUp("permanent")
        pause = self.pause(attempt, randomness)
        if attempt >= self.attempts or (self.within is not None and since + pause > duration(self.within)):
            return GiveUp("exhausted")
        return Again(pause)


def check_errors(given: object, where: str) -> None:
    """Check that something is an error class or several.

    Raises:
        DefinitionError: it is not.
    """
    for each in given if isinstance(given, tuple) else (given,):
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise DefinitionError(f"{where}: {each!r} is no error class; write OSError, or (OSError, ValueError)")
