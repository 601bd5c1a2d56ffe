"""When a measurement begins and ends: at the assignment of partitions, and when the last result is durable."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from choreo.events.envelope import Record, TopicPartition
from choreo.events.garbage import collect_seldom
from choreo.events.transport import Consumer, Listener, Transport


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measurement gave.

    Args:
        count: events or sagas.
        seconds: from begin to end.
        cpu: seconds of this process, all its threads.
        memory: the process's peak, MB.
        more: counts that were verified, and other figures.
    """

    count: int
    seconds: float
    cpu: float
    memory: float
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {**asdict(self), "per_second": self.count / self.seconds, "cpu_us_each": self.cpu / self.count * 1e6}


class Stopwatch:
    """Measures wall and processor time; the first `start` and the last `lap` count."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._ended = (0.0, 0.0)

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self._began is None:
            collect_seldom()  # as `saga run` does; the loop by hand has it too
            self._began = (time.perf_counter(), time.process_time())

    def lap(self) -> None:
        """Note that it ends now, or later."""
        self._ended = (time.perf_counter(), time.process_time())

    def measured(self, count: int, **more: Any) -> Measured:
        """Give the figures."""
        assert self._began is not None
        seconds, cpu = (end - begin for end, begin in zip(self._ended, self._began, strict=True))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Measured(count, seconds, cpu, memory, more)


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
