"""Catching up: what several partitions hold is applied in the order of time, and none of them can stop the others."""

from __future__ import annotations

import asyncio
import random

import pytest

from choreo import Saga, step
from choreo.events.envelope import Delivery, TopicPartition
from choreo.events.errors import BrokerUnreachable
from choreo.saga.merging import Merge
from choreo.saga.options import Options
from tests.saga.stage import Declined, Fulfilled, Paid, Placed, Refused, Release, Released, Reserved, Stage


class Money(Saga, start=Placed, key="order_id", active_from="beginning"):
    """Its causes lie in the topics that a broker gives last."""

    pay = step(done=Paid, failed=Declined, undo=None, within="30s")
    reserve = step(after=pay, done=Reserved, undo=Release, undone=Released, within="30s")
    ship = step(after=reserve, done=Fulfilled, failed=Refused, undo=None, within="30s")


ONE, TWO, THREE = (TopicPartition("topic", number) for number in range(3))


def record(place: TopicPartition, offset: int, at: int) -> Delivery:
    return Delivery(place.topic, place.partition, offset, at, b"k", b"v", ())


def times(deliveries: list[Delivery]) -> list[int]:
    return [delivery.timestamp for delivery in deliveries]


def test_ruling_8_nothing_is_given_that_is_later_than_what_another_partition_may_still_bring() -> None:
    merge = Merge(room=100)
    merge.aim({ONE: 3, TWO: 3, THREE: 0}, {ONE: 0, TWO: 0, THREE: 0})
    merge.add([record(ONE, 0, 10), record(ONE, 1, 30), record(ONE, 2, 50)])
    merge.reach(ONE, 3)
    assert merge.take(10) == [], "the second one may begin earlier"
    merge.add([record(TWO, 0, 20)])
    assert times(merge.take(10)) == [10, 20]
    merge.add([record(TWO, 1, 40), record(TWO, 2, 60)])
    merge.reach(TWO, 3)
    assert not merge.behind
    assert times(merge.take(10)) == [30, 50, 40, 60], "both were read to their ends: the batch sorts them"


def test_records_that_lie_about_their_time_keep_their_place_and_stop_nobody() -> None:
    merge = Merge(room=100)
    merge.aim({ONE: 2, TWO: 2}, {ONE: 0, TWO: 0})
    merge.add([record(ONE, 0, 10**15), record(ONE, 1, 5), record(TWO, 0, 7)])
    assert times(merge.take(10)) == [7]
    merge.add([record(TWO, 1, 8)])
    merge.reach(TWO, 2)
    assert times(merge.take(10)) == [8, 10**15, 5]


def test_a_partition_of_which_enough_waits_is_paused_and_the_slowest_never_is() -> None:
    merge = Merge(room=2)
    merge.aim({ONE: 9, TWO: 9}, {ONE: 0, TWO: 0})
    merge.add([record(ONE, 0, 100), record(ONE, 1, 101), record(TWO, 0, 1), record(TWO, 1, 1), record(TWO, 2, 1)])
    assert times(merge.take(10)) == [1, 1, 1]
    assert merge.full() == {ONE}
    merge.drop()
    assert merge.full() == set()


def test_who_brings_nothing_is_left_behind() -> None:
    merge = Merge(room=100)
    merge.aim({ONE: 1, TWO: 1}, {ONE: 0, TWO: 0})
    merge.add([record(ONE, 0, 10)])
    assert merge.take(10) == []
    assert merge.give_up() == [TWO]
    assert times(merge.take(10)) == [10]


