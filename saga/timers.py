"""Which sagas have timers that may fire now: due, behind the read barrier, and not held by the breaker (ruling R1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, not_, or_, select, update

from ..events.clock import SECOND
from . import store
from .instance import Instance
from .tables import saga
from .words import Phase

TIMERS = "timers"
UNDO = "undo"
"""Names of the two switches."""

Versions = Collection[tuple[str, int]]

HELD = "held"
STOPPED = "stopped"

MOST_DUE = 500
"""Sagas that are fired in one transaction."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """When mass timeouts look like an outage of ours rather than of thousands of orders.

    Args:
        share: of the open sagas that may pass a limit at once.
        least: below this number the breaker never trips.
    """

    share: float = 0.25
    least: int = 50


def due(
    connection: Connection,
    now: int,
    until_of: Callable[[Instance], int],
    *,
    held: bool,
    stopped: bool,
    unloaded: Versions = (),
) -> list[tuple[Instance, int]]:
    """Choose due sagas, with the time up to which the timers of each may fire.

    Args:
        connection: within a read or write transaction.
        now: the store's clock.
        until_of: until when everything that can answer a saga was read.
        held: the breaker holds the limits of running sagas.
        stopped: compensation is stopped.
        unloaded: versions whose sagas are left to whoever has their code.
    """
    query = _loaded(_unheld(select(saga.c.state), held=held, stopped=stopped), unloaded)
    query = query.where(saga.c.next_due <= now).order_by(saga.c.next_due).limit(MOST_DUE)
    found = []
    for state in connection.execute(query).scalars():
        instance = Instance.from_json(state)
        until = min(now, until_of(instance))
        if held and instance.limit_due is not None:
            until = min(until, instance.limit_due - 1)
        next_due = instance.next_due
        if next_due is not None and next_due <= until:
            found.append((instance, until))
    return found


def put_off(connection: Connection, saga_id: str, now: int) -> None:
    """Look at the timers of a saga again in a minute: nobody else may wait because they cannot be applied."""
    connection.execute(update(saga).where(saga.c.id == saga_id).values(next_due=now + 60 * SECOND))


def any_due(connection: Connection, now: int, unloaded: Versions = ()) -> bool:
    """Tell whether any timer is due that no person holds, whether or not its answers were read.

    Args:
        connection: within a transaction.
        now: the store's clock.
        unloaded: versions that do not count.
    """
    query = _any_due(held(connection), stopped(connection), tuple(unloaded))
    return connection.execute(query, {"now": now}).first() is not None


@lru_cache(maxsize=64)
def _any_due(held: bool, stopped: bool, unloaded: tuple[tuple[str, int], ...]) -> Select[Any]:
    query = _loaded(_unheld(select(saga.c.id), held=held, stopped=stopped), unloaded)
    return query.where(saga.c.next_due <= bindparam("now")).limit(1)


def _loaded(query: Select[Any], unloaded: Versions) -> Select[Any]:
    for type_, version in unloaded:
        query = query.where(not_(and_(saga.c.type == type_, saga.c.version == version)))
    return query


def _unheld(query: Select[Any], *, held: bool, stopped: bool) -> Select[Any]:
    if held:  # only limits are held: what is sent again is no timeout
        query = query.where(or_(saga.c.limit_due.is_(None), saga.c.next_due < saga.c.limit_due))
    if stopped:
        query = query.where(saga.c.phase != Phase.COMPENSATING.value)
    return query


def mass_timeout(connection: Connection, readable: int, breaker: Breaker, unloaded: Versions = ()) -> int:
    """Give the number of sagas that would time out at once, if that is more than the breaker lets through, else 0.

    Args:
        connection: within a transaction.
        readable: limits up to this time count: all answers before it were read.
        breaker: the rule.
        unloaded: versions whose limits nobody here lets pass.
    """
    over = overdue(connection, readable, unloaded)
    if over <= breaker.least or over <= breaker.share * store.open_sagas(connection):
        return 0
    return over


def overdue(connection: Connection, readable: int, unloaded: Versions = ()) -> int:
    """Count the sagas that are past a limit, those apart that a person has let through."""
    query = _loaded(select(func.count()).select_from(saga).where(saga.c.limit_due <= readable), unloaded)
    released = released_until(connection)
    if released:
        query = query.where(saga.c.limit_due > released)
    return int(connection.execute(query).scalar_one())


def held(connection: Connection) -> bool:
    """Tell whether the breaker holds the limits."""
    return _timers(connection).get("state") == HELD


def released_until(connection: Connection) -> int:
    """Give the time up to which a person has let mass timeouts through."""
    return int(str(_timers(connection).get("released_until", 0)))


def hold(connection: Connection, now: int, over: int) -> None:
    """Hold the timers for a person."""
    value = json.dumps({"state": HELD, "over": over, "released_until": released_until(connection)})
    store.set_switch(connection, TIMERS, value, now, "breaker")


def let_through(connection: Connection, now: int, by: str) -> None:
    """Let the held timers fire."""
    store.set_switch(connection, TIMERS, json.dumps({"state": "", "released_until": now}), now, by)


def stopped(connection: Connection) -> bool:
    """Tell whether compensation is stopped."""
    return store.switch(connection, UNDO) == STOPPED


def _timers(connection: Connection) -> dict[str, object]:
    text = store.switch(connection, TIMERS)
    found: dict[str, object] = json.loads(text) if text else {}
    return found
