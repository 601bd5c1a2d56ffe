"""Who is open and who waits to start, of the types that limit their open sagas: plain functions of a connection.

A saga of such a type has one row from its start to its end. Whoever counts the rows of a type first locks the type, so
that of several coordinators no two give away the last place; it is let go with the transaction. Like a lock's queue,
the queue is looked at by every tick: a wake-up that could be lost does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from . import store
from .instance import Instance
from .tables import admission, definition

MOST_ADMITTED = 500
"""Sagas that are let in within one transaction."""

Limits = Mapping[str, int | None]
"""By saga type, how many may be open; None where any number may."""


class Admissions:
    """What one transaction knows of the room that there is.

    Args:
        connection: within the transaction.
        limits: of the types that are loaded.
    """

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._standing: dict[str, tuple[int, int]] = {}

    def look(self, types: Iterable[str]) -> None:
        """Lock these types and count; before any saga is locked."""
        for type_ in sorted({each for each in types if self._limits.get(each) is not None} - self._standing.keys()):
            _lock(self._connection, type_)
            self._standing[type_] = (_count(self._connection, type_, True), _count(self._connection, type_, False))

    def place(self, type_: str) -> int | None:
        """Give the place in the queue of a saga that begins, 0 where there is room; None where nothing is limited."""
        limit = self._limits.get(type_)
        if limit is None:
            return None
        self.look([type_])
        running, waiting = self._standing[type_]
        if running < limit and not waiting:
            self._standing[type_] = (running + 1, 0)
            return 0
        self._standing[type_] = (running, waiting + 1)
        return waiting + 1


def next_in(connection: Connection, limits: Limits) -> list[str]:
    """Lock the types of which sagas wait, and give the ids of those for which there is room, in their order."""
    found: list[str] = []
    for type_ in _waited_for(connection, limits):
        _lock(connection, type_)
        room = min(_room(connection, type_, limits[type_]), MOST_ADMITTED - len(found))
        if room > 0:
            found += connection.execute(_in_line(type_).limit(room)).scalars()
    return found


def any_in_line(connection: Connection, limits: Limits) -> bool:
    """Tell whether there is room for somebody who waits."""
    return any(_room(connection, type_, limits[type_]) > 0 for type_ in _waited_for(connection, limits))


def write(connection: Connection, sagas: Iterable[tuple[Instance | None, Instance]]) -> None:
    """Write what a transaction has done: who has begun, who was let in, and who has ended."""
    new: list[dict[str, Any]] = []
    let_in: list[str] = []
    ended: list[str] = []
    for before, after in sagas:
        was, now = _row(before), _row(after)
        if was == now:
            continue
        if was is None:
            new.append(now or {})
        elif now is None:
            ended.append(after.id)
        else:
            let_in.append(after.id)
    if new:
        connection.execute(insert(admission), new)
    for chunk in store.chunks(let_in):
        connection.execute(update(admission).where(admission.c.saga_id.in_(chunk)).values(admitted=True))
    for chunk in store.chunks(ended):
        connection.execute(delete(admission).where(admission.c.saga_id.in_(chunk)))


def _row(instance: Instance | None) -> dict[str, Any] | None:
    if instance is None or instance.admission is None or instance.phase.ended:
        return None
    since, nth = instance.admission.since, instance.admission.ahead
    waits = instance.waits_to_start
    return {"saga_id": instance.id, "type": instance.type, "at": since, "nth": nth, "admitted": not waits}


def _waited_for(connection: Connection, limits: Limits) -> list[str]:
    """Name the types of which a saga waits."""
    waits = (admission.c.type.in_(sorted(limits)), admission.c.admitted.is_(False))
    if not limits or connection.execute(select(admission.c.saga_id).where(*waits).limit(1)).first() is None:
        return []
    return [type_ for type_ in sorted(limits) if connection.execute(_in_line(type_).limit(1)).first() is not None]


def _in_line(type_: str) -> Any:
    query = select(admission.c.saga_id).where(admission.c.type == type_, admission.c.admitted.is_(False))
    return query.order_by(admission.c.at, admission.c.nth)


def _room(connection: Connection, type_: str, limit: int | None) -> int:
    return MOST_ADMITTED if limit is None else min(MOST_ADMITTED, limit - _count(connection, type_, True))


def _count(connection: Connection, type_: str, admitted: bool) -> int:
    same = (admission.c.type == type_, admission.c.admitted.is_(admitted))
    return connection.execute(select(func.count()).select_from(admission).where(*same)).scalar_one()


def _lock(connection: Connection, type_: str) -> None:
    """Let nobody else count a type's open sagas before this transaction ends."""
    query = select(definition.c.version).where(definition.c.type == type_).order_by(definition.c.version).limit(1)
    connection.execute(query.with_for_update())
