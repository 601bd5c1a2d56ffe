"""One contract, three brokers: what every transport promises, in memory, in a SQLite file and on a real Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from choreo.events.envelope import Delivery, Record, TopicPartition
from choreo.events.errors import (
    CommitRefused,
    ConfigurationError,
    EncodeError,
    LimitExceeded,
    PositionLost,
    TopicMissing,
)
from choreo.events.kafka import KafkaTransport
from choreo.events.local import LocalBroker
from choreo.events.memory import MemoryBroker
from choreo.events.partitioner import partition_for
from choreo.events.settings import Settings
from choreo.events.transport import Consumer, Listener, TopicSpec, Transport
from choreo.events.transports import Prefixed

PATIENCE = 60


@dataclass
class Broker:
    """One of the three brokers, and what tests do to it from outside."""

    kind: str
    open: Callable[[], Transport]
    transport: Transport = field(init=False)

    async def topic(self, partitions: int = 4, **options: Any) -> str:
        """Make a fresh topic."""
        name = f"topic-{uuid.uuid4().hex[:12]}"
        await self.transport.create_topics([TopicSpec(name, partitions, **options)])
        return name


def fresh(kind: str = "group") -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["memory", "local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """An open broker; once each of the three."""
    if request.param == "memory":
        memory = MemoryBroker()
        broker = Broker("memory", lambda: memory)
    elif request.param == "local":
        path = tmp_path / "broker.db"
        broker = Broker("local", lambda: LocalBroker(path))
    else:
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        broker = Broker("kafka", lambda: KafkaTransport(f"kafka://{bootstrap}", Settings()))
    async with broker.open() as broker.transport:
        yield broker


class Recorder:
    """A listener that notes what it is told; `gate` holds up the drain."""

    def __init__(self) -> None:
        self.told: list[tuple[str, frozenset[TopicPartition]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.consumer: Consumer | None = None

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.told.append(("revoked", partitions))
        await self.gate.wait()
        self.told.append(("drained", partitions))

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.told.append(("assigned", partitions))

    def words(self) -> list[str]:
        return [word for word, _ in self.told]


class Member:
    """A consumer that is polled in the background, as a worker does."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.seen: list[Delivery] = []
        self._stop = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop:
            self.seen += await self.consumer.poll(most=100, timeout=0.1)

    async def rest(self) -> None:
        self._stop = True
        await self._task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def read(consumer: Consumer, count: int) -> list[Delivery]:
    """Poll until `count` records are there."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            found += await consumer.poll(most=count - len(found), timeout=1)
    return found


async def joined(transport: Transport, topic: str, group: str | None = None, **options: Any) -> Consumer:
    """Subscribe and poll until the partitions are there."""
    consumer = await transport.subscribe(group or fresh(), [topic], **options)
    async with asyncio.timeout(PATIENCE):
        while not consumer.assignment():
            assert not await consumer.poll(most=1, timeout=0.1)
    return consumer


def numbered(topic: str, count: int, keys: int = 10) -> list[Record]:
    return [Record(topic, b"key-%d" % (n % keys), b"%d" % n) for n in range(count)]


def by_partition(records: list[Delivery]) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record)
    return found


# -- records ---------------------------------------------------------------------------------------------------------


async def test_every_acknowledged_record_is_read_in_the_order_of_its_partition(broker: Broker) -> None:
    topic = await broker.topic()
    records = numbered(topic, 1_000)
    for start in range(0, 1_000, 300):
        await broker.transport.send(records[start : start + 300])
    consumer = await broker.transport.subscribe(fresh(), [topic])
    found = await read(consumer, 1_000)
    assert sorted(int(record.value or b"") for record in found) == list(range(1_000))
    for partition in by_partition(found).values():
        assert [record.offset for record in partition] == list(range(len(partition)))
        values = [int(record.value or b"") for record in partition]
        assert values == sorted(values)
    assert await consumer.poll(most=10, timeout=0.2) == []


async def test_a_record_comes_back_as_it_was_sent(broker: Broker) -> None:
    topic = await broker.topic(1)
    headers = (("ce_id", b"1"), ("twice", b"a"), ("twice", "ä".encode()), ("bytes", bytes(range(256))), ("empty", b""))
    sent = [
        Record(topic, "schlüssel".encode(), b"\x00\x01value", headers, 1_700_000_000_123),
        Record(topic, b"gone", None, (), 1_700_000_000_124),
        Record(topic, None, b"keyless", (), 1_700_000_000_125),
    ]
    await broker.transport.send(sent)
    found = await broker.transport.snapshot(topic)
    assert [(r.topic, r.key, r.value, r.headers, r.timestamp) for r in found] == [
        (r.topic, r.key, r.value, r.headers, r.timestamp) for r in sent
    ]
    assert [record.place for record in found] == [TopicPartition(topic, 0)] * 3


async def test_a_key_belongs_to_its_murmur2_partition_everywhere(broker: Broker) -> None:
    topic = await broker.topic(7)
    keys = ["4711", "", "ä", "f3d2-" * 9, "x"]
    await broker.transport.send([Record(topic, key.encode(), b"v") for key in keys])
    await broker.transport.send([Record(topic, b"elsewhere", b"v", partition=5)])
    places = {record.key: record.partition for record in await broker.transport.snapshot(topic)}
    assert places == {key.encode(): partition_for(key.encode(), 7) for key in keys} | {b"elsewhere": 5}


async def test_concurrent_sends_keep_the_order_of_their_calls(broker: Broker) -> None:
    topic = await broker.topic(1)
    await asyncio.gather(*(broker.transport.send([Record(topic, b"k", b"%d" % n)]) for n in range(200)))
    found = await broker.transport.snapshot(topic)
    assert [int(record.value or b"") for record in found] == list(range(200))


async def test_sends_larger_than_one_batch_arrive_whole_and_in_order(broker: Broker) -> None:
    topic = await broker.topic(1)
    records = [Record(topic, b"k", b"%06d" % n + b"x" * 100_000) for n in range(30)]
    await broker.transport.send(records)
    found = await broker.transport.snapshot(topic)
    assert [int((record.value or b"")[:6]) for record in found] == list(range(30))


async def test_what_kafka_cannot_carry_is_refused_before_anything_is_written(broker: Broker) -> None:
    topic = await broker.topic()
    good = Record(topic, b"k", b"v")
    with pytest.raises(LimitExceeded, match=f"{topic}.*1,000,001 bytes.*at most 1,000,000"):
        await broker.transport.send([good, Record(topic, b"k", b"x" * 1_000_000)])
    with pytest.raises(EncodeError, match="header 'ce_id' is str"):
        await broker.transport.send([good, Record(topic, b"k", b"v", (("ce_id", "1"),))])  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="neither key nor value"):
        await broker.transport.send([good, Record(topic, None, None)])
    with pytest.raises(TopicMissing, match="has 4 partitions, there is no partition 4"):
        await broker.transport.send([good, Record(topic, b"k", b"v", partition=4)])
    with pytest.raises(TopicMissing, match="'nowhere-1', 'nowhere-2' do not exist"):
        await broker.transport.send([good, Record("nowhere-2", b"k", b"v"), Record("nowhere-1", b"k", b"v")])
    assert await broker.transport.snapshot(topic) == []
    await broker.transport.send([Record(topic, b"k", b"x" * 999_999)])
    assert len(await broker.transport.snapshot(topic)) == 1


# -- topics ----------------------------------------------------------------------------------------------------------


async def test_topics_are_created_once_and_listed(broker: Broker) -> None:
    one, two = fresh("topic"), fresh("topic")
    specs = [TopicSpec(one, 3), TopicSpec(two, 1, compacted=True)]
    assert await broker.transport.create_topics([specs[0]]) == [one]
    assert await broker.transport.create_topics(specs) == [two]
    assert await broker.transport.create_topics(specs) == []
    listed = await broker.transport.topics()
    assert (listed[one].partitions, listed[two].partitions) == (3, 1)
    named = await broker.transport.topics([two, "no-such-topic"])
    assert {name: info.partitions for name, info in named.items()} == {two: 1}
    assert await broker.transport.topics([]) == {}
    for wrong in (TopicSpec("no spaces"), TopicSpec(".."), TopicSpec("x" * 250), TopicSpec("none", 0)):
        with pytest.raises(ConfigurationError):
            await broker.transport.create_topics([wrong])


async def test_missing_topics_are_named_at_the_start(broker: Broker) -> None:
    topic = await broker.topic()
    with pytest.raises(TopicMissing, match=r"'no-1', 'no-2' do not exist.*topics apply"):
        await broker.transport.subscribe(fresh(), ["no-2", topic, "no-1"])
    with pytest.raises(TopicMissing, match="'no-1' does not exist"):
        await broker.transport.end_offsets([topic, "no-1"])
    with pytest.raises(TopicMissing, match="'no-1' does not exist"):
        await broker.transport.snapshot("no-1")


async def test_a_snapshot_of_a_compacted_topic_ends_with_the_newest_of_each_key(broker: Broker) -> None:
    topic = await broker.topic(2, compacted=True)
    for generation in range(3):
        await broker.transport.send([Record(topic, b"k%d" % n, b"%d" % generation) for n in range(5)])
    newest = {record.key: record.value for record in await broker.transport.snapshot(topic)}
    assert newest == {b"k%d" % n: b"2" for n in range(5)}
    ends = await broker.transport.end_offsets([topic])
    assert sum(ends.values()) == 15 and len(ends) == 2


# -- groups ----------------------------------------------------------------------------------------------------------


async def test_a_second_member_gets_its_share_only_after_the_first_has_drained(broker: Broker) -> None:
    topic, group, first, second = await broker.topic(), fresh(), Recorder(), Recorder()
    await broker.transport.send(numbered(topic, 40))
    one = Member(await broker.transport.subscribe(group, [topic], listener=first))
    await until(lambda: len(one.seen) >= 40)
    first.gate.clear()
    two = Member(await broker.transport.subscribe(group, [topic], listener=second))
    await until(lambda: "revoked" in first.words())
    held = one.consumer.assignment()
    assert len(held) == 4
    await asyncio.sleep(0.5)
    assert second.words() == [] and two.consumer.assignment() == frozenset()
    ends = await one.consumer.end_offsets(list(held))
    await one.consumer.commit(ends)  # still the owner while it drains
    first.gate.set()
    await until(lambda: len(one.consumer.assignment()) == len(two.consumer.assignment()) == 2)
    assert one.consumer.assignment() | two.consumer.assignment() == held
    assert first.told[:3] == [("assigned", held), ("revoked", held), ("drained", held)]
    await until(lambda: second.words() == ["assigned"])
    await broker.transport.send(numbered(topic, 40))
    await until(lambda: len(one.seen) + len(two.seen) >= 80)
    assert len(one.seen) + len(two.seen) == 80, "nothing twice: all was committed"
    await one.rest()
    await two.rest()


async def test_the_partitions_of_a_closed_member_move(broker: Broker) -> None:
    topic, group = await broker.topic(), fresh()
    one = Member(await broker.transport.subscribe(group, [topic], client="one"))
    two = Member(await broker.transport.subscribe(group, [topic], client="two"))
    await until(lambda: len(one.consumer.assignment()) == len(two.consumer.assignment()) == 2)
    assert (await broker.transport.group(group)).members == ("one", "two")
    await one.rest()
    await one.consumer.close()
    await until(lambda: len(two.consumer.assignment()) == 4)
    assert (await broker.transport.group(group)).members == ("two",)
    with pytest.raises(ConfigurationError, match="closed"):
        await one.consumer.poll(most=1, timeout=0)
    await two.rest()


async def test_topics_of_equal_partition_counts_are_assigned_alike(broker: Broker) -> None:
    left, right, group = await broker.topic(5), await broker.topic(5), fresh()
    members = [Member(await broker.transport.subscribe(group, [left, right])) for _ in range(2)]
    await until(lambda: sorted(len(member.consumer.assignment()) for member in members) == [4, 6])
    for member in members:
        numbers = {
            topic: {p.partition for p in member.consumer.assignment() if p.topic == topic} for topic in (left, right)
        }
        assert numbers[left] == numbers[right]
        await member.rest()


async def test_uncommitted_records_come_again_after_a_crash(broker: Broker) -> None:
    topic, group = await broker.topic(1), fresh()
    place = TopicPartition(topic, 0)
    await broker.transport.send(numbered(topic, 10))
    async with broker.open() as connection:
        consumer = await connection.subscribe(group, [topic])
        assert [record.offset for record in await read(consumer, 6)] == list(range(6))
        await consumer.commit({place: 4})  # of six read ones, four are done
        if broker.kind == "kafka":
            await consumer.close()
        else:
            await consumer.kill()  # type: ignore[attr-defined]
            if isinstance(connection, MemoryBroker):
                await connection.leave(group, consumer.member)  # type: ignore[attr-defined]
    other = fresh()
    assert (await broker.transport.group(group)).committed == {place: 4}
    if broker.kind == "local":  # its session lasts ten seconds; tests/events/test_local_broker.py waits for a short one
        return
    again = await broker.transport.subscribe(group, [topic])
    assert [record.offset for record in await read(again, 6)] == list(range(4, 10))
    assert len(await read(await broker.transport.subscribe(other, [topic]), 10)) == 10  # groups do not share offsets


async def test_a_commit_states_the_next_offset(broker: Broker) -> None:
    topic, group = await broker.topic(2), fresh()
    here, there = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await broker.transport.send([Record(topic, None, b"%d" % n, partition=n % 2) for n in range(10)])
    consumer = await broker.transport.subscribe(group, [topic])
    await read(consumer, 10)
    assert (consumer.position(here), consumer.position(there)) == (5, 5)
    assert await consumer.committed([here, there]) == {}
    await consumer.commit({})
    await consumer.commit({here: 2})
    assert await consumer.committed([here, there]) == {here: 2}
    await consumer.commit({here: 1, there: 5})  # a commit may go back
    await consumer.close()
    again = await broker.transport.subscribe(group, [topic])
    found = await read(again, 4)
    assert [(record.partition, record.offset) for record in found] == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert await again.poll(most=1, timeout=0.2) == []


async def test_a_commit_of_partitions_that_moved_is_refused(broker: Broker) -> None:
    topic, group = await broker.topic(2), fresh()
    one = Member(await broker.transport.subscribe(group, [topic]))
    await until(lambda: len(one.consumer.assignment()) == 2)
    two = Member(await broker.transport.subscribe(group, [topic]))
    await until(lambda: len(one.consumer.assignment()) == len(two.consumer.assignment()) == 1)
    (mine,), (moved,) = one.consumer.assignment(), two.consumer.assignment()
    with pytest.raises(CommitRefused, match="not ours any more"):
        await one.consumer.commit({mine: 1, moved: 1})
    assert await two.consumer.committed([mine, moved]) == {}
    await one.consumer.commit({mine: 1})
    assert await two.consumer.committed([mine, moved]) == {mine: 1}
    for member in (one, two):
        await member.rest()


async def test_a_listener_may_seek_before_anything_is_read(broker: Broker) -> None:
    topic = await broker.topic(2)
    await broker.transport.send([Record(topic, None, b"%d" % n, partition=n % 2) for n in range(20)])

    class Seeking(Recorder):
        async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
            await super().on_assigned(partitions)
            assert self.consumer is not None
            assert self.consumer.assignment() == partitions
            await asyncio.sleep(0.3)  # what is prefetched meanwhile must not be returned
            self.consumer.seek(TopicPartition(topic, 1), 7)

    listener = Seeking()
    listener.consumer = consumer = await broker.transport.subscribe(fresh(), [topic], listener=listener)
    assert listener.told == []
    found = by_partition(await read(consumer, 13))
    assert [record.offset for record in found[0]] == list(range(10))
    assert [record.offset for record in found[1]] == [7, 8, 9]


async def test_a_failing_listener_is_told_to_the_poller_and_asked_again(broker: Broker) -> None:
    topic = await broker.topic(1)
    await broker.transport.send(numbered(topic, 1))

    class Failing(Recorder):
        async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
            await super().on_assigned(partitions)
            if len(self.told) == 1:
                raise RuntimeError("the store is away")

    listener = Failing()
    consumer = await broker.transport.subscribe(fresh(), [topic], listener=listener)
    with pytest.raises(RuntimeError, match="the store is away"):
        await read(consumer, 1)
    assert len(await read(consumer, 1)) == 1
    assert listener.words() == ["assigned", "assigned"]


# -- positions -------------------------------------------------------------------------------------------------------


async def test_seek_goes_back_and_forth(broker: Broker) -> None:
    topic = await broker.topic(1)
    place = TopicPartition(topic, 0)
    await broker.transport.send(numbered(topic, 100))
    consumer = await broker.transport.subscribe(fresh(), [topic])
    await read(consumer, 50)
    for offset in (10, 90, 0, 99):
        consumer.seek(place, offset)
        assert consumer.position(place) == offset
        assert (await read(consumer, 1))[0].offset == offset
    consumer.seek(place, 100)
    assert await consumer.poll(most=10, timeout=0.3) == []
    await broker.transport.send(numbered(topic, 1))
    assert (await read(consumer, 1))[0].offset == 100
    consumer.seek(TopicPartition("foreign", 0), 5)  # not ours: nothing happens
    with pytest.raises(ConfigurationError, match="offsets begin at 0"):
        consumer.seek(place, -1)


async def test_a_paused_partition_is_silent_and_its_member_stays(broker: Broker) -> None:
    topic, group = await broker.topic(2), fresh()
    await broker.transport.send([Record(topic, None, b"%d" % n, partition=n % 2) for n in range(400)])
    here, there = TopicPartition(topic, 0), TopicPartition(topic, 1)
    consumer = await broker.transport.subscribe(group, [topic])
    first = await read(consumer, 3)
    consumer.pause([here])
    found = [record for _ in range(12) for record in await consumer.poll(most=50, timeout=0.1)]
    assert {record.partition for record in found} == {1}
    consumer.pause([there])
    assert await consumer.poll(most=50, timeout=0.3) == []
    assert consumer.assignment() == {here, there}
    consumer.resume([here, there])
    found += await read(consumer, 400 - len(first) - len(found))
    for partition in by_partition(first + found).values():
        assert [record.offset for record in partition] == list(range(200))


async def test_a_small_poll_leaves_the_rest_for_the_next(broker: Broker) -> None:
    topic = await broker.topic()
    await broker.transport.send(numbered(topic, 200))
    consumer = await broker.transport.subscribe(fresh(), [topic])
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < 200:
            most = 1 + len(found) % 40
            some = await consumer.poll(most=most, timeout=0.5)
            assert len(some) <= most
            found += some
    for partition in by_partition(found).values():
        assert [record.offset for record in partition] == list(range(len(partition)))


async def test_a_group_without_offsets_begins_where_it_says(broker: Broker) -> None:
    topic = await broker.topic(1)
    await broker.transport.send(numbered(topic, 5))
    late = await joined(broker.transport, topic, begin="latest")
    await broker.transport.send(numbered(topic, 1))
    assert [record.offset for record in await read(late, 1)] == [5]
    early = await broker.transport.subscribe(fresh(), [topic], begin="earliest")
    assert [record.offset for record in await read(early, 6)] == list(range(6))


async def test_offsets_are_found_by_time(broker: Broker) -> None:
    topic = await broker.topic(2)
    here, there = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await broker.transport.send([Record(topic, None, b"v", timestamp=1_000 * n, partition=0) for n in range(1, 6)])
    consumer = await broker.transport.subscribe(fresh(), [topic])
    assert await consumer.offsets_at([here, there], 3_000) == {here: 2, there: 0}
    assert await consumer.offsets_at([here], 2_001) == {here: 2}
    assert await consumer.offsets_at([here], 0) == {here: 0}
    assert await consumer.offsets_at([here], 9_000) == {here: 5}
    assert await consumer.begin_offsets([here, there]) == {here: 0, there: 0}
    assert await consumer.end_offsets([here, there]) == {here: 5, there: 0}


async def test_a_position_outside_the_log_stops_the_reader_until_someone_decides(broker: Broker) -> None:
    topic, group = await broker.topic(1), fresh()
    place = TopicPartition(topic, 0)
    await broker.transport.send(numbered(topic, 10))
    consumer = await broker.transport.subscribe(group, [topic])
    await read(consumer, 2)
    await consumer.commit({place: 2})
    await consumer.close()
    await broker.transport.delete_records({place: 6})
    again = await broker.transport.subscribe(group, [topic])
    for _ in range(2):  # not skipped the second time either
        with pytest.raises(
            PositionLost, match=r"offset 2 of .* partition 0, is not in the log.*6 to 10.*decide"
        ) as lost:
            await read(again, 1)
        assert lost.value.ids["offset"] == 2
    again.seek(place, (await again.begin_offsets([place]))[place])
    assert [record.offset for record in await read(again, 4)] == [6, 7, 8, 9]
    again.seek(place, 11)
    with pytest.raises(PositionLost, match="offset 11 "):
        await read(again, 1)
    assert [record.offset for record in await broker.transport.snapshot(topic)] == [6, 7, 8, 9]


# -- connections -----------------------------------------------------------------------------------------------------


async def test_a_group_is_described_by_members_and_offsets(broker: Broker) -> None:
    topic, group = await broker.topic(2), fresh()
    unknown = await broker.transport.group(group)
    assert (unknown.name, unknown.members, dict(unknown.committed)) == (group, (), {})
    consumer = await joined(broker.transport, topic, group, client="inventory@host")
    await consumer.commit({TopicPartition(topic, 0): 0})
    described = await broker.transport.group(group)
    assert described.members == ("inventory@host",)
    assert described.committed == {TopicPartition(topic, 0): 0}


async def test_closing_the_connection_closes_its_members(broker: Broker) -> None:
    topic, group = await broker.topic(1), fresh()
    connection = broker.open()
    async with connection:
        await joined(connection, topic, group)
        assert len((await broker.transport.group(group)).members) == 1
        if broker.kind == "memory":  # one object is one connection, however often it is entered
            return
    assert (await broker.transport.group(group)).members == ()
    with pytest.raises(ConfigurationError, match="is not open"):
        await connection.topics()


async def test_a_prefix_keeps_environments_apart_and_is_not_seen(broker: Broker) -> None:
    prefix, topic, group, listener = f"{fresh('env')}.", fresh("topic"), fresh(), Recorder()
    there: Transport = Prefixed(broker.transport, prefix)
    place = TopicPartition(topic, 0)
    assert await there.create_topics([TopicSpec(topic, 1)]) == [topic]
    assert list(await there.topics()) == [topic]
    assert prefix + topic in await broker.transport.topics()
    await there.send([Record(topic, b"k", b"v", (("h", b"1"),), 5)])
    assert await there.snapshot(topic) == [Delivery(topic, 0, 0, 5, b"k", b"v", (("h", b"1"),))]
    assert await there.end_offsets([topic]) == {place: 1}
    consumer = await there.subscribe(group, [topic], listener=_as_listener(listener))
    assert [(record.topic, record.offset) for record in await read(consumer, 1)] == [(topic, 0)]
    assert listener.told == [("assigned", frozenset({place}))]
    assert consumer.assignment() == {place} and consumer.position(place) == 1
    await consumer.commit({place: 1})
    assert await consumer.committed([place]) == {place: 1}
    assert (await there.group(group)).committed == {place: 1}
    assert (await broker.transport.group(group)).committed == {}
    assert await consumer.begin_offsets([place]) == {place: 0}
    assert await consumer.end_offsets([place]) == {place: 1}
    assert await consumer.offsets_at([place], 6) == {place: 1}
    consumer.pause([place])
    consumer.seek(place, 0)
    assert await consumer.poll(most=1, timeout=0.2) == []
    consumer.resume([place])
    assert len(await read(consumer, 1)) == 1
    await consumer.close()
    with pytest.raises(TopicMissing, match=prefix):
        await there.subscribe(group, ["missing"])


def _as_listener(recorder: Recorder) -> Listener:
    return recorder


# -- fair turns ------------------------------------------------------------------------------------------------------


async def test_ruling_8_no_partition_is_read_far_ahead_of_the_others(broker: Broker) -> None:
    topics = [await broker.topic(2), await broker.topic(2)]
    for topic in topics:
        await broker.transport.send([Record(topic, b"k", b"v", partition=n % 2) for n in range(2_000)])
    consumer = await broker.transport.subscribe(fresh(), topics)
    read_: dict[TopicPartition, int] = {TopicPartition(topic, n): 0 for topic in topics for n in (0, 1)}
    async with asyncio.timeout(PATIENCE):
        while not all(read_.values()):  # Kafka's client may fetch one of them a little later than the others
            for record in await consumer.poll(most=4, timeout=1):
                read_[record.place] += 1
        begun = dict(read_)
        while max(read_.values()) < 1_000:
            batch = await consumer.poll(most=200, timeout=1)
            assert len(batch) <= 200
            for record in batch:
                read_[record.place] += 1
            given = [read_[place] - begun[place] for place in read_]
            assert max(given) - min(given) <= 200, (begun, read_)


async def test_what_a_quiet_partition_does_not_need_of_a_poll_is_given_to_the_others(broker: Broker) -> None:
    topic = await broker.topic(4)
    counts = {0: 3, 1: 0, 2: 40, 3: 400}
    await broker.transport.send(
        [Record(topic, b"k", b"v", partition=n) for n, many in counts.items() for _ in range(many)]
    )
    consumer = await broker.transport.subscribe(fresh(), [topic])
    found = await read(consumer, 443)
    assert {number: len(records) for number, records in by_partition(found).items()} == {0: 3, 2: 40, 3: 400}


async def test_where_no_transaction_is_open_a_partition_can_be_read_to_its_end(broker: Broker) -> None:
    topic = await broker.topic(2)
    await broker.transport.send([Record(topic, b"k", b"v", partition=1)] * 3)
    consumer = await joined_at_end(broker, topic)
    places = sorted(consumer.assignment())
    assert await consumer.stable_offsets(places) == await consumer.end_offsets(places) == {places[0]: 0, places[1]: 3}


async def joined_at_end(broker: Broker, topic: str) -> Consumer:
    return await joined(broker.transport, topic, begin="latest")
