"""A shop whose saga several coordinators share, and whose services keep books: each effect is a row of its own."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table, Text, insert

from choreo import Event, Retry, Saga, Service, step
from choreo.services.context import Transaction

books = MetaData()
effect = Table(
    "effect",
    books,
    Column("id", Integer, primary_key=True),
    Column("what", Text, nullable=False),
    Column("order_id", Text, nullable=False),
)


class Placed(Event, topic="shop.orders", key="order_id"):
    order_id: str


class Reserved(Event, topic="shop.stock", key="order_id"):
    order_id: str


class Release(Event, topic="shop.stock.commands", key="order_id"):
    order_id: str


class Released(Event, topic="shop.stock", key="order_id"):
    order_id: str


class Charge(Event, topic="shop.payments.commands", key="order_id"):
    order_id: str


class Charged(Event, topic="shop.payments", key="order_id"):
    order_id: str


class Declined(Event, topic="shop.payments", key="order_id"):
    order_id: str


class Bought(Saga, start=Placed, key="order_id"):
    """Reserve, charge; every third order is declined, and its stock released."""

    reserve = step(done=Reserved, undo=Release, undone=Released, within="10m")
    charge = step(
        after=reserve, send=Charge, done=Charged, failed=Declined, undo=None, within="10m", retry=Retry(attempts=1)
    )


def declined(order_id: str) -> bool:
    """Whether the bank refuses it."""
    return int(order_id) % 3 == 0


def services(stock_url: str, bank_url: str) -> tuple[Service, Service]:
    """Make both services; what they do is written in the transaction of their inbox."""
    stock = Service("stock", store=stock_url, tables=books)
    bank = Service("bank", store=bank_url, tables=books)

    @stock.on(Placed)
    async def reserve(order: Placed, tx: Transaction) -> Reserved:
        await tx.execute(insert(effect).values(what="reserved", order_id=order.order_id))
        return Reserved(order_id=order.order_id)

    @stock.on(Release, undoes=reserve)
    async def release(order: Release, tx: Transaction) -> Released:
        await tx.execute(insert(effect).values(what="released", order_id=order.order_id))
        return Released(order_id=order.order_id)

    @bank.on(Charge)
    async def charge(order: Charge, tx: Transaction) -> Charged | Declined:
        refused = declined(order.order_id)
        await tx.execute(insert(effect).values(what="declined" if refused else "charged", order_id=order.order_id))
        return Declined(order_id=order.order_id) if refused else Charged(order_id=order.order_id)

    return stock, bank
