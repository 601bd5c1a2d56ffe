"""The publishing benchmarks: raw aiokafka and `Publisher` on Kafka, a bare insert and one with an outbox on SQLite.

Both publishers write the same Avro events of 271 bytes with the same six headers, acks=all and an idempotent producer,
500 at a time, and count as done when the last one is acknowledged; what lies on the broker at the end is counted.
Both inserts are one transaction for each order on SQLite with synchronous=FULL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from fastavro import parse_schema, schemaless_writer

from choreo.events.codec import Codec
from choreo.events.ids import new_id
from choreo.events.outboxes.outbox import Outbox
from choreo.events.outboxes.table import TABLE, ddl
from choreo.events.publisher import Publisher
from choreo.events.registry import SCHEMAS_TOPIC, open_registry
from choreo.events.settings import load_settings
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect

from .orders import OrderReceived, order
from .stopwatch import Measured, Stopwatch

SECONDS = 240
"""How long one measurement may take."""
PARTITIONS = 4
_AT_ONCE = 500
_TOPIC = OrderReceived.spec().topic


async def raw(broker: str, home: Path, count: int) -> Measured:
    """Measure what one writes with aiokafka: encode, `send` without waiting for each, and gather."""
    schema_id = await _prepare(broker, home)
    assert OrderReceived.spec().schema is not None
    writing = parse_schema(OrderReceived.spec().schema)
    head = b"\0" + schema_id.to_bytes(4, "big")
    watch = Stopwatch()
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.removeprefix("kafka://"),
        acks="all",
        enable_idempotence=True,
        max_batch_size=512 * 1024,
    )
    await producer.start()
    try:
        watch.start()
        async with asyncio.timeout(SECONDS):
            for start in range(0, count, _AT_ONCE):
                sent = []
                for number in range(start, min(start + _AT_ONCE, count)):
                    event = order(number)
                    value = BytesIO()
                    value.write(head)
                    schemaless_writer(value, writing, event.model_dump())
                    headers = [
                        ("ce_specversion", b"1.0"),
                        ("ce_id", new_id().encode()),
                        ("ce_type", b"OrderReceived"),
                        ("ce_source", b"shop"),
                        ("ce_time", datetime.now(UTC).isoformat().encode()),
                        ("content-type", b"application/avro"),
                    ]
                    key = event.order_id.encode()
                    sent.append(await producer.send(_TOPIC, key=key, value=value.getvalue(), headers=headers))
                await asyncio.gather(*sent)
        watch.lap()
    finally:
        await producer.stop()
    await _verify(broker, home, count)
    return watch.measured(count)


async def publisher(broker: str, home: Path, count: int) -> Measured:
    """Measure `Publisher.publish`."""
    await _prepare(broker, home)
    watch = Stopwatch()
    async with Publisher(broker, source="shop", settings=load_settings(broker=broker, home=home)) as publishing:
        await publishing.prepare([OrderReceived])
        watch.start()
        async with asyncio.timeout(SECONDS):
            for start in range(0, count, _AT_ONCE):
                await publishing.publish(*[order(number) for number in range(start, min(start + _AT_ONCE, count))])
        watch.lap()
    await _verify(broker, home, count)
    return watch.measured(count)


async def insert(broker: str, home: Path, count: int) -> Measured:
    """Measure orders inserted one by one."""
    return await asyncio.to_thread(_insert, broker, home, count, with_outbox=False)


async def insert_with_outbox(broker: str, home: Path, count: int) -> Measured:
    """Measure orders inserted one by one, each with its event in the outbox of the same transaction."""
    await _prepare(broker, home)
    return await asyncio.to_thread(_insert, broker, home, count, with_outbox=True)


def _insert(broker: str, home: Path, count: int, *, with_outbox: bool) -> Measured:
    connection = sqlite3.connect(home / "shop.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT, total INTEGER, items TEXT)")
    outbox: Any = None
    if with_outbox:
        for statement in ddl("sqlite", TABLE):
            connection.execute(statement)
        outbox = Outbox(source="shop", settings=load_settings(broker=broker, home=home))
        outbox.prepare(OrderReceived)
    watch = Stopwatch()
    watch.start()
    for number in range(count):
        event = order(number)
        connection.execute("BEGIN")
        row = (event.order_id, event.customer, event.total, ",".join(event.items))
        connection.execute("INSERT INTO orders VALUES (?, ?, ?, ?)", row)
        if outbox is not None:
            outbox.add(connection, event)
        connection.execute("COMMIT")
    watch.lap()
    (rows,) = connection.execute("SELECT count(*) FROM orders").fetchone()
    assert rows == count
    if with_outbox:
        (rows,) = connection.execute("SELECT count(*) FROM " + TABLE).fetchone()
        assert rows == count
    connection.close()
    return watch.measured(count)


async def _prepare(broker: str, home: Path) -> int:
    """Make the topic and register the schema; give its id."""
    settings = load_settings(broker=broker, home=home)
    async with connect(broker, settings) as transport:
        await transport.create_topics([TopicSpec(SCHEMAS_TOPIC, 1, compacted=True), TopicSpec(_TOPIC, PARTITIONS)])
        registry = open_registry(settings, transport)
        codec = Codec(registry)
        await codec.prepare([OrderReceived])
        sample = codec.encode(order(0))
        await registry.close()
        return int.from_bytes(sample[1:5], "big")


async def _verify(broker: str, home: Path, count: int) -> None:
    async with connect(broker, load_settings(broker=broker, home=home)) as transport:
        ends = await transport.end_offsets([_TOPIC])
    assert sum(ends.values()) == count, f"{sum(ends.values())} records for {count} events"
