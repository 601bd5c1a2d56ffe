"""`Transaction`: a handler's own writes, its inbox row and its outputs commit together, many events at once (R15)."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update
from structlog.testing import capture_logs

from choreo.events.database import Database
from choreo.services.context import Transaction
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import NOW, OrderChanged, OrderPlaced, Rig, StockReserved, until

QUICK = Retry(attempts=3, first="1ms", most="2ms")
tables = MetaData()
stock = Table("stock", tables, Column("item", String(20), primary_key=True), Column("left", Integer, nullable=False))


async def _read(url: str, statement):
    database = await Database.open(url)
    try:
        return await database.read(lambda connection: connection.execute(statement).all())
    finally:
        await database.close()


def _taking(store, fails=lambda order, tries: False):
    """A service that counts down a stock of its own for each order, and fails after it has written."""
    service = Service("inventory", store=store, tables=tables)
    tries: dict[int, int] = {}

    @service.on(OrderPlaced, retry=QUICK)
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        tries[order.number] = tries.get(order.number, 0) + 1
        row = (await tx.execute(select(stock.c.left).where(stock.c.item == "book"))).first()
        if row is None:
            await tx.execute(insert(stock).values(item="book", left=1_000))
        await tx.execute(update(stock).where(stock.c.item == "book").values(left=stock.c.left - 1))
        if fails(order, tries[order.number]):
            raise OSError("after the write")
        return StockReserved(order_id=order.order_id, number=order.number)

    return service, tries


async def test_a_handlers_writes_and_its_outputs_commit_together_and_its_failures_leave_no_trace(rig: Rig, store_url):
    service, tries = _taking(store_url, lambda order, tries: order.number % 5 == 0 and (order.number == 0 or tries < 3))
    await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(20)))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.dead) == (19, 1)
    assert tries[0] == tries[5] == 3
    assert await _read(store_url, select(stock.c.left)) == [(1_000 - 19,)]
    assert len(await rig.published("inventory")) == 19


async def test_ruling_15_handlers_with_a_transaction_share_one_also_for_one_key(rig: Rig, store_url):
    """Ruling R15: one after another within one batch transaction, each in a savepoint."""
    service, _ = _taking(store_url)
    await rig.publish(*(OrderPlaced(order_id="same", number=n) for n in range(50)))
    await rig.publish(*(OrderPlaced(order_id=str(n), number=100 + n) for n in range(50)))
    worker = await rig.run(service)
    assert worker.counters.handled == 100
    assert worker.counters.transactions <= 3
    out = [each.event["number"] for each in await rig.published("inventory") if each.event["order_id"] == "same"]
    assert out == list(range(50))


async def test_ruling_15_a_failing_event_of_a_key_holds_back_what_follows_it_in_the_batch(rig: Rig, store):
    service, _ = _taking(store, lambda order, tries: order.number == 3 and tries < 3)
    await rig.publish(*(OrderPlaced(order_id="same", number=n) for n in range(8)))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.retries) == (8, 2)
    assert [each.event["number"] for each in await rig.published("inventory")] == list(range(8))


async def test_text_statements_take_their_values_as_parameters(rig: Rig, store):
    service = Service("inventory", store=store, tables=tables)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> None:
        await tx.execute('INSERT INTO stock (item, "left") VALUES (:item, :left)', {"item": order.order_id, "left": 3})
        await tx.execute(insert(stock), [{"item": f"{order.order_id}-{n}", "left": n} for n in range(2)])

    await rig.publish(OrderPlaced(order_id="x'); DROP TABLE stock; --"))
    await rig.run(service)
    assert len(await _read(store, select(stock.c.item))) == 3


async def test_a_transaction_cannot_be_used_after_its_handler(rig: Rig, store):
    service = Service("inventory", store=store)
    kept = []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> None:
        kept.append(tx)

    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service)
    with pytest.raises(RuntimeError, match="ended with its handler"):
        await kept[0].execute("SELECT 1")


async def test_a_handler_that_ends_the_transaction_itself_fails_alone(rig: Rig, store):
    service = Service("inventory", store=store, tables=tables)

    @service.on(OrderPlaced, retry=QUICK)
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        await tx.execute(insert(stock).values(item=order.order_id, left=1))
        if order.order_id == "bad":
            await tx.connection.rollback()
        return StockReserved(order_id=order.order_id)

    await rig.publish(*(OrderPlaced(order_id=key) for key in ("1", "2", "bad", "3")))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.dead) == (3, 1)
    assert sorted(await _read(store, select(stock.c.item))) == [("1",), ("2",), ("3",)]
    assert sorted(each.event["order_id"] for each in await rig.published("inventory")) == ["1", "2", "3"]


async def test_a_batch_that_is_rolled_back_as_a_whole_runs_again_without_a_trace(rig: Rig, store, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from choreo.services import inbox

    real, left = inbox.write, [1]

    def once(connection, entries, known, now):
        real(connection, entries, known, now)
        if left[0]:
            left[0] -= 1
            raise OperationalError("commit", {}, Exception("disk I/O error"))

    monkeypatch.setattr(inbox, "write", once)
    service, tries = _taking(store)
    await rig.publish(*(OrderPlaced(order_id=str(n % 3), number=n) for n in range(12)))
    worker = await rig.run(service)
    assert worker.counters.handled == 12
    assert set(tries.values()) == {2}
    assert await _read(store, select(stock.c.left)) == [(988,)]
    assert len(await rig.published("inventory")) == 12


async def test_handlers_with_and_without_a_transaction_live_in_one_service(rig: Rig, store):
    service, _ = _taking(store)
    seen = []

    @service.on(OrderChanged)
    async def watch(order: OrderChanged) -> None:
        await asyncio.sleep(0.001)
        seen.append(order.order_id)

    await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(10)))
    await rig.publish(*(OrderChanged(order_id=str(n)) for n in range(10)))
    worker = await rig.run(service)
    assert worker.counters.handled == 20
    assert sorted(seen) == sorted(str(n) for n in range(10))


async def test_row_4_two_workers_on_one_store_apply_an_event_once(rig: Rig, store_url):
    """guarantees.md, 2.4: whoever inserts second is rolled back, looks again and finds a duplicate."""
    first, tries = _taking(store_url)
    second, _ = _taking(store_url)
    record = [rig.record(OrderPlaced(order_id=str(n), number=n)) for n in range(20)]
    async with rig.running(first) as one:
        await rig.broker.send(record)
        await until(lambda: len(tries) > 0)
        async with rig.running(second) as two:  # a rebalance in the middle, and every record once more
            await rig.broker.send(record)
    assert one.counters.handled + two.counters.handled == 20
    assert await _read(store_url, select(stock.c.left)) == [(980,)]
    assert len({each.envelope.id for each in await rig.published("inventory")}) == 20


async def test_ruling_15_a_handler_that_holds_the_transaction_for_long_is_warned_of(rig: Rig, store):
    service, now = Service("inventory", store=store), [NOW]

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> None:
        now[0] += 3_000_000 if order.number else 1_000

    await rig.publish(OrderPlaced(order_id="1"), OrderPlaced(order_id="2", number=1))
    with capture_logs() as logs:
        worker = await rig.run(service, clock=lambda: now[0])
    assert worker.counters.handled == 2
    (warned,) = [entry for entry in logs if "took long" in entry["event"]]
    assert (warned["handler"], warned["seconds"]) == ("inventory.reserve", 3.0)
