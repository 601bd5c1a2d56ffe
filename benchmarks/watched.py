"""A transport that tells when a measurement ends: enough is committed, and its results are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from choreo.events.envelope import Record, TopicPartition
from choreo.events.transport import Consumer, Listener, Transport

from .stopwatch import Stopwatch


class Watched:
    """A transport that stops the watch when enough is committed, and its results acknowledged.

    Args:
        transport: an open broker.
        watch: started with the first assignment.
        topic: where results go, one for each record.
        count: how many records are to be committed.
    """

    def __init__(self, transport: Transport, watch: Stopwatch, topic: str, count: int) -> None:
        self._transport = transport
        self._watch = watch
        self._topic = topic
        self._count = count
        self._offsets: dict[TopicPartition, int] = {}
        self._sent = 0
        self.reached = 0
        """How many were committed when the watch stopped."""
        self.finished = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def committed(self) -> int:
        """How many are committed by now."""
        return sum(self._offsets.values())

    async def send(self, records: Sequence[Record]) -> None:
        """Send, and count what is acknowledged of the results."""
        await self._transport.send(records)
        if records and records[0].topic == self._topic:
            self._sent += len(records)
            self._look()

    async def subscribe(self, group: str, topics: Sequence[str], *, listener: Listener, **more: Any) -> Consumer:
        """Subscribe with a listener that starts the watch and a consumer that counts commits."""
        consumer = await self._transport.subscribe(group, topics, listener=_Start(listener, self._watch), **more)
        commit = consumer.commit

        async def counted(offsets: Mapping[TopicPartition, int]) -> None:
            await commit(offsets)
            self._offsets.update(offsets)
            self._look()

        consumer.commit = counted  # type: ignore[method-assign]
        return consumer

    def _look(self) -> None:
        if not self.reached and self._count <= self.committed <= self._sent:
            self._watch.lap()
            self.reached = self.committed
            self.finished.set()


class _Start:
    def __init__(self, listener: Listener, watch: Stopwatch) -> None:
        self._listener = listener
        self._watch = watch

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        await self._listener.on_revoked(partitions)

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._watch.start()
        await self._listener.on_assigned(partitions)
