"""What a worker holds in memory while its handlers, its store or its broker are slow: at most what its limits say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from choreo.events.database import Database
from choreo.events.envelope import Record
from choreo.events.errors import BrokerUnreachable
from choreo.services.service import Service
from choreo.services.worker import MOST_IN_FLIGHT, Worker
from tests.services.shop import OrderPlaced, Rig, StockReserved, idle, until

MANY = 10_000


class Away:
    """A broker that takes no records while it is away; it may still be read."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.away = True
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def send(self, records: Sequence[Record]) -> None:
        if self.away and any(record.topic == "inventory" for record in records):
            self.refused += 1
            raise BrokerUnreachable("away")
        await self._broker.send(records)


def _most_jobs(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Keep the largest number of records in flight, in a list of one."""
    dispatcher, most = worker._dispatcher, [0]
    admit = dispatcher.admit

    def watched(job: Any) -> None:
        admit(job)
        most[0] = max(most[0], len(dispatcher.jobs))

    monkeypatch.setattr(dispatcher, "admit", watched)
    return most


async def _stalled(worker: Worker) -> None:
    """Wait until a worker has taken in what it may, and reads nothing more."""
    await until(lambda: worker._partitions.throttled)
    before = -1
    while before != (before := len(worker._dispatcher.jobs)):
        await asyncio.sleep(0.3)


def _orders(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=str(number), number=number) for number in range(count)]


async def _keys(rig: Rig) -> Counter[bytes | None]:
    return Counter(each.key for each in await rig.deliveries("inventory"))


async def test_a_slow_handler_fills_no_memory_however_much_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    service, done = Service("inventory", store=None), asyncio.Event()
    seen: Counter[int] = Counter()

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        await done.wait()
        seen[order.number] += 1

    await rig.publish(*_orders(MANY))
    worker = rig.worker(service)
    most = _most_jobs(worker, monkeypatch)
    async with worker:
        await _stalled(worker)
        assert 0 < most[0] <= MOST_IN_FLIGHT
        done.set()
        await idle(worker)
    assert most[0] <= MOST_IN_FLIGHT
    assert len(seen) == MANY
    assert set(seen.values()) == {1}


async def test_a_slow_store_fills_no_memory(rig: Rig, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service, answers = Service("inventory", store=store), asyncio.Event()
    transaction = Database.transaction

    @asynccontextmanager
    async def slow(self: Database) -> AsyncIterator[Any]:
        await answers.wait()
        async with transaction(self) as connection:
            yield connection

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    worker = rig.worker(service)
    most = _most_jobs(worker, monkeypatch)
    async with worker:
        monkeypatch.setattr(Database, "transaction", slow)
        await rig.publish(*_orders(3 * MOST_IN_FLIGHT))
        await _stalled(worker)
        assert 0 < most[0] <= MOST_IN_FLIGHT
        answers.set()
        await idle(worker)
    assert most[0] <= MOST_IN_FLIGHT
    found = await _keys(rig)
    assert len(found) == 3 * MOST_IN_FLIGHT
    assert set(found.values()) == {1}


async def test_a_dead_broker_keeps_the_outputs_of_a_service_without_a_store_waiting_in_bounds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, broker = Service("inventory", store=None), Away(rig.broker)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    await rig.publish(*_orders(3 * MOST_IN_FLIGHT))
    worker = Worker(service, broker, settings=rig.settings, registry=rig.registry)
    most = _most_jobs(worker, monkeypatch)
    async with worker:
        await _stalled(worker)
        assert 0 < most[0] <= MOST_IN_FLIGHT
        broker.away = False
        await idle(worker)
    assert broker.refused > 0
    assert most[0] <= MOST_IN_FLIGHT
    assert len(await _keys(rig)) == 3 * MOST_IN_FLIGHT


async def test_a_dead_broker_fills_the_outbox_on_disk_and_not_memory(
    rig: Rig, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.events.outbox._MOST_PENDING", 700)
    service, broker = Service("inventory", store=store), Away(rig.broker)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    count = 2 * MOST_IN_FLIGHT
    await rig.publish(*_orders(count))
    worker = Worker(service, broker, settings=rig.settings, registry=rig.registry)
    async with worker:
        relay = worker._relay
        assert relay is not None
        await until(lambda: worker.counters.handled == count)
        assert await relay.depth() == count, "they are durable"
        assert len(relay._pending) <= 700
        assert len(relay._held) <= 700
        broker.away = False
        await idle(worker)
        assert len(relay._pending) == 0
    found = await _keys(rig)
    assert len(found) == count
    assert set(found.values()) == {1}
