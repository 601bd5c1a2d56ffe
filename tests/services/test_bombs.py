"""Bytes made to crash or stall a reader: each is a dead letter with its reason, and its partition goes on."""

from __future__ import annotations

import time

import pytest

from choreo.events.envelope import Record
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig
from tests.support.bombs import BOMBS, Bomb

KEY = b"one partition for all"


async def armed(rig: Rig, bomb: Bomb) -> Record:
    """Make the record of a bomb, its schema registered as a stranger would."""
    value = bomb.value
    if bomb.schema is not None:
        schema_id = await rig.registry.register(f"strangers-{bomb.name}", bomb.schema)
        value = b"\x00" + schema_id.to_bytes(4, "big") + value
    headers = (("ce_id", bomb.name.encode()), ("ce_type", b"OrderPlaced"), ("content-type", bomb.content_type.encode()))
    return Record("orders", KEY, value, headers)


@pytest.mark.parametrize("stateless", [False, True])
async def test_fault_51_every_bomb_becomes_a_dead_letter_with_its_reason_and_the_others_go_on(
    rig: Rig, store: str, stateless: bool
) -> None:
    service = Service("inventory", store=None if stateless else store)
    seen: list[str] = []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    records = []
    for number, bomb in enumerate(BOMBS):
        good = rig.record(OrderPlaced(order_id=str(number)))
        records += [await armed(rig, bomb), Record("orders", KEY, good.value, good.headers)]
    await rig.broker.send(records)
    began = time.process_time()
    worker = await rig.run(service)
    assert time.process_time() - began < 30  # of this process's own time; one bomb alone took a plain reader that long
    assert seen == [str(number) for number, _ in enumerate(BOMBS)]
    letters = {
        dict(letter.headers)["ce_id"].decode(): dict(letter.headers) for letter in await rig.deliveries("orders.dlq")
    }
    assert set(letters) == {bomb.name for bomb in BOMBS}
    for bomb in BOMBS:
        told = letters[bomb.name]
        assert told["dlq-error"].decode() == bomb.error, bomb.name
        assert bomb.reason in told["dlq-message"].decode(), (bomb.name, told["dlq-message"])
        assert told["dlq-attempts"] == b"0"
    assert (worker.counters.dead, worker.counters.handled) == (len(BOMBS), len(BOMBS))
    assert await rig.all_committed("inventory", "orders")
    assert len(await rig.published("choreo.failures")) == len(BOMBS)


GOOD = (("ce_type", b"OrderPlaced"), ("content-type", b"application/json"))
VALUE = b'{"order_id": "bad"}'


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param(tuple((f"h{n}", b"") for n in range(10_000)), "10000 headers, at most 64", id="10000-headers"),
        pytest.param((*GOOD, ("x", b"x" * 900_000)), "headers of 900", id="a-header-of-a-megabyte"),
        pytest.param((*GOOD, ("x" * 9_000, b"")), "headers of 90", id="a-name-of-9000-characters"),
        pytest.param((*GOOD, ("ce_type", b"Other")), "'ce_type' stands twice", id="a-reserved-header-twice"),
        pytest.param((*GOOD, ("ce_id", b"\xff")), "'ce_id' is not UTF-8", id="no-utf-8"),
        pytest.param((*GOOD, ("ce_time", b"0001-01-01T00:00:00+23:59")), "'ce_time' is not", id="before-all-time"),
        pytest.param((*GOOD, ("ce_time", b"9999-12-31T23:59:59-23:59")), "'ce_time' is not", id="after-all-time"),
        pytest.param((*GOOD, ("saga-run", b"9" * 5_000)), "'saga-run' is not", id="a-number-of-5000-digits"),
        pytest.param((*GOOD, ("saga-run", "²".encode())), "'saga-run' is not", id="a-digit-that-is-none"),
    ],
)
async def test_fault_50_headers_beyond_all_limits_are_a_dead_letter_and_the_partition_goes_on(
    rig: Rig, store: str, headers: tuple[tuple[str, bytes], ...], reason: str
) -> None:
    service = Service("inventory", store=store)
    seen: list[str] = []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    good = rig.record(OrderPlaced(order_id="good"))
    await rig.broker.send([Record("orders", KEY, VALUE, headers), Record("orders", KEY, good.value, good.headers)])
    await rig.run(service)
    assert seen == ["good"]
    (letter,) = await rig.deliveries("orders.dlq")
    told = [value.decode() for name, value in letter.headers if name == "dlq-message"]
    assert reason in told[0]
    assert await rig.all_committed("inventory", "orders")