@pytest.mark.parametrize("seed", range(20))
def test_ruling_8_however_polls_are_cut_the_times_grow_and_nothing_is_missing(seed: int) -> None:
    chance = random.Random(seed)
    logs = {
        place: [record(place, offset, at) for offset, at in enumerate(sorted(chance.choices(range(500), k=60)))]
        for place in (ONE, TWO, THREE)
    }
    merge = Merge(room=15)
    positions = dict.fromkeys(logs, 0)
    merge.aim({place: len(log) for place, log in logs.items()}, positions)
    given: list[Delivery] = []
    while len(given) < 180:
        open_ = [place for place in logs if place not in merge.full() and positions[place] < 60]
        for place in chance.sample(open_, k=min(len(open_), 1)):
            count = chance.randint(1, 30)
            merge.add(logs[place][positions[place] : positions[place] + count])
            positions[place] = min(60, positions[place] + count)
            merge.reach(place, positions[place])
        if merge.behind:  # the last batch, when all have been read, is sorted by whoever applies it
            given += merge.take(chance.randint(1, 20))
        else:
            given += sorted(merge.take(1_000), key=lambda delivery: delivery.timestamp)
    assert times(given) == sorted(times(given))


async def test_ruling_8_after_an_outage_no_saga_sees_an_effect_before_its_cause(store_url: str) -> None:
    async with Stage(store_url, sagas=(Money,), options=Options(poll=0.01, tick=0.0, batch=20)) as stage:
        orders = [f"{number}" for number in range(60)]
        for order in orders:
            events = (Placed(order_id=order), Paid(order_id=order), Reserved(order_id=order), Fulfilled(order_id=order))
            await stage.publish(*events)
        coordinator = await stage.start()
        found = await stage.until(lambda all_: len(all_) == 60 and all(each.phase.ended for each in all_.values()))
        assert {name for name, each in found.items() if each.conditions} == set()
        assert coordinator.batches < 60, "and they still come in batches"
        assert await stage.ignored() == {}


async def test_ruling_8_a_backlog_that_grows_while_the_coordinator_runs_is_merged_too(store_url: str) -> None:
    async with Stage(store_url, sagas=(Money,), options=Options(poll=0.01, tick=0.0, batch=10)) as stage:
        coordinator = await stage.start()
        await stage.publish(Placed(order_id="first"))
        await stage.settled()
        async with coordinator._positions.busy:  # it is held up in a batch, as by a slow store
            for number in range(50):
                order = str(number)
                events = (Placed(order_id=order), Paid(order_id=order), Reserved(order_id=order))
                await stage.publish(*events, Fulfilled(order_id=order))
        found = await stage.until(lambda all_: sum(each.phase.ended for each in all_.values()) == 50)
        early = [name for name, each in found.items() if "OutOfOrder" in each.conditions]
        assert len(early) <= 5, "at most the poll that showed that there is a backlog"


async def test_a_connection_that_is_gone_for_good_is_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's client tells every poll so from then on; it used to be asked for ever."""
    coordinator = await stage.start()
    await stage.publish(Placed(order_id="1"))
    await stage.settled()
    broken = coordinator._feed._consumer
    polls = 0

    async def poll(*, most: int, timeout: float) -> list[Delivery]:
        nonlocal polls
        polls += 1
        raise BrokerUnreachable("the client has ended")

    monkeypatch.setattr(broken, "poll", poll)
    while not polls:
        await asyncio.sleep(0.01)
    await stage.publish(Reserved(order_id="1"), Paid(order_id="1"))
    found = await stage.until(lambda all_: all_["order/1"].phase.ended)
    assert found["order/1"].phase == "COMPLETED"
    assert polls == 1
    assert not any(reason == "duplicate" for _, reason in await stage.ignored())


async def test_row_31_what_was_read_before_a_rebalance_and_not_applied_is_read_again_by_its_owner(stage: Stage) -> None:
    first = await stage.start()
    await stage.publish(Placed(order_id="0"))
    await stage.settled()
    async with first._positions.busy:
        for number in range(1, 31):
            await stage.publish(Placed(order_id=str(number)), Reserved(order_id=str(number)))
        while not first._feed._polled:  # read, and waiting for the lock
            await asyncio.sleep(0.01)
        joining = asyncio.create_task(stage.start())
        await asyncio.sleep(0.2)
    await joining
    await stage.publish(*(Paid(order_id=str(number)) for number in range(1, 31)))
    found = await stage.until(lambda all_: sum(each.phase.ended for each in all_.values()) == 30)
    assert {name for name, each in found.items() if not each.phase.ended} == {"order/0"}
