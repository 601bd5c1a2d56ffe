"""What users get wrong, and what must not type-check: each marked line with the error that mypy gives for it.

test_typing.py compares lines and codes. It is never imported.
"""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from choreo import (
    Answer,
    Call,
    Context,
    Depends,
    Next,
    Publisher,
    Retry,
    Saga,
    Secret,
    Service,
    any_of,
    child,
    cron,
    lock,
    policy,
    step,
)
from choreo.saga.testing import Harness, answers, crashes

from .must_pass import (
    Paid,
    Placed,
    Refused,
    Release,
    Released,
    Reserved,
    Sent,
    SendReceipt,
    Shipped,
    Stored,
    inventory,
    outbox,
    reserve,
)


class Fulfilment(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, undo=None, within="30s")


class NotAnEvent:
    pass


# ---- events ----------------------------------------------------------------------------------------------------------

Placed(order_id="1")  # E: call-arg
Placed(order_id=1, total=Decimal(1))  # E: arg-type
Placed(order_id="1", total=Decimal(1), colour="red")  # E: call-arg
Placed(order_id="1", total=Decimal(1)).colour  # E: attr-defined

Stored(id="1", card="4111")  # E: arg-type
Stored(id="1", card=Secret(4111))  # E: arg-type


def in_the_clear(stored: Stored) -> str:
    return stored.card  # E: return-value


# ---- steps -----------------------------------------------------------------------------------------------------------

step(done=int, within="30s")  # E: type-var
step(done=Reserved, within=object())  # E: call-overload
step(done=Reserved, failed="Refused", within="30s")  # E: call-overload
step(done=Reserved, after="reserve", within="30s")  # E: call-overload
step(done=Reserved, after=Reserved, within="30s")  # E: call-overload
step(done=Reserved, undo=lambda saga: 3, within="30s")  # E: arg-type, return-value
step(done=Reserved, undo=Release(order_id="1"), within="30s")  # E: call-overload
step(done=Reserved, undone=NotAnEvent, within="30s")  # E: arg-type
step(done=Reserved, send="notify", within="30s")  # E: call-overload
step(done=Reserved, pivot="yes", within="30s")  # E: call-overload
step(done=Reserved, retry=3, within="30s")  # E: call-overload
step(done=Reserved, when=Reserved, within="30s")  # E: arg-type
step(done=Reserved, when=True, within="30s")  # E: call-overload
step(done=Reserved, each=3, within="30s")  # E: call-overload
step(done=Reserved, each="lines", within="30s")  # E: call-overload
step(done=Reserved, each="lines", by="sku", pivot=True, within="30s")  # E: call-overload
child(Reserved, start=Reserved, within="1d")  # E: arg-type
child("packing", start="StartPacking", within="1d")  # E: arg-type
child("packing", start=Reserved)  # E: call-arg
step(done=Reserved, instead_of="reserve", within="30s")  # E: call-overload
step(done=Reserved, timeout="30s")  # E: call-overload
step(undo=Release)  # E: call-overload
step(Reserved)  # E: call-overload
any_of("reserve", "charge")  # E: arg-type
Retry(attempts="many")  # E: arg-type

# ---- sagas -----------------------------------------------------------------------------------------------------------


class StartOfNothing(Saga, start="orders", key="order_id"):  # E: arg-type
    reserve = step(done=Reserved, undo=None, within="30s")


class Misspelt(Saga, start=Placed, key="order_id", deadlin="2h"):  # E: call-arg
    reserve = step(done=Reserved, undo=None, within="30s")


class VersionInWords(Saga, start=Placed, key="order_id", version="one"):  # E: arg-type
    reserve = step(done=Reserved, undo=None, within="30s")


class ParkOrIgnore(Saga, start=Placed, key="order_id", unmatched="drop"):  # E: arg-type
    reserve = step(done=Reserved, undo=None, within="30s")


