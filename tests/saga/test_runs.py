"""Which run, and which version, an event belongs to."""

from __future__ import annotations

import asyncio

from choreo import Saga, step
from tests.saga.stage import Again, Order, Paid, Placed, Refused, Release, Reserved, Stage


class Shorter(Saga, start=Placed, key="order_id", type="order", version=2):
    charge = step(done=Paid, undo=None, within="30s")


class Commanded(Saga, start=Placed, key="order_id"):
    reserve = step(send=Release, done=Reserved, failed=Refused, undo=None, within="30s")


async def test_row_29_a_saga_ends_under_the_version_that_it_started_with(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="old"))
    await stage.settled()
    await stage.stop()
    stage.sagas = (Order, Shorter)
    await stage.start()
    await stage.publish(Reserved(order_id="old"), Paid(order_id="old"), Placed(order_id="new"), Paid(order_id="new"))
    found = await stage.until(lambda all_: len(all_) == 2 and all(each.phase.ended for each in all_.values()))
    assert {name: each.version for name, each in found.items()} == {"order/old": 1, "order/new": 2}


async def test_row_29_an_event_that_only_another_version_knows_changes_nothing(stage: Stage) -> None:
    stage.sagas = (Order, Shorter)
    await stage.start()
    await stage.publish(Placed(order_id="new"), Reserved(order_id="new"))
    await stage.settled()
    found = (await stage.instances())["order/new"]
    assert found.version == 2
    assert found.conditions == {}
    assert [row.reason for row in await stage.history("order/new")] == ["", "OtherVersion"]


async def test_row_29_a_coordinator_goes_on_with_sagas_of_a_version_that_another_registered_later(stage: Stage) -> None:
    await stage.start()
    stage.sagas = (Order, Shorter)
    await stage.start()
    while not all(coordinator.partitions for coordinator in stage.coordinators):
        await asyncio.sleep(0.01)
    orders = [str(number) for number in range(20)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.until(lambda all_: len(all_) == 20)
    await stage.stop()  # the newer one
    await stage.publish(*(Paid(order_id=order) for order in orders), *(Reserved(order_id=order) for order in orders))
    found = await stage.until(lambda all_: all(each.phase.ended for each in all_.values()))
    assert {each.version for each in found.values()} == {1, 2}
    assert await stage.sent("payments.dlq") == []


async def test_row_3_a_start_that_names_a_run_which_does_not_exist_starts_no_second_one(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="k"))
    await stage.settled()
    await stage.publish(Placed(order_id="k"), saga_id="order/k", saga_type="order", saga_run=7)
    await stage.settled()
    assert set(await stage.instances()) == {"order/k"}
    assert [row.reason for row in await stage.history("order/k")] == ["", "SecondStart"]


async def test_row_1_an_event_before_the_second_run_waits_for_it(stage: Stage) -> None:
    stage.sagas = (Again,)
    await stage.start()
    await stage.publish(Placed(order_id="x"), Reserved(order_id="x"))
    await stage.until(lambda all_: bool(all_) and all_["again/x"].phase.ended)
    await stage.publish(Reserved(order_id="x"), saga_id="again/x", saga_type="again", saga_run=2)
    await stage.settled()
    await stage.publish(Placed(order_id="x"))
    await stage.until(lambda all_: "again/x~2" in all_ and all_["again/x~2"].phase == "COMPLETED")


async def test_ruling_12_the_attempt_in_another_sagas_header_says_nothing(stage: Stage) -> None:
    stage.sagas = (Commanded,)
    await stage.start()
    await stage.publish(Placed(order_id="k"))
    await stage.publish(Refused(order_id="k"), saga_id="loyalty/b", saga_type="loyalty", saga_run=1, saga_attempt=0)
    await stage.until(lambda all_: bool(all_) and all_["commanded/k"].steps["reserve"].state == "RETRYING")
