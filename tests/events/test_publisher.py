"""Publishing: durable when the call returns, and one clear line when it cannot be."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from choreo.events.codec import Codec, UnknownSchema
from choreo.events.envelope import Delivery, read_envelope
from choreo.events.errors import (
    BrokerUnreachable,
    ConfigurationError,
    DefinitionError,
    EncodeError,
    MissingKey,
    SchemaRefused,
    TopicMissing,
)
from choreo.events.event import Event
from choreo.events.ids import new_id
from choreo.events.memory import MemoryBroker
from choreo.events.publisher import BlockingPublisher, Publisher
from choreo.events.registry import EmbeddedRegistry
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec, Transport
from choreo.events.transports import connect


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal


class OrderNoted(Event, topic="notes", key="order_id", format="json"):
    order_id: str


class Abstract(Event):
    order_id: str


def placed(number: object, total: str = "1") -> OrderPlaced:
    return OrderPlaced(order_id=str(number), total=Decimal(total))


async def sent(broker: Transport, topic: str = "orders") -> list[Delivery]:
    return await broker.snapshot(topic)


async def test_an_event_is_on_the_broker_when_publish_returns() -> None:
    async with MemoryBroker() as broker:
        async with Publisher(broker, source="shop", clock=lambda: 1_700_000_000_000_000) as publisher:
            ids = await publisher.publish(placed(4711, "19.90"), causation_id="c-1")
        (delivery,) = await sent(broker)
        envelope = read_envelope(delivery)
        assert [envelope.id] == ids
        assert (envelope.type, envelope.source, envelope.key) == ("OrderPlaced", "shop", "4711")
        assert (envelope.time, envelope.causation_id) == (1_700_000_000_000_000, "c-1")
        codec = Codec(EmbeddedRegistry(broker))
        assert delivery.value is not None
        await codec.learn(int.from_bytes(delivery.value[1:5], "big"))
        assert codec.decode(OrderPlaced, delivery.value, envelope.content_type) == placed(4711, "19.90")


async def test_several_events_keep_their_order_and_get_ids_of_their_own() -> None:
    async with MemoryBroker() as broker, Publisher(broker, source="shop") as publisher:
        ids = await publisher.publish(placed(1), OrderNoted(order_id="1"), placed(1, "2"))
        assert len(set(ids)) == 3
        assert [read_envelope(each).id for each in await sent(broker)] == [ids[0], ids[2]]
        assert [read_envelope(each).id for each in await sent(broker, "notes")] == [ids[1]]


async def test_id_and_time_may_be_given() -> None:
    async with MemoryBroker() as broker, Publisher(broker, source="shop") as publisher:
        assert await publisher.publish(placed(1), id="mine", time=datetime(2026, 1, 1, tzinfo=UTC)) == ["mine"]
        envelope = read_envelope((await sent(broker))[0])
        assert (envelope.id, envelope.time) == ("mine", 1_767_225_600_000_000)
        with pytest.raises(ConfigurationError, match="id= names one event"):
            await publisher.publish(placed(1), placed(2), id="mine")
        with pytest.raises(ConfigurationError, match="time=: a datetime without a time zone"):
            await publisher.publish(placed(1), time=datetime(2026, 1, 1))


async def test_nothing_is_sent_if_one_event_is_at_fault() -> None:
    async with MemoryBroker() as broker, Publisher(broker, source="shop") as publisher:
        await publisher.publish(placed(0))
        with pytest.raises(MissingKey, match="OrderPlaced: its key 'order_id' is empty"):
            await publisher.publish(placed(1), placed(""))
        with pytest.raises(EncodeError, match=r"OrderPlaced.total does not fit in 38 digits"):
            await publisher.publish(placed(1), placed(2, "1E-20"))
        with pytest.raises(DefinitionError, match="Abstract has no topic"):
            await publisher.publish(placed(1), Abstract(order_id="1"))
        with pytest.raises(DefinitionError, match=r"str is not an event; derive the class from choreo.Event"):
            await publisher.publish(placed(1), "text")  # type: ignore[arg-type]
        assert len(await sent(broker)) == 1


async def test_missing_topics_are_made_on_the_embedded_brokers(tmp_path: Path) -> None:
    async with Publisher(f"local:{tmp_path / 'broker.db'}", source="shop") as publisher:
        await publisher.publish(placed(1), OrderNoted(order_id="1"))
        await publisher.publish(placed(2))


class FakeKafka(MemoryBroker):
    """The memory broker under Kafka's address."""

    @property
    def url(self) -> str:
        return "kafka://127.0.0.1:1"


async def test_on_kafka_a_missing_topic_is_an_error_that_says_what_to_do() -> None:
    async with FakeKafka() as broker, Publisher(broker, source="shop") as publisher:
        with pytest.raises(TopicMissing, match="'orders' does not exist; create with `saga topics apply`"):
            await publisher.publish(placed(1))


async def test_an_unreachable_broker_is_one_clear_line() -> None:
    with pytest.raises(BrokerUnreachable) as caught:
        async with Publisher("kafka://127.0.0.1:1", source="shop") as publisher:
            await publisher.publish(placed(1))
    assert "127.0.0.1:1" in caught.value.message and "\n" not in caught.value.message


