"""Step and undo in two processes at the same moment: the inbox's primary key lets one of them be first (R4, R5)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Column, MetaData, String, Table, delete, insert, select

from choreo.events.clock import SECOND, system_clock
from choreo.events.database import Database
from choreo.events.envelope import read_envelope
from choreo.events.outbox import Relay
from choreo.services import inbox
from choreo.services.board import Finished
from choreo.services.commit import StoreCommit
from choreo.services.context import Transaction
from choreo.services.execution import Execution
from choreo.services.job import Job, Later, Route
from choreo.services.provided import Provided
from choreo.services.service import Service
from choreo.tracing.spans import Tracing
from tests.services.shop import OrderPlaced, ReleaseStock, Rig, StockReleased, StockReserved, command

tables = MetaData()
reservations = Table("reservation", tables, Column("order_id", String(40), primary_key=True))


def _service(released: list[str]) -> Service:
    service = Service("inventory")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        await tx.execute(insert(reservations).values(order_id=order.order_id))
        await asyncio.sleep(random.uniform(0, 0.003))
        return StockReserved(order_id=order.order_id)

    @service.on(ReleaseStock, undoes=reserve)
    async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
        found = await tx.execute(delete(reservations).where(reservations.c.order_id == command.order_id))
        assert found.rowcount == 1, "the undo ran though there was nothing to undo"
        released.append(command.order_id)
        return StockReleased(order_id=command.order_id)

    return service


@asynccontextmanager
async def _process(rig: Rig, url: str, released: list[str]) -> AsyncIterator[tuple[StoreCommit, Service, Execution]]:
    service = _service(released)
    database = await Database.open(url)
    await database.ensure_schema("services", inbox.metadata, inbox.HEAD)
    relay = Relay(database, rig.broker)
    await relay.start()
    execution = Execution(service, rig.codec, Tracing(), system_clock, random.random, Provided(service, rig.settings))
    try:
        yield StoreCommit(database, relay, execution, 60 * SECOND, lambda job: ()), service, execution
    finally:
        await relay.close()
        await database.close()


async def test_row_14_step_and_undo_at_the_same_moment_leave_nothing_behind(rig: Rig, store_url):
    released: list[str] = []
    count = 30
    async with (
        _process(rig, store_url, released) as (first, service, execution),
        _process(rig, store_url, released) as (second, _, _),
    ):
        database = await Database.open(store_url)
        await database.write(tables.create_all)
        forward, undo = (Route(service, handler) for handler in service.handlers)

        async def run(commit: StoreCommit, route: Route, event, **headers) -> str:
            delivery = await _delivery(rig, event, **headers)
            job = Job(route, read_envelope(delivery), delivery, None, route.stage)
            execution.decode(job)
            await asyncio.sleep(random.uniform(0, 0.003))
            while True:
                ((_, following),) = await commit.commit([job])
                if isinstance(following, Finished):
                    return following.kind
                assert isinstance(following, Later)
                await asyncio.sleep(following.delay / SECOND)

        outcomes = []
        for number in range(count):
            key = str(number)
            outcomes.append(
                await asyncio.gather(
                    run(first, forward, OrderPlaced(order_id=key), id=f"e{key}"),
                    run(second, undo, ReleaseStock(order_id=key), **command("reserve", key=key, undoes=[f"e{key}"])),
                )
            )
        left = await database.read(lambda connection: connection.execute(select(reservations)).all())
        await database.close()
    assert left == []
    assert {undone for _, undone in outcomes} == {"handled"}
    done = sum(1 for outcome, _ in outcomes if outcome == "handled")
    assert done == len(released)
    assert {outcome for outcome, _ in outcomes} <= {"handled", "refused"}


async def _delivery(rig: Rig, event, **headers):
    await rig.broker.send([rig.record(event, **headers)])
    deliveries = await rig.deliveries(event.spec().topic)
    return max((each for each in deliveries if each.key == event.key_text().encode()), key=lambda each: (each.offset,))
