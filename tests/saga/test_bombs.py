"""Bytes made to crash or stall a reader do neither to the coordinator, where it has to decode at all."""

from __future__ import annotations

import time

from choreo import Event, Saga, step
from tests.saga.stage import Declined, Order, Paid, Placed, Reserved, Stage, header
from tests.support.bombs import BOMBS, Bomb


class Billed(Event, topic="payments", key="ref"):
    ref: str
    order_id: str


class Billing(Saga, start=Placed, key="order_id", correlate={Billed: "order_id"}):
    """The saga's key stands in the payload of another record key: every `Billed` has to be decoded."""

    pay = step(done=Billed, undo=None, within="30s")


async def armed(stage: Stage, bomb: Bomb) -> bytes:
    if bomb.schema is None:
        return bomb.value
    schema_id = await stage.codec._registry.register(f"strangers-{bomb.name}", bomb.schema)
    return b"\x00" + schema_id.to_bytes(4, "big") + bomb.value


def headers(bomb: Bomb, type_: str) -> tuple[tuple[str, bytes], ...]:
    names = {"ce_id": bomb.name, "ce_type": type_, "content-type": bomb.content_type}
    return tuple((name, text.encode()) for name, text in names.items())


async def test_fault_51_a_bomb_that_must_be_decoded_to_find_its_saga_is_a_dead_letter(stage: Stage) -> None:
    stage.sagas = (Billing,)
    await stage.codec.prepare([Billed])
    await stage.start()
    for bomb in BOMBS:
        await stage.raw("payments", b"bad", await armed(stage, bomb), headers(bomb, "Billed"))
    began = time.process_time()
    await stage.publish(Placed(order_id="good"), Billed(ref="1", order_id="good"))
    await stage.until(lambda all_: "billing/good" in all_ and all_["billing/good"].phase == "COMPLETED")
    await stage.settled()
    assert time.process_time() - began < 30
    letters = {header(each, "ce_id"): header(each, "dlq-message") or "" for each in await stage.sent("payments.dlq")}
    assert set(letters) == {bomb.name for bomb in BOMBS}
    for bomb in BOMBS:
        assert bomb.reason in letters[bomb.name], bomb.name


async def test_fault_51_a_bomb_that_an_undo_would_be_filled_from_fails_that_saga_alone(stage: Stage) -> None:
    stage.sagas = (Order,)
    await stage.start()
    bombs = [bomb for bomb in BOMBS if bomb.schema is not None]
    for bomb in bombs:
        await stage.publish(Placed(order_id=bomb.name))
        await stage.raw("inventory", bomb.name.encode(), await armed(stage, bomb), headers(bomb, "Reserved"))
        await stage.publish(Declined(order_id=bomb.name))
    await stage.publish(Placed(order_id="good"), Reserved(order_id="good"), Paid(order_id="good"))
    await stage.until(lambda all_: "order/good" in all_ and all_["order/good"].phase == "COMPLETED")
    ended = await stage.until(
        lambda all_: len(all_) == 1 + len(bombs) and all(each.phase != "RUNNING" for each in all_.values())
    )
    for bomb in bombs:
        found = ended[f"order/{bomb.name}"]
        assert found.phase in ("COMPENSATING", "FAILED"), bomb.name
