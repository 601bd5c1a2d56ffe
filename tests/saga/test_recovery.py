"""Trouble that passes, and two coordinators that meet: nothing is lost, and nobody is blamed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import choreo.saga.batch as batch_module
import choreo.saga.crafting as crafting
from choreo.events.clock import SECOND
from choreo.events.codec import to_record
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Envelope, Record
from choreo.events.errors import BrokerUnreachable, StoreUnreachable
from choreo.events.failures import HandlerFailed
from choreo.events.ids import new_id
from choreo.events.partitioner import partition_for
from choreo.saga import early, store
from choreo.saga.inputs import Elapsed
from choreo.saga.options import Options
from tests.saga.stage import Paid, Placed, Reserved, Stage


def fails_first(function: Callable[..., Any], error: Exception, times: int = 1) -> Callable[..., Any]:
    left = [error] * times

    def failing(*args: Any) -> Any:
        if left:
            raise left.pop()
        return function(*args)

    return failing


class DiskFull(Exception):
    sqlstate = "53100"


async def test_row_1_an_event_that_is_parked_while_its_saga_starts_elsewhere_is_not_lost(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.start()
    await stage.start()
    while not all(coordinator.partitions for coordinator in stage.coordinators):
        await asyncio.sleep(0.01)
    original = early.park
    parking = asyncio.Event()

    def slow(connection: Any, *args: Any) -> Any:
        if not parking.is_set():
            parking.set()
            if stage.database.dialect == "postgresql":
                connection.execute(text("SELECT pg_sleep(0.5)"))
        return original(connection, *args)

    monkeypatch.setattr(early, "park", slow)
    orders = [str(number) for number in range(20)]
    misplaced = []  # in the other partition, so that the other coordinator reads them
    for event in [made(order_id=order) for order in orders for made in (Reserved, Paid)]:
        envelope = Envelope(new_id(), event.spec().type, "test", stage.now, event.key_text())
        record = to_record(event, envelope, stage.codec)
        place = 1 - partition_for(record.key or b"", 2)
        misplaced.append(Record(record.topic, record.key, record.value, record.headers, partition=place))
    await stage.broker.send(misplaced)
    await parking.wait()
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.until(lambda all_: len(all_) == 20 and all(each.phase == "COMPLETED" for each in all_.values()))


async def test_a_broker_that_is_away_for_a_moment_loses_no_batch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.codec.prepare([HandlerFailed])
    await stage.start()
    await stage.publish(Placed(order_id="k"))
    await stage.settled()
    original = stage.broker.snapshot
    away = [BrokerUnreachable("away")]

    async def snapshot(topic: str) -> list[Delivery]:
        if away:
            raise away.pop()
        return await original(topic)

    monkeypatch.setattr(stage.broker, "snapshot", snapshot)
    report = HandlerFailed(
        key="k",
        service="inventory",
        handler="reserve",
        event_id="e",
        event_type="Placed",
        topic="orders",
        partition=0,
        offset=0,
        dead=False,
        attempts=1,
        error_class="ValueError",
        message="",
    )
    await stage.publish(report)
    for _ in range(6_000):
        if ("HandlerFailed", "NoStep") in await stage.ignored():
            break
        await asyncio.sleep(0.01)
    assert (await stage.ignored())["HandlerFailed", "NoStep"] == 1
    assert away == []


async def test_a_store_that_is_away_when_partitions_are_assigned_is_asked_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "load_positions", fails_first(store.load_positions, StoreUnreachable("away"), times=2))
    await stage.start()
    await stage.publish(Placed(order_id="k"))
    await stage.until(lambda all_: "order/k" in all_)


async def test_the_stores_own_trouble_sets_no_event_aside(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = DBAPIError("INSERT", {}, DiskFull())
    monkeypatch.setattr(store, "insert_history", fails_first(store.insert_history, trouble, times=3))
    await stage.start()
    await stage.publish(Placed(order_id="k"), Reserved(order_id="k"), Paid(order_id="k"))
    await stage.until(lambda all_: bool(all_) and all_["order/k"].phase == "COMPLETED")
    await stage.settled()
    assert await stage.sent("orders.dlq") == []


async def test_row_30_timers_that_cannot_be_applied_hold_up_no_other_saga(
    sqlite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = sqlite_stage
    original = batch_module.advance

    def advance(definition: Any, instance: Any, input_: Any, now: int) -> Any:
        if instance.key == "bad" and isinstance(input_, Elapsed):
            raise ValueError("a defect")
        return original(definition, instance, input_, now)

    monkeypatch.setattr(batch_module, "advance", advance)
    await stage.start()
    await stage.publish(Placed(order_id="bad"), Placed(order_id="good"))
    await stage.settled()
    stage.now += 31 * SECOND
    await stage.until(lambda all_: all_["order/good"].phase == "COMPENSATING")
    monkeypatch.undo()
    stage.now += 61 * SECOND
    await stage.until(lambda all_: all_["order/bad"].phase == "COMPENSATING")


async def test_an_event_on_which_a_later_part_of_the_work_raises_is_applied_as_a_whole_or_not_at_all(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.start()
    await stage.publish(Reserved(order_id="k"), Paid(order_id="k"))
    await stage.settled()

    def raises(*args: object) -> None:
        raise KeyError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(crafting, "build", raises)  # the saga's own event at its end
        await stage.publish(Placed(order_id="k"))
        await stage.settled()
    assert await stage.instances() == {}
    assert len(await stage.sent("orders.dlq")) == 1
    await stage.publish(Placed(order_id="k"))
    await stage.until(lambda all_: bool(all_) and all_["order/k"].phase == "COMPLETED")


async def test_going_on_behind_a_gap_holds_for_a_topic_that_was_made_anew(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(20)))
    await stage.settled()
    await stage.stop()
    await stage.broker.__aexit__(None, None, None)  # all its records are gone
    await stage.database.close()
    empty = Stage(stage.url, options=Options(poll=0.01, tick=0.0, gap="continue"), now=stage.now)
    async with empty:
        await empty.start()
        await empty.publish(Placed(order_id="after"))
        await empty.until(lambda all_: "order/after" in all_)
        await empty.settled()
        await empty.stop()
        empty.options = Options(poll=0.01, tick=0.0)
        await empty.start()
        await empty.publish(Placed(order_id="later"))
        await empty.until(lambda all_: "order/later" in all_)
    await stage.__aenter__()


async def test_row_1_a_parked_event_whose_time_is_over_is_counted_by_one_coordinator_only(store_url: str) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await stage.publish(*(Paid(order_id=str(number)) for number in range(20)))
        await stage.settled()
        await stage.stop()

        def expire(connection: Connection) -> set[str]:
            return {row.event_id for row in early.expired(connection, stage.now + 48 * 3_600 * SECOND)}

        other = await Database.open(store_url)
        try:
            async with stage.database.transaction() as connection:
                taken = await connection.run_sync(expire)
                also = asyncio.create_task(other.write(expire))  # while the first one has not committed
                await asyncio.sleep(0.2)
            assert len(taken) == 20
            assert await also == set()
        finally:
            await other.close()
