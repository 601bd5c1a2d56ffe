"""Who holds a semantic lock and who waits for it: the two tables, as plain functions of a connection.

A saga's own rows are written by nobody but who has that saga's row locked, so that leaving never waits. Taking a lock
is an insert that the primary key refuses to the second, in the order of the locks' names, so that no two transactions
wait for each other. Handing over is no act: the first of a queue whose lock is free is found again by every look, until
it has the lock; a wake-up that could be lost does not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from . import store
from .lock import LockKey
from .tables import lock, lock_queue, saga

Version = tuple[str, int]
"""A saga type with the version of its definition."""

MOST_TURNS = 200
"""Sagas that are given their lock in one transaction."""


class Standing(NamedTuple):
    """How it stands with a lock: who holds it, and how many wait."""

    holder: str | None = None
    waiting: int = 0


class Taken(NamedTuple):
    """A saga that has a lock now."""

    of: LockKey
    saga_id: str
    since: int
    until: int


class Waiting(NamedTuple):
    """A saga in the queue of a lock: since when, its number among those of the same time, and until when it waits."""

    of: LockKey
    saga_id: str
    at: int
    nth: int
    until: int


class Line(NamedTuple):
    """A lock with its holder, if it has one, and the sagas that wait for it, the next one first."""

    of: LockKey
    holder: Taken | None
    waiting: tuple[Waiting, ...]


class Change(NamedTuple):
    """What one transaction has done to the locks and their queues.

    Args:
        taken: sagas that have a lock now.
        freed: sagas that have had one and have it no longer; one that took it in this transaction is in both.
        joined: sagas that wait from now on.
        left: sagas that wait no longer.
    """

    taken: list[Taken]
    freed: list[tuple[LockKey, str]]
    joined: list[Waiting]
    left: list[str]


def standings(connection: Connection, locks: Iterable[LockKey]) -> dict[LockKey, Standing]:
    """Tell how it stands with these locks."""
    holders: dict[LockKey, str] = {}
    waiting: dict[LockKey, int] = {}
    wanted = sorted(set(locks))
    for start in range(0, len(wanted), store.CHUNK):
        chunk = wanted[start : start + store.CHUNK]
        query = select(lock.c.name, lock.c.key, lock.c.saga_id).where(store.among(lock.c.name, lock.c.key, chunk))
        holders.update({LockKey(name, key): saga_id for name, key, saga_id in connection.execute(query)})
        of = (lock_queue.c.name, lock_queue.c.key)
        counted = select(*of, func.count()).where(store.among(*of, chunk)).group_by(*of)
        waiting.update({LockKey(name, key): count for name, key, count in connection.execute(counted)})
    return {each: Standing(holders.get(each), waiting.get(each, 0)) for each in wanted}


def write(connection: Connection, change: Change) -> None:
    """Write what a transaction has done.

    Raises:
        LostRace: another coordinator has taken one of these locks meanwhile.
    """
    _take_and_free(connection, change)
    for start in range(0, len(change.left), store.CHUNK):
        chunk = change.left[start : start + store.CHUNK]
        connection.execute(delete(lock_queue).where(lock_queue.c.saga_id.in_(chunk)))
    if change.joined:
        joined = sorted(change.joined, key=lambda each: each.saga_id)
        rows = [{"name": each.of.name, "key": each.of.key, **_of(each)} for each in joined]
        connection.execute(insert(lock_queue), rows)


def _take_and_free(connection: Connection, change: Change) -> None:
    """Take and free in one order of the locks, whatever is done with each: else two transactions could wait in a ring.

    What is taken and freed at once is inserted all the same: so it is known that nobody else had it meanwhile.
    """
    made: list[tuple[LockKey, int, Taken | str]] = [(each.of, 0, each) for each in change.taken]
    made += [(of, 1, saga_id) for of, saga_id in change.freed]
    ordered = sorted(made, key=lambda each: each[:2])
    for frees, group in groupby(ordered, key=lambda each: each[1]):
        steps = list(group)
        for start in range(0, len(steps), store.CHUNK):
            chunk = steps[start : start + store.CHUNK]
            if frees:
                rows = [{"the_name": of.name, "the_key": of.key, "the_holder": str(holder)} for of, _, holder in chunk]
                connection.execute(_FREE, rows)
            else:
                _take(connection, [each for _, _, each in chunk if isinstance(each, Taken)])


_FREE = delete(lock).where(
    lock.c.name == bindparam("the_name"), lock.c.key == bindparam("the_key"), lock.c.saga_id == bindparam("the_holder")
)


def _take(connection: Connection, taken: Sequence[Taken]) -> None:
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = upsert(lock).on_conflict_do_nothing().returning(lock.c.saga_id)
    rows = [
        {"name": each.of.name, "key": each.of.key, "saga_id": each.saga_id, "since": each.since, "until": each.until}
        for each in taken
    ]
    if len(connection.execute(statement, rows).all()) < len(rows):
        raise store.LostRace("another coordinator has given one of these locks away")


def next_in_line(connection: Connection, versions: Collection[Version]) -> list[Waiting]:
    """Find those whose turn it is: each the first in the queue of a lock that nobody holds.

    Who has waited too long and has not been told so yet may still have its turn: a coordinator that was down must not
    cost it that. Sagas whose code is not loaded are passed over; they keep their place.

    Args:
        connection: within a transaction.
        versions: of the definitions whose sagas may be told.
    """
    if not versions:
        return []
    query = select(lock_queue).where(*_in_line(versions)).order_by(lock_queue.c.at, lock_queue.c.nth)
    return [_waiting(row) for row in connection.execute(query.limit(MOST_TURNS))]


def any_in_line(connection: Connection, versions: Collection[Version]) -> bool:
    """Tell whether it is somebody's turn."""
    if not versions:
        return False
    query = select(lock_queue.c.saga_id).where(*_in_line(versions)).limit(1)
    return connection.execute(query).first() is not None


