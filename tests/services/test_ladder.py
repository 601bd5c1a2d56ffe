"""Retry topics: what failed waits in the broker, others of its key and partition pass, and the last rung is the end."""

from __future__ import annotations

import asyncio

import pytest

from choreo.events.envelope import Record
from choreo.events.errors import DefinitionError, Permanent
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.saga.testing import Harness, explore
from choreo.services.context import Context, Transaction
from choreo.services.ladder import retry_topic
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
    until,
)

TWICE = Retry(attempts=2, first="1s", most="1s", jitter=0)
SOON = Retry(attempts=1)


def _inventory(store: object = ..., *, works_at: int = 99, error: Exception | None = None):
    service = Service("inventory") if store is ... else Service("inventory", store=store)
    tries: list[tuple[str, int, float]] = []

    @service.on(OrderPlaced, retry=TWICE, exhausted=retry_topic("1m", "10m", "1h"))
    async def reserve(order: OrderPlaced, context: Context) -> StockReserved:
        tries.append((order.order_id, context.attempt, asyncio.get_running_loop().time()))
        if order.order_id.startswith("bad") and context.attempt < works_at:
            raise error or OSError("no stock system")
        return StockReserved(order_id=order.order_id, number=order.number)

    return service, tries


@pytest.mark.parametrize("store", [..., None])
async def test_an_event_climbs_its_ladder_and_is_dead_after_the_last_rung(store):
    service, tries = _inventory(store)
    async with Harness(service) as harness:
        (sent,) = await harness.publish(OrderPlaced(order_id="bad"))
        await harness.advance("2s")
        await harness.publish(OrderPlaced(order_id="good"))
        await harness.settle()
        assert [event.order_id for event in harness.sent(StockReserved)] == ["good"], "its partition goes on"
        await harness.advance("2h")
        times = [(attempt, round(time)) for key, attempt, time in tries if key == "bad"]
        assert times == [(1, 0), (2, 1), (3, 61), (4, 661), (5, 4261)]
        (letter,) = harness.dead_letters()
        assert (letter.id, letter.topic, letter.attempts, letter.error) == (sent, "orders", 5, "OSError")


async def test_a_later_try_that_works_publishes_what_the_first_would_have_and_it_runs_once():
    service, tries = _inventory(works_at=4)
    async with Harness(service) as harness:
        await harness.publish(OrderPlaced(order_id="bad"), id="e1")
        await harness.publish(OrderPlaced(order_id="bad", number=1), id="e2")
        await harness.advance("30s")
        await harness.publish(OrderPlaced(order_id="bad"), id="e1")  # a copy meanwhile
        await harness.advance("1h")
        assert sorted(event.number for event in harness.sent(StockReserved)) == [0, 1]
        assert len(tries) == 8
        assert harness.dead_letters() == []


async def test_an_error_that_is_permanent_climbs_nothing(rig: Rig, store):
    service, tries = _inventory(store, error=Permanent("no such item"))
    await _create(rig, service)
    await rig.publish(OrderPlaced(order_id="bad"))
    worker = await rig.run(service)
    assert (len(tries), worker.counters.dead, worker.counters.delayed) == (1, 1, 0)


async def test_a_record_on_a_rung_is_the_event_as_it_came_and_sagas_hear_of_it_once(rig: Rig, store):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced, retry=SOON, exhausted=retry_topic("1ms", "2ms", "1h"))
    async def reserve(order: OrderPlaced) -> StockReserved:
        raise OSError("away")

    await _create(rig, service)
    (sent,) = await rig.publish(OrderPlaced(order_id="1"), saga_id="fulfilment/1", saga_type="fulfilment")
    worker = await rig.run(service)  # idle although one waits for an hour
    assert worker.counters.delayed == 3
    (original,) = await rig.published("orders")
    for pause in ("1ms", "2ms", "1h"):
        (rung,) = await rig.published(f"orders.retry.inventory.{pause}")
        assert (rung.envelope.id, rung.delivery.key, rung.delivery.value) == (
            sent,
            original.delivery.key,
            original.delivery.value,
        )
        told = [rung.header(f"retry-{name}") for name in ("handler", "partition", "offset")]
        assert told == ["reserve", str(original.delivery.partition), str(original.delivery.offset)]
        assert len(rung.delivery.headers) == len(original.delivery.headers) + 3
    (news,) = await rig.published("choreo.failures")
    assert (news.event["dead"], news.event["topic"], news.envelope.saga_id) == (False, "orders", "fulfilment/1")
    assert news.event["retry_topic"] == "orders.retry.inventory.1ms", "it is not parked"


async def test_only_the_handler_that_gave_up_tries_again(rig: Rig, store):
    service = Service("inventory", store=store)
    counted, tried = [], []

    @service.on(OrderPlaced, retry=SOON, exhausted=retry_topic("1ms"))
    async def reserve(order: OrderPlaced) -> None:
        tried.append(order.order_id)
        if len(tried) == 1:
            raise OSError("away")

    @service.on(OrderPlaced, OrderChanged)
    async def count(order: OrderPlaced | OrderChanged) -> None:
        counted.append(order.order_id)

    await _create(rig, service)
    await rig.publish(OrderPlaced(order_id="1"), OrderChanged(order_id="1"))
    await rig.run(service)
    assert (tried, counted) == (["1", "1"], ["1", "1"])


async def test_a_transactions_writes_of_a_failed_try_are_gone_and_a_later_one_commits(rig: Rig, store):
    service = Service("inventory", store=store)
    tries = []

    @service.on(OrderPlaced, retry=SOON, exhausted=retry_topic("1ms"))
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        tries.append(order.order_id)
        await tx.execute("CREATE TABLE IF NOT EXISTS took (item TEXT)")
        await tx.execute("INSERT INTO took VALUES ('book')")
        if len(tries) == 1:
            raise OSError("away")
        count = (await tx.execute("SELECT count(*) FROM took")).scalar_one()
        return StockReserved(order_id=order.order_id, number=count)

    await _create(rig, service)
    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service)
    assert [each.event["number"] for each in await rig.published("inventory")] == [1]


