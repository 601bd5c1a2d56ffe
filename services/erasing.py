"""What a service's store holds of events that a person wants to have erased: answers, and events that wait."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, func, select, update

from .inbox import inbox, parked

_CHUNK = 500


def count(connection: Connection, event_ids: Sequence[str], key: str) -> int:
    """Count the answers and parked events that `erase` would take.

    Args:
        connection: within a read of a service's store.
        event_ids: of events that its handlers may have met.
        key: of events that may be parked.
    """
    found = 0
    for chunk in _chunks(event_ids):
        kept = and_(inbox.c.event_id.in_(chunk), inbox.c.answer.isnot(None))
        found += connection.execute(select(func.count()).select_from(inbox).where(kept)).scalar_one()
    return found + len(_waiting(connection, event_ids, key))


def erase(connection: Connection, event_ids: Sequence[str], key: str) -> int:
    """Take out what was answered to these events, and those that are parked; that they were met stays.

    Args:
        connection: within a write of a service's store.
        event_ids: of events that its handlers may have met.
        key: of events that may be parked.

    Returns:
        How many rows it was.
    """
    found = count(connection, event_ids, key)
    for chunk in _chunks(event_ids):
        connection.execute(update(inbox).where(inbox.c.event_id.in_(chunk)).values(answer=None))
    for chunk in _chunks(_waiting(connection, event_ids, key)):
        connection.execute(delete(parked).where(parked.c.event_id.in_(chunk)))
    return found


def _waiting(connection: Connection, event_ids: Sequence[str], key: str) -> list[str]:
    found = set(connection.execute(select(parked.c.event_id).where(parked.c.key == key.encode())).scalars())
    for chunk in _chunks(event_ids):
        found |= set(connection.execute(select(parked.c.event_id).where(parked.c.event_id.in_(chunk))).scalars())
    return sorted(found)


def _chunks(rows: Sequence[str]) -> list[Sequence[str]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
