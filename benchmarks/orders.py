"""The event of the handler benchmarks: eight fields, one of them a list of eight items, about 271 bytes of Avro.

The work is the same everywhere: read an order, price it, publish the priced one, of the same size and with its key.
"""

from __future__ import annotations

import os

from choreo.events.event import Event

RUN = os.environ.get("CHOREO_BENCH_RUN", "bench")
"""Keeps the topics and groups of one measurement apart from all others on the same broker."""


class OrderReceived(Event, topic=f"{RUN}.received", key="order_id"):
    """What comes in."""

    order_id: str
    customer: str
    country: str
    placed_at: int
    total: int
    weight: float
    items: list[str]
    note: str | None = None


class OrderPriced(Event, topic=f"{RUN}.priced", key="order_id"):
    """What goes out."""

    order_id: str
    customer: str
    country: str
    placed_at: int
    total: int
    weight: float
    items: list[str]
    note: str | None = None


def price(total: int, items: list[str]) -> int:
    """Do the business: almost nothing, so that everything around it is what is measured."""
    return total + len(items)


def order(number: int) -> OrderReceived:
    """Make order `number`; each is about one key of its own."""
    return OrderReceived(
        order_id=f"order-{number:08d}",
        customer=f"customer-{number % 9973:06d}",
        country="NL",
        placed_at=1_795_000_000_000_000 + number,
        total=1_000 + number % 5_000,
        weight=0.5 + number % 7,
        items=[f"article-{(number * 7 + item) % 9973:06d}-black" for item in range(8)],
        note="please leave it with the neighbour upstairs",
    )
