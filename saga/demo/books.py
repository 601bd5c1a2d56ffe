"""The books of the shop, and what they must prove: nothing lost, nothing twice, everything ended or undone.

Each service has books of its own; that they agree with each other and with the sagas is the demo's whole claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, Table, select

from ...events.database import Database
from ...events.settings import Settings
from ..definition import Definition
from ..instance import Instance
from ..tables import saga
from ..words import Phase, StepState
from . import services
from .events import OrderPlaced
from .saga import Fulfilment

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Books:
    """Everything that was written down.

    Args:
        sagas: by order number.
        orders, stock, reservations, ledger, parcels, letters: rows of the services' tables.
    """

    sagas: Mapping[str, Instance]
    orders: Rows
    stock: Rows
    reservations: Rows
    ledger: Rows
    parcels: Rows
    letters: Rows


class Check(NamedTuple):
    """One claim, whether it holds, and in a sentence why."""

    name: str
    holds: bool
    told: str


async def read_books(settings: Settings) -> Books:
    """Read the books of a shop, each from its own store.

    Raises:
        StoreUnreachable, ConfigurationError: there is no such store.
    """
    opened: dict[str, Rows] = {}
    tables: tuple[tuple[str, Table], ...] = (
        ("order", services.orders),
        ("inventory", services.stock),
        ("inventory", services.reservations),
        ("payment", services.ledger),
        ("shipping", services.parcels),
        ("notification", services.letters),
    )
    for service, table in tables:
        opened[table.name] = await _read(settings.service_store_url(service), _rows_of(table))
    return Books(sagas=await read_sagas(settings), **opened)


async def read_sagas(settings: Settings) -> dict[str, Instance]:
    """Read the state of every order's saga."""

    def states(connection: Connection) -> list[Instance]:
        found = connection.execute(select(saga.c.state).where(saga.c.type == Fulfilment.definition().type))
        return [Instance.from_json(state) for state in found.scalars()]

    return {instance.key: instance for instance in await _read(settings.store_url, states)}


def _rows_of(table: Table) -> Callable[[Connection], list[RowMapping]]:
    return lambda connection: list(connection.execute(select(table)).mappings())


async def _read(url: str, work: Callable[[Connection], Any]) -> Any:
    database = await Database.open(url, must_exist=True)
    try:
        return await database.read(work)
    finally:
        await database.close()


def prove(books: Books, placed: Iterable[OrderPlaced]) -> list[Check]:
    """Hold the books against each other, and against what was ordered.

    Args:
        books: what was written down.
        placed: every order that the web shop placed.
    """
    ordered = {event.order_id: event for event in placed}
    kept = {key for key, instance in books.sagas.items() if instance.phase is Phase.COMPLETED}
    return [
        _sagas(books, ordered),
        _orders(books, ordered, kept),
        _stock(books, ordered, kept),
        _money(books, ordered, kept),
        _parcels(books, kept),
        _letters(books, kept),
    ]


def _sagas(books: Books, ordered: Mapping[str, OrderPlaced]) -> Check:
    definition = Fulfilment.definition()
    missing = ordered.keys() - books.sagas.keys()
    unexpected = books.sagas.keys() - ordered.keys()
    running = [key for key, instance in books.sagas.items() if not instance.phase.ended]
    torn = [key for key, instance in books.sagas.items() if instance.phase.ended and not _whole(definition, instance)]
    ended = Counter(instance.phase.value for instance in books.sagas.values())
    told = ", ".join(f"{number:,} {phase}" for phase, number in sorted(ended.items()))
    wrong = _wrong({"without a saga": missing, "unknown": unexpected, "open": running, "neither done nor undone": torn})
    return Check("sagas", not wrong, wrong or f"{len(ordered):,} orders, every saga ended: {told}")


def _whole(definition: Definition, instance: Instance) -> bool:
    """All of it happened, or all that happened was undone."""
    states = {plan: instance.steps[plan.name].state for plan in definition.steps}
    if instance.phase is Phase.COMPLETED:
        return all(state is StepState.DONE or plan.optional for plan, state in states.items())
    return not any(
        (state is StepState.DONE and (plan.undo is not None or plan.pivot)) or state is StepState.UNDO_FAILED
        for plan, state in states.items()
    )


