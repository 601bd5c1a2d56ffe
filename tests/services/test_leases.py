"""What a handler holds, it holds for as long as it runs, however long its lease was at first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Select, select

from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.services import housekeeping
from choreo.services import worker as worker_module
from choreo.services.inbox import inbox, parked
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import (
    NOW,
    Charge,
    Charged,
    OrderPlaced,
    Refund,
    Refunded,
    Rig,
    StockReserved,
    command,
    until,
)

ONCE = Retry(attempts=1, first="1ms", most="2ms")
LEASE = 6 * SECOND

Read = Callable[[Select[tuple[int]]], Awaitable[list[int]]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_TICK", 0.01)


@asynccontextmanager
async def looking_into(store: str) -> AsyncIterator[Read]:
    """Read one column of a store that a worker has open."""
    database = await Database.open(store)

    async def read(query: Select[tuple[int]]) -> list[int]:
        return await database.read(lambda connection: list(connection.execute(query).scalars()))

    try:
        yield read
    finally:
        await database.close()


async def three_times_as_long(now: list[int], read: Read, ends: Select[tuple[int]]) -> None:
    """Let three leases go by on the workers' clock, which never passes an end that was not renewed in time."""
    for _ in range(9):
        now[0] += LEASE // 3 + 1

        async def renewed() -> bool:
            found = await read(ends)
            return bool(found) and min(found) == now[0] + LEASE

        await until(renewed)


async def test_row_14_an_undo_waits_for_its_step_however_long_that_runs(rig: Rig, store: str) -> None:
    service = Service("payment", store=store, claim="6s")
    begun, may, done = asyncio.Event(), asyncio.Event(), []
    now = [NOW]

    @service.on(Charge, retry=ONCE)
    async def charge(command: Charge) -> Charged:
        begun.set()
        await may.wait()
        done.append("charged")
        return Charged(order_id=command.order_id)

    @service.on(Refund, undoes=charge, retry=ONCE)
    async def refund(command: Refund) -> Refunded:
        done.append("refunded")
        return Refunded(order_id=command.order_id)

    async with rig.running(service, clock=lambda: now[0]) as worker, looking_into(store) as read:
        (sent,) = await rig.publish(Charge(order_id="1"), **command("charge"))
        await begun.wait()
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=[sent]))
        await until(lambda: len(worker._dispatcher.jobs) == 2)
        await three_times_as_long(now, read, select(inbox.c.until).where(inbox.c.state == "claimed"))
        await asyncio.sleep(0.3)  # the undo looks again and again
        assert done == []
        may.set()
    assert done == ["charged", "refunded"]
    assert [each.type for each in await rig.published("payments")] == ["Charged", "Refunded"]


async def test_row_11_a_parked_event_that_is_being_tried_is_tried_by_nobody_else(
    rig: Rig, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_PARKED_LEASE", LEASE)
    tries: list[str] = []
    may = asyncio.Event()
    now = [NOW]

    def replica(name: str) -> Service:
        service = Service("inventory", store=store_url)

        @service.on(OrderPlaced, retry=ONCE, exhausted="park")
        async def reserve(order: OrderPlaced) -> StockReserved:
            tries.append(name)
            if len(tries) == 1:
                raise OSError("away")
            await may.wait()
            return StockReserved(order_id=order.order_id, number=order.number)

        return service

    def clock() -> int:
        return now[0]

    async with (
        rig.running(replica("one"), clock=clock) as one,
        rig.running(replica("two"), clock=clock) as two,
        looking_into(store_url) as read,
    ):
        await rig.publish(OrderPlaced(order_id="1"))
        await until(lambda: one.counters.parked + two.counters.parked >= 1)
        now[0] += SECOND  # its turn has come
        await until(lambda: len(tries) >= 2)
        await three_times_as_long(now, read, select(parked.c.due_at))
        await asyncio.sleep(0.3)  # both look for what is due
        assert len(tries) == 2
        may.set()
    assert len(await rig.published("inventory")) == 1


async def test_row_13_what_a_zombie_relay_sends_late_is_dropped_by_its_id_and_refused_after_the_undo(
    rig: Rig, store: str
) -> None:
    """The participant's half of the fencing: the inbox knows the id, the guard knows the step."""
    service = Service("payment", store=store)
    done: list[str] = []

    @service.on(Charge, retry=ONCE)
    async def charge(command: Charge) -> Charged:
        done.append("charged")
        return Charged(order_id=command.order_id)

    @service.on(Refund, undoes=charge, retry=ONCE)
    async def refund(command: Refund) -> Refunded:
        done.append("refunded")
        return Refunded(order_id=command.order_id)

    first = rig.record(Charge(order_id="1"), **command("charge"))
    second = rig.record(Charge(order_id="1"), **command("charge", attempt=2))
    async with rig.running(service) as worker:
        await rig.broker.send([first])
        await until(lambda: worker.counters.handled >= 1)
        await rig.broker.send([first])
        await until(lambda: worker.counters.duplicates >= 1)
        await rig.publish(Refund(order_id="1"), **command("charge", undoes=["nothing else"]))
        await until(lambda: worker.counters.handled >= 2)
        await rig.broker.send([first, second])  # the second attempt was decided before the undo, and sent after it
        await until(lambda: worker.counters.refused >= 1)
    assert done == ["charged", "refunded"]
