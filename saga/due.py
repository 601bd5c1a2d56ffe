"""What there is to do at a tick: one look over everything that time, people and other coordinators have left."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection

from . import admissions, jobs, loaded, operators, queues, store, ticks, timers
from .knowledge import Knowledge


class Due(NamedTuple):
    """What there is to do.

    Args:
        now: the store's clock, microseconds.
        fires: timers, held undos, parked events, schedules, locks that are free for the next one, or room.
        asked: commands of people.
        paused: sagas that waited for code that is loaded here.
    """

    now: int
    fires: bool
    asked: bool
    paused: bool


def look(connection: Connection, now: int, knowledge: Knowledge) -> Due:
    """Look at everything; cheap where there is nothing."""
    fires = (
        _comes_round(connection, now, knowledge)
        or timers.held(connection)
        or store.any_held_or_expired(connection, now)
    )
    return Due(
        now,
        fires,
        operators.any_pending(connection, knowledge.declarations) or jobs.any_due(connection, now),
        bool(loaded.paused(connection, knowledge.declarations, 1)),
    )


def quiet(connection: Connection, soon: int, knowledge: Knowledge) -> bool:
    """Tell whether there is nothing to do before `soon` (ruling R18)."""
    return not (
        _comes_round(connection, soon, knowledge)
        or loaded.paused(connection, knowledge.declarations, 1)
        or operators.any_pending(connection, knowledge.declarations)
        or jobs.any_due(connection, soon)
    )


def _comes_round(connection: Connection, until: int, knowledge: Knowledge) -> bool:
    return (
        timers.any_due(connection, until, knowledge.unloaded)
        or ticks.any_due(connection, knowledge.newest, until)
        or queues.any_in_line(connection, knowledge.locking)
        or admissions.any_in_line(connection, knowledge.limits)
    )
