"""One coordinator starts a saga while another parks an event for it: neither sees what the other has not committed.

So both leave a trace where the other must stumble over it. Who parks claims the name that the saga would get, and finds
it taken; who starts looks for parked events once more after it has taken the name. Only PostgreSQL needs this: SQLite
has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete

from . import early, store
from .instance import Instance
from .tables import saga


def check_started(connection: Connection, keys: Collection[tuple[str, str]]) -> None:
    """After sagas of these (type, key) pairs were inserted: make sure that no event was parked meanwhile.

    Raises:
        LostRace: one was.
    """
    if not keys or connection.dialect.name == "sqlite":
        return
    if early.any_of(connection, keys):
        raise store.LostRace("another coordinator parked an event for a saga that has just started")


def check_absent(connection: Connection, awaited: Sequence[Instance], now: int) -> None:
    """Before events are parked for these sagas: make sure that none of them has started meanwhile.

    Raises:
        LostRace: one has.
    """
    if not awaited or connection.dialect.name == "sqlite":
        return
    store.insert_sagas(connection, awaited, now)  # waits for whoever is about to commit the same name
    names = [instance.id for instance in awaited]
    for start in range(0, len(names), store.CHUNK):
        connection.execute(delete(saga).where(saga.c.id.in_(names[start : start + store.CHUNK])))
