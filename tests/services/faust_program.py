"""A Faust app that takes part, for the tests: `python -m faust -A tests.services.faust_program worker`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from choreo.services.faust import App, Stream
from tests.services.shop import OrderChanged, OrderPlaced, StockReserved

app = App("screening")
seen = app.Table("seen", default=int, key_type=str).tumbling(3600.0)


@app.on(OrderPlaced)
async def screen(orders: Stream[OrderPlaced]) -> AsyncIterator[StockReserved]:
    """Reserve an order, twice where its number is even; refuse 13; say how often this key was met in its window."""
    async for order in orders:
        if order.number == 13:
            raise ValueError("13 is unlucky")
        seen[order.order_id] += 1
        yield StockReserved(order_id=order.order_id, number=seen[order.order_id].current())
        if order.number and order.number % 2 == 0:
            yield StockReserved(order_id=order.order_id, number=-1)


@app.on(OrderChanged)
async def note(changes: Stream[OrderChanged]) -> None:
    """Publish nothing."""
    async for change in changes:
        print("noted", change.order_id, file=sys.stderr, flush=True)
