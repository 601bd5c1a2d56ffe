"""What came before its saga and waits for it: events, and reports of handlers that gave one up (row 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json
from sqlalchemy import Connection, and_, delete, func, select

from ..events.envelope import Delivery, Envelope
from ..events.failures import HandlerFailed
from .inputs import HandlerGaveUp, Observed
from .routing import Arrival, Target
from .store import PER_ROW_LIMIT, among, chunks, insert_new, write_input
from .tables import parked

PARK_FOR = 24 * 3_600 * 1_000_000
"""How long an event waits for its saga, microseconds."""

MOST_PARKED = 100_000
"""How many events of one saga type may wait for their sagas."""


class Parked(NamedTuple):
    """An event, or the report of a handler that gave one up, that waits for its saga."""

    type: str
    key: str
    at: int
    input: Observed | HandlerGaveUp
    delivery: Delivery
    content_type: str

    @property
    def event_type(self) -> str:
        """What it is called on the wire."""
        return self.input.type if isinstance(self.input, Observed) else HandlerFailed.spec().type

    def arrival(self, target: Target) -> Arrival:
        """Give it as it came, to be applied to its saga."""
        source, time = "", self.at
        if isinstance(self.input, Observed):
            source, time = self.input.source, self.input.time
        envelope = Envelope(self.input.id, self.event_type, source, time, self.key, self.content_type)
        return Arrival(self.delivery, envelope, self.input, (target,))


def take(connection: Connection, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Parked]]:
    """Take the parked events of these (type, key) pairs out, in the order in which they came."""
    found: dict[tuple[str, str], list[Parked]] = {}
    for chunk in chunks(sorted(set(keys))):
        where = among(parked.c.type, parked.c.key, chunk)
        rows = connection.execute(select(parked).where(where).order_by(parked.c.at, parked.c.offset)).all()
        for row in rows:
            delivery = Delivery(row.topic, row.partition, row.offset, 0, row.key.encode(), row.value, ())
            found.setdefault((row.type, row.key), []).append(
                Parked(row.type, row.key, row.at, read_parked(row.input), delivery, row.content_type or "")
            )
        if rows:
            connection.execute(delete(parked).where(where))
    return found


def park(connection: Connection, rows: Sequence[Parked], expires_at: int, most: int) -> list[Parked]:
    """Park events; give back those for which there is no room (ruling R8)."""
    refused: list[Parked] = []
    for type_ in sorted({row.type for row in rows}):
        mine = [row for row in rows if row.type == type_]
        count = connection.execute(select(func.count()).select_from(parked).where(parked.c.type == type_)).scalar_one()
        room = max(0, most - count)
        refused += mine[room:]
        for chunk in chunks(mine[:room]):
            insert_new(connection, parked, [_parked_columns(row, expires_at) for row in chunk])
    return refused


def expired(connection: Connection, until: int) -> list[Any]:
    """Take out parked events whose time is over."""
    late = select(parked).where(parked.c.expires_at <= until).limit(PER_ROW_LIMIT)
    # What another coordinator is taking out now is counted by that one.
    rows = list(connection.execute(late.with_for_update(skip_locked=True)).all())
    for row in rows:
        same = and_(parked.c.type == row.type, parked.c.key == row.key, parked.c.event_id == row.event_id)
        connection.execute(delete(parked).where(same))
    return rows


def read_parked(text: str) -> Observed | HandlerGaveUp:
    """Read what `write_input` wrote: only the report of a handler names one."""
    values = from_json(text)
    if "handler" in values:
        return HandlerGaveUp(**{**values, "produces": tuple(values["produces"])})
    return Observed.read(values)


def _parked_columns(row: Parked, expires_at: int) -> dict[str, Any]:
    return {
        "type": row.type,
        "key": row.key,
        "event_id": row.input.id,
        "event_type": row.event_type,
        "at": row.at,
        "expires_at": expires_at,
        "input": write_input(row.input),
        "topic": row.delivery.topic,
        "partition": row.delivery.partition,
        "offset": row.delivery.offset,
        "content_type": row.content_type,
        "value": row.delivery.value,
    }
