"""A circuit breaker: while what a handler needs is down, it is not asked again and again, and no try is wasted.

`Breaker` is what users write; `Circuit` is its state, pure: the time comes in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from ..events.clock import SECOND, duration
from ..events.errors import DefinitionError
from .retry import PERMANENT, Errors, check_errors


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a handler is to be left alone for a while.

    It opens when of the calls within `window` at least `calls` have ended and the share `failures` of them failed.
    After `pause` one call at a time is let through: when `probes` of them have gone well it closes, and a failed one
    opens it again. `Permanent` errors are the event's fault and count as calls that went well.

    Args:
        failures: the share of failed calls that opens it, above 0 and up to 1.
        calls: how many calls must have ended in the window before it may open.
        window: how far back calls count.
        pause: how long it stays open.
        probes: how many calls in a row must go well before it closes.
        on: error classes that count as failures; by default all that are not permanent.

    Raises:
        DefinitionError: a limit that is none, naming it.
    """

    failures: float = 0.5
    calls: int = 10
    window: str | float | timedelta = "30s"
    pause: str | float | timedelta = "10s"
    probes: int = 1
    on: Errors = Exception

    def __post_init__(self) -> None:
        if isinstance(self.failures, bool) or not 0 < self.failures <= 1:
            raise DefinitionError(f"Breaker(failures={self.failures!r}): give a share above 0 and up to 1, like 0.5")
        for name, value in (("calls", self.calls), ("probes", self.probes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DefinitionError(f"Breaker({name}={value!r}): give a whole number of at least 1")
        duration(self.window)
        duration(self.pause)
        check_errors(self.on, "Breaker(on=...)")


class Position(Enum):
    """Where a circuit stands."""

    CLOSED = "closed"  # calls pass
    OPEN = "open"  # nothing passes
    HALF_OPEN = "half-open"  # one call at a time passes, to see


_SLICES = 10
"""In so many parts the window is counted: what is old goes out part by part."""


class Circuit:
    """The state of one handler's breaker; times are seconds on a clock that only goes forward.

    Args:
        breaker: its rules.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._slice = duration(breaker.window) / SECOND / _SLICES
        self._pause = duration(breaker.pause) / SECOND
        self._counts: deque[list[int]] = deque()  # [number of the slice, calls, failures]
        self._until = 0.0
        self._well = 0
        self._probing = False
        self.position = Position.CLOSED
        """Where it stands."""
        self.opened = 0
        """How often it has opened."""
        self.since = 0.0
        """When it has ceased to be closed."""

    def wait(self, now: float) -> float | None:
        """Say how long no call may begin: 0 when one may, None until the probe under way has ended."""
        if self.position is Position.CLOSED:
            return 0.0
        if self.position is Position.OPEN:
            if now < self._until:
                return self._until - now
            self.position, self._well = Position.HALF_OPEN, 0
        return None if self._probing else 0.0

    def rests(self, now: float) -> float:
        """Say for how long no call may begin yet, by what is known; 0 where one may, or a probe is under way."""
        return max(0.0, self._until - now) if self.position is Position.OPEN else 0.0

    def begin(self) -> bool:
        """Note that a call begins; say whether it is a probe."""
        if self.position is not Position.HALF_OPEN:
            return False
        self._probing = True
        return True

    def counts(self, error: BaseException | None) -> bool:
        """Say whether a call that ended so counts as a failure."""
        return error is not None and not isinstance(error, PERMANENT) and isinstance(error, self._breaker.on)

    def end(self, failed: bool, probe: bool, now: float) -> None:
        """Note how a call ended; one that had begun before the breaker opened says nothing new."""
        if probe:
            self._probing = False
            if failed:
                self._open(now)
                return
            self._well += 1
            if self._well >= self._breaker.probes and self.position is Position.HALF_OPEN:
                self.position = Position.CLOSED
                self._counts.clear()
            return
        if self.position is not Position.CLOSED:
            return
        number = int(now / self._slice)
        counts = self._counts
        if not counts or counts[-1][0] != number:
            counts.append([number, 0, 0])
            while counts[0][0] <= number - _SLICES:
                counts.popleft()
        counts[-1][1] += 1
        if not failed:
            return
        counts[-1][2] += 1
        calls, failures = sum(each[1] for each in counts), sum(each[2] for each in counts)
        if calls >= self._breaker.calls and failures >= self._breaker.failures * calls:
            self._open(now)

    def forget(self, probe: bool) -> None:
        """Note that a call never came to an end that says anything."""
        if probe:
            self._probing = False

    def _open(self, now: float) -> None:
        if self.position is Position.CLOSED:
            self.since = now
        self.position, self._until = Position.OPEN, now + self._pause
        self._counts.clear()
        self.opened += 1
