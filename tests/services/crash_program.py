"""A process of its own for the crash tests, `python crash_program.py BROKER STORE KIND SECONDS`.

It runs until it is idle, with its clock ahead by that many seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, update

from choreo.events.clock import SECOND, system_clock
from choreo.events.event import Event
from choreo.events.local import LocalBroker
from choreo.events.settings import Settings
from choreo.services.context import Transaction
from choreo.services.service import Service
from choreo.services.worker import Worker

tables = MetaData()
stock = Table("stock", tables, Column("item", String(20), primary_key=True), Column("taken", Integer, nullable=False))


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    number: int = 0


class StockReserved(Event, topic="inventory", key="order_id"):
    order_id: str
    number: int = 0


class ReleaseStock(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class StockReleased(Event, topic="inventory", key="order_id"):
    order_id: str


def service(store: str, kind: str) -> Service:
    """Make the service: `tx` counts in its own table, `claim` and `plain` touch the outside, `none` has no store."""
    if kind == "none":
        found = Service("inventory", store=None)
    else:
        found = Service("inventory", store=store, tables=tables if kind in ("tx", "slow", "blocked") else None)

    if kind in ("tx", "slow"):

        @found.on(OrderPlaced)
        async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
            if kind == "slow":
                await asyncio.sleep(0.05)
            if order.number == 0:
                await tx.execute(insert(stock).values(item="book", taken=0))
            await tx.execute(update(stock).values(taken=stock.c.taken + 1))
            return StockReserved(order_id=order.order_id, number=order.number)
    elif kind == "blocked":

        @found.on(OrderPlaced)
        async def reserve(order: OrderPlaced) -> StockReserved:
            path = sys.argv[2].removeprefix("sqlite:")
            Path(path + ".stuck").touch()
            while not Path(path + ".go").exists():
                time.sleep(0.05)
            return StockReserved(order_id=order.order_id, number=order.number)

        @found.on(ReleaseStock, undoes=reserve)
        async def release(command: ReleaseStock) -> StockReleased:
            return StockReleased(order_id=command.order_id)
    else:

        @found.on(OrderPlaced)
        async def reserve(order: OrderPlaced) -> StockReserved:
            with Path(sys.argv[2].removeprefix("sqlite:") + ".effects").open("a") as effects:
                effects.write(f"{order.number}\n")
            return StockReserved(order_id=order.order_id, number=order.number)

    if kind == "claim":

        @found.on(ReleaseStock, undoes=reserve)
        async def release(command: ReleaseStock) -> StockReleased:
            return StockReleased(order_id=command.order_id)

    return found


async def main(broker_path: str, store: str, kind: str, ahead: str) -> None:
    """Run until nothing is left to do."""
    clock = lambda: system_clock() + int(ahead) * SECOND  # noqa: E731
    settings = Settings(home=Path(broker_path).parent)
    async with (
        LocalBroker(Path(broker_path), session=1) as broker,
        Worker(service(store, kind), broker, settings=settings, clock=clock) as worker,
    ):
        while kind == "slow" or not await worker.idle():  # the slow one waits for its end
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
