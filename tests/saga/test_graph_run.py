"""The graph language with real brokers and stores: questions answered in the transaction, undos, finally-steps."""

from __future__ import annotations

import json

import pytest

from choreo import Event, Retry, Saga, Service, any_of, step
from choreo.saga.past import read_input
from choreo.saga.testing import Harness, answers, silent
from tests.saga.stage import (
    Cancelled,
    Declined,
    Fulfilled,
    Paid,
    Placed,
    Refused,
    Release,
    Released,
    Reserved,
    Stage,
    header,
)


class Big(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, when=lambda saga: saga.started.total > 100, done=Paid, undo=None, within="30s")
    close = step(after=(reserve, charge), done=Fulfilled, failed=Declined, undo=None, within="1h")


class Broken(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, when=lambda saga: saga.started.total / 0 > 1, done=Paid, undo=None, within="30s")


class Vague(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="30s")
    charge = step(
        after=reserve,
        when=lambda saga: saga.reserve.reservation,  # type: ignore[arg-type,return-value]
        done=Paid,
        undo=None,
        within="30s",
    )


@pytest.mark.parametrize(("total", "charge"), [(500, "WAITING"), (5, "SKIPPED")])
async def test_a_condition_is_answered_from_the_sagas_events_in_the_same_transaction(
    stage: Stage, total: int, charge: str
) -> None:
    stage.sagas = (Big,)
    await stage.start()
    await stage.publish(Placed(order_id="1", total=total), Reserved(order_id="1"))
    found = await stage.until(lambda all_: "big/1" in all_ and all_["big/1"].steps["reserve"].state == "DONE")
    assert found["big/1"].steps["charge"].state == charge
    assert found["big/1"].steps["charge"].asked is None
    (row,) = [row for row in await stage.history("big/1") if row.kind == "decided"]
    assert (row.type, row.event_id) == ("when", f"decided:when:charge:{row.seq}")
    assert json.loads(row.input) == {"step": "charge", "kind": "when", "value": total > 100}
    assert read_input(row.kind, row.input).value is (total > 100)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("saga", "says"),
    [
        (Broken, "when= of step charge raised ZeroDivisionError"),
        (Vague, "when= of step charge gave str; let it give True or False"),
    ],
)
async def test_a_condition_that_gives_no_answer_fails_its_step_certainly(
    sqlite_stage: Stage, saga: type[Saga], says: str
) -> None:
    stage = sqlite_stage
    stage.sagas = (saga,)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1", reservation="secret"))
    name = f"{saga.definition().type}/1"
    found = (await stage.until(lambda all_: name in all_ and all_[name].phase == "COMPENSATING"))[name]
    assert (found.steps["charge"].state, found.steps["charge"].certain) == ("FAILED", True)
    assert found.steps["charge"].message == says
    assert "secret" not in found.to_json()
    assert len(await stage.eventually_sent("inventory.commands", 1)) == 1


class Either(Saga, start=Placed, key="order_id", completed=Cancelled):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(done=Paid, failed=Declined, undo=None, within="30s")
    close = step(after=any_of(reserve, charge), done=Fulfilled, undo=None, within="1h")


async def test_what_any_of_gives_up_is_undone_with_an_id_that_stays(stage: Stage) -> None:
    stage.sagas = (Either,)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Paid(order_id="1"), Fulfilled(order_id="1"))
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert (header(undo, "saga-step"), header(undo, "saga-attempt")) == ("reserve", "1")
    found = await stage.settled()
    assert found["either/1"].phase == "RUNNING"
    await stage.publish(Released(order_id="1"), causation_id=header(undo, "ce_id"))
    found = await stage.until(lambda all_: all_["either/1"].phase == "COMPLETED")
    assert found["either/1"].steps["reserve"].state == "COMPENSATED"


class Deliver(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class Tell(Event, topic="payments.commands", key="order_id"):
    order_id: str


class Told(Event, topic="payments", key="order_id"):
    order_id: str


class Post(Event, topic="payments.commands", key="order_id"):
    order_id: str


class Shop(Saga, start=Placed, key="order_id", completed=Fulfilled, compensated=Cancelled):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    deliver = step(after=reserve, send=Deliver, done=Paid, undo=None, within="1h", retry=Retry(attempts=2, first="1s"))
    post = step(instead_of=deliver, send=Post, done=Declined, undo=None, within="1h")
    tell = step(final=True, send=Tell, done=Told, within="10m")


async def test_the_alternative_and_the_finally_step_run_with_real_parts() -> None:
    play = {
        Placed: answers(Reserved),
        Deliver: silent(),
        Post: answers(Declined),
        Tell: answers(Told),
        Release: answers(Released),
    }
    async with Harness(Shop, play=play) as harness:
        await harness.publish(Placed(order_id="1", total=1))
        await harness.run()
        saga = harness.saga("shop/1")
        assert saga.phase == "COMPLETED"
        assert {name: str(state) for name, state in saga.steps.items()} == {
            "reserve": "DONE",
            "deliver": "UNKNOWN",
            "post": "DONE",
            "tell": "DONE",
        }
        order = [type(each.event).__name__ for each in harness.published]
        assert order.index("Post") < order.index("Tell") < order.index("Fulfilled")


async def test_the_finally_step_runs_after_the_undo_as_well() -> None:
    play = {
        Placed: answers(Reserved),
        Deliver: silent(),
        Post: silent(),
        Tell: answers(Told),
        Release: answers(Released),
    }
    async with Harness(Shop, play=play) as harness:
        await harness.publish(Placed(order_id="1", total=1))
        await harness.run()
        saga = harness.saga("shop/1")
        assert saga.phase == "COMPENSATED"
        assert saga.steps["tell"] == "DONE"
        order = [type(each.event).__name__ for each in harness.published]
        assert order.index("Released") < order.index("Tell") < order.index("Cancelled")
        assert order.count("Tell") == 1


class Freight(Saga, start=Placed, key="order_id", compensated=Cancelled):
    deliver = step(done=Paid, failed=Declined, undo=None, within="30s")
    post = step(instead_of=deliver, done=Reserved, undo=Release, undone=Released, within="1m")


async def test_row_19_the_undo_of_a_choreographed_alternative_names_the_failure_that_triggered_it(stage: Stage) -> None:
    stage.sagas = (Freight,)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    (failure,) = await stage.publish(Declined(order_id="1"))
    await stage.until(lambda all_: "freight/1" in all_ and all_["freight/1"].steps["post"].state == "WAITING")
    await stage.ask("cancel", saga_id="freight/1")
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert failure in (header(undo, "undoes") or "").split(",")


async def test_a_choreographed_alternative_goes_on_where_the_step_failed() -> None:
    carrier = Service("carrier")

    @carrier.on(Declined)
    async def post(event: Declined) -> Reserved:
        return Reserved(order_id=event.order_id)

    @carrier.on(Release, undoes=post)
    async def release(command: Release) -> Released:
        return Released(order_id=command.order_id)

    async with Harness(Freight, carrier, play={Placed: answers(Declined)}) as harness:
        await harness.publish(Placed(order_id="1"))
        await harness.settle()
        saga = harness.saga("freight/1")
        assert saga.phase == "COMPLETED"
        assert (saga.steps["deliver"], saga.steps["post"]) == ("FAILED", "DONE")
