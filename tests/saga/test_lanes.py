"""Parts of a batch that have nothing in common are transactions of their own, side by side."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.envelope import Delivery, Envelope, TopicPartition
from choreo.events.errors import StoreUnreachable
from choreo.saga import lanes
from choreo.saga.batch import Batch
from choreo.saga.inputs import Observed
from choreo.saga.lanes import Lane, divided
from choreo.saga.refusals import Refused
from choreo.saga.routing import Arrival, Target
from tests.saga.stage import Declined, Paid, Past, Placed, Released, Reserved, Stage, Undoing, header


def arrival(topic: str, partition: int, offset: int, *targets: Target) -> Arrival:
    id_ = f"{topic}/{partition}/{offset}"
    envelope = Envelope(id_, "placed", "svc", 7, "k")
    return Arrival(
        Delivery(topic, partition, offset, 0, b"k", b"", ()), envelope, Observed(id_, "placed", "svc", 7), targets
    )


def target(key: str, lock: str | None = None) -> Target:
    return Target("order", key, None, lock=lock)


def batch(*arrivals: Arrival, refused: tuple[Arrival, ...] = ()) -> Lane:
    read: dict[TopicPartition, int] = {}
    for each in (*arrivals, *refused):
        place = TopicPartition(each.delivery.topic, each.delivery.partition)
        read[place] = max(read.get(place, 0), each.delivery.offset + 1)
    return Lane(list(arrivals), [Refused(each, "unreadable") for each in refused], read)


def ids(lane: Lane) -> list[str]:
    return [each.input.id for each in lane.arrivals]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LEAST", 1)


def test_partitions_with_sagas_of_their_own_are_lanes_and_each_keeps_its_order() -> None:
    whole = batch(
        arrival("orders", 0, 5, target("a")),
        arrival("orders", 1, 2, target("b")),
        arrival("orders", 0, 6, target("c")),
        arrival("orders", 1, 3, target("b")),
        refused=(arrival("orders", 1, 4),),
    )
    first, second = sorted(divided(whole, 2), key=ids)
    assert ids(first) == ["orders/0/5", "orders/0/6"]
    assert ids(second) == ["orders/1/2", "orders/1/3"]
    assert (first.read, second.read) == ({("orders", 0): 7}, {("orders", 1): 5})
    assert (len(first.refused), len(second.refused)) == (0, 1)


def test_topics_whose_partitions_share_a_saga_are_one_lane() -> None:
    whole = batch(
        arrival("orders", 0, 0, target("a")),
        arrival("orders", 1, 0, target("b")),
        arrival("stock", 1, 0, target("a")),
        arrival("stock", 0, 0, target("b")),
        arrival("stock", 0, 1, target("b"), target("b2")),
    )
    first, second = sorted(divided(whole, 2), key=ids)
    assert set(first.read) == {("orders", 0), ("stock", 1)}
    assert set(second.read) == {("orders", 1), ("stock", 0)}


@pytest.mark.parametrize(
    "whole",
    [
        batch(arrival("orders", 0, 0, target("a")), arrival("orders", 0, 1, target("b"))),
        batch(arrival("orders", 0, 0, target("a")), arrival("orders", 1, 0, target("b"), target("a"))),
        batch(arrival("orders", 0, 0, target("a", "lock")), arrival("orders", 1, 0, target("b", "lock"))),
        batch(arrival("orders", 0, 0, target("a")), refused=(arrival("orders", 1, 0),)),
        batch(refused=(arrival("orders", 0, 0), arrival("orders", 1, 0))),
        batch(),
    ],
    ids=["one partition", "one saga", "one lock", "nothing beside it", "only refused", "nothing"],
)
def test_what_cannot_be_divided_stays_whole(whole: Lane) -> None:
    assert divided(whole, 2) == [whole]


def test_few_records_are_not_worth_two_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    few = batch(arrival("orders", 0, 0, target("a")), arrival("orders", 1, 0, target("b")))
    assert len(divided(few, 2)) == 2
    assert divided(few, 1) == [few], "on SQLite there is one writer at a time"
    monkeypatch.setattr(lanes, "LEAST", 2)
    assert divided(few, 2) == [few]


records = st.lists(
    st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 3), st.lists(st.sampled_from("abcdefgh"), max_size=2)),
    max_size=20,
)


@given(records)
def test_however_a_batch_is_divided_all_of_it_is_there_once_and_lanes_have_nothing_in_common(
    drawn: list[tuple[str, int, list[str]]],
) -> None:
    whole = batch(*(arrival(t, p, n, *map(target, keys)) for n, (t, p, keys) in enumerate(drawn)))
    parts = divided(whole, 2)
    assert sorted(id_ for part in parts for id_ in ids(part)) == sorted(ids(whole))
    assert sum(len(part.read) for part in parts) == len(whole.read)
    for part in parts:
        assert ids(part) == [id_ for id_ in ids(whole) if id_ in set(ids(part))]
        assert {(each.delivery.topic, each.delivery.partition) for each in part.arrivals} <= part.read.keys()
    if len(parts) == 2:
        mine, theirs = ({each.key for one in part.arrivals for each in one.targets} for part in parts)
        assert mine.isdisjoint(theirs)


async def test_a_lane_that_the_store_does_not_take_is_applied_again_and_the_other_one_is_not(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [str(number) for number in range(40)]
    write = Batch.write
    failed: list[set[str]] = []

    def fails_once(self: Batch) -> object:
        keys = {row.saga_id for row in self._history}
        if not failed and keys:
            failed.append(keys)
            raise StoreUnreachable("away for a moment")
        return write(self)

    async with Stage(postgres_url, sagas=(Past,)) as stage:
        await stage.publish(*(Placed(order_id=order) for order in orders))
        await stage.publish(*(Reserved(order_id=order) for order in orders))
        await stage.publish(*(Paid(order_id=order) for order in orders))
        monkeypatch.setattr(Batch, "write", fails_once)
        await stage.start()
        found = await stage.until(lambda all_: len(all_) == 40 and all(each.phase.ended for each in all_.values()))
        await stage.settled()
        assert {each.seq for each in found.values()} == {3}
        assert 0 < len(failed[0]) < 40, "half of them, or there was one lane"
        assert await stage.ignored() == {}, "nothing was applied a second time"


async def test_sagas_in_lanes_of_two_coordinators_end_as_they_would_alone_and_each_undo_has_one_id(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [str(number) for number in range(60)]
    refused = orders[::3]
    in_lanes: list[int] = []
    whole = lanes.divided

    def counted(batch: Lane, most: int) -> list[Lane]:
        parts = whole(batch, most)
        in_lanes.append(len(parts))
        return parts

    monkeypatch.setattr(lanes, "divided", counted)
    async with Stage(postgres_url, sagas=(Undoing,), partitions=8) as stage:
        await stage.publish(*(Placed(order_id=order) for order in orders))
        await stage.publish(*(Reserved(order_id=order) for order in orders))
        await stage.start()
        await stage.start()
        await stage.publish(*(Declined(order_id=order) for order in refused))
        await stage.publish(*(Paid(order_id=order) for order in orders if order not in refused))
        await stage.publish(*(Reserved(order_id=order) for order in orders))
        found = await stage.until(
            lambda all_: len(all_) == 60 and not any(each.phase == "RUNNING" for each in all_.values())
        )
        assert {key for key in orders if found[f"undoing/{key}"].phase == "COMPENSATING"} == set(refused)
        undos: set[tuple[bytes | None, str | None]] = set()
        async with asyncio.timeout(60):
            while len(undos) < len(refused):
                undos = {(each.key, header(each, "ce_id")) for each in await stage.sent("inventory.commands")}
                await asyncio.sleep(0.01)
        await stage.publish(*(Released(order_id=order) for order in refused))
        await stage.until(lambda all_: all(all_[f"undoing/{key}"].phase == "COMPENSATED" for key in refused))
        undos |= {(each.key, header(each, "ce_id")) for each in await stage.sent("inventory.commands")}
        assert sorted(key for key, _ in undos) == sorted(order.encode() for order in refused), (
            "sent again, it is the same"
        )
        assert 2 in in_lanes
