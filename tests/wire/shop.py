"""The events of the conformance test, and choreo's own participant: `saga run tests/wire/shop.py:warehouse`.

A participant in another language does the same business: a warehouse with ten pieces of every article.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, select, update

from choreo import Event, Retry, Service, Transaction

OPENING = 10


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    article: str
    quantity: int = 1


class StockReserved(Event, topic="stock", key="order_id"):
    """`left` are the pieces of the article that are left: what shows how often something really happened."""

    order_id: str
    article: str
    left: int


class StockRefused(Event, topic="stock", key="order_id", format="json"):
    order_id: str


class ReleaseStock(Event, topic="stock.commands", key="order_id", format="json"):
    order_id: str


class StockReleased(Event, topic="stock", key="order_id"):
    """`left` is null where nothing had been laid aside."""

    order_id: str
    left: int | None = None


class PackOrder(Event, topic="stock.commands", key="order_id"):
    order_id: str


class OrderPacked(Event, topic="stock", key="order_id", format="json"):
    """`boxes` says how many boxes of the order there are."""

    order_id: str
    boxes: int


class UnpackOrder(Event, topic="stock.commands", key="order_id"):
    order_id: str


class OrderUnpacked(Event, topic="stock", key="order_id", format="json"):
    order_id: str


_tables = MetaData()
_stock = Table(
    "stock", _tables, Column("article", String(80), primary_key=True), Column("left", Integer, nullable=False)
)
_aside = Table(
    "aside",
    _tables,
    Column("order_id", String(80), primary_key=True),
    Column("article", String(80), nullable=False),
    Column("quantity", Integer, nullable=False),
)
_boxes = Table(
    "boxes", _tables, Column("order_id", String(80), primary_key=True), Column("boxes", Integer, nullable=False)
)

warehouse = Service("warehouse", tables=_tables)


@warehouse.on(OrderPlaced, retry=Retry(attempts=1))
async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved | StockRefused:
    if order.article.startswith("broken"):
        raise OSError("the shelf broke")
    left = (await tx.execute(select(_stock.c.left).where(_stock.c.article == order.article))).scalar()
    if left is None:
        left = OPENING
        await tx.execute(insert(_stock).values(article=order.article, left=left))
    if order.quantity > left:
        return StockRefused(order_id=order.order_id)
    left -= order.quantity
    await tx.execute(update(_stock).where(_stock.c.article == order.article).values(left=left))
    await tx.execute(insert(_aside).values(order_id=order.order_id, article=order.article, quantity=order.quantity))
    return StockReserved(order_id=order.order_id, article=order.article, left=left)


@warehouse.on(ReleaseStock, undoes=reserve)
async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
    found = await tx.execute(
        delete(_aside).where(_aside.c.order_id == command.order_id).returning(_aside.c.article, _aside.c.quantity)
    )
    laid = found.one_or_none()
    if laid is None:  # it was refused: nothing lies aside
        return StockReleased(order_id=command.order_id)
    changed = await tx.execute(
        update(_stock)
        .where(_stock.c.article == laid.article)
        .values(left=_stock.c.left + laid.quantity)
        .returning(_stock.c.left)
    )
    return StockReleased(order_id=command.order_id, left=changed.scalar_one())


@warehouse.on(PackOrder)
async def pack(command: PackOrder, tx: Transaction) -> OrderPacked:
    boxes = (await tx.execute(select(_boxes.c.boxes).where(_boxes.c.order_id == command.order_id))).scalar()
    if boxes is None:
        boxes = 0
        await tx.execute(insert(_boxes).values(order_id=command.order_id, boxes=0))
    await tx.execute(update(_boxes).where(_boxes.c.order_id == command.order_id).values(boxes=boxes + 1))
    return OrderPacked(order_id=command.order_id, boxes=boxes + 1)


@warehouse.on(UnpackOrder, undoes=pack)
async def unpack(command: UnpackOrder, tx: Transaction) -> OrderUnpacked:
    await tx.execute(update(_boxes).where(_boxes.c.order_id == command.order_id).values(boxes=_boxes.c.boxes - 1))
    return OrderUnpacked(order_id=command.order_id)