def of_a_saga(saga: Fulfilment) -> None:
    saga.charge.not_a_field  # E: attr-defined
    saga.charge.amount.upper()  # E: attr-defined
    saga.packing  # E: attr-defined
    saga.maybe(Fulfilment.reserve).reservation  # E: union-attr
    saga.maybe(Reserved)  # E: arg-type
    saga.maybe("reserve")  # E: arg-type
    number: int = saga.reserve.reservation  # E: assignment
    saga.reserve = Reserved(order_id="1", reservation="r")  # E: assignment


lock(3)  # E: arg-type
lock("customer_id", waits=object())  # E: arg-type
policy(late="never")  # E: arg-type
cron(0)  # E: arg-type
cron("0 2 * * *", tz=2)  # E: arg-type

# ---- services --------------------------------------------------------------------------------------------------------

Service()  # E: call-arg
Service("mail", concurrency="many")  # E: arg-type
inventory.on("orders")  # E: arg-type
inventory.on(NotAnEvent)  # E: arg-type
inventory.on(Release, undoes="reserve")  # E: arg-type
inventory.on(Placed, exhausted="forget")  # E: arg-type


@inventory.on(Placed)  # E: type-var
async def gives_a_number(order: Placed) -> int:
    return 3


@inventory.on(Placed)  # E: type-var
def blocks_and_gives_a_number(order: Placed) -> int:
    return 3


async def answers_something_else(order: Placed, context: Context) -> Reserved | Refused:
    context.saga_name  # E: attr-defined
    return Paid(order_id=order.order_id, amount=order.total)  # E: return-value


Depends(3)  # E: arg-type
Depends()  # E: call-arg
Service("mail", middleware=["log"])  # E: list-item
Harness(inventory, overrides=[Placed])  # E: arg-type


@inventory.lifespan  # E: type-var
async def gives_no_iterator() -> Reserved:
    return Reserved(order_id="1", reservation="r")


@inventory.middleware  # E: type-var
def waits_for_none(call: Call, next: Next) -> Answer:
    return None


@inventory.middleware  # E: type-var
async def takes_no_next(call: Call) -> Answer:
    return None


@inventory.middleware  # E: type-var
async def answers_a_number(call: Call, next: Next) -> int:
    call.payload  # E: attr-defined
    await next()  # E: call-arg
    return 3


# ---- publishing ------------------------------------------------------------------------------------------------------


async def publishing(publisher: Publisher) -> None:
    await publisher.publish(NotAnEvent())  # E: arg-type
    await publisher.publish({"order_id": "1"})  # E: arg-type
    await publisher.publish(Shipped)  # E: arg-type
    await publisher.publish(Shipped(order_id="1"), topic="orders")  # E: call-arg
    Publisher("memory:")  # E: call-arg


# ---- testing ---------------------------------------------------------------------------------------------------------


async def testing(harness: Harness) -> None:
    Harness("inventory")  # E: arg-type
    Harness(Fulfilment(object()))  # E: arg-type
    Harness(inventory, play={SendReceipt: Sent})  # E: dict-item
    Harness(inventory, play={"SendReceipt": answers(Sent)})  # E: dict-item
    Harness(inventory, seed="seven")  # E: arg-type
    await harness.publish("orders")  # E: arg-type
    await harness.advance(None)  # E: arg-type
    harness.saga(Fulfilment)  # E: arg-type
    harness.saga("fulfilment/4711").state  # E: attr-defined
    harness.sent("SendReceipt")  # E: arg-type
    answers("Sent")  # E: arg-type
    crashes("no", instead_of=Sent)  # E: arg-type
    async with Harness(reserve) as made:  # E: arg-type
        await made.settle(3)  # E: call-arg


async def outboxes(session: Session, awaited: AsyncSession) -> None:
    event = Placed(order_id="1", total=Decimal(1))
    outbox.add({}, event)  # E: call-overload
    ids: list[str] = outbox.add(awaited, event)  # E: assignment
    await outbox.add(session, event)  # E: misc
    outbox.add(session, "an event")  # E: call-overload
