"""How all sagas stand, at one glance: how many are where, how many began and ended lately, and which steps fail.

Nothing here reads all that has ever ended: what is counted lies within a stretch of time, along an index, and of what
has failed the newest are looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal_column, select

from ..events.clock import SECOND
from . import queries
from .report import rfc3339
from .tables import saga
from .words import Phase

OVERVIEW = "saga.overview/v1"

SPANS = {"1h": 3_600 * SECOND, "24h": 86_400 * SECOND, "7d": 7 * 86_400 * SECOND}
"""Stretches of time that one may look back, microseconds."""

BUCKETS = 48
NEWEST = 100
"""Failed sagas that are looked at, of each phase."""

_MOST_CONDITIONS = 2_000
_MOST_STEPS = 15
_TROUBLED = (Phase.FAILED, Phase.COMPENSATING, Phase.COMPENSATED)
_ENDS = (Phase.COMPLETED, Phase.COMPENSATED, Phase.FAILED, Phase.CANCELLED)


class Failing(NamedTuple):
    """A step that fails: of which type, with which error, how often among those looked at, when last, one of them."""

    type: str
    step: str | None
    error: str | None
    size: int
    last_at: int
    example: str


class Overview(NamedTuple):
    """The whole glance.

    Args:
        now, since: the store's clock, and from when on is counted; microseconds.
        standing: sagas by phase that need something: open ones and FAILED ones.
        began: sagas that began, by bucket of time.
        ended: sagas by phase and bucket of the time when they were last written.
        failing: steps, the most frequent first; of the `NEWEST` of each phase.
        conditions: how many open sagas have each condition.
        brakes: what holds all sagas back.
    """

    now: int
    since: int
    standing: dict[str, int]
    began: list[int]
    ended: dict[str, list[int]]
    failing: list[Failing]
    conditions: dict[str, int]
    brakes: queries.Brakes


def overview(connection: Connection, now: int, span: int) -> Overview:
    """Look at all sagas.

    Args:
        connection: within a read.
        now: the store's clock, microseconds.
        span: how far back, microseconds.
    """
    since = now - span
    return Overview(
        now,
        since,
        _standing(connection),
        _began(connection, since, span),
        _ended(connection, since, span),
        _failing(connection, since),
        _conditions(connection),
        queries.brakes(connection),
    )


def as_json(found: Overview) -> dict[str, Any]:
    """Tell it as the shape `saga.overview/v1`."""
    width = (found.now - found.since) // BUCKETS
    return {
        "schema": OVERVIEW,
        "at": rfc3339(found.now),
        "since": rfc3339(found.since),
        "bucket_ms": width // 1_000,
        "standing": found.standing,
        "began": found.began,
        "ended": found.ended,
        "failing": [
            {
                "type": each.type,
                "step": each.step,
                "error_class": each.error,
                "count": each.size,
                "last_at": rfc3339(each.last_at),
                "example": each.example,
            }
            for each in found.failing
        ],
        "conditions": found.conditions,
        "timers_held": found.brakes.timers_held,
        "undo_stopped": found.brakes.undo_stopped,
    }


def _standing(connection: Connection) -> dict[str, int]:
    found = {}
    for phase in (Phase.RUNNING, Phase.COMPENSATING, Phase.FAILED):
        query = select(func.count()).select_from(saga).where(saga.c.phase == phase.value)
        found[phase.value] = connection.execute(query).scalar_one()
    return found


def _began(connection: Connection, since: int, span: int) -> list[int]:
    bucket = ((saga.c.started_at - since) // (span // BUCKETS)).label("bucket")
    query = select(bucket, func.count()).where(saga.c.started_at >= since).group_by(literal_column("bucket"))
    return _buckets(connection.execute(query).all())


def _ended(connection: Connection, since: int, span: int) -> dict[str, list[int]]:
    found = {}
    bucket = ((saga.c.updated_at - since) // (span // BUCKETS)).label("bucket")
    for phase in _ENDS:
        query = select(bucket, func.count()).where(saga.c.phase == phase.value, saga.c.updated_at >= since)
        found[phase.value] = _buckets(connection.execute(query.group_by(literal_column("bucket"))).all())
    return found


def _buckets(rows: Any) -> list[int]:
    found = [0] * BUCKETS
    for bucket, count in rows:
        found[max(0, min(BUCKETS - 1, int(bucket)))] += count  # a clock that is ahead of ours is now
    return found


def _failing(connection: Connection, since: int) -> list[Failing]:
    counted: Counter[tuple[str, str | None, str | None]] = Counter()
    latest: dict[tuple[str, str | None, str | None], tuple[int, str]] = {}
    for phase in _TROUBLED:
        query = select(saga.c.id, saga.c.type, saga.c.updated_at, saga.c.state)
        query = query.where(saga.c.phase == phase.value, saga.c.updated_at >= since)
        for id_, type_, at, state in connection.execute(query.order_by(saga.c.updated_at.desc()).limit(NEWEST)):
            cause = json.loads(state).get("cause") or {}
            key = (type_, cause.get("step"), cause.get("error"))
            counted[key] += 1
            if key not in latest or latest[key][0] < at:
                latest[key] = (at, id_)
    return [Failing(*key, count, *latest[key]) for key, count in counted.most_common(_MOST_STEPS)]


def _conditions(connection: Connection) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for phase in (Phase.RUNNING, Phase.COMPENSATING):
        query = select(saga.c.conditions).where(saga.c.phase == phase.value, saga.c.conditions != literal_column("''"))
        for told in connection.execute(query.limit(_MOST_CONDITIONS)).scalars():
            counted.update(filter(None, told.split(",")))
    return dict(counted.most_common())
