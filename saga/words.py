"""The closed list of words for where a saga is: the same in code, CLI, JSON, spans and docs."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a saga as a whole is. The last four are ends."""

    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"
    """An undo failed for good, or an observe-only saga saw its process fail: a person is needed."""
    CANCELLED = "CANCELLED"
    """Undone on request."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected to happen."""
        return self in _ENDS


_ENDS = frozenset((Phase.COMPLETED, Phase.COMPENSATED, Phase.FAILED, Phase.CANCELLED))


class StepState(StrEnum):
    """Where one step of a saga is."""

    PENDING = "PENDING"
    """Not its turn yet."""
    WAITING = "WAITING"
    """Its turn: an answer is expected."""
    RETRYING = "RETRYING"
    """It failed and is sent again after a pause."""
    DONE = "DONE"
    DEGRADED = "DEGRADED"
    """Optional, and failed: the saga goes on."""
    SKIPPED = "SKIPPED"
    """Will not run."""
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """Its limit passed, or its handler gave up: whether it happened is not known."""
    COMPENSATING = "COMPENSATING"
    """Its undo was sent, the answer is expected."""
    COMPENSATED = "COMPENSATED"
    UNDO_FAILED = "UNDO_FAILED"
    """Its undo failed for good."""


class Condition(StrEnum):
    """What is remarkable about a saga beside its phase."""

    LATE = "Late"
    SLOW = "Slow"
    STUCK = "Stuck"
    OUT_OF_ORDER = "OutOfOrder"
    UNEXPECTED = "Unexpected"
    DEAD_LETTERED = "DeadLettered"
    KEY_PARKED = "KeyParked"
    DELAYED = "Delayed"
    """A handler gave up for now: the event waits on a retry topic, and nothing waits behind it."""
    CONSUMER_DOWN = "ConsumerDown"
    CONSUMER_LAGGING = "ConsumerLagging"
    COORDINATOR_LAGGING = "CoordinatorLagging"
    WAITING_FOR_LOCK = "WaitingForLock"
    """Another saga holds its lock; it stands in the queue."""
    WAITING_TO_START = "WaitingToStart"
    """As many sagas of its type are open as may be: it begins when one of them ends."""
    WAITING_FOR_PERSON = "WaitingForPerson"
    PAUSED = "Paused"
    """The code of its version is loaded nowhere: it takes in events, and what it would send waits."""
    HELD = "Held"
    """A person has paused it: it takes in events, nothing follows from them, and its timers stand still."""
    DEGRADED = "Degraded"
    """It went on without a step."""
    TRACE_INCOMPLETE = "TraceIncomplete"
    """It failed, or was late, and its trace was not sampled: what services did is not in it."""
