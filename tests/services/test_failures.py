"""Failures: retries in place, dead letters with their reason, the news for sagas, and the parking place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from sqlalchemy import select, text

from choreo.events.database import Database
from choreo.events.envelope import Delivery, Record
from choreo.events.errors import Permanent, RegistryUnreachable
from choreo.events.registry import EmbeddedRegistry
from choreo.services import inbox
from choreo.services.context import Context, Transaction
from choreo.services.dead_letters import Failure, dead_letter
from choreo.services.retry import Retry
from choreo.services.service import Handler, Service
from choreo.services.worker import Worker
from tests.services.shop import (
    NOW,
    Charge,
    Charged,
    OrderChanged,
    OrderPlaced,
    Refund,
    Refunded,
    Rig,
    StockReserved,
    command,
    idle,
    until,
)

QUICK = Retry(attempts=3, first="1ms", most="2ms")


def _failing(store, error, times=10**9, **options):
    service = Service("inventory", store=store)
    tries = []

    @service.on(OrderPlaced, retry=QUICK, **options)
    async def reserve(order: OrderPlaced, context: Context) -> StockReserved:
        tries.append((order.order_id, order.number, context.attempt))
        if order.order_id == "bad" and sum(1 for key, *_ in tries if key == "bad") <= times:
            raise error
        return StockReserved(order_id=order.order_id, number=order.number)

    return service, tries


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize(("error", "attempts"), [(OSError("bank away"), 3), (Permanent("declined"), 1)])
async def test_an_event_that_fails_for_good_becomes_a_dead_letter_with_its_reason(
    rig: Rig, store, stateless, error, attempts
):
    service, tries = _failing(None if stateless else store, error)
    (sent,) = await rig.publish(OrderPlaced(order_id="bad", number=7), saga_id="fulfilment/bad")
    await rig.publish(OrderPlaced(order_id="good"))
    worker = await rig.run(service, clock=lambda: NOW)
    assert (worker.counters.dead, worker.counters.handled, len(tries)) == (1, 1, attempts + 1)
    (letter,) = await rig.published("orders.dlq")
    (original,) = [each for each in await rig.published("orders") if each.envelope.id == sent]
    assert (letter.delivery.key, letter.delivery.value) == (original.delivery.key, original.delivery.value)
    assert letter.delivery.headers[: len(original.delivery.headers)] == original.delivery.headers
    assert letter.header("dlq-service") == "inventory"
    assert letter.header("dlq-handler") == "reserve"
    assert letter.header("dlq-error") == type(error).__name__
    assert letter.header("dlq-message") == str(error)
    assert letter.header("dlq-attempts") == str(attempts)
    assert letter.header("dlq-topic") == "orders"
    assert letter.header("dlq-partition") == str(original.delivery.partition)
    assert letter.header("dlq-offset") == str(original.delivery.offset)
    assert letter.header("dlq-time") == "2026-09-21T14:13:20.000000Z"


async def test_ruling_14_the_saga_hears_of_a_dead_letter_under_the_key_of_the_input(rig: Rig, store):
    """Ruling R14."""
    service, _ = _failing(store, Permanent("no stock system"))
    (sent,) = await rig.publish(OrderPlaced(order_id="bad"), saga_id="fulfilment/bad", saga_type="fulfilment")
    await rig.run(service)
    (news,) = await rig.published("choreo.failures")
    assert (news.type, news.envelope.key, news.envelope.saga_id) == ("HandlerFailed", "bad", "fulfilment/bad")
    assert news.envelope.causation_id == sent
    place = {name: news.event.pop(name) for name in ("partition", "offset")}
    assert place == {"partition": (await rig.published("orders"))[0].delivery.partition, "offset": 0}
    assert news.event == {
        "key": "bad",
        "service": "inventory",
        "handler": "reserve",
        "event_id": sent,
        "event_type": "OrderPlaced",
        "topic": "orders",
        "dead": True,
        "attempts": 1,
        "error_class": "Permanent",
        "message": "no stock system",
        "retry_topic": "",
    }


async def test_an_error_text_goes_no_further_than_its_first_line(rig: Rig, store):
    service, _ = _failing(store, Permanent("refused\npayload: 4111 1111 1111 1111"))
    await rig.publish(OrderPlaced(order_id="bad"))
    await rig.run(service)
    (letter,) = await rig.published("orders.dlq")
    assert letter.header("dlq-message") == "refused"


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (b"\x00\x00", None, "DecodeError"),
        (b"no avro", None, "DecodeError"),
        (None, None, "DecodeError"),
        (b"\x00\x7f\xff\xff\xffxx", None, "DecodeError"),
        (b"{}", (("ce_id", b"1"), ("ce_id", b"2")), "DecodeError"),
        (b"{}", (("ce_id", b"\xff"),), "DecodeError"),
        (b"{}", (("ce_id", b"x" * 256),), "DecodeError"),
        (b"{}", (("ce_id", b"a\0b"),), "DecodeError"),
        (b"{}", tuple((f"h{n}", b"") for n in range(65)), "LimitExceeded"),
    ],
)
@pytest.mark.parametrize("stateless", [False, True])
async def test_row_27_what_cannot_be_read_is_a_dead_letter_at_once_and_nothing_else_changes(
    rig: Rig, store, value, headers, error, stateless
):
    """Semantics, row 27."""
    service, tries = _failing(None if stateless else store, OSError())
    good = rig.record(OrderPlaced(order_id="good"))
    given = good.headers if headers is None else headers
    await rig.broker.send([Record("orders", b"good", value, given), rig.record(OrderPlaced(order_id="good"))])
    worker = await rig.run(service)
    assert (worker.counters.dead, worker.counters.handled, worker.counters.retries) == (1, 1, 0)
    (letter,) = await rig.deliveries("orders.dlq")
    reasons = dict(letter.headers)
    assert (letter.key, letter.value) == (b"good", value)
    assert (reasons["dlq-error"], reasons["dlq-attempts"]) == (error.encode(), b"0")
    assert len(await rig.published("choreo.failures")) == 1
    assert await rig.all_committed("inventory", "orders")
    assert len(tries) == 1


async def test_a_record_with_a_key_that_is_no_text_is_a_dead_letter(rig: Rig, store):
    service, _ = _failing(store, OSError())
    await rig.broker.send([Record("orders", b"\xff\x00", b"{}")])
    worker = await rig.run(service)
    assert worker.counters.dead == 1
    assert (await rig.deliveries("orders.dlq"))[0].key == b"\xff\x00"


async def test_a_dead_letter_is_written_once_though_its_record_is_delivered_again(rig: Rig, store):
    service, _ = _failing(store, Permanent("no"))
    bad = rig.record(OrderPlaced(order_id="bad"))
    await rig.broker.send([bad, Record("orders", b"bad", b"x", bad.headers)])
    await rig.run(service)
    await rig.broker.send([bad])
    worker = await rig.run(service)
    assert worker.counters.duplicates == 1
    assert len(await rig.deliveries("orders.dlq")) == 1


async def test_row_27_a_dead_letter_that_a_person_sends_again_runs_once_more(rig: Rig, store):
    """guarantees.md, 2.6: the same id, a `replay-id` header, and a failed event is not a duplicate."""
    service, tries = _failing(store, Permanent("no"), times=1)
    bad = rig.record(OrderPlaced(order_id="bad"))
    await rig.broker.send([bad])
    await rig.run(service)
    again = Record(bad.topic, bad.key, bad.value, (*bad.headers, ("replay-id", b"r-1")))
    await rig.broker.send([again, again])
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.duplicates, len(tries)) == (1, 1, 2)


def test_a_dead_letter_too_large_for_the_broker_leaves_its_value_behind():
    delivery = Delivery("orders", 0, 5, 1, b"k", b"v" * 999_990, (("ce_id", b"1"),))
    letter = dead_letter(delivery, Failure("inventory", "reserve", ValueError("no"), 1, True, NOW, None))
    assert letter.value is None
    assert dict(letter.headers)["dlq-value"] == b"omitted"
    assert dict(letter.headers)["dlq-offset"] == b"5"


async def test_an_output_that_no_broker_would_take_fails_its_handler_alone(rig: Rig, store):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id * (600_000 if order.order_id == "bad" else 1))

    await rig.publish(OrderPlaced(order_id="bad"), OrderPlaced(order_id="1"))
    worker = await rig.run(service)
    assert (worker.counters.dead, worker.counters.handled) == (1, 1)
    assert (await rig.published("orders.dlq"))[0].header("dlq-error") == "LimitExceeded"


async def test_a_handler_that_returns_what_it_never_declared_is_told_so(rig: Rig, store):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return Charged(order_id=order.order_id)  # type: ignore[return-value]

    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service)
    (letter,) = await rig.published("orders.dlq")
    assert "returned Charged, which its return annotation does not name" in letter.header("dlq-message")


@pytest.mark.parametrize("inside", ["nothing", "transaction"])
async def test_a_handler_that_lets_its_own_cancellation_escape_fails_alone(rig: Rig, store, inside):
    service = Service("inventory", store=store)

    if inside == "transaction":

        @service.on(OrderPlaced, retry=Retry(attempts=1))
        async def reserve(order: OrderPlaced, tx: Transaction) -> None:
            if order.order_id == "bad":
                raise asyncio.CancelledError
    else:

        @service.on(OrderPlaced, retry=Retry(attempts=1))
        async def reserve(order: OrderPlaced) -> None:
            if order.order_id == "bad":
                raise asyncio.CancelledError

    await rig.publish(*(OrderPlaced(order_id=key) for key in ("1", "bad", "2", "3")))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.dead) == (3, 1)


@pytest.mark.parametrize("stateless", [False, True])
async def test_an_unreadable_record_with_a_huge_key_stops_nothing(rig: Rig, store, stateless):
    service, _ = _failing(None if stateless else store, OSError())
    good = rig.record(OrderPlaced(order_id="good"))
    await rig.broker.send([Record("orders", b"k" * 600_000, b"no avro", good.headers), good])
    worker = await rig.run(service)
    assert (worker.counters.dead, worker.counters.handled + worker.counters.duplicates) == (1, 1)
    assert len(await rig.deliveries("orders.dlq")) == 1
    (news,) = await rig.published("choreo.failures")
    assert news.envelope.causation_id == dict(good.headers)["ce_id"].decode()


async def test_a_key_that_no_database_takes_is_parked_all_the_same(rig: Rig, store_url):
    """PostgreSQL's text holds no NUL, and Kafka's keys may: numbers of eight bytes, say."""
    service = Service("inventory", store=store_url)
    may = asyncio.Event()

    @service.on(OrderPlaced, retry=Retry(attempts=1, first="1ms", most="2ms"), exhausted="park")
    async def reserve(order: OrderPlaced) -> None:
        if not may.is_set():
            raise OSError("warehouse away")

    given = rig.record(OrderPlaced(order_id="1"))
    async with rig.running(service) as worker:
        await rig.broker.send([Record("orders", b"\0\0\0\0\0\0\0\x07", given.value, given.headers)])
        await until(lambda: worker.counters.parked >= 1)
        may.set()
        await until(lambda: worker.counters.handled >= 1)


async def test_an_outage_of_the_registry_is_waited_for(rig: Rig, store):
    """guarantees.md, fault 48: the event is not to blame."""
    service, _ = _failing(store, OSError())

    class Registry(EmbeddedRegistry):
        away = True
        asked = 0

        async def fetch(self, schema_id):
            Registry.asked += 1
            if self.away:
                raise RegistryUnreachable("the registry does not answer")
            return await super().fetch(schema_id)

    registry = Registry(rig.broker)
    worker = rig.worker(service)
    worker = type(worker)(service, rig.broker, settings=rig.settings, registry=registry)
    async with worker:
        await rig.publish(OrderPlaced(order_id="1"))
        await until(lambda: Registry.asked >= 1)
        assert not await worker.idle()
        registry.away = False
        await idle(worker)
    assert (worker.counters.handled, worker.counters.dead) == (1, 0)


async def _rows(store: str, table):
    database = await Database.open(store)
    try:
        return await database.read(lambda c: c.execute(select(table)).all())
    finally:
        await database.close()


async def test_ruling_6_a_parked_event_holds_its_key_and_nothing_else_and_order_is_kept(rig: Rig, store_url):
    """Ruling R6: the partition moves on, what follows of the key waits in the store."""
    service = Service("inventory", store=store_url)
    may, seen = asyncio.Event(), []

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="1ms", most="20ms"), exhausted="park")
    async def reserve(order: OrderPlaced) -> StockReserved:
        if order.order_id == "bad" and order.number == 0 and not may.is_set():
            raise OSError("warehouse away")
        seen.append((order.order_id, order.number))
        return StockReserved(order_id=order.order_id, number=order.number)

    async with rig.running(service) as worker:
        await rig.publish(*(OrderPlaced(order_id="bad", number=n) for n in range(3)))
        await until(lambda: worker.counters.parked >= 3)
        await rig.publish(OrderPlaced(order_id="bad", number=3), OrderPlaced(order_id="good"))
        await until(lambda: rig.all_committed("inventory", "orders"))
        assert seen == [("good", 0)]
        parked = await _rows(store_url, inbox.parked)
        assert sorted((row.lane, row.attempts > 0) for row in parked) == [("bad", False)] * 3 + [("bad", True)]
        may.set()
        await until(lambda: len(seen) >= 5)
        await rig.publish(OrderPlaced(order_id="bad", number=4))
    assert seen[1:] == [("bad", n) for n in range(5)]
    assert await _rows(store_url, inbox.parked) == []
    out = [each.event["number"] for each in await rig.published("inventory") if each.event["order_id"] == "bad"]
    assert out == [0, 1, 2, 3, 4]
    (news,) = await rig.published("choreo.failures")
    assert (news.event["dead"], news.event["attempts"], news.event["key"]) == (False, 2, "bad")


async def test_a_parked_event_survives_a_restart_and_a_duplicate_of_it_changes_nothing(rig: Rig, store):
    service, _ = _failing(store, OSError("away"), times=3, exhausted="park")
    bad = rig.record(OrderPlaced(order_id="bad"))
    await rig.broker.send([bad])
    worker = rig.worker(service)
    await worker.start()
    await until(lambda: worker.counters.parked >= 1)
    await worker.stop()
    await rig.broker.send([bad])
    await rig.run(service, clock=_ahead(60))  # past the lease of the try that the stop may have cut off
    assert len(await rig.published("inventory")) == 1
    assert await _rows(store, inbox.parked) == []


async def test_row_27_a_replayed_dead_letter_waits_behind_what_is_parked_of_its_key(rig: Rig, store):
    service = Service("inventory", store=store)
    may, seen = asyncio.Event(), []

    @service.on(OrderPlaced, retry=Retry(attempts=1, first="1ms", most="2ms"), exhausted="park")
    async def reserve(order: OrderPlaced) -> None:
        if not may.is_set():
            raise Permanent("no such item") if order.number == 0 else OSError("warehouse away")
        seen.append(order.number)

    dead = rig.record(OrderPlaced(order_id="1", number=0))
    async with rig.running(service) as worker:
        await rig.broker.send([dead])
        await until(lambda: worker.counters.dead >= 1)
        await rig.publish(OrderPlaced(order_id="1", number=1))
        await until(lambda: worker.counters.parked >= 1)
        again = Record(dead.topic, dead.key, dead.value, (*dead.headers, ("replay-id", b"r-1")))
        await rig.broker.send([again])
        await until(lambda: rig.all_committed("inventory", "orders"))
        may.set()
        await until(lambda: len(seen) >= 2)
    assert seen == [1, 0]


async def test_an_event_whose_claim_was_cut_off_waits_behind_what_is_parked_of_its_key(rig: Rig, store):
    service = Service("payment", store=store)
    may, charged = asyncio.Event(), []

    @service.on(Charge, retry=Retry(attempts=1, first="1ms", most="2ms"), exhausted="park")
    async def charge(command: Charge, context: Context) -> None:
        if not may.is_set():
            raise OSError("bank away")
        charged.append(context.event_id)

    @service.on(Refund, undoes=charge)
    async def refund(command: Refund) -> Refunded:
        return Refunded(order_id=command.order_id)

    async with rig.running(service) as worker:
        await rig.publish(Charge(order_id="1"), id="c1")
        await until(lambda: worker.counters.parked >= 1)
        database = await Database.open(store)
        await database.write(lambda c: inbox.write(c, [inbox.Entry("payment.charge", "c2", "claimed", NOW)], (), NOW))
        await database.close()
        await rig.publish(Charge(order_id="1"), id="c2")
        await until(lambda: rig.all_committed("payment", "payment.commands"))
        may.set()
        await until(lambda: len(charged) >= 2)
    assert charged == ["c1", "c2"]


async def test_a_parked_event_that_its_handler_no_longer_takes_is_a_dead_letter(rig: Rig, store):
    def service(*events):
        found = Service("inventory", store=store)

        @found.on(*events, retry=Retry(attempts=1, first="1ms"), exhausted="park")
        async def reserve(order: events[0] if len(events) == 1 else events[0] | events[1]) -> None:
            raise OSError("away")

        return found

    worker = rig.worker(service(OrderPlaced, OrderChanged))
    async with worker:
        await rig.publish(OrderChanged(order_id="1"))
        await until(lambda: worker.counters.parked >= 1)
    worker = await rig.run(service(OrderPlaced), clock=_ahead(60))
    assert worker.counters.dead == 1
    (letter,) = await rig.published("orders.dlq")
    assert letter.header("dlq-error") == "DecodeError"


async def test_parked_events_are_tried_on_though_their_handler_no_longer_parks(rig: Rig, store):
    def service(exhausted):
        found = Service("inventory", store=store)

        @found.on(OrderPlaced, retry=Retry(attempts=1, first="1ms"), exhausted=exhausted)
        async def reserve(order: OrderPlaced) -> StockReserved:
            if exhausted == "park":
                raise OSError("away")
            return StockReserved(order_id=order.order_id)

        return found

    worker = rig.worker(service("park"))
    async with worker:
        await rig.publish(OrderPlaced(order_id="1"))
        await until(lambda: worker.counters.parked >= 1)
    await rig.run(service("dead"), clock=_ahead(60))
    assert len(await rig.published("inventory")) == 1
    assert await _rows(store, inbox.parked) == []


def _ahead(seconds: int):
    from choreo.events.clock import system_clock

    return lambda: system_clock() + seconds * 1_000_000


@pytest.mark.parametrize("claims", [True, False])
async def test_ruling_6_an_undo_supersedes_the_parked_event_that_it_undoes(rig: Rig, store, claims):
    """Ruling R6: an undo never waits behind what it undoes."""
    service = Service("payment", store=store)
    refunded, charged = [], []

    if claims:

        @service.on(Charge, retry=Retry(attempts=1, first="30s"), exhausted="park")
        async def charge(command: Charge) -> Charged:
            charged.append(command.order_id)
            raise OSError("bank away")
    else:

        @service.on(Charge, retry=Retry(attempts=1, first="30s"), exhausted="park")
        async def charge(command: Charge, tx: Transaction) -> Charged:
            charged.append(command.order_id)
            raise OSError("bank away")

    @service.on(Refund, undoes=charge)
    async def refund(command: Refund) -> Refunded:
        refunded.append(command.order_id)
        return Refunded(order_id=command.order_id)

    first = rig.record(Charge(order_id="1"), id="c1", **command("charge"))
    behind = rig.record(Charge(order_id="1"), id="c2", **command("other"))
    worker = rig.worker(service)
    await worker.start()
    try:
        await rig.broker.send([first, behind])
        await until(lambda: worker.counters.parked >= 2)
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=["c1"]))
        await until(lambda: _has_refund(rig))
        left = await _rows(store, inbox.parked)
        assert [row.event_id for row in left] == ["c2"]
        # A claim means that the bank was asked, and who knows what it did; a transaction was rolled back.
        assert refunded == (["1"] if claims else [])
        states = {row.event_id: row.state for row in await _rows(store, inbox.inbox)}
        assert states["c1"] == ("unknown" if claims else "refused")
        await rig.broker.send([first])
        await until(lambda: worker.counters.refused >= 1)
    finally:
        await worker.stop()


async def _has_refund(rig: Rig) -> bool:
    return bool(await rig.published("payments", "Refunded"))


async def test_an_event_that_the_database_refuses_is_found_and_dead_lettered_alone(rig: Rig, store, monkeypatch):
    """guarantees.md, 2.5: when the database rejects the batch, it is halved until the culprit stands alone."""
    from sqlalchemy.exc import DataError

    service, _ = _failing(store, OSError())
    real = inbox.write

    def refuse(connection, entries, known, now):
        if any(entry.event_id == "poison" and entry.state == "done" for entry in entries):
            raise DataError("insert", {}, Exception("value out of range"))
        real(connection, entries, known, now)

    monkeypatch.setattr(inbox, "write", refuse)
    await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(20)))
    await rig.publish(OrderPlaced(order_id="20"), id="poison")
    await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(21, 30)))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.dead) == (29, 1)
    assert {each.event["order_id"] for each in await rig.published("inventory")} == {str(n) for n in range(30)} - {"20"}
    (letter,) = await rig.published("orders.dlq")
    assert (letter.envelope.id, letter.header("dlq-error")) == ("poison", "DataError")


async def test_fault_40_a_store_that_is_full_for_a_while_stops_nothing_for_good(rig: Rig, store, monkeypatch):
    """guarantees.md, 3.2: roll back, stay alive, recover by itself."""
    from sqlalchemy.exc import OperationalError

    service, tries = _failing(store, OSError())
    real, left = inbox.write, [2]

    def full(connection, entries, known, now):
        real(connection, entries, known, now)
        if left[0]:
            left[0] -= 1
            raise OperationalError("commit", {}, Exception("database or disk is full"))

    monkeypatch.setattr(inbox, "write", full)
    await rig.publish(OrderPlaced(order_id="1"), OrderPlaced(order_id="2"))
    worker = await rig.run(service)
    assert (worker.counters.handled, len(tries)) == (2, 2)
    assert len(await rig.published("inventory")) == 2


async def test_fault_40_a_store_that_only_reads_for_a_while_makes_no_dead_letters(rig: Rig, postgres_url):
    """guarantees.md, faults 36 and 40: after a fail-over, or with a full disk, the database refuses every write."""
    service, _ = _failing(postgres_url, OSError())
    await rig.run(service)
    async with rig.worker(service) as worker:
        await _only_reads(postgres_url, True)
        await rig.publish(OrderPlaced(order_id="1"))
        with structlog.testing.capture_logs() as logs:
            await until(lambda: any("does not answer, work waits" in entry["event"] for entry in logs))
        assert worker.counters.dead == 0
        await _only_reads(postgres_url, False)
        await idle(worker)
    assert (worker.counters.handled, worker.counters.dead) == (1, 0)


async def _only_reads(url: str, switch: bool) -> None:
    """Switch a database, and end its connections, so that all of them know."""
    database = await Database.open(url)
    try:
        async with database.transaction() as connection:
            await connection.execute(text("SET TRANSACTION READ WRITE"))
            name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
            word = "on" if switch else "off"
            await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {word}'))
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
    finally:
        await database.close()


async def test_a_registry_client_that_fails_in_its_own_way_holds_up_no_key_for_ever(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.dispatcher._REGISTRY_PAUSE", 1_000)
    service = Service("inventory", store=store)
    seen: list[str] = []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    class Odd(EmbeddedRegistry):
        left = 2

        async def fetch(self, schema_id: int) -> Any:
            if self.left:
                self.left -= 1
                raise RuntimeError("an error that nobody has thought of")
            return await super().fetch(schema_id)

    async with Worker(service, rig.broker, settings=rig.settings, registry=Odd(rig.broker)) as worker:
        await rig.publish(OrderPlaced(order_id="1"))
        await idle(worker)
    assert seen == ["1"]


async def test_an_error_of_ours_around_a_handler_is_that_events_alone(rig: Rig, store, monkeypatch):
    service = Service("inventory", store=store)
    seen: list[str] = []

    @service.on(OrderPlaced, retry=Retry(attempts=1, first="1ms", most="1ms"))
    async def reserve(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    original = Handler.arguments

    def arguments(self: Handler, event: Any, *rest: Any) -> Any:
        if event.order_id == "bad":
            raise LookupError("a defect")
        return original(self, event, *rest)

    monkeypatch.setattr(Handler, "arguments", arguments)
    async with rig.running(service) as worker:
        await rig.publish(OrderPlaced(order_id="bad"), OrderPlaced(order_id="good"))
    assert seen == ["good"]
    assert (worker.counters.dead, worker.counters.handled) == (1, 1)
