"""Batch handlers: one call for many events of one class, outputs for each, and a bad event fails alone."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from sqlalchemy import text

from choreo.events.database import Database
from choreo.events.errors import DefinitionError, Permanent
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.saga.testing import Harness, explore
from choreo.services.breaker import Breaker
from choreo.services.context import Context, Transaction
from choreo.services.ladder import retry_topic
from choreo.services.limits import Batch
from choreo.services.middleware import Call, Next
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import (
    Charge,
    Charged,
    OrderChanged,
    OrderPlaced,
    Refund,
    Refunded,
    Rig,
    StockReserved,
    command,
)

ONCE = Retry(attempts=1)


def _orders(count: int, key: str = "") -> list[OrderPlaced]:
    return [OrderPlaced(order_id=key or str(number), number=number) for number in range(count)]


def _service(kind: str, store: str, calls: list[list[str]], **options) -> Service:
    """A batch handler that counts in a table, claims, is plain, or has no store; `bad` events fail it."""
    service = Service("inventory", store=None if kind == "stateless" else store)
    options = {"retry": ONCE, **options}

    def _reserved(orders: list[OrderPlaced]) -> list[StockReserved]:
        calls.append([order.order_id for order in orders])
        if any(order.order_id.startswith("bad") for order in orders):
            raise ValueError("poison")
        return [StockReserved(order_id=order.order_id, number=order.number) for order in orders]

    if kind == "tx":

        @service.on(OrderPlaced, **options)
        async def reserve(orders: list[OrderPlaced], tx: Transaction) -> list[StockReserved]:
            await tx.execute("CREATE TABLE IF NOT EXISTS took (item TEXT)")
            await tx.execute("INSERT INTO took VALUES (:item)", [{"item": order.order_id} for order in orders])
            return _reserved(orders)
    elif kind == "thread":

        @service.on(OrderPlaced, **options)
        def reserve(orders: list[OrderPlaced]) -> list[StockReserved]:
            return _reserved(orders)
    else:

        @service.on(OrderPlaced, **options)
        async def reserve(orders: list[OrderPlaced]) -> list[StockReserved]:
            await asyncio.sleep(0)
            return _reserved(orders)

    if kind == "claim":

        @service.on(Charge, undoes=reserve)
        async def release(order: Charge) -> Charged:
            return Charged(order_id=order.order_id)

    return service


KINDS = ["tx", "claim", "plain", "stateless", "thread"]


@pytest.mark.parametrize("kind", KINDS)
async def test_events_at_hand_go_into_one_call_with_outputs_for_each(rig: Rig, store, kind):
    calls: list[list[str]] = []
    service = _service(kind, store, calls)
    ids = await rig.publish(*_orders(50))
    worker = await rig.run(service)
    assert sorted(itertools.chain.from_iterable(calls)) == sorted(str(n) for n in range(50))
    assert len(calls) <= 6
    out = await rig.published("inventory")
    assert sorted(each.event["number"] for each in out) == list(range(50))
    causes = {each.event["number"]: each.header("causation-id") for each in out}
    assert [causes[n] for n in range(50)] == ids
    assert worker.counters.handled == 50


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_event_fails_alone_and_the_others_succeed(rig: Rig, store, kind, tmp_path):
    calls: list[list[str]] = []
    service = _service(kind, store, calls)
    await rig.publish(*_orders(20), OrderPlaced(order_id="bad-1"), *_orders(10, "late"), OrderPlaced(order_id="bad-2"))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.dead) == (30, 2)
    letters = await rig.published("orders.dlq")
    assert [each.header("dlq-attempts") for each in letters] == ["1", "1"]
    assert {each.delivery.key for each in letters} == {b"bad-1", b"bad-2"}
    assert len(await rig.published("inventory")) == 30
    if kind == "tx":  # the writes of failed calls are gone
        database = await Database.open(store)
        rows = await database.read(lambda c: [row[0] for row in c.execute(text("SELECT item FROM took"))])
        await database.close()
        assert len(rows) == 30 and not [item for item in rows if item.startswith("bad")]


async def test_events_of_one_key_come_in_order_one_in_a_batch(rig: Rig, store):
    service = Service("inventory", store=store)
    seen: list[int] = []

    @service.on(OrderPlaced)
    async def reserve(orders: list[OrderPlaced]) -> None:
        assert len({order.order_id for order in orders}) == len(orders)
        seen.extend(order.number for order in orders if order.order_id == "hot")

    await rig.publish(*_orders(12, "hot"), *_orders(20))
    await rig.run(service)
    assert seen == list(range(12))


async def test_a_batch_waits_for_others_as_long_as_it_says_and_holds_no_more_than_it_says():
    service = Service("inventory")
    calls = []

    @service.on(OrderPlaced, batch=Batch(most=10, wait="5s"))
    async def reserve(orders: list[OrderPlaced]) -> list[list[StockReserved] | None]:
        calls.append(len(orders))
        return [[StockReserved(order_id=order.order_id)] * 2 if order.number else None for order in orders]

    async with Harness(service) as harness:
        await harness.publish(*_orders(3))
        await harness.advance("3s")
        assert calls == []
        await harness.publish(*[OrderPlaced(order_id=f"more-{n}", number=1) for n in range(4)])
        await harness.advance("3s")
        assert calls == [7]
        await harness.publish(*[OrderPlaced(order_id=f"many-{n}", number=0) for n in range(25)])
        await harness.advance("6s")
        assert calls == [7, 10, 10, 5]
        assert len(harness.sent(StockReserved)) == 2 * 6


@pytest.mark.parametrize("concurrency", [None, 3])
async def test_one_batch_runs_at_a_time_unless_the_handler_says_more(concurrency):
    service = Service("inventory")
    inside, most = 0, 0

    @service.on(OrderPlaced, batch=Batch(most=2), concurrency=concurrency)
    async def reserve(orders: list[OrderPlaced]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(1)
        inside -= 1

    async with Harness(service) as harness:
        await harness.publish(*_orders(20))
        await harness.advance("20s")
    assert most == (concurrency or 1)


@pytest.mark.parametrize("exhausted", ["park", retry_topic("1m")])
async def test_a_failed_event_of_a_batch_is_retried_parked_and_delayed_like_any_other(exhausted):
    service = Service("inventory")
    failed = []

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="1s", most="30s"), exhausted=exhausted)
    async def reserve(orders: list[OrderPlaced]) -> list[StockReserved]:
        if len(failed) < 2 and any(order.order_id == "3" for order in orders):
            failed.extend([1] * (len(orders) == 1))
            raise OSError("away")
        return [StockReserved(order_id=order.order_id) for order in orders]

    async with Harness(service) as harness:
        await harness.publish(*_orders(8))
        await harness.settle()
        assert len(harness.sent(StockReserved)) == 7
        await harness.advance("5m")
        assert sorted(event.order_id for event in harness.sent(StockReserved)) == [str(n) for n in range(8)]
        assert harness.dead_letters() == []


async def test_a_breaker_and_a_rate_count_the_events_of_a_batch():
    service = Service("inventory")
    calls = []

    @service.on(OrderPlaced, rate="5/s", retry=ONCE, breaker=Breaker(calls=5, pause="1h"))
    async def reserve(orders: list[OrderPlaced]) -> None:
        calls.append(len(orders))
        raise OSError("away")

    async with Harness(service) as harness:
        await harness.publish(*_orders(20))
        await harness.settle()
        assert max(calls) <= 5
        await harness.advance("1m")
        assert len(harness.dead_letters()) == 5, "then the breaker is open"


@pytest.mark.parametrize("answer", ["short", "no list"])
async def test_an_answer_that_does_not_fit_the_batch_is_the_handlers_fault(rig: Rig, store, answer):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(orders: list[OrderPlaced]) -> list[StockReserved]:
        made = [StockReserved(order_id=order.order_id) for order in orders]
        return made[1:] if answer == "short" else made[0]  # type: ignore[return-value]

    await rig.publish(*_orders(3))
    worker = await rig.run(service)
    assert worker.counters.dead == 3
    (letter, *_) = await rig.published("orders.dlq")
    assert letter.header("dlq-error") == "DefinitionError"
    assert "for 1 events; return a list with an entry for each" in (letter.header("dlq-message") or "")


async def test_middleware_sees_the_whole_batch(rig: Rig, store):
    seen = []

    async def count(call: Call, next: Next):
        seen.append(len(call.batch or ()))
        return await next(call)

    service = Service("inventory", store=store, middleware=[count])

    @service.on(OrderPlaced)
    async def reserve(orders: list[OrderPlaced]) -> list[StockReserved | None]:
        return [None for _ in orders]

    await rig.publish(*_orders(9))
    await rig.run(service)
    assert sum(seen) == 9 and len(seen) < 9


async def test_an_undo_meets_what_its_step_did_in_a_batch(rig: Rig, store):
    service = Service("payment", store=store)
    charged, refunded = [], []

    @service.on(Charge)
    async def charge(orders: list[Charge], tx: Transaction) -> list[Charged]:
        charged.extend(order.order_id for order in orders)
        return [Charged(order_id=order.order_id) for order in orders]

    @service.on(Refund, undoes=charge)
    async def refund(order: Refund, tx: Transaction) -> Refunded:
        refunded.append(order.order_id)
        return Refunded(order_id=order.order_id)

    for key in ("1", "2", "3"):
        (sent,) = await rig.publish(Charge(order_id=key), **command("charge", key=key))
        await rig.publish(Refund(order_id=key), **command("charge", undoes=[sent], key=key))
    await rig.run(service)
    assert sorted(charged) == sorted(refunded), "undone, or never done"


async def _context(orders: list[OrderPlaced], context: Context) -> None: ...
async def _two(orders: list[OrderPlaced | OrderChanged]) -> None: ...
async def _single(orders: list[OrderPlaced]) -> StockReserved: ...
async def _one(order: OrderPlaced) -> None: ...
async def _undo(orders: list[OrderPlaced]) -> list[StockReserved]: ...


@pytest.mark.parametrize(
    ("function", "events", "options", "says"),
    [
        (_context, [OrderPlaced], {}, "a Context is of one event"),
        (_two, [OrderPlaced, OrderChanged], {}, "a batch holds events of one class"),
        (_single, [OrderPlaced], {}, "returns a list with an entry for each event"),
        (_one, [OrderPlaced], {"batch": Batch()}, "write `order: list[OrderPlaced]`"),
        (_undo, [OrderPlaced], {"undoes": _one}, "an undo takes one command at a time"),
    ],
)
def test_a_wrong_batch_handler_is_refused_with_the_remedy(function, events, options, says):
    with pytest.raises(DefinitionError) as found:
        Service("inventory").on(*events, **options)(function)
    assert says in found.value.message


@pytest.mark.parametrize("options", [{"most": 0}, {"most": True}, {"wait": "soon"}])
def test_a_batch_that_cannot_work_is_refused_where_it_is_written(options):
    with pytest.raises(DefinitionError):
        Batch(**options)


payment = Service("payment")


@payment.on(Charge, retry=Retry(attempts=3, first="1s", most="1s"), batch=Batch(most=3, wait="100ms"), rate="10/s")
async def charge(orders: list[Charge]) -> list[Charged]:
    if any(order.order_id == "poison" for order in orders):
        raise Permanent("declined")
    return [Charged(order_id=order.order_id) for order in orders]


@payment.on(Refund, undoes=charge)
async def refund(order: Refund) -> Refunded:
    return Refunded(order_id=order.order_id)


class Buying(Saga, start=OrderPlaced, key="order_id", version=1, deadline="2h"):
    pay = step(send=Charge, done=Charged, undo=Refund, undone=Refunded, within="1h")


def test_no_schedule_of_faults_breaks_sagas_whose_service_takes_batches():
    events = [OrderPlaced(order_id=key) for key in ("1", "2", "poison")]
    explore(Buying, services=[payment], events=events, seeds=8)
