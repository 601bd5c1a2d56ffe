"""Undo is safe whatever the order in which step and undo arrive (semantics, rows 14 and 15; rulings R4 and R5)."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Column, MetaData, String, Table, delete, insert, select

from choreo.events.database import Database
from choreo.events.errors import Permanent
from choreo.services import inbox
from choreo.services.context import Context, Transaction
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import (
    Charge,
    Charged,
    OrderPlaced,
    Refund,
    Refunded,
    ReleaseStock,
    Rig,
    StockReleased,
    StockReserved,
    command,
    until,
)

QUICK = Retry(attempts=2, first="1ms", most="2ms")
tables = MetaData()
reservations = Table("reservation", tables, Column("order_id", String(40), primary_key=True))


class Inventory:
    """A service whose step and undo write to its own table."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.released: list[str] = []
        self.service = service = Service("inventory", store=store, tables=tables)

        @service.on(OrderPlaced, retry=QUICK)
        async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
            await tx.execute(insert(reservations).values(order_id=order.order_id))
            return StockReserved(order_id=order.order_id)

        @service.on(ReleaseStock, undoes=reserve, retry=QUICK)
        async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
            self.released.append(command.order_id)
            await tx.execute(delete(reservations).where(reservations.c.order_id == command.order_id))
            return StockReleased(order_id=command.order_id)

    async def reserved(self) -> list[str]:
        database = await Database.open(self.store)
        try:
            return await database.read(lambda c: list(c.execute(select(reservations.c.order_id)).scalars()))
        finally:
            await database.close()


async def test_row_14_an_undo_after_its_step_undoes_it_once(rig: Rig, store_url):
    shop = Inventory(store_url)
    (order,) = await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(shop.service)
    assert await shop.reserved() == ["1"]
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", undoes=[order]))
    worker = await rig.run(shop.service)
    assert worker.counters.handled == 1
    assert (await shop.reserved(), shop.released) == ([], ["1"])
    (answer,) = await rig.published("inventory", "StockReleased")
    assert answer.header("undo-empty") is None
    assert answer.envelope.saga_id == "fulfilment/1"


async def test_row_15_an_undo_that_overtakes_its_step_is_answered_and_the_late_step_leaves_no_trace(
    rig: Rig, store_url
):
    shop = Inventory(store_url)
    late = rig.record(OrderPlaced(order_id="1"), id="order-1")
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", undoes=["order-1"]))
    await rig.run(shop.service)
    (answer,) = await rig.published("inventory")
    assert (answer.type, answer.header("undo-empty"), answer.event) == ("StockReleased", "1", {"order_id": "1"})
    assert answer.envelope.saga_step == "reserve"
    await rig.broker.send([late, late])
    worker = await rig.run(shop.service)
    assert (worker.counters.refused, worker.counters.handled) == (2, 0)
    assert (await shop.reserved(), shop.released) == ([], [])
    assert len(await rig.published("inventory")) == 1


async def test_row_14_step_and_undo_in_one_batch_keep_their_order(rig: Rig, store_url):
    shop = Inventory(store_url)
    async with rig.running(shop.service):
        for number in range(20):
            order = rig.record(OrderPlaced(order_id=str(number)), id=f"order-{number}")
            undo = rig.record(
                ReleaseStock(order_id=str(number)), **command("reserve", key=str(number), undoes=[f"order-{number}"])
            )
            await rig.broker.send([order, undo])
    assert await shop.reserved() == []
    answers = await rig.published("inventory", "StockReleased")
    assert len(answers) == 20
    empty = {answer.event["order_id"] for answer in answers if answer.header("undo-empty")}
    assert sorted(shop.released) == sorted({str(number) for number in range(20)} - empty)


async def test_another_attempt_of_an_undo_is_answered_with_the_same_bytes_and_runs_nothing(rig: Rig, store_url):
    """Semantics, row 16: the effect of an undo happens once, however often it is asked for."""
    shop = Inventory(store_url)
    (order,) = await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(shop.service)
    for attempt in (1, 2, 3):
        await rig.publish(ReleaseStock(order_id="1"), **command("reserve", attempt, undoes=[order]))
        await rig.run(shop.service)
    assert shop.released == ["1"]
    answers = await rig.published("inventory", "StockReleased")
    assert len(answers) == 3
    assert len({(each.delivery.value, each.delivery.headers) for each in answers}) == 1


