"""Harness and explore run lifespans, dependencies and middleware, with stand-ins for the outside world."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from choreo.events.errors import ConfigurationError
from choreo.events.event import Event
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.saga.testing import Harness, explore
from choreo.services.context import Context, Transaction
from choreo.services.dependencies import Depends
from choreo.services.middleware import Answer, Call, Next
from choreo.services.service import Service


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str
    receipt: str


class Refund(Event, topic="payment.commands", key="order_id"):
    order_id: str


class Refunded(Event, topic="payments", key="order_id"):
    order_id: str


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


class BankSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_BANK_")
    url: str


class Bank:
    """A bank that gives one receipt for one idempotency key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.receipts: dict[str, str] = {}
        self.lives = 0

    async def charge(self, key: str) -> str:
        await asyncio.sleep(0.5)
        return self.receipts.setdefault(key, f"{self.name}-{len(self.receipts)}")


payment = Service("payment")
calls: list[str] = []


@payment.lifespan
async def bank(settings: BankSettings) -> AsyncIterator[Bank]:
    yield Bank(settings.url)


@payment.lifespan
async def refresh(bank: Bank) -> AsyncIterator[None]:
    async def forever() -> None:
        while True:
            await asyncio.sleep(30)
            bank.lives += 1

    task = asyncio.create_task(forever())
    yield
    task.cancel()


async def account(bank: Bank, order: Ordered) -> AsyncIterator[str]:
    yield f"{bank.name}/{order.order_id}"


@payment.middleware
async def note(call: Call, next: Next) -> Answer:
    calls.append(call.handler)
    return await next(call)


@payment.on(Ordered)
async def charge(order: Ordered, bank: Bank, context: Context, account: Annotated[str, Depends(account)]) -> Charged:
    return Charged(order_id=order.order_id, receipt=f"{account} {await bank.charge(context.idempotency_key)}")


@payment.on(Refund, undoes=charge)
async def refund(command: Refund, tx: Transaction, bank: Bank) -> Refunded:
    return Refunded(order_id=command.order_id)


class Sale(Saga, start=Ordered, key="order_id"):
    charge = step(done=Charged, undo=Refund, undone=Refunded, within="1h")
    ship = step(after=charge, done=Shipped, undo=None, within="1h")


@pytest.fixture(autouse=True)
def _no_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_BANK_URL", raising=False)
    calls.clear()


async def test_a_harness_runs_lifespans_and_dependencies_with_what_stands_in_for_them():
    fake = Bank("fake")
    async with Harness(payment, Sale, overrides={Bank: fake}) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.run()
        assert harness.sent(Charged) == [Charged(order_id="1", receipt="fake/1 fake-0")]
        assert harness.saga("sale/1").phase.value == "COMPENSATED"  # nobody shipped it
        assert fake.lives > 0  # its background task goes on while time passes
    assert calls == ["charge", "refund"]


async def test_a_harness_takes_settings_or_functions_in_place_of_the_real_ones():
    async def plain(order: Ordered) -> str:
        return f"plain {order.order_id}"

    overrides = {BankSettings: BankSettings(url="test"), account: plain}
    async with Harness(payment, overrides=overrides) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.run(most="1h")
        assert [each.receipt for each in harness.sent(Charged)] == ["plain 1 test-0"]


async def test_missing_settings_are_told_by_the_harness():
    with pytest.raises(ConfigurationError, match="service payment needs the settings of BankSettings: TEST_BANK_URL"):
        async with Harness(payment):
            pass


def test_overrides_that_nobody_asks_for_are_refused_at_once():
    with pytest.raises(ConfigurationError, match="no handler here asks for Shipped"):
        Harness(payment, overrides={Shipped: 1})
    with pytest.raises(ConfigurationError, match="no handler here asks for Shipped"):
        explore(Sale, [payment], events=[Ordered(order_id="1")], seeds=1, overrides={Shipped: 1})


def test_explore_kills_and_restarts_processes_with_lifespans():
    fake = Bank("fake")
    lives: list[str] = []

    async def counted() -> AsyncIterator[Bank]:
        lives.append("begun")
        yield fake
        lives.append("ended")

    def paid_once(run) -> None:
        for sale in run.sagas.values():
            receipts = {each.event.receipt for each in run.published if isinstance(each.event, Charged)}
            assert len(receipts) <= 2, sale

    explored = explore(
        Sale,
        [payment],
        events=[Ordered(order_id="1"), Ordered(order_id="2")],
        seeds=12,
        faults=["crash"],
        overrides={bank: counted},
        finally_=paid_once,
        fresh=fake.receipts.clear,
    )
    assert explored.failure is None
    assert lives.count("begun") > 12  # once for each run, and again for each process that was killed
