"""Ten stuck sagas on a real Kafka, each seen for the first time: two commands name cause and remedy, which then helps.

The first command is `saga list`, the second `saga why` on what it shows. The remedy is typed as `saga why` says it, or,
where it is to start or to mend something, done; and the saga ends.
"""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from choreo import Event, Permanent, Retry, Saga, Service, approval, step
from tests.e2e.stuck.desk import (
    QUICK,
    Delivery,
    Desk,
    NotShipped,
    Ordered,
    Reserved,
    Ship,
    Shipped,
    Unreserve,
    Unreserved,
    shipping,
    stock,
)

pytestmark = [pytest.mark.kafka, pytest.mark.parametrize("desk", ["kafka"], indirect=True)]

PATH = __file__.replace("test_ten.py", "desk.py")


def shipped(command: Ship) -> Event:
    return Shipped(order_id=command.order_id)


async def test_1_a_service_is_down(desk: Desk) -> None:
    down = await desk.run(stock())
    await down.stop()
    await desk.run(shipping(shipped), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "ConsumerDown")
    assert (
        found.cause
        == "service stock is down: its consumer group 'stock' has no members, and 1 event of orders/0 unread"
    )
    assert found.remedies == ["start service stock: saga run MODULE:stock"]
    await desk.run(stock())
    await desk.ends("delivery/4711", "COMPLETED")


async def test_2_a_service_lags_behind(desk: Desk) -> None:
    hold = asyncio.Event()

    async def slow(order: Ordered) -> Reserved:
        await hold.wait()
        return Reserved(order_id=order.order_id)

    await desk.run(stock(slow), shipping(shipped), sagas=[Delivery])
    await desk.publish(*(Ordered(order_id=str(number)) for number in range(30)))
    found = await desk.two_commands("delivery/29", "ConsumerLagging")
    assert "service stock is behind: 29 events of orders/0 come before this one" in found.cause
    assert found.remedies == ["let it catch up, or run more of service stock"]
    hold.set()
    await desk.ends("delivery/29", "COMPLETED")


