"""The five services of the demo shop. Each knows events, its own books, and nothing else: no other service, no saga.

Each keeps its books through `tx`, so that they, the inbox and the outgoing events commit together; the books are what
the demo's proof is made of. Only `book` touches the outside world: it asks a carrier.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, event, insert, update

from ...services.context import Context, Transaction
from ...services.retry import Retry
from ...services.service import Service
from .events import (
    ANVIL,
    CRASHES,
    DECLINED,
    NO_MAIL,
    PIANO,
    SLOW_MAIL,
    UNICORN,
    CancelCarrier,
    CarrierBooked,
    CarrierCancelled,
    CarrierRefused,
    FraudSuspected,
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

# ---- order: what became of each order -----------------------------------------------------------------------------

_order_tables = MetaData()
orders = Table(
    "orders",
    _order_tables,
    Column("order_id", String(64), primary_key=True),
    Column("cents", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("closed", Integer, nullable=False),
)
"""Each order with its state (open, fulfilled, cancelled), and how often it was closed: once, if all goes well."""

order = Service("order", tables=_order_tables)


@order.on(OrderPlaced, OrderFulfilled, OrderCancelled)
async def keep(said: OrderPlaced | OrderFulfilled | OrderCancelled, tx: Transaction) -> None:
    """Keep the book of orders: one handler, so that it sees the events of one order in their order."""
    if isinstance(said, OrderPlaced):
        row = {"order_id": said.order_id, "cents": _cents(said), "state": "open", "closed": 0}
        await tx.execute(insert(orders).values(row))
        return
    state = "fulfilled" if isinstance(said, OrderFulfilled) else "cancelled"
    await tx.execute(
        update(orders).where(orders.c.order_id == said.order_id).values(state=state, closed=orders.c.closed + 1)
    )


def _cents(placed: OrderPlaced) -> int:
    return int(placed.total * 100)


# ---- inventory: what lies on the shelves, and for whom ------------------------------------------------------------

OPENING_STOCK = {"lamp": 1_000_000, "teapot": 1_000_000, "chair": 1_000_000, PIANO: 10_000, ANVIL: 10_000, UNICORN: 3}
"""Pieces of each article in the beginning; nothing is ever delivered."""

_inventory_tables = MetaData()
stock = Table(
    "stock",
    _inventory_tables,
    Column("article", String(64), primary_key=True),
    Column("free", Integer, nullable=False),
    Column("reserved", Integer, nullable=False),
    Column("sold", Integer, nullable=False),
)
reservations = Table(
    "reservations",
    _inventory_tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("article", String(64), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("state", String(16), nullable=False),
)
"""What lies aside (reserved), was put back (released) or left the house (sold)."""

inventory = Service("inventory", tables=_inventory_tables)


@event.listens_for(stock, "after_create")
def _fill_the_shelves(_table: Table, connection: Connection, **_: Any) -> None:
    rows = [{"article": name, "free": pieces, "reserved": 0, "sold": 0} for name, pieces in OPENING_STOCK.items()]
    connection.execute(insert(stock), rows)


@inventory.on(OrderPlaced)
async def reserve(placed: OrderPlaced, tx: Transaction) -> StockReserved | StockRefused:
    """Lay the goods aside, if there are enough."""
    taken = await tx.execute(
        update(stock)
        .where(stock.c.article == placed.article, stock.c.free >= placed.quantity)
        .values(free=stock.c.free - placed.quantity, reserved=stock.c.reserved + placed.quantity)
    )
    if not taken.rowcount:
        return StockRefused(order_id=placed.order_id, article=placed.article)
    row = {
        "order_id": placed.order_id,
        "article": placed.article,
        "quantity": placed.quantity,
        "state": "reserved",
    }
    await tx.execute(insert(reservations).values(row))
    return StockReserved(order_id=placed.order_id, article=placed.article, quantity=placed.quantity)


@inventory.on(ReleaseStock, undoes=reserve)
async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
    """Put the goods back."""
    for article, quantity in await _settle(tx, command.order_id, "released"):
        await tx.execute(
            update(stock)
            .where(stock.c.article == article)
            .values(free=stock.c.free + quantity, reserved=stock.c.reserved - quantity)
        )
    return StockReleased(order_id=command.order_id)


@inventory.on(OrderShipped)
async def sell(shipped: OrderShipped, tx: Transaction) -> None:
    """The goods have left the house."""
    for article, quantity in await _settle(tx, shipped.order_id, "sold"):
        await tx.execute(
            update(stock)
            .where(stock.c.article == article)
            .values(sold=stock.c.sold + quantity, reserved=stock.c.reserved - quantity)
        )


async def _settle(tx: Transaction, order_id: str, state: str) -> list[tuple[str, int]]:
    """Close an order's reservations; give article and quantity of each."""
    settled = await tx.execute(
        update(reservations)
        .where(reservations.c.order_id == order_id, reservations.c.state == "reserved")
        .values(state=state)
        .returning(reservations.c.article, reservations.c.quantity)
    )
    return [(row.article, row.quantity) for row in settled]


