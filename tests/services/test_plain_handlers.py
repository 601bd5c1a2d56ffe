"""Handlers stay plain functions: called in a unit test without a broker, a store, a loop of ours or a worker."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from choreo import Context, Envelope, Event, Retry, Service, Transaction

ROOT = Path(__file__).parents[2]


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str
    number: int = 1


class Reserved(Event, topic="inventory", key="order_id"):
    order_id: str


class Refused(Event, topic="inventory", key="order_id"):
    order_id: str


class Release(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class Released(Event, topic="inventory", key="order_id"):
    order_id: str


async def reserve(order: Ordered) -> Reserved | Refused:
    return Refused(order_id=order.order_id) if order.number > 9 else Reserved(order_id=order.order_id)


inventory = Service("inventory")
declared = inventory.on(Ordered, retry=Retry(attempts=3), exhausted="park")(reserve)


@inventory.on(Release, undoes=reserve)
async def release(command: Release, context: Context, tx: Transaction) -> Released:
    await tx.execute("DELETE FROM stock WHERE order_id = :order_id", {"order_id": command.order_id})
    return Released(order_id=f"{command.order_id}@{context.attempt}")


class Table:
    """A test's own stand-in for a transaction."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript("CREATE TABLE stock (order_id TEXT); INSERT INTO stock VALUES ('1'), ('2')")

    async def execute(self, statement: str, parameters: dict[str, Any]) -> None:
        self.connection.execute(statement, parameters)


def test_declaring_a_handler_leaves_the_function_as_it_was() -> None:
    assert declared is reserve
    assert inspect.iscoroutinefunction(declared)


def test_a_handler_is_awaited_like_any_other_function() -> None:
    assert asyncio.run(reserve(Ordered(order_id="1"))) == Reserved(order_id="1")
    assert asyncio.run(reserve(Ordered(order_id="1", number=10))) == Refused(order_id="1")


def test_what_is_given_to_a_handler_is_made_by_the_test() -> None:
    table = Table()
    context = Context("inventory", "release", Envelope("e-1", "Release", "test", 0, "1"), 2)
    found = asyncio.run(release(Release(order_id="1"), context, cast(Transaction, table)))
    assert found == Released(order_id="1@2")
    assert table.connection.execute("SELECT order_id FROM stock").fetchall() == [("2",)]
    table.connection.close()


def test_calling_a_handler_loads_no_broker_and_no_worker() -> None:
    code = (
        "import asyncio, sys\n"
        "from choreo import Event, Service\n"
        "class Asked(Event, topic='t', key='k'):\n    k: str\n"
        "service = Service('s')\n"
        "@service.on(Asked)\n"
        "async def answer(asked: Asked) -> None: ...\n"
        "asyncio.run(answer(Asked(k='1')))\n"
        "heavy = ('aiokafka', 'choreo.services.worker', 'choreo.saga.coordinator', 'opentelemetry.sdk', 'aiosqlite')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"