def _in_line(versions: Collection[Version]) -> tuple[ColumnElement[bool], ...]:
    mine, earlier = lock_queue.c, lock_queue.alias("earlier").c
    held = exists().where(lock.c.name == mine.name, lock.c.key == mine.key)
    first = tuple_(earlier.at, earlier.nth, earlier.saga_id) < tuple_(mine.at, mine.nth, mine.saga_id)
    same = and_(earlier.name == mine.name, earlier.key == mine.key)
    behind = exists().where(same, first, _loaded(earlier.saga_id, versions))
    return (_loaded(mine.saga_id, versions), ~held, ~behind)


def _loaded(saga_id: ColumnElement[str], versions: Collection[Version]) -> ColumnElement[bool]:
    sagas = saga.alias()
    return exists().where(sagas.c.id == saga_id, tuple_(sagas.c.type, sagas.c.version).in_(sorted(versions)))


def lines(connection: Connection) -> list[Line]:
    """List every lock that is held or waited for, by name."""
    holders = {
        LockKey(row.name, row.key): Taken(LockKey(row.name, row.key), row.saga_id, row.since, row.until)
        for row in connection.execute(select(lock))
    }
    queued: dict[LockKey, list[Waiting]] = {}
    for row in connection.execute(select(lock_queue).order_by(*_place())):
        queued.setdefault(LockKey(row.name, row.key), []).append(_waiting(row))
    return [Line(of, holders.get(of), tuple(queued.get(of, ()))) for of in sorted({*holders, *queued})]


def line_of(connection: Connection, of: LockKey) -> Line:
    """Give one lock with its holder and its queue."""
    row = connection.execute(select(lock).where(lock.c.name == of.name, lock.c.key == of.key)).first()
    query = select(lock_queue).where(lock_queue.c.name == of.name, lock_queue.c.key == of.key).order_by(*_place())
    waiting = tuple(_waiting(each) for each in connection.execute(query))
    return Line(of, None if row is None else Taken(of, row.saga_id, row.since, row.until), waiting)


def _place() -> tuple[ColumnElement[Any], ...]:
    return (lock_queue.c.at, lock_queue.c.nth, lock_queue.c.saga_id)


def _waiting(row: Any) -> Waiting:
    return Waiting(LockKey(row.name, row.key), row.saga_id, row.at, row.nth, row.until)


def _of(waiting: Waiting) -> Mapping[str, Any]:
    return {"saga_id": waiting.saga_id, "at": waiting.at, "nth": waiting.nth, "until": waiting.until}
