"""A store with sagas in every state, made by a real coordinator, for everything that only looks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from choreo import Event, Saga, step
from choreo.events.clock import SECOND, system_clock
from choreo.saga.words import Phase, StepState
from tests.saga.stage import Declined, Order, Paid, Placed, Refused, Released, Reserved, Stage


class Packed(Event, topic="orders", key="parcel_id"):
    parcel_id: str
    weight: int = 1


class Carried(Event, topic="orders", key="parcel_id"):
    parcel_id: str


class Parcel(Saga, start=Packed, key="parcel_id", rerun=True):
    carry = step(done=Carried, undo=None, within="9d")


COMPLETED = tuple(f"order/{number}" for number in range(4700, 4705))
COMPENSATED = "order/4710"
COMPENSATING = "order/4711"
CHARGING = "order/4712"
RESERVING = "order/4713"
CANCELLED = "order/4714"
FAILED = "order/4715"
"""Its undo got no answer within the half hour that it had."""
TWICE = "parcel/p1"
SHARED = "4712"
"""A key of an order and of a parcel."""


async def fill(home: Path) -> None:
    """Make the store `home/saga.db`."""
    async with Stage(f"sqlite:{home / 'saga.db'}", sagas=(Order, Parcel), now=system_clock() - 3_600 * SECOND) as stage:
        await stage.codec.prepare([Packed, Carried])
        coordinator = await stage.start()
        await stage.publish(Placed(order_id="4715"), Reserved(order_id="4715"), Declined(order_id="4715"))
        await stage.until(lambda found: found[FAILED].phase is Phase.COMPENSATING if FAILED in found else False)
        stage.now += 1_801 * SECOND
        await stage.until(lambda found: found[FAILED].phase is Phase.FAILED)
        stage.now = max(stage.now, system_clock() - 20 * SECOND)
        for name in COMPLETED:
            key = name.partition("/")[2]
            await stage.publish(Placed(order_id=key), Reserved(order_id=key), Paid(order_id=key))
        for key in ("4710", "4711"):
            await stage.publish(Placed(order_id=key), Reserved(order_id=key), Declined(order_id=key))
        await stage.publish(Released(order_id="4710"))
        await stage.publish(Placed(order_id="4712"), Reserved(order_id="4712"))
        await stage.publish(Placed(order_id="4713"))
        await stage.publish(Placed(order_id="4714"), Refused(order_id="nobody"))
        await stage.publish(Packed(parcel_id="p1"), Carried(parcel_id="p1"))
        await stage.until(lambda found: TWICE in found and found[TWICE].phase.ended)
        await stage.publish(Packed(parcel_id="p1"), Packed(parcel_id=SHARED), Packed(parcel_id="a b/ü"))
        await stage.until(
            lambda found: (
                len(found) == 15
                and found[COMPENSATED].phase is Phase.COMPENSATED
                and found[COMPENSATING].steps["reserve"].state is StepState.COMPENSATING
                and found[CHARGING].steps["charge"].state is StepState.WAITING
                and all(found[name].phase is Phase.COMPLETED for name in COMPLETED)
            )
        )
        await stage.ask("cancel", saga_id=CANCELLED, reason="the customer asked")
        await stage.publish(Released(order_id="4714"))
        await stage.until(lambda found: found[CANCELLED].phase is Phase.CANCELLED)
        while not await coordinator.idle():  # it reads what it has published itself, too
            await asyncio.sleep(0.02)
