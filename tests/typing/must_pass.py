"""What users write, and what must type-check; test_typing.py runs mypy over it. It is never imported."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated

import psycopg
from pydantic_settings import BaseSettings
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session

from choreo import (
    Answer,
    Batch,
    Breaker,
    Call,
    Context,
    Depends,
    Event,
    Next,
    NotYet,
    Outbox,
    Publisher,
    Retry,
    Saga,
    Secret,
    Service,
    Transaction,
    any_of,
    child,
    cron,
    lock,
    policy,
    retry_topic,
    step,
)
from choreo.saga.testing import Harness, SagaView, answers, crashes, silent


class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal


class Reserved(Event, topic="inventory", key="order_id"):
    order_id: str
    reservation: str


class Refused(Event, topic="inventory", key="order_id"):
    order_id: str


class Release(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    reservation: str | None = None


class Released(Event, topic="inventory", key="order_id"):
    order_id: str


class Paid(Event, topic="payments", key="order_id"):
    order_id: str
    amount: Decimal


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


class SendReceipt(Event, topic="mail.commands", key="order_id"):
    order_id: str


class Sent(Event, topic="mail", key="order_id"):
    order_id: str


class Done(Event, topic="orders", key="order_id"):
    order_id: str


inventory = Service("inventory")


@inventory.on(Placed, retry=Retry(attempts=5, first="200ms", most="30s"))
async def reserve(order: Placed, context: Context) -> Reserved | Refused:
    return Reserved(order_id=order.order_id, reservation=context.idempotency_key)


@inventory.on(Release, undoes=reserve, exhausted="park")
async def release(command: Release, tx: Transaction) -> Released:
    return Released(order_id=command.order_id)


@inventory.on(
    Placed,
    retry=Retry(on=OSError, not_on=(ConnectionError,), within="2m", jitter=0),
    exhausted=retry_topic("1m", "1h"),
    timeout="10s",
    concurrency=3,
    rate="50/s",
    breaker=Breaker(failures=0.5, pause="30s"),
    priority=5,
    name="limited",
)
def in_a_thread(order: Placed) -> Reserved | None:
    return None


@inventory.on(Placed, batch=Batch(most=500, wait="100ms"))
async def many_at_once(orders: list[Placed]) -> list[Reserved | None]:
    return [None for _ in orders]


@inventory.on(Placed)
async def many_for_each(orders: list[Placed], tx: Transaction) -> list[list[Reserved]]:
    return [[] for _ in orders]


@inventory.on(Placed)
async def look(order: Placed) -> None: ...


@inventory.on(Placed)
async def several(order: Placed) -> list[Reserved | Paid]:
    return []


# ---- what handlers ask for beside the event --------------------------------------------------------------------------


class Bank:
    async def charge(self, amount: Decimal) -> None: ...


class BankSettings(BaseSettings):
    url: str = "https://bank.example"


async def log_calls(call: Call, next: Next) -> Answer:
    call.context.log.info("called", type=type(call.event).__name__)
    return await next(call)


payment = Service("payment", middleware=[log_calls])


@payment.lifespan
async def bank(settings: BankSettings) -> AsyncIterator[Bank]:
    yield Bank()


@payment.lifespan
@asynccontextmanager
async def started() -> AsyncIterator[None]:
    yield


async def account(bank: Bank, order: Placed) -> AsyncIterator[str]:
    yield order.order_id


@payment.middleware
async def passes_on(call: Call, next: Next) -> Reserved | None:
    answer = await next(call)
    return answer if isinstance(answer, Reserved) else None


@payment.on(Placed)
async def charge(order: Placed, bank: Bank, account: Annotated[str, Depends(account)], settings: BankSettings) -> Paid:
    await bank.charge(order.total)
    return Paid(order_id=account.upper(), amount=order.total)


async def testing_with_stand_ins() -> None:
    await charge(Placed(order_id="1", total=Decimal(1)), Bank(), "account", BankSettings())
    async with Harness(
        payment, overrides={Bank: Bank(), account: lambda: "1", BankSettings: BankSettings()}
    ) as harness:
        await harness.run()


def release_by_hand(saga: Fulfilment) -> Release:
    try:
        return Release(order_id=saga.key, reservation=saga.reserve.reservation)
    except NotYet:
        return Release(order_id=saga.key)


class Fulfilment(
    Saga,
    start=Placed,
    key="order_id",
    deadline=timedelta(hours=2),
    completed=Done,
    policies={Shipped: policy(late="ask")},
    lock=lock("order_id", waits="10m", expires="2h"),
):
    reserve = step(done=Reserved, failed=Refused, undo=release_by_hand, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, undo=None, within=timedelta(minutes=5))
    ship = step(after=(reserve, any_of(charge)), done=Shipped, within="3d", pivot=True)
    notify = step(after=ship, send=SendReceipt, done=Sent, within=60, retry=Retry(attempts=10), optional=True)


class Nightly(Saga, start=Placed, key="order_id", schedule=cron("0 2 * * *", tz="Europe/Berlin")):
    reserve = step(done=(Reserved, Paid), undo=None, within="30s")


def typed(saga: Fulfilment) -> str:
    amount: Decimal = saga.charge.amount
    maybe: Reserved | None = saga.maybe(Fulfilment.reserve)
    return f"{amount} {maybe.reservation if maybe is not None else saga.key}"


async def publishing(events: AsyncIterator[Placed]) -> list[str]:
    async with Publisher("memory:", source="shop") as publisher:
        async for event in events:
            await publisher.publish(event, time=datetime.now())
        return await publisher.publish(Placed(order_id="1", total=Decimal(1)), Done(order_id="1"))


async def testing() -> SagaView:
    async with Harness(inventory, Fulfilment, play={SendReceipt: [silent(), answers(Sent)]}, seed=7) as harness:
        await harness.publish(Placed(order_id="4711", total=Decimal(1)))
        await harness.advance("2h")
        sent: list[SendReceipt] = harness.sent(SendReceipt)
        assert not sent
        crashes(ValueError("no"), instead_of=Sent)
        return harness.saga("fulfilment/4711")


# ---- a step per element, and a saga within a saga --------------------------------------------------------------------


class ReserveOne(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    sku: str


class OneReserved(Event, topic="inventory", key="order_id"):
    order_id: str
    sku: str


def skus(saga: Lines) -> list[str]:
    return [saga.key]


def reserve_one(saga: Lines, sku: str) -> ReserveOne:
    return ReserveOne(order_id=saga.key, sku=sku)


class Lines(Saga, start=Placed, key="order_id"):
    reserve = step(each=skus, by="sku", send=reserve_one, done=OneReserved, undo=None, within="30s")
    pack = child(Fulfilment, start=Placed, after=reserve, within="1d")
    bill = child("billing", start=lambda saga: saga.started, after=pack, within="1d")


def look_at(saga: Lines) -> str:
    every: list[OneReserved] = saga.reserve
    one: OneReserved | None = saga.maybe(Lines.reserve, "sku-1")
    return f"{len(every)} {one} {saga.pack.saga} {saga.bill.parent}"


outbox = Outbox(source="shop")


def write_with_blocking(
    session: Session,
    scoped: scoped_session[Session],
    connection: Connection,
    plain: sqlite3.Connection,
    modern: psycopg.Connection,
) -> list[str]:
    event = Placed(order_id="1", total=Decimal(1))
    ids: list[str] = outbox.add(session, event, event)
    return [
        *ids,
        *outbox.add(scoped, event),
        *outbox.add(connection, event),
        *outbox.add(plain, event),
        *outbox.add(modern, event),
    ]


async def write_with_awaited(
    session: AsyncSession, connection: AsyncConnection, modern: psycopg.AsyncConnection
) -> list[str]:
    event = Placed(order_id="1", total=Decimal(1))
    await outbox.prepare_async(Placed)
    ids: list[str] = await outbox.add(session, event, id="1", causation_id="0")
    return [*ids, *await outbox.add(connection, event), *await outbox.add(modern, event)]


class Stored(Event, topic="vault", key="id", encrypted="secrets"):
    id: str
    card: Secret[str]
    amounts: list[Secret[Decimal]] = []


def look_within(stored: Stored) -> str:
    total: Decimal = sum((each.reveal() for each in stored.amounts), Decimal(0))
    return f"{stored.card} {stored.card.reveal().upper()} {total}"


Stored(id="1", card=Secret("4111"), amounts=[Secret(Decimal(1))])
