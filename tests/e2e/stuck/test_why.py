"""Ways to be stuck, on the embedded broker and on a real Kafka: `saga why` names the cause and the remedy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from choreo import Event, Permanent, Retry, Saga, Service, step
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
from tests.support.cli import environment, saga

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
LOCAL = pytest.mark.parametrize("desk", ["local"], indirect=True)
"""On Kafka the same is seen in `test_ten.py`."""


def sentence(told: dict[str, Any], code: str) -> str:
    return next(str(each["sentence"]) for each in told["reasons"] if each["code"] == code)


@LOCAL
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


@LOCAL
async def test_a_handler_that_fails_is_named_with_its_error_and_the_next_try(desk: Desk) -> None:
    await desk.run(stock(), shipping(lambda command: NotShipped(order_id=command.order_id)), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "HandlerFailing", "ship")
    assert "ship failed 1 time so far, last with NotShipped; Ship is sent again in" in sentence(told, "HandlerFailing")


@LOCAL
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


@LOCAL
async def test_a_parked_key_is_named_with_the_service(desk: Desk) -> None:
    async def broken(order: Ordered) -> Reserved:
        raise RuntimeError("the warehouse does not answer")

    await desk.run(stock(broken, park=True), sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await desk.why("4711", "KeyParked", "reserve")
    assert "stock parked Ordered" in sentence(told, "KeyParked")
    assert any("tried again by itself" in remedy for remedy in told["remedies"])


@LOCAL
async def test_an_event_that_came_before_its_saga_says_what_it_waits_for(desk: Desk) -> None:
    await desk.run(sagas=[Delivery])
    await desk.publish(Reserved(order_id="4711"))
    told = await desk.why("delivery/4711", "EarlyEventParked")
    assert (told["id"], told["headline"]) == (None, "delivery/4711 has not begun")
    assert "is parked for delivery, which Ordered starts" in sentence(told, "EarlyEventParked")
    assert any("Ordered was published" in remedy for remedy in told["remedies"])


def test_a_start_from_before_the_first_run_is_what_a_person_is_told_of(tmp_path: Path) -> None:
    """Published first and run then: nothing begins, and nothing is to be guessed."""
    env = environment(home=tmp_path)
    assert saga("publish", "shop.py:OrderPlaced", "orders.csv", env=env, cwd=QUICKSTART).returncode == 0
    ran = saga("run", "shop.py", "--until-idle", env=env, cwd=QUICKSTART)
    assert "events wait for a saga that has not begun: saga ignored, saga why KEY" in ran.stderr
    assert "events of its key wait for its start: saga why 4711" in saga("status", "4711", env=env).stderr
    told = " ".join(saga("why", "4711", env=env).stdout.split())
    assert "which OrderPlaced starts if it came after fulfilment was first run, " in told
    assert "look whether OrderPlaced was published under this key, and after fulfilment was first run" in told
    assert "saga start fulfilment order_id=4711" in told


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


@LOCAL
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


@LOCAL
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
