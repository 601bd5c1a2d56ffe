"""Priorities: the more important is served first when both wait, and nothing starves."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.errors import DefinitionError
from choreo.saga.testing import Harness
from choreo.services.context import Transaction
from choreo.services.priorities import SHARE, Ranked
from choreo.services.service import Service
from tests.services.shop import Charge, OrderPlaced, Rig, until


@pytest.mark.parametrize("how", ["service", "handler"])
async def test_what_is_more_important_is_served_first_and_the_rest_does_not_starve(how):
    service = Service("shop", concurrency=1, priorities={"payment.commands": 10} if how == "service" else None)
    served = []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        served.append("order")
        await asyncio.sleep(1)

    @service.on(Charge, priority=10 if how == "handler" else None)
    async def charge(command: Charge) -> None:
        served.append("charge")
        await asyncio.sleep(1)

    async with Harness(service) as harness:
        await harness.publish(*(OrderPlaced(order_id=str(n)) for n in range(40)))
        await harness.advance("3s")
        assert served == ["order"] * 4
        await harness.publish(*(Charge(order_id=str(n)) for n in range(40)))
        await harness.advance("20s")
        later = served[5:]
        assert later.count("charge") > 4 * later.count("order") > 0
        await harness.advance("60s")
        assert (served.count("order"), served.count("charge")) == (40, 40)


async def test_transactions_of_what_is_more_important_come_first(rig: Rig, store):
    service = Service("shop", store=store, priorities={"payment.commands": 1})
    served, gate = [], asyncio.Event()

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> None:
        served.append("order")
        if len(served) == 1:
            await gate.wait()

    @service.on(Charge)
    async def charge(command: Charge, tx: Transaction) -> None:
        served.append("charge")

    await rig.publish(OrderPlaced(order_id="first"))
    async with rig.running(service) as worker:
        await until(lambda: len(served) >= 1)
        await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(300)))
        await until(lambda: len(worker._dispatcher.jobs) >= 301)
        await rig.publish(*(Charge(order_id=str(n)) for n in range(20)))
        await until(lambda: len(worker._dispatcher.jobs) >= 321)
        gate.set()
    assert "charge" not in served[:1]
    assert served.index("charge") <= 51, "after one transaction at most"
    assert (served.count("order"), served.count("charge")) == (301, 20)


async def test_what_is_less_important_leaves_room_in_flight(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.dispatcher.MOST_UNIMPORTANT", 100)
    service = Service("shop", store=store, priorities={"payment.commands": 1})
    charged, gate = [], asyncio.Event()

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        await gate.wait()

    @service.on(Charge)
    async def charge(command: Charge) -> None:
        charged.append(command.order_id)

    for _ in range(4):
        await rig.publish(*(OrderPlaced(order_id="one key") for n in range(500)))
    async with rig.running(service) as worker:
        await until(lambda: len(worker._dispatcher.jobs) >= 100)
        await rig.publish(Charge(order_id="1"))
        await until(lambda: charged == ["1"])
        assert len(worker._dispatcher.jobs) < 1_500
        gate.set()


@given(st.lists(st.integers(0, 3), max_size=200))
def test_a_ranked_queue_gives_everything_once_and_the_oldest_in_time(ranks):
    queue: Ranked[tuple[int, int]] = Ranked(lambda item: item[0])
    items = [(rank, number) for number, rank in enumerate(ranks)]
    for item in items:
        queue.append(item)
    given_ = [queue.popleft() for _ in range(len(queue))]
    assert sorted(given_) == sorted(items) and len(queue) == 0
    for number, item in enumerate(items):
        assert given_.index(item) < SHARE * (number + 1)


def test_what_is_taken_out_of_a_ranked_queue_is_gone():
    queue: Ranked[str] = Ranked(len)
    for item in ("a", "bb", "cc"):
        queue.append(item)
    queue.remove("bb")
    queue.remove("a")
    assert list(queue) == ["cc"] and len(queue) == 1


@pytest.mark.parametrize("priority", ["high", True, 1.5])
def test_a_priority_is_a_whole_number(priority):
    with pytest.raises(DefinitionError, match="give a whole number"):
        Service("shop", priorities={"orders": priority})
    with pytest.raises(DefinitionError, match="give a whole number"):
        Service("shop").on(OrderPlaced, priority=priority)(lambda order: None)
