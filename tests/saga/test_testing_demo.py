"""The demo's shop under the Harness: its real services and its saga, on virtual time."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from choreo import Refused
from choreo.saga.demo.events import (
    CRASHES,
    DECLINED,
    PIANO,
    SLOW_MAIL,
    UNICORN,
    CancelCarrier,
    CarrierBooked,
    CarrierCancelled,
    OrderCancelled,
    OrderFulfilled,
    OrderPlaced,
    OrderShipped,
    PaymentRefunded,
    ReceiptSent,
    SendReceipt,
    ShipOrder,
    StockReserved,
)
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.services import SLOW_CARRIER, inventory, order, payment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.testing import Harness, answers, silent
from choreo.saga.words import Condition


def placed(order_id: str, **fields: object) -> OrderPlaced:
    usual = {
        "customer": "ann",
        "email": "ann@example.org",
        "article": "lamp",
        "quantity": 1,
        "total": Decimal("9.90"),
        "card": "card",
    }
    return OrderPlaced.model_validate({"order_id": order_id, **usual, **fields})


async def test_an_order_goes_through() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711"))
        await harness.settle()
        saga = harness.saga("fulfilment/4711")
        assert saga.phase == "COMPLETED"
        assert set(saga.steps.values()) == {"DONE"}
        assert saga.commands == ("ShipOrder", "SendReceipt")
        assert saga.cause is None
        assert saga.ended_at == harness.now
        assert [event.order_id for event in harness.sent(OrderFulfilled)] == ["4711"]
        assert harness.dead_letters() == []


async def test_a_declined_card_undoes_the_reservation() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711", card=DECLINED))
        await harness.run()
        saga = harness.saga("fulfilment/4711")
        assert saga.phase == "COMPENSATED"
        assert saga.steps["reserve"] == "COMPENSATED"
        assert saga.steps["charge"] == "FAILED"
        assert saga.cause is not None
        assert (saga.cause.step, saga.cause.error) == ("charge", "PaymentDeclined")
        assert harness.sent(ShipOrder) == []
        assert len(harness.sent(OrderCancelled)) == 1


async def test_an_answer_after_its_limit_is_undone_once() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711", article=PIANO))
        await harness.advance("3.9s")
        assert harness.saga("4711").steps["book"] == "WAITING"
        await harness.advance("0.1s")
        saga = harness.saga("4711")
        assert (saga.phase, saga.steps["book"]) == ("COMPENSATING", "COMPENSATING")
        assert harness.sent(CarrierBooked) == []
        await harness.run()
        saga = harness.saga("4711")
        assert (saga.phase, saga.steps["book"]) == ("COMPENSATED", "COMPENSATED")
        assert len(harness.sent(CarrierBooked)) == 1
        assert len(harness.sent(CancelCarrier)) == 1
        assert saga.ended_at is not None
        assert saga.ended_at - saga.started_at >= timedelta(seconds=SLOW_CARRIER)


async def test_an_undo_that_comes_before_its_step_is_done_keeps_it_from_being_done() -> None:
    """The card fails and is to be tried again in a moment; meanwhile there is no stock, so the payment is undone."""
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711", article=UNICORN, quantity=10, card=CRASHES))
        await harness.settle()
        saga = harness.saga("4711")
        assert saga.steps == {
            "reserve": "FAILED",
            "charge": "COMPENSATED",
            "book": "SKIPPED",
            "ship": "SKIPPED",
            "notify": "SKIPPED",
        }
        assert saga.commands == ("RefundPayment",)
        await harness.advance("1m")
        assert harness.dead_letters() == []
        assert len(harness.sent(PaymentRefunded)) == 1


async def test_a_handler_that_raises_each_time_ends_in_the_dead_letters_and_is_undone() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711", card=CRASHES))
        await harness.run()
        saga = harness.saga("fulfilment/4711")
        assert saga.phase == "COMPENSATED"
        assert saga.cause is not None
        assert (saga.cause.step, saga.cause.error) == ("charge", "CardNetworkError")
        [letter] = harness.dead_letters()
        assert (letter.service, letter.handler, letter.type, letter.key) == ("payment", "charge", "OrderPlaced", "4711")
        assert (letter.error, letter.attempts) == ("CardNetworkError", 3)


async def test_a_person_cancels_what_has_not_ended() -> None:
    play = {StockReserved: silent(), CancelCarrier: answers(CarrierCancelled)}
    async with Harness(order, inventory, payment, Fulfilment, play=play) as harness:
        await harness.publish(placed("4711"))
        await harness.advance("1s")
        await harness.cancel("fulfilment/4711", reason="changed her mind")
        saga = harness.saga("fulfilment/4711")
        assert saga.phase == "CANCELLED"
        assert saga.commands == ("CancelCarrier", "RefundPayment", "ReleaseStock")
        assert saga.cause is not None
        assert saga.cause.message == "changed her mind"
        with pytest.raises(Refused):
            await harness.cancel("fulfilment/4711")


async def test_a_pivot_whose_outcome_is_unknown_waits_for_a_person_and_takes_a_late_answer() -> None:
    play = {
        StockReserved: answers(CarrierBooked, parcel="P-1"),
        ShipOrder: silent(),
        SendReceipt: answers(ReceiptSent),
    }
    async with Harness(order, inventory, payment, Fulfilment, play=play) as harness:
        await harness.publish(placed("4711"))
        started = harness.now
        await harness.run()
        saga = harness.saga("fulfilment/4711")
        assert (saga.phase, saga.steps["ship"]) == ("RUNNING", "UNKNOWN")
        assert Condition.WAITING_FOR_PERSON in saga.conditions
        assert saga.next_due is None
        assert harness.now - started == timedelta(days=3)
        await harness.publish(OrderShipped(order_id="4711", parcel="P-1"))
        await harness.run()
        assert harness.saga("fulfilment/4711").phase == "COMPLETED"


async def test_a_mail_server_that_takes_the_second_letter_is_asked_twice() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(placed("4711", email=f"ann{SLOW_MAIL}"))
        await harness.settle()
        assert harness.saga("4711").steps["notify"] == "RETRYING"
        await harness.run()
        assert harness.saga("4711").phase == "COMPLETED"
        assert len(harness.sent(SendReceipt)) == 2


async def test_sagas_of_many_orders_do_not_mix() -> None:
    async with Harness(*SERVICES, Fulfilment) as harness:
        await harness.publish(*(placed(str(n), card=DECLINED if n % 3 == 0 else "card") for n in range(30)))
        await harness.run()
        phases = {name: saga.phase.value for name, saga in harness.sagas.items()}
        assert phases == {f"fulfilment/{n}": "COMPENSATED" if n % 3 == 0 else "COMPLETED" for n in range(30)}
