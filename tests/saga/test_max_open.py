"""`max_open=`: at most so many sagas of a type are open at a time; further ones wait in a queue that people see."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select

from choreo import Event, Saga, lock, step
from choreo.events.clock import SECOND, system_clock
from choreo.events.errors import DefinitionError
from choreo.saga import recorded
from choreo.saga.advance import advance, begin
from choreo.saga.difference import recorded as compared
from choreo.saga.inputs import Admitted, Observed, Operator
from choreo.saga.instance import Instance
from choreo.saga.tables import admission, saga
from choreo.saga.testing import Harness, answers
from tests.saga.stage import Order, Paid, Placed, Release, Released, Reserved, Stage
from tests.support.console import Console, validate

MOST = 3


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Hold(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Held(Event, topic="stock", key="order_id"):
    order_id: str


class Free(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Freed(Event, topic="stock", key="order_id"):
    order_id: str


class Shipped(Event, topic="parcels", key="order_id"):
    order_id: str


class Shop(Saga, start=Ordered, key="order_id", type="shop", deadline="2h", max_open=2):
    hold = step(send=Hold, done=Held, undo=Free, undone=Freed, within="1h")
    ship = step(after=hold, done=Shipped, undo=None, within="1h")


PLAY = {Hold: answers(Held), Free: answers(Freed)}


async def _place(harness: Harness, *numbers: int) -> None:
    for number in numbers:
        await harness.publish(Ordered(order_id=str(number)))
        await harness.settle()


async def test_at_most_so_many_are_open_and_the_others_are_let_in_first_come_first_served() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await _place(harness, 4, 3, 2, 1)
        assert [harness.saga(each).conditions for each in "4321"] == [
            set(),
            set(),
            {"WaitingToStart"},
            {"WaitingToStart"},
        ]
        assert harness.saga("2").steps == {"hold": "PENDING", "ship": "PENDING"}
        assert [event.order_id for event in harness.sent(Hold)] == ["4", "3"], "who waits commands nothing"
        for ends, begins in (("3", "2"), ("4", "1")):
            await harness.publish(Shipped(order_id=ends))
            await harness.settle()
            assert harness.saga(ends).phase == "COMPLETED"
            assert harness.saga(begins).steps == {"hold": "DONE", "ship": "WAITING"}
            assert harness.saga(begins).conditions == set()
        assert [event.order_id for event in harness.sent(Hold)] == ["4", "3", "2", "1"]


async def test_its_limits_begin_when_it_is_let_in() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await _place(harness, 1, 2, 3)
        await harness.advance("50m")
        for number in "12":
            await harness.publish(Shipped(order_id=number))
        await harness.advance("50m")
        assert harness.saga("3").steps["ship"] == "WAITING", "it waited for fifty minutes, and has an hour from then on"
        await harness.advance("11m")
        assert harness.saga("3").phase == "COMPENSATED"


async def test_who_is_cancelled_while_it_waits_ends_and_holds_up_nobody() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await _place(harness, 1, 2, 3, 4)
        await harness.cancel("shop/3")
        await harness.settle()
        assert harness.saga("3").phase == "CANCELLED"
        assert [event.order_id for event in harness.sent(Hold)] == ["1", "2"]
        await harness.publish(Shipped(order_id="1"))
        await harness.settle()
        assert harness.saga("4").steps["hold"] == "DONE"


class Few(Saga, start=Placed, key="order_id", type="order", max_open=MOST, active_from="beginning"):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="1h")
    charge = step(after=reserve, done=Paid, undo=None, within="1h")


class Many(Saga, start=Placed, key="order_id", type="order", active_from="beginning"):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="1h")
    charge = step(after=reserve, done=Paid, undo=None, within="1h")


def _let_in(found: dict[str, Instance]) -> list[str]:
    return sorted(id_ for id_, each in found.items() if not each.phase.ended and not each.waits_to_start)


class Single(Saga, start=Placed, key="order_id", type="single", max_open=1):
    reserve = step(done=Reserved, undo=None, within="1h")


async def test_a_saga_that_waits_to_start_says_so_and_what_it_waits_for(at_home: Console) -> None:
    async with Stage(f"sqlite:{at_home.home / 'saga.db'}", (Single,), now=system_clock() - 5 * SECOND) as stage:
        await stage.start()
        for number in ("1", "2"):
            await stage.publish(Placed(order_id=number))
            await stage.until(lambda found, number=number: f"single/{number}" in found)  # type: ignore[misc]
        told = validate((await asyncio.to_thread(at_home, "status", "2", "-o", "json")).json, "saga.status/v1")
        (condition,) = told["conditions"]
        assert (condition["type"], condition["reason"]) == ("WaitingToStart", "MaxOpen")
        (listed,) = (await asyncio.to_thread(at_home, "list", "--condition", "WaitingToStart", "-o", "json")).json
        assert listed["id"] == "single/2"
        why = await asyncio.to_thread(at_home, "why", "2")
        assert "at most 1 saga of single may be open at a time" in why.out
        assert "saga list --type single" in why.out + why.err

        await stage.publish(Reserved(order_id="1"))
        await stage.until(lambda found: not found["single/2"].waits_to_start)
        told = validate((await asyncio.to_thread(at_home, "status", "2", "-o", "json")).json, "saga.status/v1")
        assert [each["type"] for each in told["conditions"]] == []


async def test_several_coordinators_never_let_in_more_and_every_start_has_its_turn(store_url: str) -> None:
    count = 40
    async with Stage(store_url, (Few,)) as stage:
        await stage.start()
        await stage.start()
        for number in range(count):
            await stage.publish(Placed(order_id=str(number)))
        await stage.until(lambda found: len(found) == count)
        answered: set[str] = set()
        most = 0
        async with asyncio.timeout(120):
            while len(answered) < count:
                inside = _let_in(await stage.instances())
                most = max(most, len(inside))
                assert len(inside) <= MOST
                for id_ in sorted(set(inside) - answered):
                    key = id_.partition("/")[2]
                    await stage.publish(Reserved(order_id=key), Paid(order_id=key))
                    answered.add(id_)
                await asyncio.sleep(0)
        found = await stage.until(lambda found: all(each.phase == "COMPLETED" for each in found.values()))
        assert most == MOST
        order = sorted(found.values(), key=lambda each: (each.started_at, each.admission.ahead))  # type: ignore[union-attr]
        let_in = [each.admission.admitted_at for each in order if each.admission is not None]
        assert let_in == sorted(let_in), "nobody overtakes"  # type: ignore[type-var]
        left = select(func.count()).select_from(admission)
        assert await stage.database.read(lambda c: c.execute(left).scalar_one()) == 0


async def test_a_limit_that_is_raised_or_taken_away_lets_in_who_waits(tmp_path: Path) -> None:
    assert Few.definition().hash == Many.definition().hash, "how many are open is no part of what each of them does"
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Few,)) as stage:
        await stage.start()
        await stage.publish(*(Placed(order_id=str(number)) for number in range(8)))
        found = await stage.until(lambda found: len(found) == 8)
        assert len(_let_in(found)) == MOST
        query = select(func.count()).select_from(saga).where(saga.c.conditions.contains("WaitingToStart"))
        assert await stage.database.read(lambda c: c.execute(query).scalar_one()) == 8 - MOST, "as `saga list` has it"
        await stage.stop()
        stage.sagas = (Many,)
        await stage.start()
        await stage.until(lambda found: len(_let_in(found)) == 8)


async def test_a_saga_with_an_answer_that_came_while_it_waited_goes_on_from_there(tmp_path: Path) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Few,)) as stage:
        await stage.start()
        for number in range(4):
            await stage.publish(Placed(order_id=str(number)))
        await stage.until(lambda found: len(found) == 4)
        await stage.publish(Reserved(order_id="3"))  # what is choreographed follows the start event all the same
        await stage.until(lambda found: found["order/3"].steps["reserve"].done is not None)
        assert (await stage.instances())["order/3"].waits_to_start
        await stage.publish(Reserved(order_id="0"), Paid(order_id="0"))
        found = await stage.until(lambda found: not found["order/3"].waits_to_start)
        assert found["order/3"].steps["charge"].state == "WAITING"
        known = await stage.database.read(lambda c: recorded.definitions_of(c, "order"))
        for each in await stage.database.read(lambda c: list(recorded.page(c, recorded.Which()))):
            assert compared(each, known) is None


def test_admission_is_decided_by_the_start_event_alone() -> None:
    definition = Few.definition()
    waiting = begin(definition, "1", 1, Observed("e", Placed.spec().type, queue=4), 10).instance
    assert waiting.waits_to_start
    assert waiting.conditions["WaitingToStart"].message == (
        "at most 3 sagas of order may be open at a time, 3 waited before it"
    )
    assert (waiting.next_due, waiting.steps["reserve"].state) == (None, "PENDING")
    open_ = advance(definition, waiting, Admitted(), 20)
    assert (open_.instance.admission.admitted_at, open_.instance.steps["reserve"].state) == (20, "WAITING")  # type: ignore[union-attr]
    again = advance(definition, open_.instance, Admitted(), 30)
    assert (again.verdict, again.instance.admission) == ("ignored", open_.instance.admission)
    held = advance(definition, waiting, Operator("p", "pause", "ann"), 20).instance
    kept = advance(definition, held, Admitted(), 30).instance
    assert kept.steps["reserve"].state == "PENDING", "a person has paused it meanwhile"
    assert advance(definition, kept, Operator("r", "resume", "ann"), 40).instance.steps["reserve"].state == "WAITING"
    assert begin(definition, "1", 1, Observed("e", Placed.spec().type, queue=0), 10).instance.steps["reserve"].open
    assert begin(Order.definition(), "1", 1, Observed("e", Placed.spec().type), 10).instance.admission is None


@pytest.mark.parametrize("most", [0, -1, True, "3", 1.5])
def test_a_limit_that_is_none_is_refused(most: object) -> None:
    with pytest.raises(DefinitionError, match="max_open="):

        class Wrong(Saga, start=Placed, key="order_id", max_open=most):  # type: ignore[arg-type]
            reserve = step(done=Reserved, undo=None, within="1h")


def test_a_limit_and_a_lock_do_not_go_together() -> None:
    with pytest.raises(DefinitionError, match="do not go together"):

        class Wrong(Saga, start=Placed, key="order_id", max_open=1, lock=lock("total")):
            reserve = step(done=Reserved, undo=None, within="1h")
