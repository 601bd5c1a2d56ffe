"""A rebalance is normal (semantics, row 31): what runs is finished and committed, the rest goes to its new owner."""

from __future__ import annotations

import asyncio

from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, StockReserved, idle, until


def _service(store, seen, name="inventory", pause=0.001):
    service = Service(name, store=store, drain="50s")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        await asyncio.sleep(pause)
        seen.append(order.number)
        return StockReserved(order_id=order.order_id, number=order.number)

    return service


async def test_fault_19_workers_that_come_and_go_handle_every_event_once(any_rig: Rig, store):
    seen: list[int] = []
    rig, number = any_rig, 0
    first = rig.worker(_service(store, seen))
    await first.start()
    for _ in range(3):
        await rig.publish(*(OrderPlaced(order_id=str(n % 20), number=n) for n in range(number, number + 100)))
        number += 100
        other = rig.worker(_service(store, seen))
        await other.start()
        await rig.publish(*(OrderPlaced(order_id=str(n % 20), number=n) for n in range(number, number + 100)))
        number += 100
        await asyncio.sleep(0.1)
        await other.stop()
    await until(lambda: len(set(seen)) == number)
    await idle(first)
    await first.stop()
    assert sorted(seen) == list(range(number))
    out = await rig.published("inventory")
    assert sorted(each.event["number"] for each in out) == list(range(number))
    by_key: dict[str, list[int]] = {}
    for each in out:
        by_key.setdefault(str(each.event["order_id"]), []).append(int(str(each.event["number"])))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


async def test_row_31_what_the_last_owner_has_committed_is_published_before_the_next_one_goes_on(
    rig: Rig, store, monkeypatch
):
    """Order per key survives a rebalance, also when the broker is slow to take what was committed during it."""
    send, slow, go, begun = rig.broker.send, [1.5], asyncio.Event(), []

    async def send_slowly(records):
        if slow and any(record.topic == "inventory" for record in records):
            await asyncio.sleep(slow.pop())
        await send(records)

    monkeypatch.setattr(rig.broker, "send", send_slowly)
    service = Service("inventory", store=store, drain="50s")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        begun.append(order.number)
        if order.number < 20:
            await go.wait()
        return StockReserved(order_id=order.order_id, number=order.number)

    async with rig.worker(service) as first:
        await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(20)))
        await until(lambda: len(begun) >= 20)
        async with rig.worker(service) as other:
            await rig.publish(*(OrderPlaced(order_id=str(n), number=20 + n) for n in range(20)))
            await asyncio.sleep(0.3)  # the group is being rebalanced: the first one has to let go
            go.set()
            await idle(first, other)
    for key in range(20):
        out = [each.event["number"] for each in await rig.published("inventory") if each.event["order_id"] == str(key)]
        assert out == [key, key + 20]


async def test_row_31_a_worker_that_stops_publishes_what_it_has_committed_before_it_leaves_its_group(
    rig: Rig, store, monkeypatch
):
    """Whoever goes on with the partitions would overtake it."""
    send, told, asked, may = rig.broker.send, [], asyncio.Event(), asyncio.Event()

    async def send_late(records):
        if any(record.topic == "inventory" for record in records):
            asked.set()
            await may.wait()
            told.append("published")
        await send(records)

    monkeypatch.setattr(rig.broker, "send", send_late)
    worker = rig.worker(_service(store, []))
    await worker.start()
    await rig.publish(OrderPlaced(order_id="1"))
    await asked.wait()
    relay, consumer = worker._relay, worker._consumer
    assert relay is not None and consumer is not None
    close, leave = relay.close, consumer.close

    async def close_relay():
        may.set()
        await close()

    async def leave_group():
        told.append("left")
        await leave()

    monkeypatch.setattr(relay, "close", close_relay)
    monkeypatch.setattr(consumer, "close", leave_group)
    await worker.stop()
    assert told == ["published", "left"]


async def test_row_31_an_event_that_waits_for_its_retry_goes_to_the_new_owner_at_once(rig: Rig, store):
    service = Service("inventory", store=store)
    tries = []

    @service.on(OrderPlaced, retry=Retry(attempts=5, first="600s", most="600s"))
    async def reserve(order: OrderPlaced) -> None:
        tries.append(order.order_id)
        if len(tries) == 1:
            raise OSError("away")

    await rig.publish(OrderPlaced(order_id="1"))
    first = rig.worker(service)
    await first.start()
    await until(lambda: tries == ["1"])
    async with rig.running(service):
        await until(lambda: tries == ["1", "1"])
        await first.stop()


async def test_row_13_a_member_that_is_gone_without_a_word_loses_nothing(store, tmp_path):
    """A zombie: its session expires while it still works; another takes over, and only one result counts."""
    seconds = [0]
    async with MemoryBroker(clock=lambda: 1_000_000_000 + seconds[0] * 1_000_000, session=5) as broker:
        rig = Rig(broker, Settings(home=tmp_path))
        await rig.prepare()
        may, begun = asyncio.Event(), asyncio.Event()
        runs = []
        service = Service("inventory", store=store, drain="50s")

        @service.on(OrderPlaced)
        async def reserve(order: OrderPlaced) -> StockReserved:
            runs.append(order.number)
            if len(runs) == 1:
                begun.set()
                await may.wait()
            return StockReserved(order_id=order.order_id)

        zombie = rig.worker(service)
        await zombie.start()
        await rig.publish(OrderPlaced(order_id="1"))
        await begun.wait()
        await zombie._consumer.kill()
        seconds[0] = 60
        async with rig.running(service) as successor:
            await until(lambda: len(runs) >= 2)
            await until(lambda: successor.counters.handled >= 1)
            may.set()
            await until(lambda: zombie.counters.duplicates >= 1)
        await zombie.stop()
        assert len(await rig.published("inventory")) == 1
        assert zombie.counters.handled == 0
