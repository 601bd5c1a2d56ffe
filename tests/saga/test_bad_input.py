"""What strangers may send: it is set aside alone, and everything else goes on."""

from __future__ import annotations

import json
import random

import pytest

from choreo import Event, Saga, step
from tests.saga.stage import Declined, Order, Paid, Placed, Refused, Released, Reserved, Stage, header

RESERVED = {"ce_id": b"u", "ce_type": b"Reserved"}
PLACED = {"ce_id": b"u", "ce_type": b"Placed"}


class Foreign(Event, topic="payments", key="ref", format="json"):
    ref: str
    order_id: str


class Foreigner(Saga, start=Placed, key="order_id", correlate={Foreign: "order_id"}):
    pay = step(done=Foreign, undo=None, within="30s")


class Noted(Event, topic="orders", key="order_id"):
    order_id: str
    note: str


class Reprint(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    note: str


def twice(saga: Saga) -> Reprint:
    return Reprint(order_id=saga.key, note=saga.started.note * 2)


class Wordy(Saga, start=Noted, key="order_id"):
    reserve = step(done=Reserved, failed=Refused, undo=twice, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="30s")


async def goes_on(stage: Stage) -> None:
    await stage.publish(Placed(order_id="good"), Reserved(order_id="good"), Paid(order_id="good"))
    await stage.until(lambda all_: "order/good" in all_ and all_["order/good"].phase == "COMPLETED")
    await stage.settled()


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        pytest.param(b"a\x00b", RESERVED, id="key"),
        pytest.param(b"k", {**RESERVED, "ce_id": b"u\x00"}, id="id"),
        pytest.param(b"k", {**PLACED, "ce_id": b"u\x00"}, id="id-of-a-start"),
        pytest.param(b"k", {**PLACED, "content-type": b"x\x00"}, id="content-type"),
        pytest.param(b"k", {**RESERVED, "saga-id": b"order/%00"}, id="saga-id"),
    ],
)
async def test_text_that_no_store_keeps_goes_to_the_dead_letters(
    stage: Stage, key: bytes, headers: dict[str, bytes]
) -> None:
    await stage.start()
    await stage.raw("orders", key, b"{}", tuple(headers.items()))
    await goes_on(stage)
    (dead,) = await stage.sent("orders.dlq")
    assert "NUL" in str(header(dead, "dlq-message"))


async def test_an_unknown_type_that_no_store_keeps_is_counted_without_it(stage: Stage) -> None:
    await stage.start()
    await stage.raw("orders", b"k", b"{}", (("ce_id", b"u"), ("ce_type", b"Stran\x00ger")))
    await goes_on(stage)
    assert (await stage.ignored())["Stranger", "unknown"] == 1


@pytest.mark.parametrize("name", [b"order/k~\xc2\xb2", b"order/k~" + b"9" * 5_000])
async def test_a_header_that_names_no_saga_decides_nothing(stage: Stage, name: bytes) -> None:
    await stage.start()
    await stage.raw("orders", b"k", b"{}", (*PLACED.items(), ("saga-id", name)))
    await goes_on(stage)
    assert "order/k" in await stage.instances()


@pytest.mark.parametrize("part", ["key", "ce_id", "ce_type"])
async def test_names_longer_than_an_index_takes_stop_nothing(stage: Stage, part: str) -> None:
    await stage.start()
    noise = "".join(random.Random(4711).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6_000)).encode()
    headers = PLACED if part == "key" else {**PLACED, part: noise}
    await stage.raw("orders", noise if part == "key" else b"k", b"{}", tuple(headers.items()))
    await goes_on(stage)
    assert set(await stage.instances()) == {"order/good"}


@pytest.mark.parametrize("key", ["a\x00", "x" * 9_000])
async def test_a_key_in_the_payload_that_no_store_keeps_goes_to_the_dead_letters(stage: Stage, key: str) -> None:
    stage.sagas = (Order, Foreigner)
    await stage.start()
    headers = (("ce_id", b"f"), ("ce_type", b"Foreign"), ("content-type", b"application/json"))
    await stage.raw("payments", b"1", json.dumps({"ref": "1", "order_id": key}).encode(), headers)
    await goes_on(stage)
    assert len(await stage.sent("payments.dlq")) == 1


async def test_a_command_too_large_for_the_broker_fails_its_saga_alone(stage: Stage) -> None:
    stage.sagas = (Order, Wordy)
    await stage.codec.prepare([Noted])
    await stage.start()
    await stage.publish(Noted(order_id="k", note="x" * 600_000), Reserved(order_id="k"), Declined(order_id="k"))
    await goes_on(stage)
    found = (await stage.instances())["wordy/k"]
    assert found.phase == "FAILED"
    assert found.steps["reserve"].error == "Unbuildable"


async def test_a_payload_of_a_schema_that_nobody_knows_fails_the_undo_that_needs_it(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="k"))
    avro = ("content-type", b"application/avro")
    await stage.raw("inventory", b"k", b"\x00\x00\x00\x00\x07abc", (*RESERVED.items(), avro))
    await stage.settled()
    await stage.publish(Declined(order_id="k"))
    await goes_on(stage)
    found = (await stage.instances())["order/k"]
    assert found.phase == "FAILED"
    assert "schema 7, which nobody knows" in str(found.steps["reserve"].message)
