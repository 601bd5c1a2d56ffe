"""Nearly ten thousand orders of a real marketplace: from a file to its events, and a saga that only watches.

saga publish examples/olist/marketplace.py:events orders.csv.gz
saga run examples/olist/marketplace.py:Marketplace --until-idle
saga list --type marketplace

saga track examples/olist/marketplace.py:Marketplace examples/olist/marketplace.py:events orders.csv.gz
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from choreo import Dated, Event, Saga, in_time_order, step


class MarketplaceEvent(Event, topic="marketplace", key="order_id"):
    """Base of all: each is about one order."""

    order_id: str


class OrderPurchased(MarketplaceEvent):
    customer_id: str
    promised: datetime


class OrderApproved(MarketplaceEvent): ...


class OrderHandedOver(MarketplaceEvent):
    """The seller gave the parcel to the carrier."""


class OrderDelivered(MarketplaceEvent): ...


class OrderCanceled(MarketplaceEvent): ...


class OrderUnavailable(MarketplaceEvent):
    """The seller could not deliver what was bought."""


@in_time_order
def events(row: dict[str, str]) -> Iterator[Dated]:
    """Turn one order of the file into what happened to it: a row is the end of a story, here it is told again.

    A step that has no time never happened. The file does not say when an order was canceled or became unavailable: it
    was after everything else that is known of it.
    """
    order_id = row["order_id"]
    purchased = _time(row["order_purchase_timestamp"])
    if purchased is None:
        raise ValueError("an order that nobody purchased")
    promised = _time(row["order_estimated_delivery_date"]) or purchased
    last = purchased
    yield Dated(OrderPurchased(order_id=order_id, customer_id=row["customer_id"], promised=promised), purchased)
    for column, happened in (
        ("order_approved_at", OrderApproved),
        ("order_delivered_carrier_date", OrderHandedOver),
        ("order_delivered_customer_date", OrderDelivered),
    ):
        at = _time(row[column])
        if at is not None:
            last = max(last, at)
            yield Dated(happened(order_id=order_id), at)
    if row["order_status"] == "canceled":
        yield Dated(OrderCanceled(order_id=order_id), last)
    elif row["order_status"] == "unavailable":
        yield Dated(OrderUnavailable(order_id=order_id), last)


def _time(text: str) -> datetime | None:
    """The file has local times without a zone. They are taken as UTC: only their order matters here."""
    return datetime.strptime(text, "%m/%d/%Y %H:%M").replace(tzinfo=UTC) if text else None


class Marketplace(Saga, start=OrderPurchased, key="order_id", observe_only=True, active_from="beginning"):
    """What becomes of an order, as far as its events tell: choreo watches, and sends nothing."""

    approve = step(done=OrderApproved, failed=(OrderCanceled, OrderUnavailable), within="30d")
    carrier = step(after=approve, done=OrderHandedOver, failed=(OrderCanceled, OrderUnavailable), within="60d")
    deliver = step(
        after=carrier,
        done=OrderDelivered,
        failed=(OrderCanceled, OrderUnavailable),
        within="180d",
        due="promised",  # another day for each order: later than that is late, and no failure
    )
