"""What stands beside sagas in the store: where their events lie on the broker, and what people asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from .operators import PENDING
from .tables import command, history


def queued_commands(connection: Connection, id_: str) -> list[str]:
    """Name what people asked of a saga and no coordinator has applied yet, the oldest first."""
    return queued_of(connection, [id_])[id_]


def queued_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """Name it of several sagas."""
    found: dict[str, list[str]] = {id_: [] for id_ in ids}
    query = select(command.c.saga_id, command.c.kind).where(command.c.state == PENDING, command.c.saga_id.in_(ids))
    for id_, kind in connection.execute(query.order_by(command.c.at)):
        found[id_].append(kind)
    return found


def read_places(connection: Connection, id_: str) -> dict[str, tuple[str, int, int]]:
    """Say where the events of a saga's history stood on the broker: topic, partition and offset by event id."""
    return places_of(connection, [id_])[id_]


def places_of(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, tuple[str, int, int]]]:
    """Say it of several sagas."""
    found: dict[str, dict[str, tuple[str, int, int]]] = {id_: {} for id_ in ids}
    columns = (history.c.saga_id, history.c.event_id, history.c.topic, history.c.partition, history.c.offset)
    query = select(*columns).where(history.c.saga_id.in_(ids), history.c.topic.isnot(None))
    for id_, event_id, topic, partition, offset in connection.execute(query.order_by(history.c.saga_id, history.c.seq)):
        found[id_][event_id] = topic, partition, offset
    return found
