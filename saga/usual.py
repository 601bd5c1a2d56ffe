"""What is usual, as the coordinator has written it down, for whoever judges a saga. Plain functions of a connection."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from .pace import FLOOR, LEAST, Pace, Stretch, Usual
from .tables import saga, usual
from .words import Phase

JUDGED = (Phase.RUNNING, Phase.COMPLETED)
"""Phases in which a saga as a whole is judged: one that goes back has another way to go."""


def pace_of(connection: Connection, type_: str) -> Pace:
    """Load what is usual for the sagas of a type; empty where nothing is known yet."""
    rows = connection.execute(select(usual).where(usual.c.type == type_))
    return {Stretch(row.kind, row.step): Usual(row.size, row.p50, row.p95, row.p99) for row in rows}


def of_sagas(connection: Connection, types: Sequence[str] = ()) -> dict[str, Usual]:
    """Load how long whole sagas usually take, by type; of those of which enough is known."""
    query = select(usual).where(usual.c.kind == "saga", usual.c.size >= LEAST)
    if types:
        query = query.where(usual.c.type.in_(types))
    return {row.type: Usual(row.size, row.p50, row.p95, row.p99) for row in connection.execute(query)}


def is_slow(known: dict[str, Usual], now: int) -> ColumnElement[bool]:
    """Say in SQL which sagas are slow as a whole: running, or completed, for longer than 95 of 100 took.

    Args:
        known: what is usual for whole sagas, by type.
        now: the store's clock, microseconds.
    """
    took = func.coalesce(saga.c.ended_at, now) - saga.c.started_at
    own = [and_(saga.c.type == type_, took > max(each.p95, FLOOR)) for type_, each in sorted(known.items())]
    return and_(saga.c.phase.in_([phase.value for phase in JUDGED]), or_(*own, saga.c.id.is_(None)))
