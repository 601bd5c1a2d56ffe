"""Relays in processes of their own, on a real PostgreSQL and a real Kafka, killed while a system writes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from pathlib import Path

import asyncpg
import pytest

from choreo import Outbox, Settings
from choreo.events.envelope import Delivery
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect
from tests.outboxes.system import Ordered, System
from tests.support.cli import Program, environment

WRITERS = 4
KEYS = 6
EVENTS = 40


async def _write(url: str, outbox: Outbox, writer: int) -> None:
    """One writer of the system: its keys are its own, so their events have an order; some transactions roll back."""
    connection = await asyncpg.connect(url)
    try:
        for total in range(EVENTS):
            transaction = connection.transaction()
            await transaction.start()
            await outbox.add(connection, *(Ordered(number=f"{writer}-{key}", total=total) for key in range(KEYS)))
            await transaction.commit()
            transaction = connection.transaction()
            await transaction.start()
            await outbox.add(connection, Ordered(number=f"{writer}-0", total=-1))
            await transaction.rollback()
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


@pytest.mark.kafka
@pytest.mark.postgres
async def test_fault_06_relays_that_are_killed_under_load_lose_nothing_and_keep_the_order(
    postgres_url: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=f"r{uuid.uuid4().hex[:8]}.", home=tmp_path)
    async with connect(settings.broker_url, settings) as transport:
        await transport.create_topics([TopicSpec("orders", 3)])
    system = await System.make(postgres_url)
    variables = environment(
        home=tmp_path, outbox=postgres_url, broker=settings.broker_url, topic_prefix=settings.topic_prefix
    )
    command = ["saga", "relay", "--lease", "2s", "--batch", "20", "--every", "500ms"]
    relays = [Program(command, env=variables, folder=tmp_path, name=f"relay{number}") for number in range(2)]
    outbox = Outbox(source="shop", settings=settings)
    try:
        for relay in relays:
            relay.start()
        writing = asyncio.gather(*(_write(postgres_url, outbox, writer) for writer in range(WRITERS)))
        for number in range(3):
            await asyncio.sleep(0.7)
            relays[number % 2].kill()
            relays[number % 2].start()
        await writing
        end = time.monotonic() + 90
        while await system.rows():
            assert time.monotonic() < end, [relay.output[-1000:] for relay in relays]
            await asyncio.sleep(0.1)
        for relay in relays:
            relay.until("relaying")  # before it, SIGTERM ends it as it ends any program
        assert [relay.stop() for relay in relays] == [0, 0]
    finally:
        for relay in relays:
            relay.close()
        await system.database.close()
    async with connect(settings.broker_url, settings) as transport:
        sent = await transport.snapshot("orders")
    _judge(sent)


def _judge(sent: list[Delivery]) -> None:
    """Each committed event at least once, copies the same in id and bytes, the first copies of a key in order."""
    copies: dict[tuple[bytes | None, bytes | None], set[tuple[object, ...]]] = defaultdict(set)
    order: dict[bytes | None, list[int]] = defaultdict(list)
    for delivery in sorted(sent, key=lambda each: (each.partition, each.offset)):
        event = Ordered.model_validate_json(delivery.value or b"")
        copies[delivery.key, delivery.value].add((delivery.headers, delivery.partition))
        if event.total not in order[delivery.key]:
            order[delivery.key].append(event.total)
    assert len(order) == WRITERS * KEYS
    assert all(found == list(range(EVENTS)) for found in order.values())
    assert all(len(found) == 1 for found in copies.values())
