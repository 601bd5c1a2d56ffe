"""The demo shop's saga: what belongs to one order, in which order, and how it is undone.

    placed ─┬─ reserve ── book ─┬─ ship (no way back) ── notify (optional)
            └─ charge ──────────┘

`reserve`, `charge` and `book` are choreographed: the services react to each other's events, and the saga watches. The
pivot is commanded, because only who sees both branches knows that neither has failed nor was given up.
"""

from __future__ import annotations

from ...services.retry import Retry
from ..saga import Saga
from ..step import step
from .events import (
    CancelCarrier,
    CarrierBooked,
    CarrierCancelled,
    CarrierRefused,
    OrderCancelled,
    OrderFulfilled,
    OrderPlaced,
    OrderShipped,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    ReceiptBounced,
    ReceiptSent,
    RefundPayment,
    ReleaseStock,
    SendReceipt,
    ShipOrder,
    StockRefused,
    StockReleased,
    StockReserved,
)


class Fulfilment(
    Saga,
    start=OrderPlaced,
    key="order_id",
    version=1,
    deadline="2h",
    completed=OrderFulfilled,
    compensated=OrderCancelled,
):
    """From the order to the receipt."""

    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="30s")
    charge = step(done=PaymentCaptured, failed=PaymentDeclined, undo=RefundPayment, undone=PaymentRefunded, within="5m")
    book = step(
        after=reserve,
        done=CarrierBooked,
        failed=CarrierRefused,
        undo=CancelCarrier,
        undone=CarrierCancelled,
        within="4s",
    )
    ship = step(after=(charge, book), send=ShipOrder, done=OrderShipped, within="3d", pivot=True)
    notify = step(
        after=ship,
        send=SendReceipt,
        done=ReceiptSent,
        failed=ReceiptBounced,
        within="1h",
        retry=Retry(attempts=3, first="500ms", most="5s"),
        optional=True,
    )
