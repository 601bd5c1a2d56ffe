"""Against a real Kafka only: outages, dead members, foreign transactions, and the partitions of other clients."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from choreo.events.envelope import Delivery, Record, TopicPartition
from choreo.events.errors import BrokerUnreachable, CommitRefused, TopicMissing
from choreo.events.kafka import KafkaTransport
from choreo.events.settings import Settings
from choreo.events.transport import Consumer, TopicSpec
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.saga.wide_shop import Bought, services
from tests.support.kafka import KafkaServer, kafka_jars

pytestmark = pytest.mark.kafka
PATIENCE = 90


@pytest.fixture
async def kafka(kafka_bootstrap: str) -> AsyncIterator[KafkaTransport]:
    async with KafkaTransport(f"kafka://{kafka_bootstrap}", Settings()) as transport:
        yield transport


@pytest.fixture
def own_server(kafka_bootstrap: str) -> Iterator[KafkaServer]:
    """A broker that a test may stop; the shared one is asked for first, as it knows what to do without Java."""
    server = KafkaServer(kafka_jars())
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def fresh_topic(kafka: KafkaTransport, partitions: int = 2) -> str:
    name = f"topic-{uuid.uuid4().hex[:12]}"
    await kafka.create_topics([TopicSpec(name, partitions)])
    return name


async def poll_until(consumer: Consumer, condition: Callable[[list[Delivery]], bool]) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while not condition(found):
            found += await consumer.poll(most=1000, timeout=0.2)
    return found


def signalled(server: KafkaServer, number: signal.Signals) -> None:
    assert server.process is not None
    server.process.send_signal(number)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str] | None]:
    """Which topics the broker is asked about: names, or None for all there are."""
    found: list[Sequence[str] | None] = []
    describe = AIOKafkaAdminClient.describe_topics

    async def noted(client: AIOKafkaAdminClient, topics: list[str] | None = None) -> list[object]:
        found.append(topics)
        return await describe(client, topics)

    monkeypatch.setattr(AIOKafkaAdminClient, "describe_topics", noted)
    return found


async def test_what_is_known_to_exist_is_asked_for_by_name(
    kafka: KafkaTransport, asked: list[Sequence[str] | None]
) -> None:
    one, two = await fresh_topic(kafka), await fresh_topic(kafka)
    await kafka.topics()
    asked.clear()
    for _ in range(3):
        assert len(await kafka.end_offsets([one])) == 2
    assert (await kafka.topics({one, two})).keys() == {one, two}
    assert await kafka.topics([]) == {}, "only to see whether it answers"
    assert None not in asked
    assert {tuple(each or ()) for each in asked} == {(one,), tuple(sorted([one, two])), ()}


async def test_a_worker_and_a_coordinator_at_rest_never_list_a_whole_cluster(
    kafka_bootstrap: str, asked: list[Sequence[str] | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.services.worker._DEFINITIONS_EVERY", 1)
    monkeypatch.setattr("choreo.saga.coordinator._CATALOG", 0)
    url = f"kafka://{kafka_bootstrap}"
    settings = Settings(broker=url, topic_prefix=f"{uuid.uuid4().hex[:8]}.", home=tmp_path)
    parts = Parts(services(*(f"sqlite:{tmp_path / name}.db" for name in ("stock", "bank"))), (Bought,))
    async with connect(url, settings) as transport, Process(parts, transport, settings, create_topics=True):
        await _looked(asked, 5)  # what they ask at first
        asked.clear()
        await _looked(asked, 20)
    assert None not in asked


async def _looked(asked: Sequence[object], times: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(asked) < times:
            await asyncio.sleep(0.1)


async def test_a_creation_returns_when_the_broker_knows_of_the_topic(
    kafka: KafkaTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = [3, 3]  # UNKNOWN_TOPIC_OR_PARTITION: what a broker says while the news is on its way
    describe = AIOKafkaAdminClient.describe_topics

    async def late(client: AIOKafkaAdminClient, topics: list[str] | None = None) -> list[object]:
        if topics and unknown:
            return [{"error_code": unknown.pop(), "topic": each, "is_internal": 0, "partitions": []} for each in topics]
        return await describe(client, topics)

    monkeypatch.setattr(AIOKafkaAdminClient, "describe_topics", late)
    await fresh_topic(kafka)
    assert not unknown, "it asked until it was there"


async def test_asking_for_a_topic_does_not_make_it_where_brokers_do_that(kafka_bootstrap: str) -> None:
    server = KafkaServer(kafka_jars(), **{"auto.create.topics.enable": "true"})
    server.start()
    try:
        async with KafkaTransport(f"kafka://{server.bootstrap}", Settings()) as kafka:
            topic = await fresh_topic(kafka)
            assert (await kafka.topics(["never", topic])).keys() == {topic}
            with pytest.raises(TopicMissing):
                await kafka.end_offsets(["never"])
            with pytest.raises(TopicMissing):
                await kafka.send([Record("never", b"k", b"v")])
            with pytest.raises(TopicMissing):
                await kafka.subscribe("group", ["never"])
            assert (await kafka.topics()).keys() == {topic}
    finally:
        server.stop()


async def test_a_partition_that_is_new_can_be_named(kafka: KafkaTransport, kafka_bootstrap: str) -> None:
    topic = await fresh_topic(kafka, 1)
    await kafka.send([Record(topic, b"k", b"v", partition=0)])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(2)})
    finally:
        await admin.close()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await kafka.send([Record(topic, b"k", b"v", partition=1)])
                break
            except (TopicMissing, BrokerUnreachable):  # the cluster itself needs a moment
                await asyncio.sleep(0.1)
    assert {record.partition for record in await kafka.snapshot(topic)} == {0, 1}


async def test_a_silent_broker_is_given_up_in_time_and_taken_up_again(own_server: KafkaServer) -> None:
    async with KafkaTransport(f"kafka://{own_server.bootstrap}", Settings(), patience=2) as kafka:
        topic = await fresh_topic(kafka, 1)
        await kafka.send([Record(topic, b"k", b"0")])
        signalled(own_server, signal.SIGSTOP)
        with pytest.raises(BrokerUnreachable, match=r"did not acknowledge the records: not within 2 s") as away:
            await kafka.send([Record(topic, b"k", b"1")])
        assert away.value.retryable
        signalled(own_server, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await kafka.send([Record(topic, b"k", b"1")])
                    break
                except BrokerUnreachable:
                    await asyncio.sleep(0.2)
        await kafka.send([Record(topic, b"k", b"2")])
        found = [int(record.value or b"") for record in await kafka.snapshot(topic)]
    # Copies of what was not acknowledged may be there; nothing is missing and the first ones are in order.
    assert list(dict.fromkeys(found)) == [0, 1, 2]


async def test_a_broker_that_dies_and_returns_loses_nothing_and_needs_no_new_connection(
    own_server: KafkaServer,
) -> None:
    async with KafkaTransport(f"kafka://{own_server.bootstrap}", Settings(), patience=10) as kafka:
        topic = await fresh_topic(kafka, 1)
        consumer = await kafka.subscribe("group", [topic])
        await kafka.send([Record(topic, b"k", b"%d" % n) for n in range(10)])
        assert len(await poll_until(consumer, lambda found: len(found) == 10)) == 10
        own_server.kill()
        assert await consumer.poll(most=10, timeout=0.5) == []
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await kafka.send([Record(topic, b"k", b"%d" % n) for n in range(10, 20)])
                    break
                except BrokerUnreachable:
                    await asyncio.sleep(0.2)
        found = await poll_until(consumer, lambda found: bool(found) and found[-1].value == b"19")
        values = [int(record.value or b"") for record in found]
        assert list(dict.fromkeys(values)) == list(range(10, 20))
        await consumer.commit({TopicPartition(topic, 0): found[-1].offset + 1})


async def test_a_dead_broker_keeps_no_more_in_memory_than_those_who_wait_have_given(own_server: KafkaServer) -> None:
    """Each caller waits for its own records, so what is held is what they hold; and no producer is left behind."""
    callers = 20
    async with KafkaTransport(f"kafka://{own_server.bootstrap}", Settings(), patience=2) as kafka:
        topic = await fresh_topic(kafka, 1)
        await kafka.send([Record(topic, b"k", b"first")])
        own_server.kill()
        failed, most = [0] * callers, 0

        async def publish(number: int) -> None:
            while True:
                try:
                    return await kafka.send([Record(topic, b"k", b"%d" % number)])
                except BrokerUnreachable:
                    failed[number] += 1
                    await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(publish(number)) for number in range(callers)]
        async with asyncio.timeout(PATIENCE):
            while min(failed) < 3:
                most = max(most, len(kafka._joiner._waiting))
                await asyncio.sleep(0.05)
        assert most <= callers
        gc.collect()
        assert sum(type(each) is AIOKafkaProducer for each in gc.get_objects()) <= 3
        await asyncio.to_thread(own_server.start)
        await asyncio.gather(*tasks)
        found = {record.value for record in await kafka.snapshot(topic)}
    assert found == {b"first", *(b"%d" % number for number in range(callers))}


READER = """
import asyncio, sys
from choreo.events.kafka import KafkaTransport
from choreo.events.settings import Settings

