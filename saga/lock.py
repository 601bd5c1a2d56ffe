"""A semantic lock: at most one saga at a time works on what a business key names (row 23). Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from ..events.clock import SECOND, duration
from ..events.errors import DefinitionError

Otherwise = Literal["wait", "refuse"]
LockState = Literal["waiting", "held", "released", "expired", "left", "refused"]

WAITS = 3_600 * SECOND
EXPIRES = 86_400 * SECOND


@dataclass(frozen=True, slots=True)
class LockPlan:
    """The lock that a saga takes at its start; made by `lock()`.

    Args:
        field: of the start event; its value is the lock's key.
        name: what is locked; "" means the saga's type.
        waits: microseconds in the queue, then the saga gives up.
        expires: microseconds after which a holder loses it.
        otherwise: what a saga does that does not get it.
    """

    field: str
    name: str = ""
    waits: int = WAITS
    expires: int = EXPIRES
    otherwise: Otherwise = "wait"


class LockKey(NamedTuple):
    """A lock: what is locked, and which one."""

    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class Lock:
    """How a saga stands with its lock; times are microseconds.

    Args:
        name, key: which lock.
        state: waiting in the queue, held, or why it is held no longer.
        since: when it entered that state.
        until: when it gives up waiting, or when it loses the lock.
        holder: who held it when it began to wait.
        taken_at: when it got it; stays when it is held no longer.
    """

    name: str
    key: str
    state: LockState
    since: int
    until: int | None = None
    holder: str | None = None
    taken_at: int | None = None

    @property
    def of(self) -> LockKey:
        """Which lock."""
        return LockKey(self.name, self.key)


def lock(
    field: str,
    *,
    name: str = "",
    waits: str | int | float | timedelta | None = None,
    expires: str | int | float | timedelta = EXPIRES / SECOND,
    otherwise: Otherwise = "wait",
) -> LockPlan:
    """Let at most one saga at a time work on what a field of the start event names.

    The others stand in a queue, first come first served, and open no step before their turn; the saga's end passes the
    lock on. What is choreographed follows the start event all the same: only what the saga commands waits.

    Args:
        field: of every start event; its value is the lock's key.
        name: shared by sagas of several types that exclude each other; default: the saga's type.
        waits: the longest wait in the queue, e.g. `"10m"` (default one hour); then the saga is undone.
        expires: how long it may be held at most, e.g. `"2h"`; then the next one has its turn and the holder is marked.
        otherwise: "wait" in the queue, or "refuse": a saga that does not get the lock at once ends.

    Raises:
        DefinitionError: naming the argument.
    """
    if otherwise not in ("wait", "refuse"):
        raise DefinitionError(f"lock(otherwise={otherwise!r}): write 'wait' or 'refuse'")
    if otherwise == "refuse" and waits is not None:
        raise DefinitionError(
            'lock(waits=..., otherwise="refuse"): who is refused does not wait; leave out one of them'
        )
    if not isinstance(field, str) or not field:
        raise DefinitionError('lock(field): name a field of the start event, as in lock("customer_id")')
    return LockPlan(field, name, WAITS if waits is None else duration(waits), duration(expires), otherwise)
