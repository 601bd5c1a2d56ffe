"""What is explored: the demo shop with its books, and the examples."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from choreo import Event
from choreo.saga.demo import services
from choreo.saga.demo.books import Books, prove
from choreo.saga.demo.events import OrderPlaced
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.demo.traffic import Mix, traffic
from choreo.saga.testing import Explored, Explorer, Run, explore

EXAMPLES = Path(__file__).parents[2] / "examples"


def orders(random: Random) -> list[Event]:
    mix = Mix(orders=random.randint(1, 4), seed=random.randrange(1_000_000))
    return [placed.event for placed in traffic(mix)]


def balanced(run: Run) -> None:
    """The books of the shop agree (S18)."""
    books = Books(
        sagas={instance.key: instance for instance in run.instances},
        orders=run.rows("order", services.orders),
        stock=run.rows("inventory", services.stock),
        reservations=run.rows("inventory", services.reservations),
        ledger=run.rows("payment", services.ledger),
        parcels=run.rows("shipping", services.parcels),
        letters=run.rows("notification", services.letters),
    )
    placed = [event for event in run.events if isinstance(event, OrderPlaced)]
    for check in prove(books, placed):
        assert check.holds, f"{check.name}: {check.told}"


def explorer_of_the_demo() -> Explorer:
    return Explorer(Fulfilment, SERVICES, events=orders, finally_=balanced)


def demo(seeds: int | Iterable[int], *, jobs: int = 1) -> Explored:
    return explore(Fulfilment, SERVICES, events=orders, finally_=balanced, seeds=seeds, jobs=jobs)


def _example(path: str) -> ModuleType:
    name = f"tests.examples.{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def quickstart(seeds: int | Iterable[int]) -> Explored:
    shop: Any = _example("quickstart/shop.py")

    def placed(random: Random) -> list[Event]:
        articles = ("lamp", "unicorn", "piano")
        return [
            shop.OrderPlaced(
                order_id=str(number), article=random.choice(articles), total=Decimal(random.choice((9, 2_000)))
            )
            for number in range(random.randint(1, 4))
        ]

    return explore(shop.Fulfilment, [shop.inventory, shop.payment], events=placed, seeds=seeds)


def olist(seeds: int | Iterable[int]) -> Explored:
    marketplace: Any = _example("olist/marketplace.py")

    def told(random: Random) -> list[Event]:
        events: list[Event] = []
        for number in range(random.randint(1, 3)):
            id_ = str(number)
            promised = datetime(2026, 2, 1, tzinfo=UTC)
            story = [
                marketplace.OrderPurchased(order_id=id_, customer_id="c", promised=promised),
                marketplace.OrderApproved(order_id=id_),
                marketplace.OrderHandedOver(order_id=id_),
                random.choice((marketplace.OrderDelivered, marketplace.OrderCanceled))(order_id=id_),
            ]
            events += story[: random.randint(1, 4)]
        return events

    return explore(marketplace.Marketplace, events=told, seeds=seeds)
