"""The demo's proof: it holds for books that are right, and every kind of wrong book is told by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from choreo.saga.demo.books import Books, prove
from choreo.saga.demo.events import OrderPlaced
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.services import OPENING_STOCK
from choreo.saga.instance import Instance, new_instance
from choreo.saga.words import Phase, StepState

Row = dict[str, Any]


def order(key: str, article: str, quantity: int, total: str) -> OrderPlaced:
    return OrderPlaced(
        order_id=key,
        customer="ada",
        email="ada@mail.example",
        article=article,
        quantity=quantity,
        total=Decimal(total),
        card="card-1",
    )


PLACED = [order("1", "lamp", 2, "79.80"), order("2", "lamp", 1, "39.90"), order("3", "chair", 1, "119.00")]


def ended(key: str, phase: Phase, **states: StepState) -> Instance:
    instance = new_instance(Fulfilment.definition(), key, 1)
    instance.phase = phase
    for name, step in instance.steps.items():
        step.state = states.get(name, StepState.DONE)
    return instance


def undone(key: str) -> Instance:
    rest = {"ship": StepState.SKIPPED, "notify": StepState.SKIPPED}
    return ended(key, Phase.COMPENSATED, reserve=StepState.COMPENSATED, charge=StepState.FAILED,
                 book=StepState.COMPENSATED, **rest)  # fmt: skip


def right() -> Books:
    """Order 1 was fulfilled, 2 was fulfilled without a receipt, 3 was refunded."""
    stock = [{"article": name, "free": pieces, "reserved": 0, "sold": 0} for name, pieces in OPENING_STOCK.items()]
    for row in stock:
        if row["article"] == "lamp":
            row["free"], row["sold"] = row["free"] - 3, 3
    return Books(
        sagas={
            "1": ended("1", Phase.COMPLETED),
            "2": ended("2", Phase.COMPLETED, notify=StepState.DEGRADED),
            "3": undone("3"),
        },
        orders=[
            {"order_id": "1", "cents": 7980, "state": "fulfilled", "closed": 1},
            {"order_id": "2", "cents": 3990, "state": "fulfilled", "closed": 1},
            {"order_id": "3", "cents": 11900, "state": "cancelled", "closed": 1},
        ],
        stock=stock,
        reservations=[
            {"order_id": "1", "article": "lamp", "quantity": 2, "state": "sold"},
            {"order_id": "2", "article": "lamp", "quantity": 1, "state": "sold"},
            {"order_id": "3", "article": "chair", "quantity": 1, "state": "released"},
        ],
        ledger=[
            {"order_id": "1", "kind": "captured", "cents": 7980},
            {"order_id": "2", "kind": "captured", "cents": 3990},
            {"order_id": "3", "kind": "captured", "cents": 11900},
            {"order_id": "3", "kind": "refunded", "cents": 11900},
        ],
        parcels=[
            {"order_id": "1", "parcel": "P-1", "state": "shipped"},
            {"order_id": "2", "parcel": "P-2", "state": "shipped"},
            {"order_id": "3", "parcel": "", "state": "cancelled"},
        ],
        letters=[
            {"order_id": "1", "state": "bounced"},
            {"order_id": "1", "state": "sent"},
            {"order_id": "2", "state": "bounced"},
        ],
    )


def test_right_books_prove_everything() -> None:
    checks = prove(right(), PLACED)
    assert all(check.holds for check in checks)
    assert {check.name: check.told for check in checks}["money"] == "238.70 in = 119.70 kept + 119.00 refunded"


def changed(books: Books, table: str, row: int, **values: object) -> Books:
    rows = [dict(each) for each in getattr(books, table)]
    rows[row].update(values)
    return replace(books, **{table: rows})


def without(books: Books, table: str, row: int) -> Books:
    rows = list(getattr(books, table))
    del rows[row]
    return replace(books, **{table: rows})


def doubled(books: Books, table: str, row: int) -> Books:
    rows = list(getattr(books, table))
    return replace(books, **{table: [*rows, rows[row]]})


def saga(books: Books, key: str, instance: Instance | None) -> Books:
    sagas = {name: each for name, each in books.sagas.items() if name != key}
    return replace(books, sagas=sagas if instance is None else {**sagas, key: instance})


WRONG: dict[str, tuple[Callable[[Books], Books], str, str]] = {
    "an order without a saga": (lambda b: saga(b, "3", None), "sagas", "1 without a saga, such as 3"),
    "a saga of no order": (lambda b: saga(b, "9", undone("9")), "sagas", "1 unknown, such as 9"),
    "an open saga": (
        lambda b: saga(b, "3", ended("3", Phase.COMPENSATING, book=StepState.COMPENSATING)),
        "sagas",
        "1 open, such as 3",
    ),
    "a step that was not undone": (
        lambda b: saga(b, "3", ended("3", Phase.COMPENSATED)),
        "sagas",
        "1 neither done nor undone, such as 3",
    ),
    "a lost order": (lambda b: without(b, "orders", 2), "orders", "1 missing, such as 3"),
    "an order closed twice": (lambda b: changed(b, "orders", 0, closed=2), "orders", "1 not closed once, such as 1"),
    "an order closed otherwise": (
        lambda b: changed(b, "orders", 2, state="fulfilled"),
        "orders",
        "1 closed otherwise, such as 3",
    ),
    "goods that vanished": (lambda b: changed(b, "stock", 1, free=0), "stock", "1 not constant, such as teapot"),
    "goods still aside": (
        lambda b: changed(b, "stock", 2, free=OPENING_STOCK["chair"] - 1, reserved=1),
        "stock",
        "1 still reserved, such as chair",
    ),
    "goods sold for a cancelled order": (
        lambda b: changed(b, "stock", 2, free=OPENING_STOCK["chair"] - 1, sold=1),
        "stock",
        "1 sold otherwise, such as chair",
    ),
    "goods taken twice": (lambda b: doubled(b, "reservations", 0), "stock", "1 taken twice, such as 1"),
    "money taken twice": (lambda b: doubled(b, "ledger", 0), "money", "1 moved twice, such as 1"),
    "money given back twice": (lambda b: doubled(b, "ledger", 3), "money", "1 moved twice, such as 3"),
    "money not given back": (
        lambda b: without(b, "ledger", 3),
        "money",
        "238.70 in, but 119.70 earned and 0.00 refunded",
    ),
    "money given for nothing": (lambda b: without(b, "ledger", 2), "money", "1 refunded for nothing, such as 3"),
    "goods for free": (lambda b: without(b, "ledger", 0), "money", "1 fulfilled but not paid, such as 1"),
    "a parcel for a cancelled order": (
        lambda b: changed(b, "parcels", 2, state="shipped"),
        "parcels",
        "1 shipped otherwise, such as 3",
    ),
    "a parcel not handed over": (lambda b: without(b, "parcels", 0), "parcels", "1 shipped otherwise, such as 1"),
    "two parcels": (lambda b: doubled(b, "parcels", 0), "parcels", "1 twice, such as 1"),
    "two receipts": (lambda b: doubled(b, "letters", 1), "receipts", "1 sent twice, such as 1"),
    "a receipt for nothing": (
        lambda b: changed(b, "letters", 2, order_id="3", state="sent"),
        "receipts",
        "1 sent for nothing, such as 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_books_are_told_by_name(case: str) -> None:
    spoil, name, told = WRONG[case]
    failed = {check.name: check.told for check in prove(spoil(right()), PLACED) if not check.holds}
    assert told in failed[name]
