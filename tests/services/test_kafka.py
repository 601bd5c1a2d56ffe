"""Services on a real Apache Kafka: what holds on the embedded brokers holds there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.services.context import Transaction
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, ReleaseStock, Rig, StockReleased, StockReserved, command, idle, until

pytestmark = pytest.mark.kafka


@pytest.fixture
async def kafka(kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig on Kafka, with topics and groups of its own."""
    settings = Settings(home=tmp_path, broker=f"kafka://{kafka_bootstrap}", topic_prefix=f"t{uuid.uuid4().hex[:8]}.")
    async with connect(settings.broker_url, settings) as broker:
        found = Rig(broker, settings)
        await found.prepare()
        yield found


def _service(store, seen):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced, retry=Retry(attempts=3, first="1ms", most="2ms"))
    async def reserve(order: OrderPlaced) -> StockReserved:
        await asyncio.sleep(0)
        seen.append(order.number)
        if order.number % 50 == 7 and seen.count(order.number) == 1:
            raise OSError("away")
        return StockReserved(order_id=order.order_id, number=order.number)

    return service


@pytest.mark.parametrize("stateless", [False, True])
async def test_every_event_is_handled_once_in_order_and_committed(kafka: Rig, store, stateless):
    seen: list[int] = []
    await kafka.publish(*(OrderPlaced(order_id=str(n % 20), number=n) for n in range(400)))
    worker = await kafka.run(_service(None if stateless else store, seen))
    assert (worker.counters.handled, worker.counters.retries) == (400, 8)
    by_key: dict[object, list[object]] = {}
    for each in await kafka.published("inventory"):
        by_key.setdefault(each.event["order_id"], []).append(each.event["number"])
    assert by_key == {str(key): list(range(key, 400, 20)) for key in range(20)}
    assert await kafka.all_committed("inventory", "orders")


async def test_row_31_workers_that_come_and_go_lose_nothing_and_repeat_nothing(kafka: Rig, store):
    seen: list[int] = []
    first = kafka.worker(_service(store, seen))
    await first.start()
    await kafka.publish(*(OrderPlaced(order_id=str(n % 20), number=n) for n in range(200)))
    second = kafka.worker(_service(store, seen))
    await second.start()
    await kafka.publish(*(OrderPlaced(order_id=str(n % 20), number=n) for n in range(200, 400)))
    await until(lambda: len(set(seen)) >= 400)
    await second.stop()
    await until(first.idle)
    await idle(first)
    await first.stop()
    numbers = [each.event["number"] for each in await kafka.published("inventory")]
    assert sorted(numbers) == list(range(400))


async def test_row_15_an_undo_that_overtakes_its_step_is_answered_and_the_step_refused(kafka: Rig, store):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    @service.on(ReleaseStock, undoes=reserve)
    async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
        return StockReleased(order_id=command.order_id)

    async with kafka.running(service) as worker:
        await kafka.publish(ReleaseStock(order_id="1"), **command("reserve", undoes=["late"]))
        await until(lambda: worker.counters.handled >= 1)
        await kafka.publish(OrderPlaced(order_id="1"), id="late")
        await until(lambda: worker.counters.refused >= 1)
    (answer,) = await kafka.published("inventory")
    assert (answer.type, answer.header("undo-empty")) == ("StockReleased", "1")


async def test_the_ends_of_transactions_are_no_lag_of_a_service(kafka: Rig, store, kafka_bootstrap: str):
    seen: list[int] = []
    foreign = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=uuid.uuid4().hex)
    async with foreign, kafka.running(_service(store, seen)) as worker:
        await kafka.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(8)))
        topic = f"{kafka.settings.topic_prefix}orders"
        for partition in await foreign.partitions_for(topic):
            await foreign.begin_transaction()
            await foreign.send_and_wait(topic, b"{}", b"k", partition=partition)
            await foreign.abort_transaction()
        await idle(worker)
        assert sorted(seen) == sorted([*range(8), 7])
        async with asyncio.timeout(60):
            while not await kafka.all_committed("inventory", "orders"):
                await asyncio.sleep(0.1)


async def test_fault_51_a_record_that_unpacks_to_too_much_is_a_dead_letter_and_the_partition_goes_on(
    kafka: Rig, store, kafka_bootstrap: str
):
    """64 MiB travel as a few kilobytes of zstd, so the broker takes them; what is unpacked is beyond our limit."""
    seen: list[int] = []
    good = kafka.record(OrderPlaced(order_id="1", number=1))
    bomb = kafka.record(OrderPlaced(order_id="1", number=2), id="bomb")
    topic = f"{kafka.settings.topic_prefix}orders"
    async with AIOKafkaProducer(
        bootstrap_servers=kafka_bootstrap, compression_type="zstd", max_request_size=1 << 30
    ) as producer:
        await producer.send_and_wait(topic, bytes(64 << 20), key=good.key, headers=list(bomb.headers))
        await producer.send_and_wait(topic, good.value, key=good.key, headers=list(good.headers))
    worker = await kafka.run(_service(store, seen))
    assert seen == [1]
    assert worker.counters.dead == 1
    (letter,) = await kafka.deliveries("orders.dlq")
    told = dict(letter.headers)
    assert told["dlq-message"] == b"a value of 67108864 bytes, at most 1048588 are read"
    assert (told["dlq-error"], told["dlq-value"], letter.value) == (b"LimitExceeded", b"omitted", None)
    assert await kafka.all_committed("inventory", "orders")
