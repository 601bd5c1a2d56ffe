"""The handler benchmarks: a loop written by hand on aiokafka, the same as a `Service` handler, and on its peers.

All of them read the same records, at most 2,000 (by hand) or what the worker chooses at once, and write with acks=all
and an idempotent producer. The clock runs from the assignment of the partitions until `count` records are committed and
their results acknowledged. The topic holds more than that: a partition that runs dry would stall any aiokafka consumer
for up to half a second. At the end the results on the broker are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic import BaseModel
from sqlalchemy import text

from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope
from choreo.events.ids import new_id
from choreo.events.registry import SCHEMAS_TOPIC, open_registry
from choreo.events.settings import Settings, load_settings
from choreo.events.transport import TopicSpec, Transport
from choreo.events.transports import connect
from choreo.services.service import Service
from choreo.services.worker import Worker

from .orders import RUN, OrderPriced, OrderReceived, order, price
from .outside import run, stores
from .stopwatch import Measured, Stopwatch
from .watched import Watched

PARTITIONS = 4
SECONDS = 240
"""How long one measurement may take."""
_RECEIVED, _PRICED = OrderReceived.spec(), OrderPriced.spec()
_BATCH = 2_000
_SPARE = 20_000
_HEAD = 5  # magic byte and schema id of the Confluent wire format


async def by_hand(broker: str, home: Path, count: int, *, headers: bool) -> Measured:
    """Measure the loop that people write; with `headers` it reads and writes the eight that choreo's events have."""
    async with _filled(broker, home, count) as (transport, _, schema_id):
        hosts = broker.removeprefix("kafka://")
        watch = Stopwatch()
        producer = AIOKafkaProducer(
            bootstrap_servers=hosts, acks="all", enable_idempotence=True, max_batch_size=512 * 1024
        )
        consumer = AIOKafkaConsumer(
            bootstrap_servers=hosts,
            group_id=f"{RUN}.by-hand",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await producer.start()
        await consumer.start()
        try:
            consumer.subscribe([_RECEIVED.topic], listener=_Start(watch))
            async with asyncio.timeout(SECONDS):
                done = await _loop(consumer, producer, count, schema_id, headers)
            watch.lap()
        finally:
            await consumer.stop()
            await producer.stop()
        await _verify(transport, done)
        return watch.measured(done)


async def _loop(
    consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, count: int, schema_id: int, headers: bool
) -> int:
    assert _RECEIVED.schema is not None and _PRICED.schema is not None
    written = parse_schema(_RECEIVED.schema)
    writing = parse_schema(_PRICED.schema)
    head = b"\0" + schema_id.to_bytes(4, "big")
    done = 0
    while done < count:
        batch = await consumer.getmany(timeout_ms=200, max_records=_BATCH)
        sent = []
        for records in batch.values():
            for record in records:
                received = _Received.model_validate(schemaless_reader(BytesIO(record.value[_HEAD:]), written))
                priced = _Priced(
                    order_id=received.order_id,
                    customer=received.customer,
                    country=received.country,
                    placed_at=received.placed_at,
                    total=price(received.total, received.items),
                    weight=received.weight,
                    items=received.items,
                    note=received.note,
                )
                value = BytesIO()
                value.write(head)
                schemaless_writer(value, writing, priced.model_dump())
                spelled = _spell(record.headers) if headers else None
                sent.append(await producer.send(_PRICED.topic, key=record.key, value=value.getvalue(), headers=spelled))
        if sent:
            await asyncio.gather(*sent)
            await consumer.commit()
            done += len(sent)
    return done


def _spell(headers: Any) -> list[tuple[str, bytes]]:
    known = {name: value.decode() for name, value in headers}
    datetime.fromisoformat(known["ce_time"])
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{known['ce_id']}:0".encode()),
        ("ce_type", b"OrderPriced"),
        ("ce_source", b"by-hand"),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("content-type", b"application/avro"),
        ("causation-id", known["ce_id"].encode()),
        ("saga-id", known["saga-id"].encode()),
    ]


class _Received(BaseModel):
    order_id: str
    customer: str
    country: str
    placed_at: int
    total: int
    weight: float
    items: list[str]
    note: str | None = None


class _Priced(_Received):
    pass


