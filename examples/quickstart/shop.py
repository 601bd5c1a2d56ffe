"""A shop in one file: two services that know events only, and the saga that knows how they belong together.

saga run examples/quickstart/shop.py
saga publish examples/quickstart/shop.py:OrderPlaced examples/quickstart/orders.csv
saga status 4711
"""

from __future__ import annotations

from decimal import Decimal

from choreo import Event, Saga, Service, Transaction, step

# ---- what is said -------------------------------------------------------------------------------------------------


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    article: str
    total: Decimal


class StockReserved(Event, topic="inventory", key="order_id"):
    order_id: str
    total: Decimal


class StockRefused(Event, topic="inventory", key="order_id"):
    order_id: str


class ReleaseStock(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class StockReleased(Event, topic="inventory", key="order_id"):
    order_id: str


class PaymentCaptured(Event, topic="payment", key="order_id"):
    order_id: str


class PaymentDeclined(Event, topic="payment", key="order_id"):
    order_id: str


class OrderCancelled(Event, topic="orders", key="order_id"):
    order_id: str


# ---- who answers --------------------------------------------------------------------------------------------------

inventory = Service("inventory")
payment = Service("payment")


@inventory.on(OrderPlaced)
async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved | StockRefused:
    if order.article == "unicorn":
        return StockRefused(order_id=order.order_id)
    # Your own tables belong to this transaction: await tx.execute("UPDATE stock SET ...", {...})
    return StockReserved(order_id=order.order_id, total=order.total)


@inventory.on(ReleaseStock, undoes=reserve)
async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
    return StockReleased(order_id=command.order_id)


@payment.on(StockReserved)
async def charge(reserved: StockReserved, tx: Transaction) -> PaymentCaptured | PaymentDeclined:
    if reserved.total > 1000:
        return PaymentDeclined(order_id=reserved.order_id)
    return PaymentCaptured(order_id=reserved.order_id)


# ---- what belongs together ----------------------------------------------------------------------------------------


class Fulfilment(Saga, start=OrderPlaced, key="order_id", compensated=OrderCancelled):
    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="30s")
    charge = step(after=reserve, done=PaymentCaptured, failed=PaymentDeclined, within="5m", pivot=True)
