"""Replaying histories, trying another definition on them, and moving live sagas to it (S3, S17, row 29)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, update

from choreo import Saga, step
from choreo.events.clock import SECOND
from choreo.saga import moving, operators, recorded
from choreo.saga.difference import Difference, tried
from choreo.saga.difference import recorded as compared
from choreo.saga.tables import history, saga, sent
from tests.saga.stage import (
    Cancelled,
    Declined,
    Fulfilled,
    Order,
    Paid,
    Placed,
    Refused,
    Release,
    Released,
    Reserved,
    Stage,
)


class Slower(Saga, start=Placed, key="order_id", type="order", version=2, completed=Fulfilled, compensated=Cancelled):
    """More time for the payment, and a step behind it."""

    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="2h")
    pack = step(after=charge, done=Cancelled, undo=None, within="1d")


class Hasty(Saga, start=Placed, key="order_id", type="order", version=3):
    """Pays at once: where the stock is reserved already, that would have begun before."""

    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(done=Paid, failed=Declined, undo=None, within="1s")


class Strict(Saga, start=Placed, key="order_id", type="order", version=4):
    """A second for the payment."""

    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="1s")


async def some(stage: Stage) -> None:
    """A saga at each step, one undone and one completed."""
    stage.sagas = (Order,)
    await stage.start()
    names = ("new", "reserved", "paid", "declined", "undone")
    await stage.publish(*(Placed(order_id=name) for name in names))
    await stage.publish(*(Reserved(order_id=name) for name in names[1:]))
    await stage.publish(Paid(order_id="paid"), Declined(order_id="declined"), Declined(order_id="undone"))
    await stage.eventually_sent("inventory.commands", 2)
    await stage.publish(Released(order_id="undone"))
    await stage.until(lambda all_: all_["order/undone"].phase.ended)


async def verified(stage: Stage) -> dict[str, Difference | None]:
    def look(connection: Connection) -> dict[str, Difference | None]:
        known = recorded.definitions_of(connection, "order")
        return {each.instance.id: compared(each, known) for each in recorded.page(connection, recorded.Which())}

    return await stage.database.read(look)


async def moved(stage: Stage, new: type[Saga], *names: str) -> dict[str, Any]:
    definition = new.definition()
    about = moving.target(definition.type, definition.version)
    ids = [f"order/{name}" for name in names]
    answer = await stage.ask(moving.KIND, saga_id=about, sagas=ids, hash=definition.hash)
    assert answer.state == operators.APPLIED, answer.result
    told: dict[str, Any] = json.loads(answer.result)
    return told


async def test_s3_every_history_folds_again_to_the_same_state_and_commands(stage: Stage) -> None:
    await some(stage)
    found = await verified(stage)
    assert len(found) == 5
    assert set(found.values()) == {None}


async def test_s3_what_was_tampered_with_is_told_with_its_place(stage: Stage) -> None:
    await some(stage)
    stage.verified = False

    def tamper(connection: Connection) -> None:
        new = next(each for each in recorded.page(connection, recorded.Which()) if each.instance.id == "order/reserved")
        other = new.instance.copy()
        other.steps["charge"].limit_at = 1
        connection.execute(update(saga).where(saga.c.id == "order/reserved").values(state=other.to_json()))
        row = (history.c.saga_id == "order/paid", history.c.seq == 2)
        connection.execute(update(history).where(*row).values(changes='[["reserve","FAILED","?"]]'))
        connection.execute(update(sent).where(sent.c.saga_id == "order/declined").values(saga_id="order/undone"))

    await stage.database.write(tamper)
    found = await verified(stage)
    assert found["order/new"] is None
    state, decision, command, more = (found[f"order/{name}"] for name in ("reserved", "paid", "declined", "undone"))
    assert state is not None
    assert (state.seq, state.step, state.what, state.was) == (2, "charge", "state steps.charge.limit_at", "1")
    assert decision == Difference(2, "reserve", "decisions", "FAILED (?)", "DONE (Reserved)")
    assert command == Difference(3, "reserve", "commands", "no Release was sent", "Release is sent")
    assert more is not None
    assert more.what == "commands"


async def test_row_29_a_definition_is_tried_on_every_live_saga_and_says_where_it_would_differ(stage: Stage) -> None:
    await some(stage)

    def look(new: type[Saga], now: int) -> Callable[[Connection], dict[str, Difference | None]]:
        def work(connection: Connection) -> dict[str, Difference | None]:
            known = recorded.definitions_of(connection, "order")
            return {
                each.instance.key: tried(each, known, new.definition(), now)
                for each in recorded.page(connection, recorded.Which(only_open=True))
            }

        return work

    read = stage.database.read
    assert await read(look(Slower, stage.now)) == {"new": None, "reserved": None, "declined": None}
    hasty = await read(look(Hasty, stage.now))
    assert hasty["reserved"] == Difference(1, "charge", "step", "PENDING", "WAITING")
    strict = await read(look(Strict, stage.now + 5 * SECOND))
    assert strict["reserved"] == Difference(
        2, "charge", "limit", "its time is not over", "its time would be over at once"
    )
    assert strict["declined"] is None
    assert strict["new"] is None


async def test_s17_a_moved_saga_runs_under_the_new_version_and_its_history_says_so(stage: Stage) -> None:
    await some(stage)
    stage.sagas = (Order, Slower)
    await stage.start()
    told = await moved(stage, Slower, "new", "reserved", "declined", "undone")
    assert told == {"moved": 3, "stayed": []}, "what has ended stays as it is"
    found = await stage.instances()
    assert {name: each.version for name, each in found.items()} == {
        "order/new": 2,
        "order/reserved": 2,
        "order/declined": 2,
        "order/undone": 1,
        "order/paid": 1,
    }
    charge = found["order/reserved"].steps["charge"]
    assert charge.limit_at == charge.ready_at + 7_200 * SECOND, "the limit of the new plan"
    assert found["order/reserved"].hash == Slower.definition().hash
    assert (await stage.history("order/reserved"))[-1].kind == "migrated"
    assert set((await verified(stage)).values()) == {None}, "a replay honours the move"

    await stage.publish(Paid(order_id="reserved"))
    found = await stage.until(lambda all_: all_["order/reserved"].steps["charge"].done is not None)
    assert found["order/reserved"].phase == "RUNNING"
    assert found["order/reserved"].steps["pack"].state == "WAITING", "the step that only the new version has"
    await stage.publish(Released(order_id="declined"))
    await stage.until(lambda all_: all_["order/declined"].phase == "COMPENSATED")
    assert set((await verified(stage)).values()) == {None}
    assert (await moved(stage, Slower, "reserved")) == {"moved": 0, "stayed": []}


async def test_a_saga_that_would_differ_stays_on_its_version(stage: Stage) -> None:
    await some(stage)
    stage.sagas = (Order, Hasty)
    await stage.start()
    told = await moved(stage, Hasty, "reserved")
    assert told["moved"] == 0
    assert told["stayed"][0]["difference"]["step"] == "charge"
    assert (await stage.instances())["order/reserved"].version == 1


async def test_a_move_waits_for_a_coordinator_that_has_the_new_code(stage: Stage) -> None:
    await some(stage)
    new = Slower.definition()
    id_ = await stage.database.write(
        lambda connection: operators.ask(
            connection, moving.KIND, saga_id="order@2", by="ann", sagas=["order/reserved"], hash=new.hash
        )
    )
    await stage.settled()
    assert (await stage.database.read(lambda c: operators.answer(c, id_))).state == operators.PENDING
    stage.sagas = (Slower,)
    await stage.start()
    await stage.until(lambda all_: all_["order/reserved"].version == 2)
