"""A shop whose orders hold a card number: each service does with it what services do, carelessly too."""

from __future__ import annotations

import logging
import os
from typing import Literal, cast

from pydantic import BaseModel

from choreo import Context, Event, Permanent, Saga, Secret, Service, Transaction, step

_MODES: dict[str, Literal["secrets"] | bool] = {"clear": False, "secrets": "secrets", "event": True}
ENCRYPTED = _MODES[os.environ.get("VAULT_MODE", "clear")]
FORMAT = cast(Literal["avro", "json"], os.environ.get("VAULT_FORMAT", "avro"))
NAME = os.environ.get("VAULT_NAME", "vault")
"""Of its topics, so that one schema registry may serve several."""


class Item(BaseModel):
    """One of several things that are packed, each with a note that nobody shall see."""

    sku: str
    note: Secret[str]


class Ordered(Event, topic=f"{NAME}.orders", key="order_id", encrypted=ENCRYPTED, format=FORMAT):
    order_id: str
    card: Secret[str]
    items: list[Item] = []


class Held(Event, topic=f"{NAME}.stock", key="order_id", encrypted=ENCRYPTED, format=FORMAT):
    order_id: str
    card: Secret[str]


class Release(Event, topic=f"{NAME}.stock.commands", key="order_id", encrypted=ENCRYPTED, format=FORMAT):
    order_id: str
    card: Secret[str]


class Released(Event, topic=f"{NAME}.stock", key="order_id"):
    order_id: str
    same_card: bool


class Pack(Event, topic=f"{NAME}.packing", key="order_id", encrypted=ENCRYPTED, format=FORMAT):
    order_id: str
    sku: str
    note: Secret[str]


class Packed(Event, topic=f"{NAME}.packed", key="order_id"):
    order_id: str
    sku: str
    length: int


class Charged(Event, topic=f"{NAME}.payments", key="order_id"):
    order_id: str


stock = Service("vault-stock")
bank = Service("vault-bank")
packing = Service("vault-packing")


@stock.on(Ordered)
async def hold(order: Ordered, context: Context, tx: Transaction) -> Held:
    context.log.warning("holding", order=order, card=order.card)
    logging.getLogger("vault").warning("holding %s %r", order.card, order)
    await tx.execute("SELECT :card", {"card": order.card.reveal()})  # what a driver logs of it must not hold the card
    return Held(order_id=order.order_id, card=order.card)


@stock.on(Release, undoes=hold, empty=lambda command: Released(order_id=command.order_id, same_card=True))
async def release(command: Release, tx: Transaction) -> Released:
    return Released(order_id=command.order_id, same_card=command.card.reveal().startswith("4111"))


@packing.on(Pack)
async def pack(command: Pack, context: Context) -> Packed:
    return Packed(order_id=command.order_id, sku=command.sku, length=len(command.note.reveal()))


@bank.on(Packed)
async def charge(packed: Packed) -> Charged | None:
    return None


@bank.on(Held)
async def take(held: Held, context: Context) -> Charged:
    if held.order_id.startswith("bad"):
        raise Permanent(f"the bank refuses {held.card.reveal()} for {held!r}")
    return Charged(order_id=held.order_id)


class Sale(Saga, start=Ordered, key="order_id", active_from="beginning"):
    hold = step(done=Held, undo=Release, undone=Released, within="1m")
    charge = step(after=hold, done=Charged, undo=None, within="1m")
    pack = step(after=charge, each="items", by="sku", send=Pack, done=Packed, undo=None, within="1m")
