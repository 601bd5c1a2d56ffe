"""The broker in memory (`memory:`): Kafka's manners, one process, nothing kept.

It is what tests and the simulator run on, so it must not be kinder than Kafka: topics must exist, sizes are limited, a
member that dies keeps its partitions until its session has expired, a stale member's commit is refused. Time comes from
the injected clock only, and no call suspends without need, so a run is repeatable.

`MemoryBroker("shop")` shares its records with every other one of that name for as long as the process lives. The empty
name is shared by all connections that are open at the same time, and forgotten when the last one closes (as SQLite's
shared in-memory databases are). `MemoryBroker()` is private.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .clock import SECOND, Clock, system_clock
from .embedded import REBALANCE, SESSION, Bell, EmbeddedConsumer, Offsets, commit_refused, in_turns, position_lost
from .envelope import Delivery, Record, TopicPartition
from .errors import ConfigurationError
from .groups import Group, View
from .partitioner import partition_for
from .sending import check_records, check_spec, topic_missing
from .transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec


@dataclass(slots=True)
class _Partition:
    begin: int = 0
    records: list[Delivery] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)


@dataclass(slots=True)
class _State:
    """What one broker holds."""

    topics: dict[str, list[_Partition]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    committed: dict[str, Offsets] = field(default_factory=dict)
    dead: dict[str, dict[str, int]] = field(default_factory=dict)
    bell: Bell = field(default_factory=Bell)
    moves: Bell = field(default_factory=Bell)
    lock: threading.Lock = field(default_factory=threading.Lock)
    members: int = 0
    spread: int = 0
    open: int = 0


_NAMED: dict[str, _State] = {}


class MemoryBroker:
    """A connection to a broker in memory; open it with `async with`, as often as you like.

    Args:
        name: which broker; None for one of its own.
        clock: gives record timestamps and decides when sessions expire.
        session: seconds until a dead member is dropped.
        rebalance: seconds that a member has for its drain.
        peer: an open connection to a broker of its own; this is another one to the same.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        clock: Clock = system_clock,
        session: float = SESSION,
        rebalance: float = REBALANCE,
        peer: MemoryBroker | None = None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._session = round(session * SECOND)
        self._rebalance = round(rebalance * SECOND)
        self._held: _State | None = peer._state if peer is not None else _State() if name is None else None
        self._depth = 0
        self._consumers: set[MemoryConsumer] = set()

    @property
    def url(self) -> str:
        """The address, e.g. `memory:shop`."""
        return f"memory:{self._name or ''}"

    async def __aenter__(self) -> MemoryBroker:
        self._depth += 1
        if self._depth == 1:
            if self._name is not None:
                self._held = _NAMED.setdefault(self._name, _State())
            self._state.open += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        state = self._state
        for consumer in tuple(self._consumers):
            await consumer.close()
        self._depth = 0
        state.open -= 1
        if self._name is not None:
            self._held = None
        if self._name == "" and not state.open:
            _NAMED.pop("", None)

    @property
    def _state(self) -> _State:
        if self._held is None or not self._depth:
            raise ConfigurationError(f"the broker {self.url!r} is not open; use `async with connect(...)`")
        return self._held

    @property
    def bell(self) -> Bell:
        """Rung for new records."""
        return self._state.bell

    @property
    def moves(self) -> Bell:
        """Rung when a group may have changed."""
        return self._state.moves

    @property
    def beat(self) -> float | None:
        """No signs of life are needed: who shares the process is seen."""
        return None

    # -- records ------------------------------------------------------------------------------------------------------

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`; here all records are written or none."""
        state = self._state
        check_records(records, {name: len(partitions) for name, partitions in state.topics.items()})
        now = self._clock() // 1_000
        with state.lock:  # a publisher may live in another thread's loop
            for record in records:
                partitions = state.topics[record.topic]
                if record.partition is not None:
                    number = record.partition
                elif record.key is not None:
                    number = partition_for(record.key, len(partitions))
                else:
                    number = state.spread % len(partitions)
                    state.spread += 1
                partition = partitions[number]
                timestamp = now if record.timestamp is None else record.timestamp
                partition.records.append(
                    Delivery(
                        record.topic, number, partition.end, timestamp, record.key, record.value, tuple(record.headers)
                    )
                )
        state.bell.ring()

    async def fetch(self, positions: Mapping[TopicPartition, int], most: int) -> list[Delivery]:
        """Read from these positions on, in their order.

        Raises:
            PositionLost: a position lies outside the log.
        """
        return in_turns(positions, most, self._range)

    def _range(self, place: TopicPartition, offset: int, most: int) -> list[Delivery]:
        partition = self._partition(place)
        if not partition.begin <= offset <= partition.end:
            raise position_lost(place, offset, partition.begin, partition.end)
        start = offset - partition.begin
        return partition.records[start : start + most]

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        partitions = self._state.topics.get(topic)
        if partitions is None:
            raise topic_missing([topic])
        return [record for partition in partitions for record in partition.records]

    def everything(self) -> dict[str, list[Delivery]]:
        """Show every record that is there, topic by topic."""
        return {
            name: [record for partition in partitions for record in partition.records]
            for name, partitions in self._state.topics.items()
        }

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Give the first offset in the log and the end of each partition."""
        found = {place: self._partition(place) for place in partitions}
        return {place: (partition.begin, partition.end) for place, partition in found.items()}

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets:
        """See `Consumer.offsets_at`."""
        found: Offsets = {}
        for place in partitions:
            partition = self._partition(place)
            later = (record.offset for record in partition.records if record.timestamp >= timestamp)
            found[place] = next(later, partition.end)
        return found

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Transport.delete_records`."""
        for place, offset in before.items():
            partition = self._partition(place)
            count = bisect_left(partition.records, offset, key=lambda record: record.offset)
            del partition.records[:count]
            partition.begin += count

    def _partition(self, place: TopicPartition) -> _Partition:
        partitions = self._state.topics.get(place.topic)
        if partitions is None or not 0 <= place.partition < len(partitions):
            raise topic_missing([place.topic])
        return partitions[place.partition]

    # -- topics -------------------------------------------------------------------------------------------------------

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`."""
        return {
            name: TopicInfo(name, len(partitions))
            for name, partitions in self._state.topics.items()
            if names is None or name in names
        }

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`."""
        for spec in topics:
            check_spec(spec)
        created = []
        for spec in topics:
            if spec.name not in self._state.topics:
                self._state.topics[spec.name] = [_Partition() for _ in range(spec.partitions)]
                created.append(spec.name)
        return created

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See `Transport.end_offsets`."""
        missing = [name for name in topics if name not in self._state.topics]
        if missing:
            raise topic_missing(missing)
        return {
            TopicPartition(name, number): partition.end
            for name in topics
            for number, partition in enumerate(self._state.topics[name])
        }

    # -- groups -------------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """See `Transport.subscribe`; the group is joined with the first `poll`."""
        state = self._state
        missing = sorted(name for name in set(topics) if name not in state.topics)
        if missing:
            raise topic_missing(missing)
        state.members += 1
        member = f"{client}-{state.members:06d}"
        consumer = MemoryConsumer(self, member, group, topics, listener, begin, client)
        self._consumers.add(consumer)
        return consumer

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        state = self._state
        self.attend(name)
        group = state.groups.get(name, Group())
        return GroupInfo(name, group.clients(), dict(state.committed.get(name, {})))

    async def join(self, group: str, member: str, client: str, topics: Sequence[str]) -> None:
        """Let a member in."""
        self._group(group).join(member, client, topics, self._clock())
        self._settle(group)

    async def look(self, group: str, member: str) -> View | None:
        """Show a member its group."""
        self.attend(group)
        return self._group(group).view(member)

    async def rejoin(self, group: str, member: str) -> None:
        """Note that a member has let go of its partitions."""
        self._group(group).rejoin(member)
        self._settle(group)

    async def leave(self, group: str, member: str) -> None:
        """Let a member go."""
        self._consumers = {consumer for consumer in self._consumers if consumer.member != member}
        self._group(group).remove([member], self._clock())
        self._settle(group)

    def bury(self, group: str, member: str) -> None:
        """Note that a member shows no life from now on."""
        self._state.dead.setdefault(group, {})[member] = self._clock()

    def revive(self, group: str, member: str) -> None:
        """Note that a member shows life again; where its session has expired meanwhile, that is too late."""
        self._state.dead.get(group, {}).pop(member, None)

    def attend(self, group: str) -> float | None:
        """Drop members whose session or drain time is over; give the seconds until there may be more."""
        state, now = self._state, self._clock()
        found, dead = self._group(group), state.dead.get(group)
        if found.settled and not dead:
            return None
        gone = found.laggards(now, self._rebalance)
        if dead:
            gone += [member for member, since in dead.items() if now - since >= self._session]
        if gone:
            for member in gone:
                state.dead.get(group, {}).pop(member, None)
            found.remove(gone, now)
            self._settle(group)
        return min(self._session, self._rebalance) / SECOND / 4

    async def commit(self, group: str, member: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        self.attend(group)
        if not self._group(group).owns(member, offsets):
            raise commit_refused(group, offsets)
        self._state.committed.setdefault(group, {}).update(offsets)

    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.committed`."""
        found = self._state.committed.get(group, {})
        return {place: found[place] for place in partitions if place in found}

    def _group(self, name: str) -> Group:
        return self._state.groups.setdefault(name, Group())

    def _settle(self, name: str) -> None:
        group = self._group(name)
        group.settle({topic: len(self._state.topics.get(topic, ())) for topic in group.topics()})
        self._state.moves.ring()
        self._state.bell.ring()


class MemoryConsumer(EmbeddedConsumer):
    """A member of a group of the memory broker; its arguments are those of `EmbeddedConsumer`."""

    def __init__(self, broker: MemoryBroker, member: str, group: str, *rest: Any) -> None:
        super().__init__(broker, member, group, *rest)
        self._bury = partial(broker.bury, group, member)

    async def kill(self) -> None:
        """Die as a process under SIGKILL does: others take over when the session has expired by the broker's clock."""
        await super().kill()
        self._bury()
