"""The shop's fraud check, as a Faust agent: who has three cards declined within ten minutes is suspected.

It needs Kafka and the extra `faust`: `faust -A choreo.saga.demo.fraud worker`. The shop runs without it just as well.

    PaymentDeclined (by order) -> sort -> CardDeclined (by customer) -> watch -> FraudSuspected -> payment
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ...events.event import Event
from ...services.faust import App, Stream
from .events import FraudSuspected, PaymentDeclined

LIMIT = 3
"""Orders with a declined card, within the window, that make a customer suspect."""
WINDOW = 600.0
"""Seconds."""
STEP = 60.0
"""Seconds by which the windows are apart: what is counted are the last nine to ten minutes."""


class CardDeclined(Event, topic="fraud.cards", key="customer"):
    """A customer's card was declined. Keyed by customer, so that one process sees all of a customer's."""

    customer: str
    order_id: str


app = App("fraud")
fraud = app.service_of_choreo

declined = app.Table("declined", default=list, key_type=str).hopping(WINDOW, STEP, expires=2 * WINDOW)
"""Order numbers by customer: an order that is met again after a crash counts once, as a mere number would not."""


@app.on(PaymentDeclined)
async def sort(payments: Stream[PaymentDeclined]) -> AsyncIterator[CardDeclined]:
    """Say it once more under the customer's name: the events of a shop are keyed by order."""
    async for payment in payments:
        if payment.customer:
            yield CardDeclined(customer=payment.customer, order_id=payment.order_id)


@app.on(CardDeclined)
async def watch(cards: Stream[CardDeclined]) -> AsyncIterator[FraudSuspected]:
    """Count per customer, in windows of the events' own time."""
    async for card in cards:
        declined[card.customer] += [card.order_id]
        orders = sorted(set(declined[card.customer].delta(WINDOW - STEP)))
        if len(orders) == LIMIT:
            yield FraudSuspected(customer=card.customer, orders=orders)
