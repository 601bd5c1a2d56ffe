"""Lists of sagas page by page: each begins behind the last row of the one before, so the last is as fast as the first.

The order is that of `saga list`. Where it goes by phase first, each phase is read by itself, along an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, literal_column, or_, tuple_

from ..events.errors import ConfigurationError
from .choosing import BY_STATE
from .names import parse_saga_id
from .queries import SORTS, Filter, SagaRow, read_rows
from .tables import saga
from .words import Condition, Phase

TIERS = (
    (Phase.FAILED,),
    (Phase.RUNNING, Phase.COMPENSATING),
    (Phase.COMPLETED, Phase.COMPENSATED, Phase.CANCELLED),
)
"""What needs attention first, as `saga list` has it."""

_SEEN_FROM_OUTSIDE = {Condition.PAUSED, Condition.SLOW, Condition.STUCK, *BY_STATE}
"""Conditions that hold also where they are not noted with the saga."""

_DURATION = func.coalesce(saga.c.ended_at, saga.c.updated_at) - saga.c.started_at


class Page(NamedTuple):
    """Rows, and what the next page begins behind; None where this is the last one."""

    rows: list[SagaRow]
    after: str | None


class _Place(NamedTuple):
    """A row's place in an order: its tier (by attention only), the number that it is ordered by, and its name."""

    tier: int
    number: int
    id: str

    def __str__(self) -> str:
        return f"{self.tier}:{self.number}:{self.id}"


def page_of(connection: Connection, wanted: Filter, *, sort: str, limit: int, after: str = "") -> Page:
    """Read one page.

    Args:
        connection: within a read.
        wanted: which sagas.
        sort: one of `queries.SORTS`.
        limit: rows of a page.
        after: what the page before gave; "" for the first page.

    Raises:
        ConfigurationError: `sort` is no order, or `after` is no place in it.
    """
    if sort not in SORTS:
        raise ConfigurationError(f"sort {sort!r} is no order; write one of {', '.join(SORTS)}")
    place = _read(after)
    if sort == "attention":
        found = _by_tiers(connection, wanted, place, limit + 1)
    elif sort == "updated":
        order = [saga.c.updated_at.desc(), saga.c.id]
        found = [
            row
            for chosen, more in _by_phase(connection, wanted, list(Phase))
            for row in read_rows(connection, chosen, order, limit + 1, *more, *_behind(saga.c.updated_at, place))
        ]
        found.sort(key=lambda row: (-row.updated_at, row.id))
    elif sort == "key":
        order = [saga.c.type.asc(), saga.c.key.asc(), saga.c.run.asc()]
        found = read_rows(connection, wanted, order, limit + 1, *_behind_key(place))
    else:
        column = saga.c.started_at if sort == "started" else _DURATION
        found = read_rows(connection, wanted, [column.desc(), saga.c.id], limit + 1, *_behind(column, place))
    shown = found[:limit]
    return Page(shown, str(_place(shown[-1], sort)) if len(found) > limit else None)


def _by_tiers(connection: Connection, wanted: Filter, place: _Place | None, limit: int) -> list[SagaRow]:
    """Read the tiers one after another until the page is full."""
    order = [saga.c.started_at.desc(), saga.c.id]
    found: list[SagaRow] = []
    for number, phases in enumerate(TIERS):
        if place is not None and number < place.tier:
            continue
        behind = _behind(saga.c.started_at, place if place is not None and number == place.tier else None)
        tier = [
            row
            for chosen, more in _by_phase(connection, wanted, phases)
            for row in read_rows(connection, chosen, order, limit - len(found), *more, *behind)
        ]
        found += sorted(tier, key=lambda row: (-row.started_at, row.id))[: limit - len(found)]
        if len(found) >= limit:
            break
    return found


def _by_phase(
    connection: Connection, wanted: Filter, phases: Sequence[Phase]
) -> Iterator[tuple[Filter, list[ColumnElement[bool]]]]:
    """Divide a filter by phases, in words that an index knows."""
    for phase in phases:
        if (wanted.phases and phase not in wanted.phases) or (wanted.only_open and phase.ended):
            continue
        conditions = tuple(wanted.conditions)
        if wanted.only_failed and phase is not Phase.FAILED:
            conditions = (*conditions, Condition.WAITING_FOR_PERSON)
        chosen = replace(wanted, phases=(phase.value,), only_failed=False, only_open=False, conditions=conditions)
        noted = set(conditions) - _SEEN_FROM_OUTSIDE
        yield chosen, [saga.c.conditions != literal_column("''")] if noted else []  # spelled out, as the index is


def _behind(column: ColumnElement[Any], place: _Place | None) -> list[ColumnElement[bool]]:
    """Say "later in the order": the first clause is for the index, the second is exact."""
    if place is None:
        return []
    return [column <= place.number, or_(column < place.number, and_(column == place.number, saga.c.id > place.id))]


def _behind_key(place: _Place | None) -> list[ColumnElement[bool]]:
    if place is None:
        return []
    name = parse_saga_id(place.id)
    return [tuple_(saga.c.type, saga.c.key, saga.c.run) > tuple_(name.type, name.key, name.run)]


def _place(row: SagaRow, sort: str) -> _Place:
    if sort == "attention":
        tier = next((number for number, phases in enumerate(TIERS) if row.phase in phases), len(TIERS) - 1)
        return _Place(tier, row.started_at, row.id)
    if sort == "duration":
        return _Place(0, (row.ended_at if row.ended_at is not None else row.updated_at) - row.started_at, row.id)
    return _Place(0, row.updated_at if sort == "updated" else row.started_at, row.id)


def _read(after: str) -> _Place | None:
    if not after:
        return None
    tier, _, rest = after.partition(":")
    number, _, id_ = rest.partition(":")
    if not (tier.isascii() and tier.isdigit() and number.isascii() and number.isdigit() and id_):
        raise ConfigurationError(f"after {after[:60]!r} is no place in a list; take it from the link to the next page")
    if len(tier) > 1 or len(number) > 18:
        raise ConfigurationError("after is no place in a list; take it from the link to the next page")
    parse_saga_id(id_)
    return _Place(int(tier), int(number), id_)
