"""The orders of `benchmarks.wide`: three steps, every tenth order is refused at the third and two steps are undone.

All that the services said stands on one topic, so that what is measured is the coordinators and not the order in which
topics are merged. A key may be ordered again and again: that is how keys are hot.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence

from choreo.events.event import Event
from choreo.events.ids import derived_id
from choreo.events.partitioner import partition_for
from choreo.saga.saga import Saga
from choreo.saga.step import step

TOPIC = "wide.events"
REFUSED = 10
"""One order in so many is refused."""
_OPEN = 500
"""Orders that are under way at a time."""


class Placed(Event, topic=TOPIC, key="order_id"):
    """A customer ordered."""

    order_id: str
    total: int
    articles: list[str]


class Reserved(Event, topic=TOPIC, key="order_id"):
    """Step 1 is done."""

    order_id: str
    reservation: str


class Released(Event, topic=TOPIC, key="order_id"):
    """Step 1 is undone."""

    order_id: str


class Release(Event, topic="wide.stock.commands", key="order_id"):
    """Command: undo step 1."""

    order_id: str


class Captured(Event, topic=TOPIC, key="order_id"):
    """Step 2 is done."""

    order_id: str
    payment: str


class Refunded(Event, topic=TOPIC, key="order_id"):
    """Step 2 is undone."""

    order_id: str


class Refund(Event, topic="wide.payments.commands", key="order_id"):
    """Command: undo step 2."""

    order_id: str


class Shipped(Event, topic=TOPIC, key="order_id"):
    """Step 3 is done."""

    order_id: str
    tracking: str


class Refused(Event, topic=TOPIC, key="order_id"):
    """Step 3 failed."""

    order_id: str


class Order(Saga, start=Placed, key="order_id", rerun=True, deadline="2h", active_from="beginning"):
    """Reserve, charge, ship."""

    reserve = step(done=Reserved, undo=Release, undone=Released, within="10m")
    charge = step(after=reserve, done=Captured, undo=Refund, undone=Refunded, within="10m")
    ship = step(after=charge, done=Shipped, failed=Refused, undo=None, within="10m")


EVENTS = (Placed, Reserved, Released, Captured, Refunded, Shipped, Refused)


def keys(count: int, spread: str, partitions: int, *, seed: int = 7) -> list[str]:
    """Choose the key of each order.

    Args:
        count: of orders.
        spread: "uniform", over all partitions; "zipf", the n-th partition has a share of 1/n; "hot", one has all;
            "again", all orders have one key.
        partitions: of the topic.
        seed: of the choice.
    """
    if spread == "again":
        return ["order-again"] * count
    ranks = range(1, partitions + 1)
    weights = {"uniform": [1.0] * partitions, "zipf": [1 / rank for rank in ranks]}.get(spread, [1.0])
    supplies = [keys_of(partition, partitions) for partition in range(len(weights))]
    return [next(supply) for supply in random.Random(seed).choices(supplies, weights, k=count)]


def keys_of(partition: int, partitions: int) -> Iterator[str]:
    """Give keys that stand in one partition."""
    for number in itertools.count():
        key = f"order-{number:08d}"
        if partition_for(key.encode(), partitions) == partition:
            yield key


def refusals(count: int) -> int:
    """Count the orders that are refused."""
    return -(-count // REFUSED)


def said(chosen: Sequence[str]) -> Iterator[tuple[Event, str | None, str]]:
    """Tell what all services said, each event with its cause and its id; orders of one key come one after the other."""
    waiting: dict[str, deque[int]] = {}
    for number, key in enumerate(chosen):
        waiting.setdefault(key, deque()).append(number)
    ready = deque(waiting)
    under_way: deque[tuple[str, Iterator[tuple[Event, str | None, str]]]] = deque()
    while ready or under_way:
        while ready and len(under_way) < _OPEN:
            key = ready.popleft()
            under_way.append((key, _story(key, waiting[key].popleft())))
        key, story = under_way.popleft()
        told = next(story, None)
        if told is not None:
            yield told
            under_way.append((key, story))
        elif waiting[key]:
            ready.append(key)


def _story(key: str, number: int) -> Iterator[tuple[Event, str | None, str]]:
    events: list[Event] = [
        Placed(order_id=key, total=100 + number % 900, articles=[f"article-{number % 997:04d}"] * 3),
        Reserved(order_id=key, reservation=f"r-{number}"),
        Captured(order_id=key, payment=f"p-{number}"),
    ]
    if number % REFUSED:
        events.append(Shipped(order_id=key, tracking=f"t-{number}"))
    else:
        events += [Refused(order_id=key), Refunded(order_id=key), Released(order_id=key)]
    cause: str | None = None
    for index, event in enumerate(events):
        id_ = derived_id("wide", str(number), str(index))
        yield event, cause, id_
        cause = id_
