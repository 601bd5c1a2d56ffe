"""A transport that counts what goes through it: sent and consumed messages, and how far groups are behind.

It stands before the broker where metrics are on, and nowhere else: then nothing is counted at all. It counts per batch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..events.clock import Clock, system_clock
from ..events.envelope import Delivery, Record, TopicPartition
from ..events.transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec, Transport
from ..tracing.instruments import ERROR, GROUP, OPERATION, SYSTEM, TOPIC
from ..tracing.meters import Attributes, Meters
from ..tracing.sends import SYSTEM as KAFKA

_MOST_READS = 2_000
"""Polls of a partition that are remembered until what they gave is finished."""


class MeasuredTransport:
    """A transport with its metrics.

    Args:
        transport: the broker.
        meters: where the counts go.
        clock: for ages; microseconds.
    """

    def __init__(self, transport: Transport, meters: Meters, *, clock: Clock = system_clock) -> None:
        self._transport = transport
        self._meters = meters
        self._clock = clock
        self._consumers: list[MeasuredConsumer] = []
        self._end = [
            meters.observe("choreo.consumer.lag", lambda: self._observed(0)),
            meters.observe("choreo.consumer.lag.time", lambda: self._observed(1)),
        ]

    @property
    def url(self) -> str:
        """The broker's address."""
        return self._transport.url

    async def __aenter__(self) -> MeasuredTransport:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.forget()
        await self._transport.__aexit__(*exc)

    def forget(self) -> None:
        """Observe nothing any more; the transport itself stays open."""
        for end in self._end:
            end()

    async def measure(self) -> None:
        """Ask how far every consumer is behind.

        Raises:
            TransportError: the broker does not answer; what was seen last stays.
        """
        self._consumers = [consumer for consumer in self._consumers if not consumer.closed]
        for consumer in list(self._consumers):
            await consumer.measure(self._clock())

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`."""
        try:
            await self._transport.send(records)
        except Exception as error:
            self._sent(records, type(error).__name__)
            raise
        self._sent(records, None)

    def _sent(self, records: Sequence[Record], error: str | None) -> None:
        for topic, count in Counter(record.topic for record in records).items():
            attributes = {SYSTEM: KAFKA, OPERATION: "send", TOPIC: topic}
            if error is not None:
                attributes[ERROR] = error
            self._meters.add("messaging.client.sent.messages", count, attributes)

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """See `Transport.subscribe`."""
        inner = await self._transport.subscribe(group, topics, listener=listener, begin=begin, client=client)
        consumer = MeasuredConsumer(inner, group, self._meters)
        self._consumers.append(consumer)
        return consumer

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`."""
        return await self._transport.topics(names)

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`."""
        return await self._transport.create_topics(topics)

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See `Transport.end_offsets`."""
        return await self._transport.end_offsets(topics)

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        return await self._transport.snapshot(topic)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Transport.delete_records`."""
        await self._transport.delete_records(before)

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        return await self._transport.group(name)

    def _observed(self, which: int) -> Iterator[tuple[float, Attributes]]:
        for consumer in self._consumers:
            for topic, behind in consumer.behind.items():
                yield behind[which], {GROUP: consumer.group, TOPIC: topic}


class Behind(NamedTuple):
    """How far a group is behind in one topic: records, and seconds."""

    records: int
    seconds: float


class _Read(NamedTuple):
    """A run of records of one partition that one poll gave."""

    last: int
    timestamp: int


