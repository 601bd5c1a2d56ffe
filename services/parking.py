"""The parking place: events whose handler gave up for now, and in order those of the same key behind them.

It lets the partition move on (ruling R6). Only the first of a key is tried; whoever tries it pushes its due time ahead,
so that no second process does.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select, update

from ..events.envelope import Delivery
from .inbox import Key, parked

_CHUNK = 200
_MOST_DUE = 100


class ParkedRow(NamedTuple):
    """An event that waits in the store."""

    handler: str
    event_id: str
    lane: str
    position: str
    due_at: int
    attempts: int
    error: str | None
    delivery: Delivery


def add(connection: Connection, rows: Sequence[ParkedRow]) -> None:
    """Park events; one that is parked already keeps its position."""
    for row in rows:
        again = update(parked).where(parked.c.event_id == row.event_id, parked.c.handler == row.handler)
        found = connection.execute(again.values(due_at=row.due_at, attempts=row.attempts, error=row.error))
        if not found.rowcount:
            connection.execute(insert(parked), [_columns(row)])


def remove(connection: Connection, keys: Iterable[Key]) -> None:
    """Take events out, whether they are there or not."""
    for handler, event_id in keys:
        connection.execute(delete(parked).where(parked.c.event_id == event_id, parked.c.handler == handler))


def lanes(connection: Connection, wanted: Iterable[Key]) -> set[Key]:
    """Say which of these lanes (handler and key) hold something."""
    pairs = sorted(set(wanted))
    found: set[Key] = set()
    for start in range(0, len(pairs), _CHUNK):
        names = [lane for _, lane in pairs[start : start + _CHUNK]]
        rows = connection.execute(select(parked.c.handler, parked.c.lane).where(parked.c.lane.in_(names)).distinct())
        found.update((handler, lane) for handler, lane in rows)
    return found.intersection(pairs)


def take_due(connection: Connection, handlers: Sequence[str], now: int, lease: int) -> list[ParkedRow]:
    """Take the events whose turn it is and whose time has come, and keep others from them for `lease` microseconds."""
    chosen = select(parked).where(_due(handlers, now)).order_by(parked.c.position).limit(_MOST_DUE)
    rows = connection.execute(chosen.with_for_update(skip_locked=True)).all()
    for row in rows:
        same = and_(parked.c.event_id == row.event_id, parked.c.handler == row.handler)
        connection.execute(update(parked).where(same).values(due_at=now + lease))
    return [
        ParkedRow(
            row.handler,
            row.event_id,
            row.lane,
            row.position,
            row.due_at,
            row.attempts,
            row.error,
            Delivery(row.topic, row.partition, row.offset, row.timestamp, row.key, row.value, _headers(row.headers)),
        )
        for row in rows
    ]


def renew(connection: Connection, keys: Iterable[Key], due_at: int) -> None:
    """Keep others from events that were taken until then."""
    for handler, event_id in sorted(set(keys)):
        same = and_(parked.c.event_id == event_id, parked.c.handler == handler)
        connection.execute(update(parked).where(same, parked.c.due_at < due_at).values(due_at=due_at))


def any_due(connection: Connection, handlers: Sequence[str], now: int) -> bool:
    """Say whether there is anything to take at `now`."""
    return connection.execute(select(parked.c.event_id).where(_due(handlers, now)).limit(1)).first() is not None


def count(connection: Connection, handlers: Sequence[str]) -> int:
    """Count what waits."""
    chosen = select(func.count()).select_from(parked).where(parked.c.handler.in_(handlers))
    return int(connection.execute(chosen).scalar_one())


def handlers(connection: Connection) -> set[str]:
    """Name the handlers for which something waits."""
    return set(connection.execute(select(parked.c.handler).distinct()).scalars())


def _due(handlers: Sequence[str], now: int) -> ColumnElement[bool]:
    ahead = parked.alias()
    first = ~exists().where(
        ahead.c.handler == parked.c.handler,
        ahead.c.lane == parked.c.lane,
        or_(
            ahead.c.position < parked.c.position,
            and_(ahead.c.position == parked.c.position, ahead.c.event_id < parked.c.event_id),
        ),
    )
    return and_(parked.c.handler.in_(handlers), parked.c.due_at <= now, first)


def _columns(row: ParkedRow) -> dict[str, object]:
    delivery = row.delivery
    return {
        "handler": row.handler,
        "event_id": row.event_id,
        "lane": row.lane,
        "position": row.position,
        "due_at": row.due_at,
        "attempts": row.attempts,
        "error": row.error,
        "topic": delivery.topic,
        "partition": delivery.partition,
        "offset": delivery.offset,
        "timestamp": delivery.timestamp,
        "key": delivery.key,
        "value": delivery.value,
        "headers": json.dumps([[name, b64encode(value).decode()] for name, value in delivery.headers]),
    }


def _headers(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, b64decode(value)) for name, value in json.loads(text))
