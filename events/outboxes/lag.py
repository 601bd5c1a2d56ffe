"""How far publishing is behind: what waits in an outbox, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, select

from .database import SystemDatabase

MOST_COUNTED = 100_000
"""Rows that are counted: with more of them the exact number is not worth reading them all."""


@dataclass(frozen=True, slots=True)
class TopicLag:
    """What waits for one topic.

    Args:
        topic: its name.
        waiting: committed rows that are not published.
        oldest: age of the oldest, in microseconds.
    """

    topic: str
    waiting: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Lag:
    """What waits in an outbox.

    Args:
        topics: by topic, where something waits.
        waiting: rows altogether, at most `MOST_COUNTED`.
        oldest: age of the oldest, in microseconds; 0 where nothing waits.
    """

    topics: tuple[TopicLag, ...] = ()
    waiting: int = 0
    oldest: int = 0


def read_lag(connection: Connection, database: SystemDatabase, outbox: Table) -> Lag:
    """Read what waits, the oldest rows first if there are very many."""
    now = database.now(connection)
    due = select(outbox.c.aggregatetype, outbox.c.created_at).where(outbox.c.published_at.is_(None))
    some = due.order_by(outbox.c.seq).limit(MOST_COUNTED).subquery()
    topic, count, first = some.c.aggregatetype, func.count(), func.min(some.c.created_at)
    rows = connection.execute(select(topic, count, first).group_by(topic).order_by(topic)).all()
    topics = tuple(TopicLag(name, waiting, max(0, now - oldest)) for name, waiting, oldest in rows)
    return Lag(topics, sum(each.waiting for each in topics), max((each.oldest for each in topics), default=0))
