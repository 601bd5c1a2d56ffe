"""Secrets in sagas: commands filled from encrypted events; what would show a secret is refused where it is defined."""

from __future__ import annotations

from typing import Any

import pytest

from choreo import DefinitionError, Event, Permanent, Saga, Secret, Service, Transaction, lock, step
from choreo.saga.testing import Harness


class Base(Event, key="order_id", topic="base", encrypted="secrets"):
    order_id: str


class Ordered(Base, topic="orders"):
    card: Secret[str]
    customer: Secret[str] | None = None


class Held(Base, topic="stock"):
    hold: Secret[str]


class Release(Base, topic="stock.commands", encrypted=True):
    card: Secret[str]
    hold: Secret[str] | None = None


class Released(Base, topic="stock"):
    pass


class Charged(Base, topic="payments"):
    pass


class Declined(Base, topic="payments"):
    pass


class Open(Event, topic="open.commands", key="order_id"):
    order_id: str
    card: str


stock = Service("stock")
bank = Service("bank")


@stock.on(Ordered)
async def hold(order: Ordered, tx: Transaction) -> Held:
    return Held(order_id=order.order_id, hold=Secret(f"hold for {order.card.reveal()}"))


@stock.on(Release, undoes=hold)
async def release(command: Release, tx: Transaction) -> Released:
    return Released(order_id=command.order_id)


@bank.on(Held)
async def charge(held: Held) -> Charged | Declined:
    raise Permanent(f"no money behind {held.hold.reveal()}")


class Sale(Saga, start=Ordered, key="order_id"):
    hold = step(done=Held, undo=Release, undone=Released, within="1m")
    charge = step(after=hold, done=Charged, failed=Declined, undo=None, within="1m")


async def test_an_undo_is_filled_from_encrypted_events_and_nobody_sees_it() -> None:
    async with Harness(stock, bank, Sale) as harness:
        await harness.publish(Ordered(order_id="1", card=Secret("4111-1111")))
        await harness.advance("1s")
        saga = harness.saga("sale/1")
        assert saga.phase == "COMPENSATED"
        [command] = harness.sent(Release)
        assert command.card.reveal() == "4111-1111"
        assert command.hold is not None and command.hold.reveal() == "hold for 4111-1111"
        assert "4111" not in f"{saga} {saga!r} {harness.dead_letters} {command!r}"
        assert saga.cause is not None and saga.cause.message == "no money behind **********"


def test_what_would_show_a_secret_is_refused_where_it_is_defined() -> None:
    def saga(**options: Any) -> Any:
        return type("Bad", (Saga,), {"hold": step(done=Held, undo=None, within="1m")}, start=Ordered, **options)

    with pytest.raises(DefinitionError, match=r"Ordered.card is secret, and the saga's name would show it"):
        saga(key="order_id", correlate={Ordered: "card"})
    with pytest.raises(DefinitionError, match=r"Ordered.card is secret, and `saga locks` would show it"):
        saga(key="order_id", lock=lock("card", waits="1m", expires="1h"))
    with pytest.raises(DefinitionError, match=r"Ordered.card is Secret.*Open.card wants str"):

        class Leaking(Saga, start=Ordered, key="order_id"):
            show = step(send=Open, done=Held, undo=None, within="1m")