class _Start(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    async def on_partitions_revoked(self, revoked: object) -> None:
        pass

    async def on_partitions_assigned(self, assigned: object) -> None:
        self._watch.start()


async def as_service(broker: str, home: Path, count: int, *, store: str | None, suspends: bool = False) -> Measured:
    """Measure the same work as a handler.

    Args:
        broker: the broker's URL.
        home: a folder of its own.
        count: events.
        store: of the inbox and the outbox: "sqlite" (synchronous=FULL), "postgresql" (of CHOREO_BENCH_STORES), or none.
        suspends: the handler goes through the event loop once, as one that waits for something does.
    """
    url = None if store is None else f"sqlite:{home / 'service.db'}" if store == "sqlite" else stores()[0]
    service = Service(f"{RUN}.pricing", store=url)

    @service.on(OrderReceived)
    async def reprice(received: OrderReceived) -> OrderPriced:
        if suspends:
            await asyncio.sleep(0)
        return OrderPriced(
            order_id=received.order_id,
            customer=received.customer,
            country=received.country,
            placed_at=received.placed_at,
            total=price(received.total, received.items),
            weight=received.weight,
            items=received.items,
            note=received.note,
        )

    async with _filled(broker, home, count) as (transport, settings, _):
        watch = Stopwatch()
        watched: Any = Watched(transport, watch, _PRICED.topic, count)
        async with Worker(service, watched, settings=settings) as worker:
            async with asyncio.timeout(SECONDS):
                await watched.finished.wait()
            counters = worker.counters
        assert counters.handled >= watched.committed >= watched.reached, (counters, watched.committed)
        assert not (counters.dead or counters.duplicates or counters.retries), counters
        if url is not None:
            await _verify_store(url, counters.handled)
        await _verify(transport, counters.handled)
        return watch.measured(watched.reached, transactions=counters.transactions)


async def as_peer(broker: str, home: Path, count: int, *, program: str, arguments: Sequence[str] = ()) -> Measured:
    """Measure the same work on another runtime, in its own environment."""
    async with _filled(broker, home, count) as (transport, _, schema_id):
        job = {
            "hosts": broker.removeprefix("kafka://"),
            "group": f"{RUN}.pricing",
            "topics": [_RECEIVED.topic, _PRICED.topic],
            "schemas": [_RECEIVED.schema, _PRICED.schema],
            "schema_id": schema_id,
            "count": count,
            "home": str(home),
        }
        measured = await run(program, job, arguments)
        await _verify(transport, measured.more["handled"])
        return measured


async def _verify_store(url: str, handled: int) -> None:
    """Check what the store holds at the end: a row for each event, and nothing left to be sent."""
    database = await Database.open(url, must_exist=True)
    try:
        inbox, outbox = await database.read(
            lambda connection: [
                connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
                for table in ("choreo_inbox", "choreo_outbox")
            ]
        )
    finally:
        await database.close()
    assert inbox == handled, f"{inbox} rows in the inbox for {handled} events"
    assert outbox == 0, f"{outbox} rows in the outbox"


@asynccontextmanager
async def _filled(broker: str, home: Path, count: int) -> AsyncIterator[tuple[Transport, Settings, int]]:
    """Make the topics and fill one; give the transport, its settings and the id of the result's schema."""
    settings = load_settings(broker=broker, home=home)
    filled = count + min(count, _SPARE)
    async with connect(broker, settings) as transport:
        names = (_RECEIVED.topic, _PRICED.topic, f"{_RECEIVED.topic}.dlq", "choreo.failures")
        await transport.create_topics(
            [TopicSpec(SCHEMAS_TOPIC, 1, compacted=True), *(TopicSpec(name, PARTITIONS) for name in names)]
        )
        registry = open_registry(settings, transport)
        codec = Codec(registry)
        await codec.prepare([OrderReceived, OrderPriced])
        for start in range(0, filled, 5_000):
            numbers = range(start, min(start + 5_000, filled))
            await transport.send([_record(order(number), codec) for number in numbers])
        ends = await transport.end_offsets([_RECEIVED.topic])
        assert sum(ends.values()) == filled, ends
        sample = codec.encode(OrderPriced(**order(0).model_dump()))
        await registry.close()
        yield transport, settings, int.from_bytes(sample[1:_HEAD], "big")


def _record(event: OrderReceived, codec: Codec) -> Any:
    envelope = Envelope(
        new_id(),
        _RECEIVED.type,
        "shop",
        1_795_000_000_000_000,
        event.order_id,
        causation_id=new_id(),
        saga_id=f"pricing/{event.order_id}",
    )
    record = to_record(event, envelope, codec)
    assert len(record.headers) == 8
    return record


async def _verify(transport: Transport, handled: int) -> None:
    """Check that each handled order has one result on the broker, read with a consumer of its own."""
    ends = await transport.end_offsets([_PRICED.topic])
    hosts = transport.url.removeprefix("kafka://")
    reader = AIOKafkaConsumer(bootstrap_servers=hosts, enable_auto_commit=False, auto_offset_reset="earliest")
    await reader.start()
    keys: set[bytes] = set()
    size = read = 0
    try:
        reader.assign([TopicPartition(place.topic, place.partition) for place in ends])
        async with asyncio.timeout(SECONDS):
            while read < sum(ends.values()):
                for records in (await reader.getmany(timeout_ms=200)).values():
                    read += len(records)
                    keys.update(record.key for record in records)
                    size += sum(len(record.value) for record in records)
    finally:
        await reader.stop()
    assert read == len(keys) == handled, f"{handled} handled, {read} results, {len(keys)} keys"
    assert 250 < size / read < 290, f"results of {size / read:.0f} bytes"
