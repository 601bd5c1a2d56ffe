"""What is said in the demo shop: its events, and the commands addressed to one service each.

Some values make trouble on purpose, as the test cards of payment providers do: order a `PIANO`, or pay with the card
`DECLINED`, and watch what becomes of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from ...events.event import Event

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]

UNICORN = "unicorn"
"""An article of which there are only a few."""
PIANO = "piano"
"""An article whose carrier answers when nobody waits any more."""
ANVIL = "anvil"
"""An article that no carrier takes."""
DECLINED = "card-declined"
"""A card that the bank declines."""
CRASHES = "card-crashes"
"""A card on which the payment service's code fails each time."""
SLOW_MAIL = "@slow.example"
"""Mail addresses that refuse the first delivery of a letter."""
NO_MAIL = "@gone.example"
"""Mail addresses that refuse every delivery."""


class ShopEvent(Event, key="order_id"):
    """Base of all events of the shop: each is about one order."""

    order_id: str


# ---- the order ----------------------------------------------------------------------------------------------------


class OrderPlaced(ShopEvent, topic="orders"):
    """A customer ordered: said by the web shop, which knows nothing of what follows."""

    customer: str
    email: str
    article: str
    quantity: Annotated[int, Field(gt=0)]
    total: Money
    card: str


class OrderFulfilled(ShopEvent, topic="orders"):
    """Said by the saga: everything that must happen has happened."""


class OrderCancelled(ShopEvent, topic="orders"):
    """Said by the saga: whatever had happened is undone."""


# ---- inventory ----------------------------------------------------------------------------------------------------


class StockReserved(ShopEvent, topic="inventory"):
    """The goods lie aside for this order."""

    article: str
    quantity: int


class StockRefused(ShopEvent, topic="inventory"):
    """There are not enough of them."""

    article: str


class ReleaseStock(ShopEvent, topic="inventory.commands"):
    """Command: put the goods back."""


class StockReleased(ShopEvent, topic="inventory"):
    """The goods are back, or were never taken."""


# ---- payment ------------------------------------------------------------------------------------------------------


class PaymentCaptured(ShopEvent, topic="payment"):
    """The money is ours."""

    amount: Money


class PaymentDeclined(ShopEvent, topic="payment"):
    """The bank said no."""

    customer: str = ""


class RefundPayment(ShopEvent, topic="payment.commands"):
    """Command: give the money back."""


class PaymentRefunded(ShopEvent, topic="payment"):
    """The money is back, or was never taken."""


# ---- fraud --------------------------------------------------------------------------------------------------------


class FraudSuspected(Event, topic="fraud", key="customer"):
    """Too many of a customer's cards were declined. Said by the fraud check (`fraud.py`), where it runs."""

    customer: str
    orders: list[str]


# ---- shipping -----------------------------------------------------------------------------------------------------


class CarrierBooked(ShopEvent, topic="shipping"):
    """A carrier will fetch the parcel."""

    parcel: str


class CarrierRefused(ShopEvent, topic="shipping"):
    """No carrier takes it."""


class CancelCarrier(ShopEvent, topic="shipping.commands"):
    """Command: the carrier need not come."""


class CarrierCancelled(ShopEvent, topic="shipping"):
    """The carrier will not come, or was never asked."""


class ShipOrder(ShopEvent, topic="shipping.commands"):
    """Command: hand the parcel over. From here there is no way back."""

    parcel: str


class OrderShipped(ShopEvent, topic="shipping"):
    """The parcel is on its way."""

    parcel: str


# ---- notification -------------------------------------------------------------------------------------------------


class SendReceipt(ShopEvent, topic="notification.commands"):
    """Command: send the customer a receipt."""

    email: str
    total: Money


class ReceiptSent(ShopEvent, topic="notification"):
    """The receipt was delivered."""


class ReceiptBounced(ShopEvent, topic="notification"):
    """The customer's mail server refused it."""
