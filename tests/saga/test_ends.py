"""Every saga's end is told on `choreo.outcomes`: once, whatever happens between commit and publishing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.clock import to_datetime
from choreo.events.codec import Codec
from choreo.events.envelope import Delivery
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.saga.commands import Sender
from choreo.saga.ends import end_id
from choreo.saga.ends import told as ends_of
from choreo.saga.instance import Instance
from choreo.saga.outcomes import SagaEnded
from choreo.saga.words import Phase
from choreo.saga.work import Moved
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


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    _TEXTS,
    st.one_of(st.none(), st.fixed_dictionaries({"step": _TEXTS, "error": st.just("Böse\x7f")})),
    st.integers(0, 4_000_000_000_000_000),
    st.sampled_from([Phase.COMPLETED, Phase.COMPENSATED, Phase.FAILED]),
)
def test_an_end_is_the_record_that_its_class_and_a_codec_would_make(
    key: str, cause: dict[str, str] | None, at: int, phase: Phase
) -> None:
    instance = Instance("order", key, 2, 3, "hash", phase, epoch=1, started_at=at, ended_at=at + 1_000, cause=cause)
    (told,) = ends_of(Sender("n"), [Moved(Order.definition(), None, instance)])
    event = SagaEnded.model_validate_json(told.value or b"")
    codec = Codec(open_registry(load_settings(broker="memory:"), MemoryBroker("")))
    asyncio.run(codec.prepare([SagaEnded]))
    assert told.value == codec.encode(event)
    assert (told.topic, told.key) == (SagaEnded.spec().topic, event.key_text().encode())
    assert (event.key, event.saga, event.phase) == (key, instance.id, phase.value)
    assert (event.started_at, event.ended_at) == (to_datetime(at), to_datetime(at + 1_000))


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
