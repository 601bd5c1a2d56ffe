"""A Faust app that takes part, for the tests: `python -m faust -A tests.services.faust_program worker`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

from choreo.services import faust as module
from choreo.services import following
from choreo.services.faust import App, Stream
from tests.services.shop import OrderChanged, OrderPlaced, StockReserved

HOLE = os.environ.get("HOLE") == "1"
"""Whether Faust shall lose some acknowledgements, as it was seen to do after rebalances."""
if HOLE:
    module._LOOK, following.STALLED = 0.5, 3.0

app = App("screening")
seen = app.Table("seen", default=int, key_type=str).tumbling(3600.0)


@app.on(OrderPlaced)
async def screen(orders: Stream[OrderPlaced]) -> AsyncIterator[StockReserved]:
    """Reserve an order, twice where its number is even; refuse 13; say how often this key was met in its window."""
    if HOLE:
        _lose_acknowledgements()
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


def _lose_acknowledgements() -> None:
    """Have the first acknowledgements of the offsets 3 to 7 come to nothing: no offset behind them is committed."""
    consumer, lost = app.consumer, set()
    real = consumer.ack

    def ack(message):
        place = (message.tp, message.offset)
        if message.topic.endswith("orders") and 3 <= message.offset <= 7 and place not in lost and not message.acked:
            lost.add(place)
            message.acked = True
            consumer.unacked.discard(message)
            return False
        return real(message)

    consumer.ack = ack