class MeasuredConsumer:
    """A consumer with its metrics.

    Args:
        consumer: the member.
        group: its consumer group.
        meters: where the counts go.
    """

    def __init__(self, consumer: Consumer, group: str, meters: Meters) -> None:
        self._consumer = consumer
        self.group = group
        self._meters = meters
        self._done: dict[TopicPartition, int] = {}
        self._reads: dict[TopicPartition, deque[_Read]] = {}
        self._fresh: dict[TopicPartition, int] = {}
        """Milliseconds: nothing that is unread now is older."""
        self.behind: dict[str, Behind] = {}
        """By topic, as it was measured last."""
        self.closed = False

    async def measure(self, now: int) -> None:
        """See how far it is behind; `now` is microseconds."""
        places = sorted(self.assignment())
        unknown = [place for place in places if place not in self._done]
        if unknown:
            begins = await self._consumer.begin_offsets(unknown)
            self._done |= begins | await self._consumer.committed(unknown)
        ends = await self._consumer.end_offsets(places)
        at = now // 1_000
        found: dict[str, Behind] = {}
        for place in places:
            records = max(0, ends.get(place, 0) - self._done.get(place, 0))
            age = self._age(place, at) if records else 0
            if not records:
                self._fresh[place] = at
            before = found.get(place.topic, Behind(0, 0.0))
            found[place.topic] = Behind(before.records + records, max(before.seconds, age / 1_000))
        for gone in self._fresh.keys() - places:
            del self._fresh[gone]
        self.behind = found

    def _age(self, place: TopicPartition, at: int) -> int:
        """Say how old the first record is that is not finished, milliseconds."""
        self._forget(place, self._done.get(place, 0))
        reads = self._reads.get(place)
        oldest = reads[0].timestamp if reads else self._fresh.setdefault(place, at)
        return max(0, at - oldest)

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        """See `Consumer.poll`."""
        records = await self._consumer.poll(most=most, timeout=timeout)
        if records:
            for topic, count in Counter(record.topic for record in records).items():
                self._meters.add(
                    "messaging.client.consumed.messages",
                    count,
                    {SYSTEM: KAFKA, OPERATION: "poll", TOPIC: topic, GROUP: self.group},
                )
            first: dict[TopicPartition, int] = {}
            last: dict[TopicPartition, int] = {}
            for record in records:
                first.setdefault(record.place, record.timestamp)
                last[record.place] = record.offset
            for place, timestamp in first.items():
                self._note(place, _Read(last[place], timestamp))
        return records

    def _note(self, place: TopicPartition, read: _Read) -> None:
        reads = self._reads.setdefault(place, deque())
        if len(reads) < _MOST_READS:
            reads.append(read)
        else:  # the oldest counts
            reads[-1] = _Read(read.last, reads[-1].timestamp)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        await self._consumer.commit(offsets)
        self._done.update(offsets)
        for place, done in offsets.items():
            self._forget(place, done)

    def _forget(self, place: TopicPartition, done: int) -> None:
        reads = self._reads.get(place)
        while reads and reads[0].last < done:
            self._fresh[place] = reads.popleft().timestamp

    def assignment(self) -> frozenset[TopicPartition]:
        """See `Consumer.assignment`."""
        assigned = self._consumer.assignment()
        if not self._done.keys() <= assigned or not self._reads.keys() <= assigned:
            self._done = {place: at for place, at in self._done.items() if place in assigned}
            self._reads = {place: reads for place, reads in self._reads.items() if place in assigned}
        return assigned

    def position(self, partition: TopicPartition) -> int | None:
        """See `Consumer.position`."""
        return self._consumer.position(partition)

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.committed`."""
        return await self._consumer.committed(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Consumer.seek`."""
        self._reads.pop(partition, None)
        self._consumer.seek(partition, offset)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        self._consumer.pause(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        self._consumer.resume(partitions)

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.begin_offsets`."""
        return await self._consumer.begin_offsets(partitions)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.end_offsets`."""
        return await self._consumer.end_offsets(partitions)

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.stable_offsets`."""
        return await self._consumer.stable_offsets(partitions)

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        """See `Consumer.offsets_at`."""
        return await self._consumer.offsets_at(partitions, timestamp)

    async def close(self) -> None:
        """See `Consumer.close`."""
        self.closed = True
        await self._consumer.close()
