"""Semantic locks (row 23): one saga at a time for a business key, the others in a queue, whoever dies or is slow."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from sqlalchemy import Connection, delete, select, update

from choreo import DefinitionError, Event, Retry, Saga, approval, lock, step
from choreo.events.clock import SECOND
from choreo.events.failpoints import watch
from choreo.saga import queues, recorded
from choreo.saga.difference import Difference, tried
from choreo.saga.difference import recorded as compared
from choreo.saga.instance import Instance
from choreo.saga.tables import lock as lock_table
from choreo.saga.tables import saga as saga_table
from choreo.saga.testing import Harness, answers, silent
from tests.saga.stage import Placed, Reserved, Stage


class Order(Event, topic="orders", key="order_id"):
    order_id: str
    customer_id: str


class Hold(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Held(Event, topic="stock", key="order_id"):
    order_id: str


class Refused(Event, topic="stock", key="order_id"):
    order_id: str


class Free(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Freed(Event, topic="stock", key="order_id"):
    order_id: str


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


class Off(Event, topic="orders", key="order_id"):
    order_id: str


class Shop(Saga, start=Order, key="order_id", cancel=Off, lock=lock("customer_id", waits="10m", expires="2h")):
    hold = step(send=Hold, done=Held, failed=Refused, undo=Free, undone=Freed, within="1h", retry=Retry(attempts=1))
    ship = step(after=hold, done=Shipped, undo=None, within="1d")


class Strict(Saga, start=Order, key="order_id", type="shop", lock=lock("customer_id", otherwise="refuse")):
    hold = step(send=Hold, done=Held, failed=Refused, undo=Free, undone=Freed, within="1h")
    ship = step(after=hold, done=Shipped, undo=None, within="1d")


PLAY = {Hold: answers(Held), Free: answers(Freed)}


def order(number: int, customer: str = "ann") -> Order:
    return Order(order_id=str(number), customer_id=customer)


async def place(harness: Harness, *orders: Order) -> None:
    """Publish orders one after another: in one batch their partitions would decide who comes first."""
    for each in orders:
        await harness.publish(each)
        await harness.settle()


def shipped(number: int) -> Shipped:
    return Shipped(order_id=str(number))


async def test_row_23_the_second_saga_of_a_key_waits_and_opens_no_step() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await place(harness, order(1), order(2), order(3, "bob"))
        assert harness.saga("1").steps == {"hold": "DONE", "ship": "WAITING"}
        assert harness.saga("2").steps == {"hold": "PENDING", "ship": "PENDING"}
        assert harness.saga("2").conditions == {"WaitingForLock"}
        assert harness.saga("3").steps == {"hold": "DONE", "ship": "WAITING"}
        assert [event.order_id for event in harness.sent(Hold)] == ["1", "3"]
        await harness.publish(shipped(1))
        await harness.settle()
        assert harness.saga("1").phase == "COMPLETED"
        assert harness.saga("2").steps == {"hold": "DONE", "ship": "WAITING"}
        assert harness.saga("2").conditions == set()


async def test_row_23_the_queue_is_first_come_first_served() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        for number in (3, 1, 2):
            await place(harness, order(number))
        for number in (3, 1, 2):
            assert [
                saga.id for saga in harness.sagas.values() if saga.steps["hold"] == "DONE" and not saga.ended_at
            ] == [f"shop/{number}"]
            await harness.publish(shipped(number))
            await harness.settle()
        assert {saga.phase for saga in harness.sagas.values()} == {"COMPLETED"}


async def test_row_23_limits_begin_with_the_lock() -> None:
    async with Harness(Shop, play=PLAY | {Hold: silent()}) as harness:
        await place(harness, order(1))
        await harness.advance("55m")
        await harness.publish(order(2))
        await harness.advance("6m")
        assert harness.saga("1").phase == "COMPENSATED"
        assert harness.saga("2").steps["hold"] == "WAITING"
        await harness.advance("50m")
        assert harness.saga("2").phase == "RUNNING"


async def test_row_23_who_waits_too_long_is_undone_with_a_clear_cause() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await place(harness, order(1), order(2), order(3))
        await harness.advance("10m")
        for number in ("2", "3"):
            view = harness.saga(number)
            assert (view.phase, set(view.steps.values())) == ("COMPENSATED", {"SKIPPED"})
            assert view.cause is not None
            assert view.cause.error == "LockTimeout"
            assert view.cause.message == "the lock shop/ann was not free within 10m 00s"
        assert harness.saga("1").phase == "RUNNING"


async def test_row_23_a_lock_expires_and_marks_its_holder() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await harness.publish(order(1))
        await harness.advance("1h55m")
        await harness.publish(order(2))
        await harness.advance("6m")
        assert harness.saga("1").phase == "RUNNING"
        assert "Late" in harness.saga("1").conditions
        assert "its lock shop/ann expired" in str(harness.saga("1").history)
        assert harness.saga("2").steps["hold"] == "DONE"
        await harness.publish(shipped(1))
        await place(harness, order(3))
        assert "WaitingForLock" in harness.saga("3").conditions  # the end of the first frees nothing any more


async def test_row_23_a_saga_that_may_not_wait_is_refused_at_its_start() -> None:
    async with Harness(Strict, play=PLAY) as harness:
        await place(harness, order(1), order(2))
        view = harness.saga("2")
        assert view.phase == "COMPENSATED"
        assert view.cause is not None
        assert (view.cause.error, view.cause.message) == ("LockRefused", "the lock shop/ann is held by shop/1")
        await harness.publish(shipped(1))
        await place(harness, order(3))
        assert harness.saga("3").steps["hold"] == "DONE"


async def test_row_23_a_saga_that_is_undone_holds_its_lock_until_all_is_undone() -> None:
    async with Harness(Shop, play={Hold: answers(Held), Free: silent()}) as harness:
        await place(harness, order(1), order(2))
        await harness.publish(Off(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "COMPENSATING"
        assert harness.saga("2").conditions == {"WaitingForLock"}
        await harness.publish(Freed(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "CANCELLED"
        assert harness.saga("2").steps["hold"] == "DONE"


async def test_row_23_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await place(harness, order(1), order(2), order(3))
        await harness.cancel("shop/2", reason="changed my mind")
        assert harness.saga("2").phase == "CANCELLED"
        assert harness.saga("2").conditions == set()
        await harness.publish(shipped(1))
        await harness.settle()
        assert harness.saga("3").steps["hold"] == "DONE"
        assert [event.order_id for event in harness.sent(Hold)] == ["1", "3"]


async def test_row_23_what_happens_meanwhile_is_remembered() -> None:
    async with Harness(Shop, play=PLAY) as harness:
        await place(harness, order(1), order(2))
        await harness.publish(Held(order_id="2"), shipped(2))
        await harness.settle()
        view = harness.saga("2")
        assert (view.phase, view.steps) == ("RUNNING", {"hold": "DONE", "ship": "DONE"})
        await harness.publish(shipped(1))
        await harness.settle()
        assert harness.saga("2").phase == "COMPLETED"
        await place(harness, order(3))
        assert harness.saga("3").steps["hold"] == "DONE"


async def test_row_23_sagas_of_several_types_share_a_lock_by_its_name() -> None:
    class Change(Saga, start=Order, key="order_id", lock=lock("customer_id", name="customer")):
        hold = step(send=Hold, done=Held, undo=None, within="1h")

    class Move(Saga, start=Order, key="order_id", lock=lock("customer_id", name="customer")):
        ship = step(done=Shipped, undo=None, within="1d")

    async with Harness(Change, Move, play={Hold: silent()}) as harness:
        await place(harness, order(1))
        assert sorted(saga.conditions == {"WaitingForLock"} for saga in harness.sagas.values()) == [False, True]
        await harness.publish(Held(order_id="1"))
        await harness.settle()
        assert all("WaitingForLock" not in saga.conditions for saga in harness.sagas.values())


async def test_a_saga_that_is_opened_again_does_not_take_its_lock_again() -> None:
    async with Harness(Shop, play={Hold: silent(), Free: answers(Freed)}) as harness:
        await place(harness, order(1))
        await harness.publish(Refused(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "COMPENSATED"
        await place(harness, order(2))
        await harness.publish(Held(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "COMPENSATED"  # a late success, undone beside the holder
        assert harness.saga("2").steps["hold"] == "WAITING"
        assert harness.saga("2").conditions == set()


async def test_row_23_who_waited_too_long_while_no_coordinator_ran_still_has_its_turn(store_url: str) -> None:
    async with Stage(store_url, (Kept,), verified=False) as stage:  # it changes the store behind the history's back
        await stage.start()
        for number in ("1", "2", "3"):
            await stage.publish(Placed(order_id=number, total=7))
            await stage.until(lambda found, id_=f"order/{number}": id_ in found)  # type: ignore[misc]
        await stage.stop()

        def hours_later(connection: Connection) -> None:
            """The holder has ended; the limits of those who wait have passed while nobody looked."""
            past = stage.database.now(connection) - SECOND
            for row in connection.execute(select(saga_table.c.id, saga_table.c.state)).all():
                instance = Instance.from_json(row.state)
                assert instance.lock is not None
                if instance.waits_for_lock:
                    instance.lock = replace(instance.lock, until=past)
                values = {"state": instance.to_json(), "next_due": past, "limit_due": past}
                if instance.waits_for_lock:
                    connection.execute(update(saga_table).where(saga_table.c.id == row.id).values(values))
            connection.execute(delete(lock_table))

        await stage.database.write(hours_later)
        await stage.start()
        found = await stage.until(lambda found: found["order/3"].phase.ended)
        assert _holds(found["order/2"])
        assert (found["order/3"].cause or {})["error"] == "LockTimeout"


async def test_an_observer_holds_nothing() -> None:
    async with Harness(Shop.observe_only()) as harness:
        await place(harness, order(1), order(2))
        assert [saga.steps["hold"] for saga in harness.sagas.values()] == ["WAITING", "WAITING"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: lock(""), "name a field of the start event"),
        (lambda: lock("customer_id", otherwise="fail"), "write 'wait' or 'refuse'"),  # type: ignore[arg-type]
        (lambda: lock("customer_id", waits="5m", otherwise="refuse"), "who is refused does not wait"),
        (lambda: lock("customer_id", waits="soon"), "not a positive duration"),
    ],
)
def test_a_lock_that_cannot_be_is_refused_where_it_is_written(made: object, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        made()  # type: ignore[operator]


def test_a_lock_on_a_missing_or_an_empty_field_is_refused_at_definition() -> None:
    class Maybe(Event, topic="orders", key="order_id"):
        order_id: str
        customer_id: str | None = None

    with pytest.raises(DefinitionError, match=r"Order has no such field; it has order_id, customer_id"):

        class Bad(Saga, start=Order, key="order_id", lock=lock("client")):
            ship = step(done=Shipped, undo=None, within="1d")

    with pytest.raises(DefinitionError, match="may be None, which locks nothing"):

        class Worse(Saga, start=Maybe, key="order_id", lock=lock("customer_id")):
            ship = step(done=Shipped, undo=None, within="1d")

    with pytest.raises(DefinitionError, match="use lower-case words"):

        class Worst(Saga, start=Order, key="order_id", lock=lock("customer_id", name="The Customer")):
            ship = step(done=Shipped, undo=None, within="1d")


class Kept(Saga, start=Placed, key="order_id", type="order", lock=lock("total", waits="1h")):
    reserve = step(done=Reserved, undo=None, within="1h")
    agree = approval(who="credit", within="2d", after=reserve)


class Renamed(Saga, start=Placed, key="order_id", type="order", version=2, lock=lock("total", name="all", waits="1h")):
    reserve = step(done=Reserved, undo=None, within="1h")
    agree = approval(who="credit", within="2d", after=reserve)


async def test_row_23_a_history_with_locks_and_approvals_folds_to_the_same_state(store_url: str) -> None:
    async with Stage(store_url, (Kept,)) as stage:
        await stage.start()
        for number in ("1", "2"):
            await stage.publish(Placed(order_id=number, total=7))
            await stage.until(lambda found, id_=f"order/{number}": id_ in found)  # type: ignore[misc]
        await stage.publish(Reserved(order_id="1"))
        await stage.until(lambda found: found["order/1"].steps["agree"].open)
        assert (await stage.ask("approve", saga_id="order/1")).state == "applied"
        await stage.until(lambda found: not found["order/2"].waits_for_lock)

        def look(connection: Connection) -> list[Difference | None]:
            known = recorded.definitions_of(connection, "order")
            return [compared(each, known) for each in recorded.page(connection, recorded.Which())]

        assert await stage.database.read(look) == [None, None]


async def test_row_23_a_saga_that_has_a_lock_is_not_moved_to_a_version_with_another_one(store_url: str) -> None:
    async with Stage(store_url, (Kept,)) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1", total=7))
        await stage.until(lambda found: "order/1" in found)

        def look(connection: Connection) -> Difference | None:
            known = recorded.definitions_of(connection, "order")
            (saga,) = recorded.page(connection, recorded.Which())
            return tried(saga, known, Renamed.definition(), 0)

        found = await stage.database.read(look)
        assert found is not None
        assert (found.what, found.was, found.now) == ("lock", "held order/7", "held all/7")


@pytest.mark.parametrize("place", ["in_transaction", "before_commit", "after_commit"])
async def test_row_23_a_coordinator_that_dies_around_a_hand_over_loses_nobody(store_url: str, place: str) -> None:
    class Killed(Exception):
        pass

    died = []

    def kill(name: str, _: tuple[str, ...]) -> None:
        if name == f"coordinator.{place}" and len(died) < 4:
            died.append(name)
            raise Killed

    async def alive(stage: Stage) -> None:
        """As an operator would: start it again whenever it has died."""
        while True:
            with contextlib.suppress(Killed):
                await stage.coordinators[-1].wait()
            await stage.stop()
            await stage.start()

    async with Stage(store_url, (Kept,)) as stage:
        await stage.start()
        running = asyncio.create_task(alive(stage))
        try:
            for number in ("1", "2", "3"):
                await stage.publish(Placed(order_id=number, total=7))
            await stage.until(lambda found: len(found) == 3)
            watch(kill)
            for _ in range(3):
                found = await stage.until(lambda found: any(_holds(each) for each in found.values()))
                (holder,) = [each for each in found.values() if _holds(each)]
                await stage.ask("cancel", saga_id=holder.id, reason="next")
            found = await stage.until(lambda found: all(each.phase.ended for each in found.values()))
            assert {each.phase for each in found.values()} == {"CANCELLED"}
            assert await stage.database.read(queues.lines) == []
            assert len(died) == 4
        finally:
            watch(None)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _holds(instance: Instance) -> bool:
    return instance.lock is not None and instance.lock.state == "held"
