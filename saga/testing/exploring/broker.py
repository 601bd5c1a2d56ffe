"""The broker as each process sees it: one log for all, and a line to it that may be slow, cut, or lose an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ....events.clock import Clock
from ....events.envelope import Delivery, Record, TopicPartition
from ....events.errors import BrokerUnreachable
from ....events.memory import MemoryBroker
from ....events.transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec
from .process import Killed, Process, State

Content = tuple[str, bytes | None, bytes | None]
"""Topic, key and value of a record."""


class Sent(NamedTuple):
    """One record on the broker.

    Args:
        number: its place among all records.
        at: when, microseconds.
        by: name of the process that sent it; "" for what no process sent.
        record: the record.
    """

    number: int
    at: int
    by: str
    record: Record

    def header(self, name: str) -> str:
        """Give a header's text; "" where it is missing."""
        return next((value.decode() for found, value in self.record.headers if found == name), "")


class Line(Protocol):
    """What may happen on the way to the broker."""

    async def sending(self, process: Process, records: Sequence[Record]) -> int | None:
        """Wait as long as the line is slow; give how many of the records arrive before it breaks, None if it holds."""

    def cut(self, process: Process) -> bool:
        """Whether a process does not reach the broker at present."""

    def hidden(self, group: str, place: TopicPartition) -> bool:
        """Whether a group cannot read a partition at present."""

    def arrived(self, sent: Sent) -> None:
        """A record has arrived."""


class Broker:
    """The broker itself; open it with `async with`.

    Args:
        clock: gives timestamps, and decides when sessions expire.
        line: what may happen on the way to it.
        session: seconds until a process that died is missed.
    """

    def __init__(self, clock: Clock, line: Line, session: float) -> None:
        self.core = MemoryBroker(clock=clock, session=session)
        self.log: list[Sent] = []
        self.held: set[Content] = set()
        """What has ever arrived."""
        self.line = line
        self.links: list[Link] = []
        self._clock = clock
        self._session = session

    async def link(self, process: Process) -> Link:
        """Connect a process."""
        link = Link(self, process, self._clock, self._session)
        await link.__aenter__()
        self.links.append(link)
        return link

    async def append(self, records: Sequence[Record], by: str) -> None:
        """Write records."""
        await self.core.send(records)
        now = self._clock()
        for record in records:
            sent = Sent(len(self.log), now, by, record)
            self.log.append(sent)
            self.held.add((record.topic, record.key, record.value))
            self.line.arrived(sent)

    def placed(self) -> list[Delivery]:
        """List every record with its place, of the topics that are not the simulation's own."""
        return [delivery for records in self.core.everything().values() for delivery in records]

    async def lag(self, group: str, topics: Sequence[str]) -> list[tuple[TopicPartition, int, int]]:
        """List what a group has not committed: partition, committed offset, end."""
        committed = (await self.core.group(group)).committed
        ends = await self.core.end_offsets(topics)
        found = [(place, committed.get(place, 0), end) for place, end in sorted(ends.items())]
        return [each for each in found if each[1] < each[2]]

    def unread(self) -> bool:
        """Whether some process has something left to read, or a group is not done with dividing its partitions."""
        live = (link for link in self.links if link.process.state is State.UP and not link.process.leaving)
        return any(link.unread() for link in live if not self.line.cut(link.process))


class Link(MemoryBroker):
    """One process's connection.

    Args:
        broker: the broker.
        process: whose connection it is.
        clock, session: as the broker's.
    """

    def __init__(self, broker: Broker, process: Process, clock: Clock, session: float) -> None:
        super().__init__(clock=clock, session=session, peer=broker.core)
        self.process = process
        self._broker = broker
        self._members: list[tuple[str, Any]] = []

    def lost(self) -> None:
        """The process shows no life any more."""
        for group, consumer in self._members:
            self.bury(group, consumer.member)

    def found(self) -> None:
        """The process shows life again."""
        for group, consumer in self._members:
            self.revive(group, consumer.member)

    def unread(self) -> bool:
        """Whether it has something left to read, or waits for its partitions."""
        if self.process.started and not self._members:
            return True  # it has lost its connection and is about to make another
        for group, consumer in self._members:
            found = self._state.groups.get(group)
            if found is None or not found.settled:
                return True
            for place in consumer.assignment():
                if self._broker.line.hidden(group, place):
                    continue
                if ".retry." in place.topic and place in consumer.paused:
                    continue  # a retry topic: what lies there waits for its time, and a task sleeps for it
                position = consumer.position(place)
                if position is None or position < self._partition(place).end:
                    return True
        return False

    def _reach(self) -> None:
        if self.process.state is not State.UP:
            raise Killed
        if self._broker.line.cut(self.process):
            raise BrokerUnreachable("no broker answers")

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`."""
        self._reach()
        arrive = await self._broker.line.sending(self.process, records)
        self._reach()
        await self._broker.append(records[:arrive], self.process.name)
        self._reach()
        if arrive is not None:
            raise BrokerUnreachable("the connection broke while records were sent")

    async def fetch(self, positions: Mapping[TopicPartition, int], most: int) -> list[Delivery]:
        """See `MemoryBroker.fetch`."""
        self._reach()
        groups = [group for group, _ in self._members]
        line = self._broker.line
        seen = {p: offset for p, offset in positions.items() if not any(line.hidden(group, p) for group in groups)}
        return await super().fetch(seen, most)

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
        self._reach()
        consumer = await super().subscribe(group, topics, listener=listener, begin=begin, client=client)
        self._members = [each for each in self._members if each[0] != group]
        self._members.append((group, consumer))
        return consumer

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`."""
        self._reach()
        return await super().topics(names)

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`."""
        self._reach()
        return await super().create_topics(topics)

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See `Transport.end_offsets`."""
        self._reach()
        return await super().end_offsets(topics)

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        self._reach()
        return await super().snapshot(topic)

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        self._reach()
        return await super().group(name)

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """See `MemoryBroker.bounds`."""
        self._reach()
        return await super().bounds(partitions)

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        """See `Consumer.offsets_at`."""
        self._reach()
        return await super().offsets_at(partitions, timestamp)

    async def join(self, group: str, member: str, client: str, topics: Sequence[str]) -> None:
        """See `MemoryBroker.join`."""
        self._reach()
        await super().join(group, member, client, topics)

    async def rejoin(self, group: str, member: str) -> None:
        """See `MemoryBroker.rejoin`."""
        self._reach()
        await super().rejoin(group, member)

    async def leave(self, group: str, member: str) -> None:
        """See `MemoryBroker.leave`."""
        self._members = [each for each in self._members if each[1].member != member]
        if self.process.state is State.UP and self._broker.line.cut(self.process):
            self.bury(group, member)  # nobody hears it say farewell
            return
        self._reach()
        await super().leave(group, member)

    async def commit(self, group: str, member: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        self._reach()
        await super().commit(group, member, offsets)

    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.committed`."""
        self._reach()
        return await super().committed(group, partitions)
