"""Sagas within sagas: an order has its goods packed by a saga of its own."""

from __future__ import annotations

from choreo import Event, Saga, child, step


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Paid(Event, topic="payments", key="order_id"):
    order_id: str


class Unpaid(Event, topic="payments", key="order_id"):
    order_id: str


class Delivered(Event, topic="orders", key="order_id"):
    order_id: str


class PackGoods(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class Picked(Event, topic="inventory", key="order_id"):
    order_id: str


class Unfound(Event, topic="inventory", key="order_id"):
    order_id: str


class PutBack(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class BackOnShelf(Event, topic="inventory", key="order_id"):
    order_id: str


class Wrapped(Event, topic="inventory", key="order_id"):
    order_id: str


class Unpacked(Event, topic="inventory", key="order_id"):
    order_id: str


EVENTS = (*(Ordered, Paid, Unpaid, Delivered, PackGoods, Picked, Unfound, PutBack, BackOnShelf, Wrapped, Unpacked),)


class Packing(Saga, start=PackGoods, key="order_id", compensated=Unpacked):
    pick = step(done=Picked, failed=Unfound, undo=PutBack, undone=BackOnShelf, within="1h", undo_within="2h")
    wrap = step(after=pick, done=Wrapped, undo=None, within="1h")


class Sealing(Saga, start=PackGoods, key="order_id", type="packing"):
    """Packed goods are sealed: from there on nobody unpacks them."""

    pick = step(done=Picked, undo=None, within="1h")
    wrap = step(after=pick, done=Wrapped, within="1h", pivot=True)


class Ordering(Saga, start=Ordered, key="order_id"):
    pack = child(Packing, start=PackGoods, within="1d")
    pay = step(after=pack, done=Paid, failed=Unpaid, undo=None, within="1h")
