"""Ten ways to be stuck, on the embedded broker and on a real Kafka: `saga why` names the cause and the remedy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient

from choreo import Event, Permanent, Publisher, Retry, Saga, Service, step
from choreo.events.settings import Settings, load_settings
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.support.console import Console, validate

QUICK = Retry(attempts=1)


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Reserved(Event, topic="stock", key="order_id"):
    order_id: str


class Unreserve(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Unreserved(Event, topic="stock", key="order_id"):
    order_id: str


class Ship(Event, topic="shipping.commands", key="order_id"):
    order_id: str


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


class NotShipped(Event, topic="shipping", key="order_id"):
    order_id: str


class Delivery(Saga, start=Ordered, key="order_id", active_from="beginning"):
    """Reserve by itself, ship on command."""

    reserve = step(done=Reserved, undo=Unreserve, undone=Unreserved, within="10m")
    ship = step(
        after=reserve,
        send=Ship,
        done=Shipped,
        failed=NotShipped,
        pivot=True,
        within="1h",
        retry=Retry(attempts=3, first="10m", most="10m"),
    )


class Desk:
    """What a test has at hand: it starts services, publishes, and asks `saga why` as a person would."""

    def __init__(self, settings: Settings, console: Console, stack: AsyncExitStack) -> None:
        self.settings = settings
        self._console = console
        self._stack = stack

    async def run(self, *services: Service, sagas: Sequence[type[Saga]] = ()) -> Process:
        """Run services and sagas until the test ends."""
        transport = await self._stack.enter_async_context(connect(self.settings.broker_url, self.settings))
        parts = Parts(services=services, sagas=tuple(sagas))
        return await self._stack.enter_async_context(
            Process(parts, transport, self.settings, create_topics=True, partitions=1)
        )

    async def publish(self, *events: Event) -> None:
        """Publish events as an existing system would."""
        async with (
            connect(self.settings.broker_url, self.settings) as transport,
            Publisher(transport, source="shop", settings=self.settings) as publisher,
        ):
            await publisher.publish(*events)

    async def why(self, name: str, code: str, step: str | None = None) -> dict[str, Any]:
        """Ask until that is among the reasons; give the whole answer."""
        told: dict[str, Any] = {}
        for _ in range(300):
            done = await asyncio.to_thread(self._console, "why", name, "-o", "json")
            if done.code == 0:
                told = validate(done.json, "saga.why/v1")
                if any(each["code"] == code and step in (None, each["step"]) for each in told["reasons"]):
                    return told
            await asyncio.sleep(0.1)
        raise AssertionError(f"{code} is not among the reasons: {told or done}")


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    broker = f"local:{tmp_path / 'broker.db'}"
    if request.param == "kafka":
        broker = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    chosen = {
        "CHOREO_HOME": str(tmp_path),
        "CHOREO_BROKER": broker,
        "CHOREO_TOPIC_PREFIX": f"{tmp_path.parent.name}.{tmp_path.name}.",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        yield Desk(load_settings(), Console(capsys, tmp_path, beside=True), stack)


def stock(reserve: Callable[[Ordered], Awaitable[Reserved]] | None = None, *, park: bool = False) -> Service:
    """The service that reserves; it does as it is told."""
    service = Service("stock")

    @service.on(Ordered, retry=QUICK, exhausted="park" if park else "dead")
    async def reserve_(order: Ordered) -> Reserved:
        return Reserved(order_id=order.order_id) if reserve is None else await reserve(order)

    @service.on(Unreserve)
    async def unreserve(command: Unreserve) -> Unreserved:
        return Unreserved(order_id=command.order_id)

    return service


def shipping(answer: Callable[[Ship], Event]) -> Service:
    """The service that ships, or refuses, or breaks."""
    service = Service("shipping")

    @service.on(Ship, retry=QUICK)
    async def ship(command: Ship) -> Shipped | NotShipped:
        return answer(command)  # type: ignore[return-value]

    return service


def sentence(told: dict[str, Any], code: str) -> str:
    return next(str(each["sentence"]) for each in told["reasons"] if each["code"] == code)


async def test_a_service_that_is_down_is_named_with_what_waits_for_it(desk: Desk) -> None:
    down = await desk.run(stock())
    await down.stop()
    await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("delivery/4711", "ConsumerDown", "reserve")
    assert told["headline"] == "delivery/4711 is RUNNING and waits for reserve: Reserved"
    assert told["reasons"][0]["code"] == "ConsumerDown"
    assert "service stock is down" in sentence(told, "ConsumerDown")
    assert "and 1 event of orders/0 unread" in sentence(told, "ConsumerDown")
    assert told["remedies"] == ["start service stock: saga run MODULE:stock"]
    assert "reserve is UNKNOWN" in told["prospects"][-1]["sentence"]


async def test_a_service_that_lags_says_how_much_comes_before_this_saga(desk: Desk) -> None:
    hold = asyncio.Event()

    async def slow(order: Ordered) -> Reserved:
        await hold.wait()
        return Reserved(order_id=order.order_id)

    await desk.run(stock(slow), sagas=[Delivery])
    await desk.publish(*(Ordered(order_id=str(number)) for number in range(30)))
    told = await desk.why("delivery/29", "ConsumerLagging", "reserve")
    assert "29 events of orders/0 come before this one" in sentence(told, "ConsumerLagging")
    told = await desk.why("delivery/0", "Working", "reserve")
    assert "nothing is wrong: service stock has it at hand" in sentence(told, "Working")
    hold.set()


async def test_a_handler_that_fails_is_named_with_its_error_and_the_next_try(desk: Desk) -> None:
    await desk.run(stock(), shipping(lambda command: NotShipped(order_id=command.order_id)), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "HandlerFailing", "ship")
    assert "ship failed 1 time so far, last with NotShipped; Ship is sent again in" in sentence(told, "HandlerFailing")


async def test_a_dead_letter_behind_the_pivot_is_named_with_its_topic(desk: Desk) -> None:
    def broken(command: Ship) -> Event:
        raise Permanent("no such address")

    once = Retry(attempts=1)

    class Once(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        ship = step(done=Shipped, send=Ship, pivot=True, within="1h", retry=once)

    await desk.run(shipping(broken), sagas=[Once])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "DeadLettered", "ship")
    assert "shipping gave up on Ship (Permanent)" in sentence(told, "DeadLettered")
    assert "saga dlq list --saga delivery/4711" in told["remedies"]


async def test_a_parked_key_is_named_with_the_service(desk: Desk) -> None:
    async def broken(order: Ordered) -> Reserved:
        raise RuntimeError("the warehouse does not answer")

    await desk.run(stock(broken, park=True), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "KeyParked", "reserve")
    assert "stock parked Ordered" in sentence(told, "KeyParked")
    assert any("tried again by itself" in remedy for remedy in told["remedies"])


async def test_an_event_that_came_before_its_saga_says_what_it_waits_for(desk: Desk) -> None:
    await desk.run(sagas=[Delivery])
    await desk.publish(Reserved(order_id="4711"))
    told = await desk.why("delivery/4711", "EarlyEventParked")
    assert (told["id"], told["headline"]) == (None, "delivery/4711 has not begun")
    assert "is parked for delivery, which Ordered starts" in sentence(told, "EarlyEventParked")
    assert any("Ordered was published" in remedy for remedy in told["remedies"])


async def test_whoever_is_asked_of_nobody_is_told_that_no_service_answers(desk: Desk) -> None:
    await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "NobodyAnswers", "reserve")
    assert told["remedies"] == ["saga run the service that publishes Reserved"]


async def test_a_coordinator_that_is_down_comes_first(desk: Desk) -> None:
    process = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("4711", "NobodyAnswers")
    await process.stop()
    told = await desk.why("4711", "CoordinatorDown")
    assert told["reasons"][0]["code"] == "CoordinatorDown"
    assert "saga run MODULE:SAGA" in told["remedies"]


async def test_an_undo_that_failed_for_good_asks_for_a_person(desk: Desk) -> None:
    service = Service("stock")

    @service.on(Ordered)
    async def reserve(order: Ordered) -> Reserved:
        return Reserved(order_id=order.order_id)

    @service.on(Unreserve, retry=QUICK)
    async def unreserve(command: Unreserve) -> Unreserved:
        raise Permanent("the shelf is gone")

    class Fragile(Saga, start=Ordered, key="order_id", active_from="beginning", type="delivery"):
        reserve = step(
            done=Reserved, undo=Unreserve, undone=Unreserved, within="10m", undo_retry=Retry(attempts=1, first="100ms")
        )
        ship = step(after=reserve, done=Shipped, failed=NotShipped, undo=None, within="10m")

    await desk.run(service, sagas=[Fragile])
    await desk.publish(Ordered(order_id="4711"), NotShipped(order_id="4711"))
    told = await desk.why("4711", "UndoFailed", "reserve")
    assert told["phase"] == "FAILED"
    assert "the undo of step reserve failed for good: Permanent" in sentence(told, "UndoFailed")
    assert told["remedies"] == [
        "saga retry-undo delivery/4711 --step reserve --reason ...",
        "saga mark-undone delivery/4711 --step reserve --reason ...",
    ]


async def test_a_saga_that_ended_well_says_so(desk: Desk) -> None:
    await desk.run(stock(), shipping(lambda command: Shipped(order_id=command.order_id)), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "Ended")
    assert told["headline"].startswith("delivery/4711 is COMPLETED since")
    assert told["prospects"] == []


@pytest.mark.kafka
@pytest.mark.parametrize("desk", ["kafka"], indirect=True)  # the embedded broker deletes no topic
async def test_a_topic_that_was_deleted_is_named(desk: Desk, kafka_bootstrap: str) -> None:
    down = await desk.run(stock())
    await down.stop()
    process = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("4711", "ConsumerDown")
    await process.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([f"{desk.settings.topic_prefix}stock"])
    finally:
        await admin.close()
    told = await desk.why("4711", "TopicMissing", "reserve")
    assert "topic 'stock' does not exist" in sentence(told, "TopicMissing")
    assert "saga topics apply MODULE" in told["remedies"]


async def test_without_a_broker_it_says_so_and_what_the_store_knows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("4711", "NobodyAnswers")
    await process.stop()
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")
    told = await desk.why("4711", "BrokerDown")
    assert told["headline"] == "delivery/4711 is RUNNING and waits for reserve: Reserved"
    assert told["prospects"]
