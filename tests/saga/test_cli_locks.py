"""How locks are shown: `saga locks`, and `saga status` of who waits and who holds."""

from __future__ import annotations

import asyncio

from choreo import Saga, lock, step
from choreo.events.clock import SECOND, system_clock
from choreo.saga.words import Phase
from tests.saga.stage import Placed, Reserved, Stage
from tests.support.console import Console, validate


class Order(Saga, start=Placed, key="order_id", lock=lock("total", name="total", waits="10m", expires="2h")):
    reserve = step(done=Reserved, undo=None, within="1h")


async def test_who_holds_and_who_waits_is_shown(at_home: Console) -> None:
    async with Stage(f"sqlite:{at_home.home / 'saga.db'}", (Order,), now=system_clock() - 5 * SECOND) as stage:
        await stage.start()
        for number in ("1", "2", "3"):
            await stage.publish(Placed(order_id=number, total=7))
            await stage.until(lambda found, number=number: f"order/{number}" in found)  # type: ignore[misc]
        shown = await asyncio.to_thread(at_home, "locks")
        lines = [line.split() for line in shown.out.splitlines()[1:]]
        assert [line[:3] for line in lines] == [
            ["total/7", "order/1", "held"],
            ["order/2", "waits,", "1."],
            ["order/3", "waits,", "2."],
        ]
        assert shown.err == "1 locks are held · 2 sagas wait\n"
        (told,) = (await asyncio.to_thread(at_home, "locks", "-o", "json")).json
        validate(told, "saga.lock/v1")
        assert (told["holder"], [each["id"] for each in told["waiting"]]) == ("order/1", ["order/2", "order/3"])

        told = validate((await asyncio.to_thread(at_home, "status", "3", "-o", "json")).json, "saga.status/v1")
        assert (told["lock"]["state"], told["lock"]["holder"], told["lock"]["place"]) == ("waiting", "order/1", 2)
        (condition,) = told["conditions"]
        assert condition["type"] == "WaitingForLock"
        assert condition["message"].startswith("waits for the lock total/7: held by order/1 for ")
        assert condition["message"].endswith("2 of 2 in the queue")
        shown = await asyncio.to_thread(at_home, "status", "3")
        assert "total/7: waits, 2 of 2, behind order/1; gives up in" in shown.out
        assert "total/7: held, expires in" in (await asyncio.to_thread(at_home, "status", "1")).out
        why = await asyncio.to_thread(at_home, "why", "3")
        assert "waits for the lock total/7" in why.out
        assert "saga status order/1" in why.out + why.err

        await stage.publish(Reserved(order_id="1"))
        await stage.until(lambda found: found["order/2"].lock is not None and found["order/2"].lock.state == "held")
        assert (await stage.instances())["order/1"].phase is Phase.COMPLETED
        told = validate((await asyncio.to_thread(at_home, "status", "3", "-o", "json")).json, "saga.status/v1")
        assert (told["lock"]["holder"], told["lock"]["place"]) == ("order/2", 1)