async def test_ruling_6_an_undo_supersedes_what_waits_on_a_rung(rig: Rig, store):
    service = Service("payment", store=store)
    charged, refunded = [], []

    @service.on(Charge, retry=SOON, exhausted=retry_topic("400ms"))
    async def charge(order: Charge, tx: Transaction) -> Charged:
        charged.append(order.order_id)
        raise OSError("the bank is away")

    @service.on(Refund, undoes=charge)
    async def refund(order: Refund, tx: Transaction) -> Refunded:
        refunded.append(order.order_id)
        return Refunded(order_id=order.order_id)

    await _create(rig, service)
    async with rig.running(service) as worker:
        (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
        await until(lambda: worker.counters.delayed >= 1)
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=[sent]))
        await until(lambda: worker.counters.refused >= 1)  # what came from the rung
    (answer,) = await rig.published("payments")
    assert (answer.type, answer.header("undo-empty"), charged, refunded) == ("Refunded", "1", ["1"], [])


@pytest.mark.parametrize(
    "headers",
    [
        (("retry-handler", b"nobody"),),
        (("retry-handler", b"count"),),  # it climbs nothing
        (("retry-partition", b"-1"), ("retry-offset", b"9" * 40)),
    ],
)
async def test_what_a_stranger_puts_on_a_rung_is_a_dead_letter_of_the_topic_itself(rig: Rig, store, headers):
    service, tries = _inventory(store)

    @service.on(OrderPlaced)
    async def count(order: OrderPlaced) -> None: ...

    await _create(rig, service)
    made = rig.record(OrderPlaced(order_id="1"))
    topic = "orders.retry.inventory.1m"
    await rig.broker.send([Record(topic, made.key, made.value, (*made.headers, *headers), timestamp=1)])
    await rig.run(service)
    (letter,) = await rig.published("orders.dlq")
    assert (letter.header("dlq-topic"), letter.header("dlq-error"), tries) == ("orders", "DecodeError", [])


async def test_a_timestamp_of_the_future_makes_nothing_wait_longer_than_its_rung(rig: Rig, store):
    service = Service("inventory", store=store)
    handled = []

    @service.on(OrderPlaced, retry=SOON, exhausted=retry_topic("200ms"))
    async def reserve(order: OrderPlaced) -> None:
        handled.append(order.order_id)

    await _create(rig, service)
    made = rig.record(OrderPlaced(order_id="1"))
    headers = (*made.headers, ("retry-handler", b"reserve"))
    await rig.broker.send(
        [Record("orders.retry.inventory.200ms", made.key, made.value, headers, timestamp=4_000_000_000_000)]
    )
    async with rig.running(service):
        await until(lambda: handled == ["1"])


async def test_what_waits_on_a_rung_survives_a_restart_and_a_rebalance(rig: Rig, store):
    service, _ = _inventory_with("600ms", store)
    await _create(rig, service)
    await rig.publish(*(OrderPlaced(order_id=f"bad-{n}") for n in range(20)))
    async with rig.worker(service) as worker:
        await until(lambda: worker.counters.delayed >= 20)
    async with rig.worker(service) as first, rig.worker(service) as second:
        await until(lambda: first.counters.handled + second.counters.handled >= 20)
    assert len({each.envelope.id for each in await rig.published("inventory")}) == 20


def _inventory_with(pause: str, store: str):
    service = Service("inventory", store=store)
    tries = []

    @service.on(OrderPlaced, retry=SOON, exhausted=retry_topic(pause))
    async def reserve(order: OrderPlaced) -> StockReserved:
        tries.append(order.order_id)
        if tries.count(order.order_id) == 1:
            raise OSError("away")
        return StockReserved(order_id=order.order_id)

    return service, tries


@pytest.mark.parametrize("pauses", [(), ("1m", "1m"), ("soon",), (60,), ("1 m",), ("x" * 3,), ("1m",) * 11])
def test_a_ladder_that_cannot_work_is_refused_where_it_is_written(pauses):
    with pytest.raises(DefinitionError):
        retry_topic(*pauses)


def test_a_service_names_its_rungs_among_its_topics():
    service, _ = _inventory()
    names = [f"orders.retry.inventory.{pause}" for pause in ("10m", "1h", "1m")]
    assert list(service.retry_topics) == names
    assert set(names) < {spec.name for spec in service.topics()}
    assert service.announcement().handlers[0].retry_topics == [names[2], names[0], names[1]]


async def _create(rig: Rig, service: Service) -> None:
    await rig.broker.create_topics(service.topics())


# -- in simulation ----------------------------------------------------------------------------------------------------


payment = Service("payment")


@payment.on(Charge, retry=Retry(attempts=2, first="1s", most="1s"), exhausted=retry_topic("1m", "5m"))
async def charge(order: Charge) -> Charged:
    return Charged(order_id=order.order_id)


@payment.on(Refund, undoes=charge)
async def refund(order: Refund) -> Refunded:
    return Refunded(order_id=order.order_id)


class Buying(Saga, start=OrderPlaced, key="order_id", version=1, deadline="2h"):
    pay = step(send=Charge, done=Charged, undo=Refund, undone=Refunded, within="1h")


def test_no_schedule_of_faults_breaks_a_saga_whose_service_uses_retry_topics():
    explore(Buying, services=[payment], events=[OrderPlaced(order_id="1")], seeds=8)