async def test_3_a_handler_fails_and_is_asked_again(desk: Desk) -> None:
    mended = asyncio.Event()

    def broken(command: Ship) -> Event:
        if not mended.is_set():
            raise ConnectionError("the carrier does not answer")
        return Shipped(order_id=command.order_id)

    class Patient(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        ship = step(send=Ship, done=Shipped, pivot=True, within="1h", retry=Retry(attempts=9, first="5s", most="5s"))

    await desk.run(shipping(broken), sagas=[Patient])
    await desk.publish(Ordered(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "HandlerFailing")
    assert "last with ConnectionError; Ship is sent again in " in found.cause
    assert "mend what fails in service shipping: Ship is sent again by itself" in found.remedies
    mended.set()
    await desk.ends("delivery/4711", "COMPLETED")


async def test_4_an_event_is_a_dead_letter(desk: Desk) -> None:
    mended = asyncio.Event()

    def broken(command: Ship) -> Event:
        if not mended.is_set():
            raise Permanent("no such address")
        return Shipped(order_id=command.order_id)

    class Once(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        ship = step(send=Ship, done=Shipped, pivot=True, within="1h", retry=Retry(attempts=1))

    await desk.run(shipping(broken), sagas=[Once])
    await desk.publish(Ordered(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "DeadLettered")
    assert "shipping gave up on Ship (Permanent)" in found.cause
    assert "saga dlq retry --saga delivery/4711 --reason ..." in found.remedies
    mended.set()
    await desk.type("saga dlq retry --saga delivery/4711 --reason ...", "-y")
    await desk.ends("delivery/4711", "COMPLETED")


async def test_5_a_key_is_parked(desk: Desk) -> None:
    mended = asyncio.Event()

    async def broken(order: Ordered) -> Reserved:
        if not mended.is_set():
            raise RuntimeError("the warehouse does not answer")
        return Reserved(order_id=order.order_id)

    await desk.run(stock(broken, park=True), shipping(shipped), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "KeyParked")
    assert found.cause == "stock parked Ordered and tries again (RuntimeError)"
    assert found.remedies == ["mend the handler: it is tried again by itself, and what waits behind it follows"]
    mended.set()
    await desk.ends("delivery/4711", "COMPLETED")


async def test_6_a_topic_is_missing(desk: Desk, kafka_bootstrap: str) -> None:
    down = await desk.run(stock(), shipping(shipped))
    await down.stop()
    process = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("delivery/4711", "ConsumerDown")
    await process.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([f"{desk.settings.topic_prefix}stock"])
    finally:
        await admin.close()
    found = await desk.two_commands("delivery/4711", "TopicMissing", step="reserve", first=False)
    assert "topic 'stock' does not exist, so nothing of reserve can come or go" in found.cause
    assert "saga topics apply MODULE" in found.remedies
    await desk.type(f"saga topics apply {PATH}:Delivery --partitions 1")
    await desk.run(stock(), shipping(shipped), sagas=[Delivery])
    await desk.ends("delivery/4711", "COMPLETED")


async def test_7_an_event_came_and_its_saga_has_not_begun(desk: Desk) -> None:
    await desk.run(stock(), shipping(shipped), sagas=[Delivery])
    await desk.publish(Reserved(order_id="4711"))
    told = await desk.why("delivery/4711", "EarlyEventParked")
    assert "Reserved of its key came" in told["reasons"][0]["sentence"]
    assert "is parked for delivery, which Ordered starts" in told["reasons"][0]["sentence"]
    ignored = await desk.type("saga ignored")  # no saga is there yet, so `saga list` cannot show it
    assert "delivery" in ignored
    assert "Reserved" in ignored
    await desk.type(next(each for each in told["remedies"] if each.startswith("saga start")))
    await desk.ends("delivery/4711", "COMPLETED")


async def test_8_a_person_is_asked(desk: Desk) -> None:
    class Careful(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        review = approval(who="ops", within="1d")
        ship = step(after=review, send=Ship, done=Shipped, pivot=True, within="1h")

    await desk.run(shipping(shipped), sagas=[Careful])
    await desk.publish(Ordered(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "Approval")
    assert "review" in found.cause
    assert found.remedies == [
        "saga approve delivery/4711 review --reason ...",
        "saga reject delivery/4711 review --reason ...",
    ]
    assert "no " in found.prospects[0]
    await desk.type(found.remedies[0])
    await desk.ends("delivery/4711", "COMPLETED")


async def test_9_an_undo_has_failed(desk: Desk) -> None:
    mended = asyncio.Event()
    service = Service("stock")

    @service.on(Ordered)
    async def reserve(order: Ordered) -> Reserved:
        return Reserved(order_id=order.order_id)

    @service.on(Unreserve, retry=QUICK)
    async def unreserve(command: Unreserve) -> Unreserved:
        if not mended.is_set():
            raise Permanent("the shelf is gone")
        return Unreserved(order_id=command.order_id)

    class Fragile(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        reserve = step(
            done=Reserved, undo=Unreserve, undone=Unreserved, within="10m", undo_retry=Retry(attempts=1, first="100ms")
        )
        ship = step(after=reserve, done=Shipped, failed=NotShipped, undo=None, within="10m")

    await desk.run(service, sagas=[Fragile])
    await desk.publish(Ordered(order_id="4711"), NotShipped(order_id="4711"))
    found = await desk.two_commands("delivery/4711", "UndoFailed", "--failed")
    assert "the undo of step reserve failed for good: Permanent" in found.cause
    assert "saga retry-undo delivery/4711 --step reserve --reason ..." in found.remedies
    mended.set()
    await desk.type("saga retry-undo delivery/4711 --step reserve --reason ...")
    await desk.ends("delivery/4711", "COMPENSATED")


async def test_10_its_definition_is_loaded_nowhere(desk: Desk) -> None:
    class Newer(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery", version=2):
        reserve = step(done=Reserved, undo=Unreserve, undone=Unreserved, within="10m")
        wrap = step(after=reserve, send=Ship, done=Shipped, pivot=True, within="1h")

    old = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("delivery/4711", "NobodyAnswers")
    await old.stop()
    await desk.run(stock(), shipping(shipped), sagas=[Newer])
    found = await desk.two_commands("delivery/4711", "NotLoaded")
    assert "version 1 of delivery is loaded by no coordinator" in found.cause
    assert any("saga run" in each and "version 1 of delivery" in each for each in found.remedies)
    await desk.run(sagas=[Delivery, Newer])
    await desk.ends("delivery/4711", "COMPLETED")
