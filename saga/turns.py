"""The locks and the room of one transaction: who begins, who has to wait, and what of it is written at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from . import admissions, queues
from .admissions import Admissions, Limits
from .inputs import Locked
from .instance import Instance
from .lock import LockKey


class Turned(NamedTuple):
    """A saga before (None for a new one) and after a transaction."""

    before: Instance | None
    after: Instance


class Turns:
    """What one transaction knows of the locks that its sagas want.

    It only looks: that nobody else takes what looks free is found out when it is written.

    Args:
        connection: within the transaction.
        limits: how many sagas of each type may be open; by default any number.
    """

    def __init__(self, connection: Connection, limits: Limits | None = None) -> None:
        self._connection = connection
        admitting = Admissions(connection, limits or {})
        self.look_for_room, self.place = admitting.look, admitting.place
        self._standings: dict[LockKey, queues.Standing] = {}

    def look(self, locks: Iterable[LockKey]) -> None:
        """Look at many locks at once."""
        self._standings.update(queues.standings(self._connection, locks))

    def of(self, instance: Instance) -> Locked:
        """Say how it stands with the lock that a new saga wants: first come, first served."""
        assert instance.lock is not None
        wanted = instance.lock.of
        if wanted not in self._standings:
            self.look([wanted])
        holder, waiting = self._standings[wanted]
        if holder is None and not waiting:
            self._standings[wanted] = queues.Standing(instance.id)
            return Locked(granted=True)
        self._standings[wanted] = queues.Standing(holder, waiting + 1)
        return Locked(granted=False, holder=holder, ahead=waiting)


def write(connection: Connection, sagas: Sequence[Turned]) -> None:
    """Write what a transaction has done to locks, queues and the open sagas of types that limit them.

    Raises:
        LostRace: another coordinator has taken one of these locks meanwhile.
    """
    queues.write(connection, change_of(sagas))
    if limited := [each for each in sagas if each.after.admission is not None]:
        admissions.write(connection, limited)


def change_of(sagas: Iterable[Turned]) -> queues.Change:
    """Say what a transaction has done to locks and queues, from its sagas before and after."""
    change = queues.Change([], [], [], [])
    for nth, (before, after) in enumerate(sagas):
        now, was = after.lock, None if before is None else before.lock
        if now is None or now == was:
            continue
        waited = was is not None and was.state == "waiting"
        took = now.taken_at is not None and (was is None or was.taken_at is None)
        if took:
            change.taken.append(queues.Taken(now.of, after.id, now.taken_at or 0, now.until or now.since))
        if now.state != "held" and (took or (was is not None and was.state == "held")):
            change.freed.append((now.of, after.id))
        if now.state == "waiting" and was is None:
            change.joined.append(queues.Waiting(now.of, after.id, now.since, nth, now.until or now.since))
        if waited and now.state != "waiting":
            change.left.append(after.id)
    return change
