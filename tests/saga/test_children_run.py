"""Sagas within sagas on brokers and stores: one coordinator for both, or one for each with a store of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from choreo import Event, Saga, child, step
from choreo.events.database import Database
from choreo.events.envelope import Delivery
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.saga.outcomes import UndoSaga
from choreo.saga.testing import Harness, answers, silent
from choreo.tracing.headers import parse_traceparent
from choreo.tracing.ids import span_id, step_path, trace_id
from tests.saga import families
from tests.saga.families import (
    BackOnShelf,
    Ordered,
    Ordering,
    PackGoods,
    Packing,
    Paid,
    Picked,
    PutBack,
    Sealing,
    Unpacked,
    Unpaid,
    Wrapped,
)
from tests.saga.stage import Stage, header

PLAY: dict[type[Event], Any] = {PackGoods: answers(Picked), Picked: answers(Wrapped), PutBack: answers(BackOnShelf)}


@pytest.fixture
async def family(stage: Stage) -> Stage:
    stage.sagas = (Packing, Ordering)
    await stage.codec.prepare(families.EVENTS)
    await stage.start()
    return stage


async def answers_to_parents(stage: Stage, number: int) -> list[Delivery]:
    """Wait for what children tell their parents, without what every saga tells everybody at its end."""
    for _ in range(6_000):
        found = [each for each in await stage.sent("choreo.outcomes") if header(each, "ce_type") != "SagaEnded"]
        if len(found) >= number:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(found)} answers, not {number}, after a minute")


def states(found: dict[str, Any]) -> dict[str, str]:
    return {name: each.phase.value for name, each in found.items()}


async def test_row_21_a_child_that_ended_well_is_undone_with_its_parent(family: Stage) -> None:
    await family.publish(Ordered(order_id="1"))
    (start,) = await family.eventually_sent("inventory.commands", 1)
    assert (header(start, "saga-id"), header(start, "saga-depth")) == ("ordering/1", "1")
    await family.publish(Picked(order_id="1"), Wrapped(order_id="1"))
    found = await family.until(lambda all_: len(all_) == 2 and all_["ordering/1"].steps["pack"].state == "DONE")
    assert states(found) == {"ordering/1": "RUNNING", "packing/1": "COMPLETED"}
    await family.publish(Unpaid(order_id="1"))
    (undo,) = await family.eventually_sent("choreo.commands", 1)
    assert (undo.key, header(undo, "ce_type"), header(undo, "saga-step")) == (b"1", "UndoSaga", "pack")
    (_, put_back) = await family.eventually_sent("inventory.commands", 2)
    await family.publish(BackOnShelf(order_id="1"), causation_id=header(put_back, "ce_id"))
    found = await family.until(lambda all_: all(each.phase.ended for each in all_.values()))
    assert states(found) == {"ordering/1": "COMPENSATED", "packing/1": "CANCELLED"}
    told = await answers_to_parents(family, 2)
    assert [(each.key, header(each, "ce_type"), header(each, "saga-id")) for each in told] == [
        (b"1", "SagaCompleted", "ordering/1"),
        (b"1", "SagaUndone", "ordering/1"),
    ]


@asynccontextmanager
async def apart(folder: Path, **options: Any) -> AsyncIterator[tuple[Stage, Stage]]:
    """A parent's stage and a child's, with stores and groups of their own, on one broker."""
    async with Stage(f"sqlite:{folder / 'parent.db'}", sagas=(Ordering,), **options) as parent:
        await parent.codec.prepare(families.EVENTS)
        other = Stage(f"sqlite:{folder / 'child.db'}", sagas=(Packing,), broker=parent.broker, now=parent.now)
        other.settings = parent.settings.model_copy(update={"group": f"packers-{uuid4().hex[:8]}"})
        other.codec = parent.codec
        other.database = await Database.open(other.url, clock=lambda: other.now)
        yield parent, other
        for coordinator in other.coordinators:
            await coordinator.stop()
        await other.database.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Stage, Stage]]:
    async with apart(tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Stage, Stage]]:
    """The same on the memory broker and on a real Kafka."""
    options: dict[str, Any] = {}
    if request.param == "kafka":
        prefix = f"t{uuid4().hex[:8]}."
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        settings = Settings(broker=f"kafka://{bootstrap}", topic_prefix=prefix, home=tmp_path, group=f"g-{prefix}")
        options = {"broker": connect(settings.broker_url, settings), "settings": settings}
    async with apart(tmp_path, **options) as made:
        yield made


async def test_row_21_parent_and_child_in_coordinators_that_share_nothing(either: tuple[Stage, Stage]) -> None:
    parent, other = either
    await parent.start()
    await other.start()
    await parent.publish(Ordered(order_id="1"))
    await parent.eventually_sent("inventory.commands", 1)
    await parent.publish(Picked(order_id="1"), Wrapped(order_id="1"))
    await parent.until(lambda all_: bool(all_) and all_["ordering/1"].steps["pack"].state == "DONE")
    assert states(await parent.instances()) == {"ordering/1": "RUNNING"}
    assert states(await other.instances()) == {"packing/1": "COMPLETED"}
    await parent.publish(Unpaid(order_id="1"))
    (_, put_back) = await parent.eventually_sent("inventory.commands", 2)
    await parent.publish(BackOnShelf(order_id="1"), causation_id=header(put_back, "ce_id"))
    await parent.until(lambda all_: all_["ordering/1"].phase.ended)
    assert states(await parent.instances()) == {"ordering/1": "COMPENSATED"}
    assert states(await other.instances()) == {"packing/1": "CANCELLED"}


async def test_an_undo_that_overtakes_the_start_leaves_a_tombstone(pair: tuple[Stage, Stage]) -> None:
    parent, other = pair
    other.now = parent.now
    await other.codec.prepare([UndoSaga])
    await other.start()
    headers = {"saga_id": "ordering/1", "saga_type": "ordering", "saga_step": "pack", "saga_attempt": 1}
    await other.publish(UndoSaga(key="1", type="packing"), **headers, saga_depth=1, id="the-undo")
    found = await other.until(lambda all_: bool(all_))
    assert states(found) == {"packing/1": "CANCELLED"}
    await other.publish(PackGoods(order_id="1"), **headers, saga_depth=1)
    await other.settled()
    assert states(await other.instances()) == {"packing/1": "CANCELLED"}
    assert (await other.ignored())["PackGoods", "SecondStart"] == 1
    (told,) = await answers_to_parents(other, 1)
    assert (header(told, "ce_type"), header(told, "undo-empty"), header(told, "causation-id")) == (
        "SagaUndone",
        "1",
        "the-undo",
    )


async def test_children_are_packed_and_unpacked_on_the_virtual_clock() -> None:
    async with Harness(Ordering, Packing, play=PLAY) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.settle()
        assert harness.saga("packing/1").phase == "COMPLETED"
        assert harness.saga("ordering/1").steps["pack"] == "DONE"
        await harness.advance("61m")  # nobody pays
        assert harness.saga("ordering/1").phase == "COMPENSATED"
        assert harness.saga("packing/1").phase == "CANCELLED"
        assert len(harness.sent(Unpacked)) == 1, "what was undone says so, though it had ended well before"


async def test_a_parent_that_is_cancelled_while_its_child_runs_cancels_it() -> None:
    async with Harness(Ordering, Packing, play={**PLAY, Picked: silent()}) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.settle()
        await harness.cancel("ordering/1", reason="no stock")
        await harness.settle()
        assert (harness.saga("ordering/1").phase, harness.saga("packing/1").phase) == ("CANCELLED", "CANCELLED")


async def test_row_22_a_sealed_child_needs_a_person() -> None:
    async with Harness(Ordering, Sealing, play={PackGoods: answers(Picked), Picked: answers(Wrapped)}) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.settle()
        await harness.publish(Unpaid(order_id="1"))
        await harness.settle()
        saga = harness.saga("ordering/1")
        assert saga.phase == "FAILED"
        assert "WaitingForPerson" in saga.conditions
        await harness.mark_undone("ordering/1", reason="unsealed by hand")
        assert harness.saga("ordering/1").phase == "COMPENSATED"


class Carton(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class Boxing(Saga, start=Carton, key="order_id"):
    box = step(done=Wrapped, undo=PutBack, undone=BackOnShelf, within="1h")


class Crating(Saga, start=PackGoods, key="order_id", type="packing"):
    box = child(Boxing, start=Carton, within="2h")


async def test_a_child_of_a_child_is_undone_through_both() -> None:
    play = {Carton: answers(Wrapped), PutBack: answers(BackOnShelf)}
    async with Harness(Ordering, Crating, Boxing, play=play) as harness:
        await harness.publish(Ordered(order_id="1"))
        await harness.settle()
        assert harness.saga("ordering/1").steps["pack"] == "DONE"
        await harness.publish(Unpaid(order_id="1"))
        await harness.settle()
        assert {name: str(each.phase) for name, each in harness.sagas.items()} == {
            "ordering/1": "COMPENSATED",
            "packing/1": "CANCELLED",
            "boxing/1": "CANCELLED",
        }


class Spawn(Event, topic="orders", key="order_id"):
    order_id: str


async def test_fault_52_sagas_that_begin_each_other_for_ever_end_at_a_depth() -> None:
    def deeper(saga: Saga) -> Spawn:
        return Spawn(order_id=f"{saga.key}x")

    class Endless(Saga, start=Spawn, key="order_id"):
        again = child("endless", start=deeper, within="1d")

    async with Harness(Endless) as harness:
        await harness.publish(Spawn(order_id="a"))
        await harness.settle()
        sagas = harness.sagas
        assert len(sagas) == 11, "the first, and ten within it"
        assert {str(each.phase) for each in sagas.values()} == {"COMPENSATED"}
        deepest = harness.saga(f"endless/a{'x' * 10}")
        assert deepest.cause is not None
        assert "at most 10 may be nested; do they begin each other?" in deepest.cause.message


async def test_the_childs_trace_and_the_parents_are_linked_both_ways(family: Stage) -> None:
    await family.publish(Ordered(order_id="1"))
    found = await family.until(lambda all_: len(all_) == 2)
    origin = parse_traceparent(found["packing/1"].origin)
    assert origin is not None
    assert origin.trace_id == trace_id("", "ordering/1"), "the child's root links to the parent's step,"
    assert origin.span_id == span_id("", "ordering/1", *step_path("pack")), "and its anchor stands beneath that"
    await family.publish(Picked(order_id="1"), Wrapped(order_id="1"), Paid(order_id="1"))
    await family.until(lambda all_: all(each.phase.ended for each in all_.values()))
    (told,) = await answers_to_parents(family, 1)
    context = parse_traceparent(header(told, "traceparent"))
    assert context is not None
    assert context.trace_id == trace_id("", "packing/1")
