"""What came before its saga and waits for it: events, and reports of handlers that gave one up (row 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic_core import from_json
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, func, select

from ..events.envelope import Delivery, Envelope
from ..events.failures import HandlerFailed
from ..events.prepared import Prepared, listed, one_of
from .inputs import HandlerGaveUp, Observed
from .routing import Arrival, Target
from .store import PER_ROW_LIMIT, chunks, insert_new, write_input
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
    for type_, pairs in groupby(sorted(set(keys)), key=itemgetter(0)):
        for chunk in chunks([key for _, key in pairs]):
            where = {"the_type": type_, "keys": listed(connection, chunk)}
            rows = _PARKED.rows(connection, where)
            for key, at, input_, topic, partition, offset, content_type, value in rows:
                delivery = Delivery(topic, partition, offset, 0, key.encode(), value, ())
                found.setdefault((type_, key), []).append(
                    Parked(type_, key, at, read_parked(input_), delivery, content_type or "")
                )
            if rows:
                _TAKEN.run(connection, [where])
    return found


def any_of(connection: Connection, keys: Iterable[tuple[str, str]]) -> bool:
    """Tell whether an event is parked for one of these (type, key) pairs."""
    return any(
        _ANY.rows(connection, {"the_type": type_, "keys": listed(connection, chunk)})
        for type_, pairs in groupby(sorted(set(keys)), key=itemgetter(0))
        for chunk in chunks([key for _, key in pairs])
    )


def _of_sagas(dialect: str) -> ColumnElement[bool]:
    return and_(parked.c.type == bindparam("the_type"), one_of(parked.c.key, "keys", dialect))


def _parked_of(dialect: str) -> Select[Any]:
    of, c = _of_sagas(dialect), parked.c
    columns = select(c.key, c.at, c.input, c.topic, c.partition, c.offset, c.content_type, c.value)
    return columns.where(of).order_by(c.at, c.offset)


_PARKED = Prepared(_parked_of)
_ANY = Prepared(lambda dialect: select(parked.c.event_id).where(_of_sagas(dialect)).limit(1))
_TAKEN = Prepared(lambda dialect: delete(parked).where(_of_sagas(dialect)))


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
