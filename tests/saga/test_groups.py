"""Several coordinators in one consumer group: alike they share the work, with other sagas they would hide it."""

from __future__ import annotations

import asyncio

import pytest

from choreo import ConfigurationError
from choreo.events.settings import load_settings
from tests.saga.stage import Again, Order, Paid, Placed, Reserved, Stage


async def test_two_processes_with_other_sagas_in_one_group_are_refused_with_one_line(stage: Stage) -> None:
    await stage.start()
    stage.sagas = (Again,)
    with pytest.raises(ConfigurationError) as refused:
        await stage.start()
    said = refused.value.message
    assert "runs order in the group 'choreo.coordinator', this process would run again" in said
    assert "CHOREO_GROUP" in said and "\n" not in said
    stage.sagas = (Order, Again)
    with pytest.raises(ConfigurationError, match="this process would run again and order"):
        await stage.start()


async def test_of_two_that_begin_at_once_one_is_refused(stage: Stage) -> None:
    async def begin(*sagas: type) -> None:
        stage.sagas = sagas
        await stage.start()

    found = await asyncio.gather(begin(Order), begin(Again), return_exceptions=True)
    assert sorted(isinstance(each, ConfigurationError) for each in found) == [False, True]


async def test_with_a_group_of_its_own_each_sees_everything(stage: Stage) -> None:
    await stage.start()
    stage.sagas, stage.settings = (Again,), load_settings(broker="memory:", group="choreo.again")
    await stage.start()
    for number in range(20):
        await stage.publish(Placed(order_id=f"{number}"), Reserved(order_id=f"{number}"), Paid(order_id=f"{number}"))
    found = await stage.until(lambda all_: sum(each.phase.ended for each in all_.values()) == 40)
    assert {name.partition("/")[0] for name in found} == {"order", "again"}


async def test_who_has_left_is_in_nobodys_way(stage: Stage) -> None:
    await stage.start()
    await stage.stop()
    stage.sagas = (Again,)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await stage.until(lambda all_: "again/1" in all_)
