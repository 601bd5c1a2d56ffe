"""Which run of a saga an event belongs to: who asks for one by the event that began it means that run and no other."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from .instance import Instance
from .tables import history, saga


class Attached(NamedTuple):
    """What became of an event.

    Args:
        id: the run that it began or moved; None where it has come to none so far.
        refused: why it changed nothing, where it came to a saga that it did not concern.
    """

    id: str | None
    refused: str | None = None


def run_of(connection: Connection, type_: str, key: str, event: str) -> Attached:
    """Find the run that an event belongs to.

    Args:
        connection: in a transaction.
        type_, key: of the saga.
        event: the event's id.
    """
    query = select(saga.c.id, saga.c.state).where(saga.c.type == type_, saga.c.key == key)
    runs = {row.id: row.state for row in connection.execute(query)}
    if not runs:
        return Attached(None)
    for id_, state in sorted(runs.items()):  # also where its history is long deleted
        started_by = Instance.from_json(state).started_by
        if started_by is not None and started_by.id == event:
            return Attached(str(id_))
    seen = select(history.c.saga_id, history.c.verdict, history.c.reason)
    row = connection.execute(seen.where(history.c.saga_id.in_(runs), history.c.event_id == event)).first()
    if row is None or row.verdict == "applied":
        return Attached(None if row is None else str(row.saga_id))
    return Attached(None, f"the event came to {row.saga_id} and changed nothing: {row.reason}")