# ---- payment: where the money is ----------------------------------------------------------------------------------

_payment_tables = MetaData()
ledger = Table(
    "ledger",
    _payment_tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("cents", Integer, nullable=False),
)
"""Every movement of money: captured or refunded."""
suspects = Table("suspects", _payment_tables, Column("customer", String(64), primary_key=True))
"""Customers of whom no card is taken any more."""

payment = Service("payment", tables=_payment_tables)


class CardNetworkError(Exception):
    """What the payment service's code makes of a card that nobody thought of."""


@payment.on(OrderPlaced, retry=Retry(attempts=3, first="100ms", most="1s"))
async def charge(placed: OrderPlaced, tx: Transaction) -> PaymentCaptured | PaymentDeclined:
    """Charge the card, unless the bank declines it, or its customer is suspect."""
    found = await tx.execute(suspects.select().where(suspects.c.customer == placed.customer))
    if placed.card == DECLINED or found.first() is not None:
        return PaymentDeclined(order_id=placed.order_id, customer=placed.customer)
    await tx.execute(insert(ledger).values(order_id=placed.order_id, kind="captured", cents=_cents(placed)))
    if placed.card == CRASHES:
        raise CardNetworkError("no route to the bank of this card")
    return PaymentCaptured(order_id=placed.order_id, amount=placed.total)


@payment.on(FraudSuspected)
async def distrust(suspected: FraudSuspected, tx: Transaction) -> None:
    """Take no card of this customer any more; where no fraud check runs, nobody is ever suspect."""
    known = await tx.execute(suspects.select().where(suspects.c.customer == suspected.customer))
    if known.first() is None:
        await tx.execute(insert(suspects).values(customer=suspected.customer))


@payment.on(RefundPayment, undoes=charge)
async def refund(command: RefundPayment, tx: Transaction) -> PaymentRefunded:
    """Give back what was captured."""
    captured = await tx.execute(
        ledger.select().where(ledger.c.order_id == command.order_id, ledger.c.kind == "captured")
    )
    for row in captured.all():
        await tx.execute(insert(ledger).values(order_id=row.order_id, kind="refunded", cents=row.cents))
    return PaymentRefunded(order_id=command.order_id)


# ---- shipping: carriers and parcels -------------------------------------------------------------------------------

SLOW_CARRIER = 6.0
"""Seconds that the piano movers take to answer: longer than anybody waits for them."""

_shipping_tables = MetaData()
parcels = Table(
    "parcels",
    _shipping_tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("parcel", String(64), nullable=False),
    Column("state", String(16), nullable=False),
)
"""Parcels that were handed over (shipped), and carriers that were sent away (cancelled)."""

shipping = Service("shipping", tables=_shipping_tables)


@shipping.on(StockReserved)
async def book(reserved: StockReserved, context: Context) -> CarrierBooked | CarrierRefused:
    """Ask a carrier: outside work, so without `tx`. The key makes it one booking, however often we ask."""
    if reserved.article == ANVIL:
        return CarrierRefused(order_id=reserved.order_id)
    if reserved.article == PIANO:
        await asyncio.sleep(SLOW_CARRIER)
    return CarrierBooked(order_id=reserved.order_id, parcel=f"P-{context.idempotency_key[:8]}")


@shipping.on(CancelCarrier, undoes=book)
async def cancel(command: CancelCarrier, tx: Transaction) -> CarrierCancelled:
    """Send the carrier away."""
    await tx.execute(insert(parcels).values(order_id=command.order_id, parcel="", state="cancelled"))
    return CarrierCancelled(order_id=command.order_id)


@shipping.on(ShipOrder)
async def ship(command: ShipOrder, tx: Transaction) -> OrderShipped:
    """Hand the parcel over."""
    await tx.execute(insert(parcels).values(order_id=command.order_id, parcel=command.parcel, state="shipped"))
    return OrderShipped(order_id=command.order_id, parcel=command.parcel)


# ---- notification: letters to customers ---------------------------------------------------------------------------

_notification_tables = MetaData()
letters = Table(
    "letters",
    _notification_tables,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("state", String(16), nullable=False),
)
"""Every try: sent or bounced."""

notification = Service("notification", tables=_notification_tables)


@notification.on(SendReceipt)
async def send_receipt(command: SendReceipt, tx: Transaction) -> ReceiptSent | ReceiptBounced:
    """Send a receipt; some mail servers take it at the second try only, some never."""
    earlier = await tx.execute(letters.select().where(letters.c.order_id == command.order_id))
    first_try = not earlier.all()
    bounced = command.email.endswith(NO_MAIL) or (command.email.endswith(SLOW_MAIL) and first_try)
    row = {"order_id": command.order_id, "state": "bounced" if bounced else "sent"}
    await tx.execute(insert(letters).values(row))
    return ReceiptBounced(order_id=command.order_id) if bounced else ReceiptSent(order_id=command.order_id)
