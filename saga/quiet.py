"""Open sagas that may be stuck, in the order in which they are looked at.

A saga is due when it has waited for something long enough. It is found by the time since when it waits, along an index,
so how many others are open does not matter; once looked at, it is due again when its next wait is long enough, or when
it is written again. All open ones are looked at in turn beside that: what a saga waits for can go wrong while nothing
happens to the saga.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, or_, select, update

from ..events.envelope import TopicPartition
from . import queries, whereabouts
from .queries import Brakes, Found
from .tables import saga
from .why import Place
from .words import Condition, Phase

OPEN = (Phase.RUNNING, Phase.COMPENSATING)
Cursor = tuple[int, int, str]
"""How far a turn has come: which phase of `OPEN`, and behind which time and name in it."""

START: Cursor = (0, 0, "")


class Case(NamedTuple):
    """An open saga, with what explains it."""

    found: Found
    places: dict[str, Place]
    brakes: Brakes
    queued: list[str]


class Page(NamedTuple):
    """Some sagas.

    Args:
        cases: they; first those that were due.
        due: how many these are.
        turn: how far this turn has come.
        more: others are due already.
    """

    cases: list[Case]
    due: int
    turn: Cursor
    more: bool

    @property
    def turned(self) -> bool:
        """Whether with them every open one has had its turn."""
        return not self.more and self.turn == START


def page(connection: Connection, turn: Cursor, before: int, limit: int) -> Page:
    """Read the sagas that are looked at next: those that are due first, else the next of all.

    Args:
        connection: within a read.
        turn: how far this turn has come; `START` at its beginning.
        before: to be due, a saga waits for something since; to have its turn, it began before; microseconds.
        limit: so many of each.
    """
    waits = saga.c.waits_since
    due = select(saga.c.id).where(waits <= before).order_by(waits).limit(limit)
    ids = dict.fromkeys(connection.execute(due).scalars())
    count, more = len(ids), len(ids) == limit
    if not more:
        phase = turn[0]
        rows = connection.execute(_turn(turn, before, limit)).all()
        ids.update(dict.fromkeys(row.id for row in rows))
        last = (phase, rows[-1].started_at, rows[-1].id) if len(rows) == limit else (phase + 1, 0, "")
        turn = last if last[0] < len(OPEN) else START
    return Page(_cases(connection, list(ids)), count, turn, more)


def mark(connection: Connection, cases: Sequence[Case], before: int) -> None:
    """Note that these sagas were looked at: each is due again when its next wait is long enough.

    Args:
        connection: within a write.
        cases: those that were due; who has moved meanwhile stays as it is.
        before: as they were read with, microseconds.
    """
    if not cases:
        return
    same = (saga.c.id == bindparam("the_id"), saga.c.seq == bindparam("the_seq"), saga.c.waits_since <= before)
    rows = [
        {
            "the_id": case.found.instance.id,
            "the_seq": case.found.instance.seq,
            "next": min((at for at in case.found.instance.waits() if at > before), default=None),
        }
        for case in sorted(cases, key=lambda case: case.found.instance.id)
    ]
    connection.execute(update(saga).where(*same).values(waits_since=bindparam("next")), rows)


def _turn(after: Cursor, before: int, limit: int) -> Select[Any]:
    at = saga.c.started_at
    phase, begun, id_ = after
    chosen = select(saga.c.id, at).where(saga.c.phase == OPEN[phase].value)
    behind = (at >= begun, or_(at > begun, saga.c.id > id_))  # the first one is for the index
    asked = saga.c.conditions.like(f"%{Condition.WAITING_FOR_PERSON.value}%")  # that was told when it began
    return chosen.where(*behind, at <= before, ~asked).order_by(at, saga.c.id).limit(limit)


def _cases(connection: Connection, ids: list[str]) -> list[Case]:
    if not ids:
        return []
    brakes = queries.brakes(connection)
    stood, queued = whereabouts.places_of(connection, ids), whereabouts.queued_of(connection, ids)
    found, states = [], queries.states(connection, ids)
    for id_, each in ((id_, states[id_]) for id_ in ids if id_ in states):
        places = {event: Place(TopicPartition(topic, part), at) for event, (topic, part, at) in stood[id_].items()}
        found.append(Case(each, places, brakes, queued[id_]))
    return found