async def test_another_attempt_of_an_empty_undo_stays_empty_unless_the_step_was_done_by_another_path(rig: Rig, store):
    shop = Inventory(store)
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", 1, undoes=["order-1"]))
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", 2, undoes=["order-1"]))
    await rig.run(shop.service)
    first, second = await rig.published("inventory")
    assert first.delivery.headers == second.delivery.headers
    assert first.header("undo-empty") == "1"
    (other,) = await rig.publish(OrderPlaced(order_id="1"))  # an event that no undo has named so far
    await rig.run(shop.service)
    assert await shop.reserved() == ["1"]
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", 3, undoes=["order-1", other]))
    await rig.run(shop.service)
    assert (shop.released, await shop.reserved()) == (["1"], [])
    assert (await rig.published("inventory"))[-1].header("undo-empty") is None


class Payment:
    """A service whose step touches the outside world: it claims before it runs."""

    def __init__(self, store: str, **options) -> None:
        self.charged: list[str] = []
        self.refunded: list[str] = []
        self.may = asyncio.Event()
        self.begun = asyncio.Event()
        self.fails: list[Exception] = []
        self.service = service = Service("payment", store=store, **options.pop("service", {}))

        @service.on(Charge, retry=QUICK, **options)
        async def charge(command: Charge) -> Charged:
            self.begun.set()
            await self.may.wait()
            self.charged.append(command.order_id)
            if self.fails:
                raise self.fails.pop(0)
            return Charged(order_id=command.order_id)

        @service.on(Refund, undoes=charge, retry=QUICK)
        async def refund(command: Refund, context: Context) -> Refunded:
            self.refunded.append(command.order_id)
            return Refunded(order_id=command.order_id)


async def _states(store: str) -> dict[tuple[str, str], str]:
    database = await Database.open(store)
    try:
        rows = await database.read(
            lambda c: c.execute(select(inbox.inbox.c.handler, inbox.inbox.c.event_id, inbox.inbox.c.state)).all()
        )
    finally:
        await database.close()
    return {(handler, event_id): state for handler, event_id, state in rows}


async def test_ruling_4_a_claim_is_committed_before_the_handler_runs(rig: Rig, store):
    """Ruling R4."""
    shop = Payment(store)
    async with rig.running(shop.service):
        (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
        await shop.begun.wait()
        assert (await _states(store))["payment.charge", sent] == "claimed"
        shop.may.set()
    assert (await _states(store))["payment.charge", sent] == "done"


async def test_ruling_4_claims_are_committed_many_at_once(rig: Rig, store):
    shop = Payment(store)
    shop.may.set()
    await rig.publish(*(Charge(order_id=str(n)) for n in range(100)))
    worker = await rig.run(shop.service)
    assert worker.counters.handled == 100
    assert worker.counters.transactions <= 6


async def test_ruling_4_an_undo_that_finds_a_live_claim_waits_and_other_keys_go_on(rig: Rig, store):
    """Ruling R4."""
    shop = Payment(store)
    async with rig.running(shop.service):
        (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
        await shop.begun.wait()
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=[sent]))
        await rig.publish(Refund(order_id="2"), **command("charge", key="2", undoes=["never"]))
        await until(lambda: _has(rig, "payments", "2"))
        await asyncio.sleep(0.1)
        assert shop.refunded == []
        shop.may.set()
    assert (shop.charged, shop.refunded) == (["1"], ["1"])
    assert [each.type for each in await rig.published("payments") if each.event["order_id"] == "1"] == [
        "Charged",
        "Refunded",
    ]


async def _has(rig: Rig, topic: str, key: str) -> bool:
    return any(each.event["order_id"] == key for each in await rig.published(topic))


async def test_ruling_4_an_undo_that_finds_an_expired_claim_runs_since_the_outcome_is_unknown(rig: Rig, store):
    """Ruling R4: only absence means that nothing happened. What the step says when it ends after all is dropped."""
    shop = Payment(store, service={"claim": "50ms"})
    async with rig.running(shop.service) as worker:
        (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
        await shop.begun.wait()
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=[sent]))
        await until(lambda: shop.refunded == ["1"])
        shop.may.set()
        await until(lambda: shop.charged == ["1"])
    assert [each.type for each in await rig.published("payments")] == ["Refunded"]
    assert (worker.counters.refused, worker.counters.handled) == (1, 1)
    assert (await _states(store))["payment.charge", sent] == "unknown"


