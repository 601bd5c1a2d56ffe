"""What `explore` runs while a bug is in the code: the demo shop with its books. Imported after the bug is seeded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

from sqlalchemy import select

from choreo import Event
from choreo.saga.demo import services
from choreo.saga.demo.books import Books, prove
from choreo.saga.demo.events import OrderPlaced
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.demo.traffic import Mix, traffic
from choreo.saga.instance import Instance
from choreo.saga.tables import saga
from choreo.saga.testing import Explorer, Run


def orders(random: Random) -> list[Event]:
    """Two orders of the demo's traffic: most of them meet some trouble."""
    placed = list(traffic(Mix(orders=8, seed=random.randrange(1_000_000))))
    return [each.event for each in random.sample(placed, 2)]


def the_books_agree(run: Run) -> None:
    """What the demo's report proves: stock, money, parcels and receipts are those of the orders that were fulfilled."""
    with run._simulation.saga_disk.reader.connect() as connection:
        states = connection.execute(select(saga.c.key, saga.c.state)).all()
    books = Books(
        sagas={key: Instance.from_json(state) for key, state in states},
        orders=run.rows("order", services.orders),
        stock=run.rows("inventory", services.stock),
        reservations=run.rows("inventory", services.reservations),
        ledger=run.rows("payment", services.ledger),
        parcels=run.rows("shipping", services.parcels),
        letters=run.rows("notification", services.letters),
    )
    placed = [event for event in run.events if isinstance(event, OrderPlaced)]
    wrong = [f"{check.name}: {check.told}" for check in prove(books, placed) if not check.holds]
    assert not wrong, "; ".join(wrong)


def shop(faults: Collection[str] | None) -> Explorer:
    """The demo shop."""
    return Explorer(Fulfilment, SERVICES, events=orders, finally_=the_books_agree, faults=faults)


SCENARIOS: dict[str, Callable[[Collection[str] | None], Explorer]] = {"shop": shop}
