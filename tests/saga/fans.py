"""Sagas with a step per element, and services that do one line of an order at a time."""

from __future__ import annotations

from pydantic import BaseModel

from choreo import Event, Saga, Service, Transaction, step


class Line(BaseModel):
    sku: str
    quantity: int = 1


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str
    lines: list[Line]


class ReserveLine(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    sku: str
    quantity: int


class LineReserved(Event, topic="inventory", key="order_id"):
    order_id: str
    sku: str
    shelf: str = "A"


class LineRefused(Event, topic="inventory", key="order_id"):
    order_id: str
    sku: str


class ReleaseLine(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    sku: str
    quantity: int
    shelf: str | None = None


class LineReleased(Event, topic="inventory", key="order_id"):
    order_id: str
    sku: str


class Billed(Event, topic="payments", key="order_id"):
    order_id: str


class Unpaid(Event, topic="payments", key="order_id"):
    order_id: str


EVENTS = (Ordered, ReserveLine, LineReserved, LineRefused, ReleaseLine, LineReleased, Billed, Unpaid)


class Lines(Saga, start=Ordered, key="order_id"):
    """Commanded, the elements from a field."""

    reserve = step(
        each="lines",
        by="sku",
        send=ReserveLine,
        done=LineReserved,
        failed=LineRefused,
        undo=ReleaseLine,
        undone=LineReleased,
        within="30s",
    )
    bill = step(after=reserve, done=Billed, failed=Unpaid, undo=None, within="1h")


def bulky(saga: Watched) -> list[Line]:
    return [line for line in saga.started.lines if line.quantity > 1]


def release(saga: Watched, line: Line) -> ReleaseLine:
    done = saga.maybe(Watched.reserve, line)
    return ReleaseLine(
        order_id=saga.key, sku=line.sku, quantity=line.quantity, shelf=None if done is None else done.shelf
    )


class Watched(Saga, start=Ordered, key="order_id"):
    """Choreographed, the elements from a function."""

    reserve = step(
        each=bulky,
        by="sku",
        done=LineReserved,
        failed=LineRefused,
        undo=release,
        undone=LineReleased,
        within="30s",
    )
    bill = step(after=reserve, done=Billed, failed=Unpaid, undo=None, within="1h")


def lines(*skus: str, quantity: int = 2) -> list[Line]:
    return [Line(sku=sku, quantity=quantity) for sku in skus]


def warehouse(refused: tuple[str, ...] = (), name: str = "inventory") -> Service:
    """Reserves line by line; what it has reserved can be released."""
    service = Service(name)

    @service.on(ReserveLine)
    async def reserve(command: ReserveLine, tx: Transaction) -> LineReserved | LineRefused:
        if command.sku in refused:
            return LineRefused(order_id=command.order_id, sku=command.sku)
        return LineReserved(order_id=command.order_id, sku=command.sku, shelf=f"S{command.quantity}")

    @service.on(ReleaseLine, undoes=reserve)
    async def give_back(command: ReleaseLine, tx: Transaction) -> LineReleased:
        return LineReleased(order_id=command.order_id, sku=command.sku)

    return service


def store_room() -> Service:
    """Reserves all lines when an order comes, by itself."""
    service = Service("inventory")

    @service.on(Ordered)
    async def reserve(order: Ordered, tx: Transaction) -> list[LineReserved]:
        return [LineReserved(order_id=order.order_id, sku=line.sku) for line in order.lines if line.quantity > 1]

    @service.on(ReleaseLine, undoes=reserve)
    async def give_back(command: ReleaseLine, tx: Transaction) -> LineReleased:
        return LineReleased(order_id=command.order_id, sku=command.sku)

    return service