async def main(url, group, topic):
    async with KafkaTransport(url, Settings(), session=3) as kafka:
        consumer = await kafka.subscribe(group, [topic], client="other")
        while True:
            await consumer.poll(most=10, timeout=0.2)
            print(len(consumer.assignment()), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


# As READER, and it commits whenever it is given a line.
COMMITTER = READER.replace(
    "flush=True)",
    "flush=True); sys.stdin.readline(); await consumer.commit(dict.fromkeys(consumer.assignment(), 1))",
)


async def test_the_partitions_of_a_killed_process_move_when_its_session_is_over(kafka: KafkaTransport) -> None:
    topic, group = await fresh_topic(kafka), uuid.uuid4().hex
    other = subprocess.Popen([sys.executable, "-c", READER, kafka.url, group, topic], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    while int(await asyncio.to_thread(other.stdout.readline)) != 2:
        pass
    consumer = await kafka.subscribe(group, [topic], client="one")
    await poll_until(consumer, lambda _: len(consumer.assignment()) == 1)
    assert (await kafka.group(group)).members == ("one", "other")
    other.kill()
    other.communicate()
    await poll_until(consumer, lambda _: len(consumer.assignment()) == 2)
    assert (await kafka.group(group)).members == ("one",)


async def test_a_frozen_process_may_not_commit_what_it_lost(kafka_bootstrap: str) -> None:
    async with KafkaTransport(f"kafka://{kafka_bootstrap}", Settings(), session=3) as kafka:
        topic, group = await fresh_topic(kafka, 1), uuid.uuid4().hex
        other = subprocess.Popen(
            [sys.executable, "-c", COMMITTER, kafka.url, group, topic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None and other.stdin is not None
        while int(await asyncio.to_thread(other.stdout.readline)) != 1:
            other.stdin.write("\n")
            other.stdin.flush()
        other.send_signal(signal.SIGSTOP)
        consumer = await kafka.subscribe(group, [topic])
        await poll_until(consumer, lambda _: len(consumer.assignment()) == 1)
        other.stdin.write("\n")
        other.stdin.flush()
        other.send_signal(signal.SIGCONT)
        _, errors = await asyncio.to_thread(other.communicate)
        assert CommitRefused.__name__ in errors.splitlines()[-1]
        assert await consumer.committed([TopicPartition(topic, 0)]) == {}


async def test_aborted_records_are_not_read_and_an_open_transaction_ends_the_log(
    kafka: KafkaTransport, kafka_bootstrap: str
) -> None:
    topic = await fresh_topic(kafka, 1)
    foreign = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=uuid.uuid4().hex)
    await foreign.start()
    try:
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"aborted")
        await foreign.abort_transaction()
        await kafka.send([Record(topic, b"k", b"plain")])
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"open")
        place = TopicPartition(topic, 0)
        assert await kafka.end_offsets([topic]) == {
            place: 4
        }  # the aborted one, its marker, the plain one, the open one
        assert [record.value for record in await kafka.snapshot(topic)] == [b"plain"]
        consumer = await kafka.subscribe(uuid.uuid4().hex, [topic])
        assert [record.value for record in await poll_until(consumer, bool)] == [b"plain"]
        assert await consumer.stable_offsets([place]) == {place: 3}, "what comes after an open one cannot be read"
        assert await consumer.end_offsets([place]) == {place: 4}, "and nobody may think that it was"
        await foreign.commit_transaction()
        assert [record.value for record in await poll_until(consumer, bool)] == [b"open"]
        await poll_until(consumer, lambda _: consumer.position(place) == 5)
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"aborted too")
        await foreign.abort_transaction()
        assert await poll_until(consumer, lambda _: consumer.position(place) == 7) == []
        assert await consumer.end_offsets([place]) == {place: 7}, "read to the end, though the last are no records"
    finally:
        await foreign.stop()


async def test_other_clients_put_a_key_into_the_same_partition(kafka: KafkaTransport, kafka_bootstrap: str) -> None:
    topic = await fresh_topic(kafka, 5)
    keys = [f"order-{n}".encode() for n in range(50)]
    foreign = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await foreign.start()
    for key in keys:
        await foreign.send(topic, b"theirs", key=key)
    await foreign.stop()
    await kafka.send([Record(topic, key, b"ours") for key in keys])
    found = await kafka.snapshot(topic)
    places = {value: {r.key: r.partition for r in found if r.value == value} for value in (b"ours", b"theirs")}
    assert places[b"ours"] == places[b"theirs"] and len(places[b"ours"]) == 50


async def test_topic_settings_reach_the_broker(kafka: KafkaTransport) -> None:
    name = f"topic-{uuid.uuid4().hex[:12]}"
    spec = TopicSpec(name, 1, replication=1, config={"retention.ms": "60000"})
    assert await kafka.create_topics([spec]) == [name]