async def test_a_schema_that_would_break_readers_stops_the_first_publish() -> None:
    class Placed(Event, topic="orders", key="order_id", type="OrderPlaced"):
        order_id: str
        coupon: str

    async with MemoryBroker() as broker, Publisher(broker, source="shop") as publisher:
        await publisher.publish(placed(1))
        with pytest.raises(SchemaRefused, match=r"OrderPlaced.coupon is new and has no default"):
            await publisher.publish(Placed(order_id="1", coupon="x"))
        assert len(await sent(broker)) == 1


async def test_concurrent_calls_lose_nothing(tmp_path: Path) -> None:
    async with connect(f"local:{tmp_path / 'broker.db'}", Settings()) as broker:
        async with Publisher(broker, source="shop") as publisher:
            ids = await asyncio.gather(*(publisher.publish(placed(number), placed(number)) for number in range(200)))
        found = [read_envelope(each) for each in await sent(broker)]
    assert {each.id for each in found} == {each for pair in ids for each in pair}
    for number, pair in enumerate(ids):
        assert [each.id for each in found if each.key == str(number)] == pair


async def test_the_settings_prefix_and_broker_are_used(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, topic_prefix="dev.")
    async with Publisher(source="shop", settings=settings) as publisher:
        await publisher.publish(placed(1))
        assert publisher.target == f"local:{tmp_path / 'broker.db'} dev."
    async with connect(f"local:{tmp_path / 'broker.db'}", Settings()) as broker:
        assert "dev.orders" in await broker.topics()


async def test_an_open_transport_stays_open_and_a_publisher_may_be_opened_again() -> None:
    async with MemoryBroker() as broker:
        await broker.create_topics([TopicSpec("orders")])
        publisher = Publisher(broker, source="shop")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="the publisher is not open; write: async with"):
                await publisher.publish(placed(1))
            async with publisher:
                await publisher.publish(placed(1))
        assert len(await sent(broker)) == 2


@pytest.mark.parametrize("source", ["", "a\nb"])
def test_a_source_is_needed(source: str) -> None:
    with pytest.raises(ConfigurationError, match="a publisher needs a source"):
        Publisher("memory:", source=source)


def test_without_a_loop_publish_blocks_until_the_broker_has_it(tmp_path: Path) -> None:
    url = f"local:{tmp_path / 'broker.db'}"
    with BlockingPublisher(url, source="shop") as publisher:
        ids = publisher.publish(placed(1), placed(1, "2"))
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                publisher.publish(placed(number))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        with pytest.raises(MissingKey):
            publisher.publish(placed(""))

    async def look() -> list[Delivery]:
        async with connect(url, Settings()) as broker:
            return await sent(broker)

    found = asyncio.run(look())
    assert len(found) == 10 and set(ids) <= {read_envelope(each).id for each in found}
    assert "choreo-publisher" not in {thread.name for thread in threading.enumerate()}


def test_a_blocking_publisher_that_cannot_open_or_is_closed_says_so(tmp_path: Path) -> None:
    publisher = BlockingPublisher("memory:", source="shop")
    with pytest.raises(ConfigurationError, match="the publisher is not open; write: with BlockingPublisher"):
        publisher.publish(placed(1))
    (tmp_path / "folder").mkdir()
    with pytest.raises(Exception), BlockingPublisher(f"local:{tmp_path / 'folder'}", source="shop") as broken:
        broken.publish(placed(1))
    assert "choreo-publisher" not in {thread.name for thread in threading.enumerate()}


def test_an_event_carries_the_trace_of_the_program_that_published_it() -> None:
    context = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, TraceFlags(1))
    with BlockingPublisher("memory:traced", source="shop") as publisher:
        publisher.publish(placed(1))
        with use_span(NonRecordingSpan(context)):
            publisher.publish(placed(2))
    records = asyncio.run(_read("memory:traced", "orders"))
    assert [read_envelope(each).traceparent for each in sorted(records, key=lambda each: each.key or b"")] == [
        None,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ]


async def _read(url: str, topic: str) -> list[Delivery]:
    async with connect(url, Settings()) as broker:
        return await broker.snapshot(topic)


@pytest.mark.kafka
async def test_on_a_real_kafka_events_and_their_schemas_are_there(kafka_bootstrap: str) -> None:
    name = f"orders-{new_id()}"

    class Placed(Event, topic=name, key="order_id"):
        order_id: str
        total: Decimal

    async with (
        connect(f"kafka://{kafka_bootstrap}", Settings()) as broker,
        Publisher(broker, source="shop") as publisher,
    ):
        with pytest.raises(TopicMissing, match=f"'{name}' does not exist; create with `saga topics apply`"):
            await publisher.publish(Placed(order_id="1", total=Decimal(1)))
        await broker.create_topics([TopicSpec(name, partitions=2)])
        events = [Placed(order_id=str(number % 7), total=Decimal(number)) for number in range(500)]
        ids = await publisher.publish(*events)
        # Another program finds the schema on the broker.
        codec = Codec(EmbeddedRegistry(broker))
        found: dict[str, Placed] = {}
        for delivery in await sent(broker, name):
            assert delivery.value is not None
            try:
                found[read_envelope(delivery).id] = codec.decode(Placed, delivery.value, "application/avro")
            except UnknownSchema as unknown:
                await codec.learn(unknown.schema_id)
                found[read_envelope(delivery).id] = codec.decode(Placed, delivery.value, "application/avro")
        assert found == dict(zip(ids, events, strict=True))
