"""How a coordinator works: what may be set, with what is usual."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import timers
from .positions import Gap


@dataclass(frozen=True, slots=True)
class Options:
    """How a coordinator works.

    Args:
        batch: records in one transaction at most; twice as many on PostgreSQL where they cannot be divided (`lanes`).
        poll: seconds that a poll waits for the first record.
        linger: seconds that a small batch waits at most while services of the same process are at work, whose next
            events then come along; 0: it does not wait.
        tick: seconds between looks at timers and commands.
        undo_rate: undo commands per second at most, so that a mass failure does not become a flood.
        breaker: when mass timeouts are held for a person.
        gap: what to do when records were deleted before they were read.
        alerts: tell on `choreo.alerts` what somebody should hear of.
        stuck: how long a saga must have waited to count as stuck, microseconds; None: nobody looks.
        presence: say every few seconds what it reads and how quickly it decides, for `saga doctor`.
        rotation: after how long the trace of a saga that still runs goes on in another one, microseconds; None: never.
    """

    batch: int = 1_000
    poll: float = 0.1
    linger: float = 0.01
    tick: float = 0.2
    undo_rate: int = 500
    breaker: timers.Breaker = field(default_factory=timers.Breaker)
    gap: Gap = "stop"
    alerts: bool = False
    stuck: int | None = None
    presence: bool = False
    rotation: int | None = None
