"""How long, how often and how many at once: what a handler's author may say of its calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from ..events.clock import duration
from ..events.errors import DefinitionError
from .breaker import Breaker

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600}


@dataclass(frozen=True, slots=True)
class Batch:
    """How a batch handler's events are collected.

    Args:
        most: how many go into one call at most.
        wait: how long the first of a batch waits for others, e.g. `"50ms"`; by default it takes what is at hand.

    Raises:
        DefinitionError: a number below 1, or something that is no duration.
    """

    most: int = 100
    wait: str | float | timedelta | None = None

    def __post_init__(self) -> None:
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise DefinitionError(f"Batch(most={self.most!r}): give a whole number of at least 1")
        if self.wait is not None:
            duration(self.wait)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one handler.

    Args:
        timeout: of one call, in microseconds; None for none.
        concurrency: how many calls at once; None for as many as the service allows.
        rate: calls per second; None for no limit.
        breaker: when it is left alone for a while; None for never.
        priority: how important its events are, whatever their topic; None for what the service says.
        batch: how its batches are collected; None for a handler of single events.
    """

    timeout: int | None = None
    concurrency: int | None = None
    rate: float | None = None
    breaker: Breaker | None = None
    priority: int | None = None
    batch: Batch | None = None

    @property
    def gated(self) -> bool:
        """Whether a call may have to wait for its turn."""
        return (
            self.concurrency is not None or self.rate is not None or self.breaker is not None or self.batch is not None
        )


NO_LIMITS = Limits()


def limits_of(
    where: str,
    timeout: str | float | timedelta | None,
    concurrency: int | None,
    rate: str | None,
    breaker: Breaker | None,
    priority: int | None = None,
) -> Limits:
    """Check what was written.

    Args:
        where: service and handler, for messages.
        timeout, concurrency, rate, breaker, priority: as written in `Service.on`.

    Raises:
        DefinitionError: naming the handler, the argument and the remedy.
    """
    if timeout is not None:
        try:
            timeout = duration(timeout)
        except DefinitionError as error:
            raise DefinitionError(f"{where}: timeout={timeout!r}: {error.message}") from None
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
    ):
        raise DefinitionError(f"{where}: concurrency={concurrency!r}; give a whole number of at least 1")
    if breaker is not None and not isinstance(breaker, Breaker):
        raise DefinitionError(f'{where}: breaker={breaker!r}; write breaker=Breaker(failures=0.5, pause="10s")')
    if priority is not None:
        check_priority(priority, f"{where}: priority={priority!r}")
    return Limits(timeout, concurrency, None if rate is None else _per_second(where, rate), breaker, priority)


def check_priority(priority: object, where: str) -> None:
    """Check that something is a priority.

    Raises:
        DefinitionError: it is not.
    """
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise DefinitionError(f"{where}; give a whole number: higher is served first, 0 is usual")


def _per_second(where: str, rate: str) -> float:
    found = _RATE.fullmatch(rate.replace(" ", "")) if isinstance(rate, str) else None
    if found is None or float(found[1]) <= 0:
        raise DefinitionError(f'{where}: rate={rate!r}; write it like "50/s", "600/m" or "1000/h"')
    return float(found[1]) / _SECONDS[found[2]]


class Bucket:
    """A rate as a bucket of tokens: it holds a second's worth (at least one), and one is taken for each call.

    Args:
        per_second: how fast it fills.
        now: seconds on a clock that only goes forward; it begins full.
    """

    def __init__(self, per_second: float, now: float) -> None:
        self._pause = 1 / per_second
        self._burst = max(1.0, per_second) * self._pause
        self._free_at = now - self._burst

    def wait(self, now: float) -> float:
        """Say for how many seconds there is no token; 0 when there is one."""
        return max(0.0, max(self._free_at, now - self._burst) + self._pause - now)

    def take(self, now: float) -> None:
        """Take a token."""
        self._free_at = max(self._free_at, now - self._burst) + self._pause
