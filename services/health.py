"""Can a member of a consumer group do its work: has it joined, what does it reach, and how far is it behind?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import Connection, text

from ..events.database import Database
from ..events.envelope import TopicPartition
from ..events.transport import Transport
from ..events.trouble import first_line

T = TypeVar("T")
Kind = Literal["service", "coordinator"]

PATIENCE = 2.0
"""Seconds that broker and store have for their answer."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a service or a coordinator is.

    Args:
        kind, name: which; a coordinator is called by its consumer group.
        partitions: how many it reads now; None while it has not joined its group, or has left it.
        lag: records of its partitions that lie before it; None where that is not known.
        broker, store: whether they answer; `store` is None for a service that keeps nothing.
        why: what keeps it from being ready, in words.
    """

    kind: Kind
    name: str
    partitions: int | None
    lag: int | None
    broker: bool
    store: bool | None
    why: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Joined, with broker and store in reach, and its lag known. A member without partitions is ready."""
        return not self.why

    def as_json(self) -> dict[str, Any]:
        """Give it as a part of `saga.health/v1`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "ready": self.ready,
            "joined": self.partitions is not None,
            "partitions": self.partitions,
            "lag": self.lag,
            "broker": self.broker,
            "store": self.store,
            "why": list(self.why),
        }


class Member(Protocol):
    """What is asked of a membership in a consumer group: each `Consumer` is one."""

    def assignment(self) -> frozenset[TopicPartition]:
        """Give the partitions that it reads now."""

    async def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Give how far its group has committed, where it has."""

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Give where partitions begin."""

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Give where partitions end."""


async def health_of(
    kind: Kind,
    name: str,
    transport: Transport,
    consumer: Member | None,
    database: Database | None,
    *,
    stateless: bool = False,
    processed: Mapping[TopicPartition, int] | None = None,
) -> Health:
    """Look how a member is, within a few seconds.

    Args:
        kind, name: see `Health`.
        transport: an open broker.
        consumer: its membership; None while it has joined no group.
        database: its store, if it is open.
        stateless: it has no store.
        processed: how far it has read, where the broker's committed offsets do not say it.
    """
    why: list[str] = []
    places = sorted(consumer.assignment()) if consumer is not None else []
    if consumer is None:
        why.append("it has not joined its consumer group")
    store: bool | None = None if stateless else False
    asked_store: Awaitable[object] = _nothing() if database is None else database.read(_ask)
    asked_lag = _lag(transport, consumer, places, processed)
    stored, lag = await asyncio.gather(_within(asked_store), _within(asked_lag))
    if not stateless:
        store = database is not None and not isinstance(stored, Exception)
        if not store:
            why.append(f"its store does not answer: {_reason(stored)}" if database is not None else "no store is open")
    broker = not isinstance(lag, Exception)
    if not broker:
        why.append(f"the broker does not answer: {_reason(lag)}")
    known = lag if isinstance(lag, int) and consumer is not None else None
    return Health(kind, name, len(places) if consumer is not None else None, known, broker, store, tuple(why))


async def _lag(
    transport: Transport,
    consumer: Member | None,
    places: list[TopicPartition],
    processed: Mapping[TopicPartition, int] | None,
) -> int:
    if consumer is None or not places:
        await transport.topics([])  # only to see whether it answers
        return 0
    ends = await consumer.end_offsets(places)
    done = processed if processed is not None else await consumer.committed(places)
    lag = 0
    for place, end in ends.items():
        at = done.get(place)
        if at is None:
            at = (await consumer.begin_offsets([place]))[place]
        lag += max(0, end - at)
    return lag


async def _within(work: Awaitable[T]) -> T | Exception:
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except Exception as error:
        return error


async def _nothing() -> int:
    return 0


def _ask(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    return first_line(error) if isinstance(error, Exception) else ""