@pytest.mark.parametrize("error", [Permanent("declined"), OSError("broke")])
async def test_an_undo_of_a_step_that_failed_for_good_after_its_claim_runs(rig: Rig, store, error):
    """It touched the outside world before it failed, or may have."""
    shop = Payment(store)
    shop.may.set()
    shop.fails = [error, error]
    (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
    await rig.run(shop.service)
    await rig.publish(Refund(order_id="1"), **command("charge", undoes=[sent]))
    await rig.run(shop.service)
    assert shop.refunded == ["1"]


async def test_an_undo_of_a_step_that_failed_in_its_transaction_is_empty(rig: Rig, store):
    shop = Inventory(store)

    await rig.publish(OrderPlaced(order_id="1"))
    (again,) = await rig.publish(OrderPlaced(order_id="1"))  # violates the primary key: rolled back, dead-lettered
    await rig.run(shop.service)
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", undoes=[again]))
    await rig.run(shop.service)
    assert (shop.released, await shop.reserved()) == ([], ["1"])
    (answer,) = await rig.published("inventory", "StockReleased")
    assert answer.header("undo-empty") == "1"


async def test_ruling_5_a_late_command_of_an_undone_step_is_refused_whatever_its_id(rig: Rig, store):
    """Ruling R5: the guard also knows handler, saga with run, step and occurrence."""
    shop = Payment(store)
    shop.may.set()
    await rig.publish(Refund(order_id="1"), **command("charge", undoes=["first-attempt"]))
    await rig.run(shop.service)
    await rig.publish(Charge(order_id="1"), id="second-attempt", **command("charge", 2))
    await rig.publish(Charge(order_id="1"), id="other-run", **command("charge", 1, run=2))
    worker = await rig.run(shop.service)
    assert (worker.counters.refused, worker.counters.handled) == (1, 1)
    assert shop.charged == ["1"]
    assert (await _states(store))["payment.charge", "second-attempt"] == "refused"


async def test_ruling_5_a_step_done_under_an_id_that_the_undo_does_not_name_is_found_by_the_sagas_step(rig: Rig, store):
    shop = Payment(store)
    shop.may.set()
    await rig.publish(Charge(order_id="1"), **command("charge", 2))
    await rig.run(shop.service)
    await rig.publish(Refund(order_id="1"), **command("charge", undoes=["first-attempt"]))
    await rig.run(shop.service)
    assert shop.refunded == ["1"]


async def test_an_undo_without_anything_to_look_for_runs(rig: Rig, store):
    shop = Payment(store)
    await rig.publish(Refund(order_id="1"))
    await rig.run(shop.service)
    assert shop.refunded == ["1"]


async def test_an_undo_with_outside_effects_runs_again_after_it_failed_and_then_never(rig: Rig, store):
    service = Service("payment", store=store)
    tries = []

    @service.on(Charge)
    async def charge(command: Charge) -> Charged:
        return Charged(order_id=command.order_id)

    @service.on(Refund, undoes=charge, retry=Retry(attempts=5, first="1ms", most="1ms"))
    async def refund(command: Refund, context: Context) -> Refunded:
        tries.append((context.attempt, context.idempotency_key))
        if len(tries) < 3:
            raise OSError("bank away")
        return Refunded(order_id=command.order_id)

    (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
    await rig.run(service)
    await rig.publish(Refund(order_id="1"), **command("charge", 1, undoes=[sent]))
    await rig.publish(Refund(order_id="1"), **command("charge", 2, undoes=[sent]))
    await rig.run(service)
    assert [attempt for attempt, _ in tries] == [1, 2, 3]
    assert len({key for _, key in tries}) == 1
    assert len(await rig.published("payments", "Refunded")) == 2


async def test_an_undo_that_was_dead_lettered_runs_when_the_saga_tries_again(rig: Rig, store):
    service = Service("payment", store=store)
    tries = []

    @service.on(Charge)
    async def charge(command: Charge) -> Charged:
        return Charged(order_id=command.order_id)

    @service.on(Refund, undoes=charge)
    async def refund(command: Refund) -> Refunded:
        tries.append(command.order_id)
        if len(tries) == 1:
            raise Permanent("no such payment")
        return Refunded(order_id=command.order_id)

    (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
    await rig.run(service)
    await rig.publish(Refund(order_id="1"), **command("charge", 1, undoes=[sent]))
    await rig.run(service)
    assert await rig.published("payments", "Refunded") == []
    await rig.publish(Refund(order_id="1"), **command("charge", 2, undoes=[sent]))
    await rig.run(service)
    assert len(tries) == 2
    assert len(await rig.published("payments", "Refunded")) == 1