def _orders(books: Books, ordered: Mapping[str, OrderPlaced], kept: set[str]) -> Check:
    found = {row["order_id"]: row for row in books.orders}
    other = [
        key for key in ordered.keys() & found.keys() if (found[key]["state"] == "fulfilled") is not (key in kept)
    ]  # fmt: skip
    twice = [row["order_id"] for row in books.orders if row["closed"] != 1]
    wrong = _wrong({"missing": ordered.keys() ^ found.keys(), "closed otherwise": other, "not closed once": twice})
    return Check("orders", not wrong, wrong or f"each was closed once: {len(kept):,} fulfilled, the others cancelled")


def _stock(books: Books, ordered: Mapping[str, OrderPlaced], kept: set[str]) -> Check:
    sold: Counter[str] = Counter()
    for key in kept & ordered.keys():
        sold[ordered[key].article] += ordered[key].quantity
    opening = services.OPENING_STOCK
    lost = [row["article"] for row in books.stock if _pieces(row) != opening[row["article"]]]
    aside = [row["article"] for row in books.stock if row["reserved"]]
    wrongly = [row["article"] for row in books.stock if row["sold"] != sold[row["article"]]]
    twice = _more_than_one(books.reservations, ("reserved", "released", "sold"))
    wrong = _wrong({"not constant": lost, "still reserved": aside, "sold otherwise": wrongly, "taken twice": twice})
    total = sum(row["sold"] for row in books.stock)
    return Check("stock", not wrong, wrong or f"free + reserved + sold is constant, reserved is 0, sold is {total:,}")


def _pieces(row: Mapping[str, Any]) -> int:
    return int(row["free"] + row["reserved"] + row["sold"])


def _money(books: Books, ordered: Mapping[str, OrderPlaced], kept: set[str]) -> Check:
    taken = {row["order_id"] for row in books.ledger if row["kind"] == "captured"}
    came = sum(row["cents"] for row in books.ledger if row["kind"] == "captured")
    went = sum(row["cents"] for row in books.ledger if row["kind"] == "refunded")
    earned = sum(int(ordered[key].total * 100) for key in kept & ordered.keys())
    twice = [*_more_than_one(books.ledger, ("captured",), "kind"), *_more_than_one(books.ledger, ("refunded",), "kind")]
    for_nothing = [
        row["order_id"] for row in books.ledger if row["kind"] == "refunded" and row["order_id"] not in taken
    ]
    wrong = _wrong({"moved twice": twice, "refunded for nothing": for_nothing, "fulfilled but not paid": kept - taken})
    if not wrong and came != earned + went:
        wrong = f"{_amount(came)} in, but {_amount(earned)} earned and {_amount(went)} refunded"
    return Check("money", not wrong, wrong or f"{_amount(came)} in = {_amount(earned)} kept + {_amount(went)} refunded")


def _parcels(books: Books, kept: set[str]) -> Check:
    shipped = {row["order_id"] for row in books.parcels if row["state"] == "shipped"}
    twice = [*_more_than_one(books.parcels, ("shipped",)), *_more_than_one(books.parcels, ("cancelled",))]
    both = shipped & {row["order_id"] for row in books.parcels if row["state"] == "cancelled"}
    wrong = _wrong({"shipped otherwise": shipped ^ kept, "twice": twice, "shipped and cancelled": both})
    return Check("parcels", not wrong, wrong or f"{len(shipped):,} were handed over, one for each fulfilled order")


def _letters(books: Books, kept: set[str]) -> Check:
    sent = {row["order_id"] for row in books.letters if row["state"] == "sent"}
    twice = _more_than_one(books.letters, ("sent",))
    wrong = _wrong({"sent for nothing": sent - kept, "sent twice": twice})
    told = f"{len(sent):,} were sent, {len(kept - sent):,} could not be: that step is optional"
    return Check("receipts", not wrong, wrong or told)


def _more_than_one(rows: Rows, states: Iterable[str], column: str = "state") -> list[str]:
    """Orders that have more than one row in one of these states."""
    counted = Counter(row["order_id"] for row in rows if row[column] in states)
    return [key for key, number in counted.items() if number > 1]


def _wrong(found: Mapping[str, Iterable[str]]) -> str:
    """Say what is wrong, with an example of each."""
    cases = {what: sorted(keys) for what, keys in found.items()}
    return "; ".join(f"{len(keys):,} {what}, such as {keys[0]}" for what, keys in cases.items() if keys)


def _amount(cents: int) -> str:
    return f"{cents / 100:,.2f}"
