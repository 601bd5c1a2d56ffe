"""Row 13: a coordinator that was taken for dead and goes on. What it may still do, and what stops it.

There is no epoch on the wire, and none is needed: a command leaves only after the transaction that decided it, and of
two coordinators that decide the same thing only one can commit it. So a zombie can send nothing but what was decided
once, under the one id that it has; participants drop that by their inbox, and refuse what was undone since.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from choreo.events.memory import MemoryBroker
from tests.saga.stage import Declined, Placed, Released, Reserved, Stage, header


@pytest.mark.parametrize("answered", [False, True])
async def test_row_13_a_zombie_coordinator_changes_nothing_and_sends_nothing_twice(
    store_url: str, answered: bool
) -> None:
    async with Stage(store_url, broker=MemoryBroker(session=0.2)) as stage:
        zombie = await stage.start()
        await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
        await stage.until(lambda all_: bool(all_) and all_["order/1"].steps["reserve"].done is not None)
        await stage.settled()
        frozen, thaw = asyncio.Event(), asyncio.Event()
        original = zombie._apply

        async def apply(*arguments: Any) -> None:
            frozen.set()
            await thaw.wait()
            await original(*arguments)

        zombie._apply = apply  # type: ignore[method-assign]
        await stage.publish(Declined(order_id="1"), id="declined")
        await frozen.wait()  # it has read the event, and is not heard of from now on
        await zombie._feed._consumer.kill()  # type: ignore[attr-defined]
        await stage.start()
        found = await stage.until(lambda all_: all_["order/1"].phase == "COMPENSATING")
        if answered:
            await stage.publish(Released(order_id="1"))
            found = await stage.until(lambda all_: all_["order/1"].phase == "COMPENSATED")
        await stage.settled()
        thaw.set()
        for _ in range(6_000):
            if ("Declined", "duplicate") in await stage.ignored():
                break
            await asyncio.sleep(0.01)
        assert (await stage.ignored())["Declined", "duplicate"] == 1
        assert (await stage.instances())["order/1"] == found["order/1"], "its state is what the living one made of it"
        await stage.settled()
        (undo,) = await stage.sent("inventory.commands")
        assert header(undo, "saga-version") is not None, "by which readers that keep the order drop older ones"
        assert [row.event_id for row in await stage.history("order/1")].count("declined") == 1
