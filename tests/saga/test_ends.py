"""Every saga's end is told on `choreo.outcomes`: once, whatever happens between commit and publishing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from choreo.events.envelope import Delivery
from choreo.saga.ends import end_id
from choreo.saga.outcomes import SagaEnded
from tests.saga.stage import Again, Declined, Order, Paid, Placed, Refused, Release, Released, Reserved, Stage, header


async def ends(stage: Stage, number: int) -> list[Delivery]:
    """Wait for so many ends, and for no more."""
    for _ in range(6_000):
        found = [each for each in await stage.sent("choreo.outcomes") if header(each, "ce_type") == "SagaEnded"]
        if len(found) >= number:
            break
        await asyncio.sleep(0.01)
    await stage.settled()
    found = [each for each in await stage.sent("choreo.outcomes") if header(each, "ce_type") == "SagaEnded"]
    assert len(found) == number
    return found


def body(delivery: Delivery) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(delivery.value or b"")
    return told


async def test_an_end_is_told_once_with_what_one_wants_to_know(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Paid(order_id="4711"))
    (told,) = await ends(stage, 1)
    instance = (await stage.instances())["order/4711"]
    assert told.key == b"4711"
    assert header(told, "ce_id") == end_id("order/4711", 0)
    assert header(told, "ce_source") == "choreo/order"
    assert header(told, "content-type") == "application/json"
    assert header(told, "saga-id") is None, "what answers it does not belong to the saga that has ended"
    event = SagaEnded.model_validate_json(told.value or b"")
    assert (event.saga, event.type, event.run, event.epoch, event.phase) == ("order/4711", "order", 1, 0, "COMPLETED")
    assert event.ended_at.timestamp() * 1e6 == pytest.approx(instance.ended_at, abs=2)
    assert (event.step, event.error) == (None, None)


async def test_an_end_says_what_led_to_it(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Declined(order_id="1"))
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert await ends(stage, 0) == []
    await stage.publish(Released(order_id="1"), causation_id=header(undo, "ce_id"))
    (told,) = await ends(stage, 1)
    assert {name: body(told)[name] for name in ("phase", "step", "error")} == {
        "phase": "COMPENSATED",
        "step": "charge",
        "error": "Declined",
    }


async def test_r11_a_saga_that_is_opened_again_tells_its_next_end_too(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="1"), Refused(order_id="1"))
    await ends(stage, 1)
    await stage.publish(Reserved(order_id="1"))  # late
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert header(undo, "ce_type") == Release.spec().type
    await stage.publish(Released(order_id="1"), causation_id=header(undo, "ce_id"))
    told = await ends(stage, 2)
    assert [(header(each, "ce_id"), body(each)["epoch"]) for each in told] == [
        (end_id("order/1", 0), 0),
        (end_id("order/1", 1), 1),
    ]


async def test_each_run_of_a_key_has_an_end_of_its_own(stage: Stage) -> None:
    stage.sagas = (Again,)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
    await ends(stage, 1)
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
    assert [(body(each)["saga"], body(each)["run"]) for each in await ends(stage, 2)] == [
        ("again/1", 1),
        ("again/1~2", 2),
    ]


async def test_a_saga_that_only_observes_tells_nobody(stage: Stage) -> None:
    stage.sagas = (Order.observe_only(),)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Paid(order_id="1"))
    await stage.until(lambda all_: bool(all_) and all_["order/1"].phase.ended)
    assert await ends(stage, 0) == []
