"""Sagas whose version's code is loaded nowhere: they take in events, what they would send waits (fault 49, row 29)."""

from __future__ import annotations

import asyncio
import dataclasses

from msgspec import structs
from sqlalchemy import Connection

from choreo import Retry, Saga, step
from choreo.events.clock import SECOND
from choreo.saga import loaded, pausing, queries, report
from choreo.saga.coordinator import Coordinator
from choreo.saga.inputs import Announce, Ask, Send, Tell
from choreo.saga.instance import Fact, Instance, Parent
from choreo.saga.outputs import read_output, write_output
from choreo.saga.words import Condition
from tests.saga.play import LINE, RETRY, Play, define, plan
from tests.saga.stage import (
    Cancelled,
    Declined,
    Fulfilled,
    Order,
    Paid,
    Past,
    Placed,
    Refused,
    Release,
    Released,
    Reserved,
    Stage,
    header,
)


class NewOrder(Saga, start=Placed, key="order_id", type="order", version=2, completed=Fulfilled, compensated=Cancelled):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="1h")


class OldAsking(Saga, start=Placed, key="order_id", type="asking"):
    reserve = step(done=Reserved, undo=None, within="2h")


class NewAsking(Saga, start=Placed, key="order_id", type="asking", version=2):
    reserve = step(done=Reserved, undo=None, within="2h")
    release = step(after=reserve, send=Release, done=Released, undo=None, within="10m", retry=Retry(attempts=2))


async def start(stage: Stage, *sagas: type[Saga]) -> Coordinator:
    stage.sagas = sagas
    return await stage.start()


async def begun(stage: Stage, saga: type[Saga], name: str) -> None:
    """Start a saga of this version, and stop the coordinator that has its code."""
    await start(stage, saga)
    await stage.publish(Placed(order_id="4711"))
    await stage.until(lambda all_: name in all_)
    await stage.stop()


def paused(instance: Instance) -> bool:
    return "Paused" in instance.conditions


async def test_row_29_an_unloaded_version_takes_in_events_and_its_commands_wait(stage: Stage) -> None:
    await begun(stage, NewOrder, "order/4711")
    await start(stage, Order)
    await stage.publish(Reserved(order_id="4711"))
    (declined,) = await stage.publish(Declined(order_id="4711"))
    found = (await stage.until(lambda all_: paused(all_["order/4711"])))["order/4711"]
    assert (found.version, found.phase) == (2, "COMPENSATING")
    assert {name: each.state.value for name, each in found.steps.items()} == {
        "reserve": "COMPENSATING",
        "charge": "FAILED",
    }
    assert found.conditions["Paused"].message == "version 2 of order is loaded nowhere; run it with `saga run`"
    assert found.next_due is None, "its timers stand still"
    assert await stage.sent("inventory.commands") == []
    assert [row.kind for row in await stage.history("order/4711")] == ["event", "event", "event", "paused"]

    await stage.stop()
    await start(stage, Order, NewOrder)
    [command] = await stage.eventually_sent("inventory.commands", 1)
    assert header(command, "causation-id") == declined, "as if it had been sent at once"
    found = (await stage.until(lambda all_: not paused(all_["order/4711"])))["order/4711"]
    assert found.waiting == []
    assert found.next_due is not None
    await stage.publish(Released(order_id="4711"))
    await stage.until(lambda all_: all_["order/4711"].phase == "COMPENSATED")
    assert len(await stage.sent("inventory.commands")) == 1


async def test_two_coordinators_with_different_versions_and_the_one_with_the_code_sends(stage: Stage) -> None:
    await start(stage, NewOrder)
    keys = [str(number) for number in range(8)]
    await stage.publish(*(Placed(order_id=key) for key in keys))
    await stage.until(lambda all_: len(all_) == len(keys))
    await start(stage, Order)  # it gets half of the partitions, and with them half of the sagas
    await stage.publish(*(Reserved(order_id=key) for key in keys))
    await stage.publish(*(Declined(order_id=key) for key in keys))
    sent = await stage.eventually_sent("inventory.commands", len(keys))
    await stage.publish(*(Released(order_id=key) for key in keys))
    ended = await stage.until(
        lambda all_: all(each.phase == "COMPENSATED" and not paused(each) for each in all_.values())
    )
    assert {each.version for each in ended.values()} == {2}
    assert len(sent) == len(await stage.sent("inventory.commands")) == len(keys), "each undo once"
    kinds = [row.kind for key in keys for row in await stage.history(f"order/{key}")]
    assert "paused" in kinds, "the other one has really had some of them"
    assert "unbuildable" not in kinds


async def test_a_command_that_waited_for_its_code_has_its_whole_limit_from_then_on(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await begun(stage, NewAsking, "asking/4711")
    await start(stage, OldAsking)
    await stage.publish(Reserved(order_id="4711"))
    before = (await stage.until(lambda all_: paused(all_["asking/4711"])))["asking/4711"]
    limit = before.steps["release"].limit_at
    assert limit is not None
    await stage.stop()
    stage.now += 3_600 * SECOND
    await start(stage, NewAsking)
    await stage.eventually_sent("inventory.commands", 1)
    found = (await stage.until(lambda all_: not paused(all_["asking/4711"])))["asking/4711"]
    assert found.steps["release"].state == "WAITING"
    assert found.steps["release"].limit_at == limit + stage.now - before.steps["release"].ready_at


async def test_the_timers_of_an_unloaded_version_stand_still_and_hold_nobody_else_up(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await begun(stage, NewOrder, "order/4711")
    coordinator = await start(stage, Order)
    await stage.publish(Placed(order_id="old"))
    await stage.until(lambda all_: "order/old" in all_)
    stage.now += 60 * SECOND
    await stage.publish(Reserved(order_id="other"))  # the barrier moves on
    await stage.until(lambda all_: all_["order/old"].phase == "COMPENSATING")
    assert (await stage.instances())["order/4711"].steps["reserve"].state == "WAITING"
    stage.now += 3_600 * SECOND
    await stage.until(lambda all_: all_["order/old"].phase.ended)
    for _ in range(6_000):
        if await coordinator.idle():
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("what others must do keeps nobody busy")
    await stage.stop()
    await start(stage, NewOrder)
    await stage.until(lambda all_: all_["order/4711"].phase == "COMPENSATING")


async def test_a_type_that_is_not_loaded_any_more_still_takes_in_what_happens_to_its_open_sagas(stage: Stage) -> None:
    await begun(stage, Past, "past/4711")
    await start(stage, Order)
    await stage.publish(Placed(order_id="new"), Reserved(order_id="4711"), Paid(order_id="4711"))
    found = await stage.until(lambda all_: all_["past/4711"].phase == "COMPLETED")
    assert "past/new" not in found, "nothing begins that nobody runs"


async def test_who_has_which_version_is_written_down_and_taken_out(stage: Stage) -> None:
    first = await start(stage, Order)
    await start(stage, Order, NewOrder)
    found = await stage.database.read(loaded.coordinators)
    assert {version: len(clients) for version, clients in found.items()} == {("order", 1): 2, ("order", 2): 1}
    for _ in range(6_000):  # the group is joined with the first poll
        members = (await stage.broker.group(first.group)).members
        if len(members) == 2:
            break
        await asyncio.sleep(0.01)
    assert {client for clients in found.values() for client in clients} == set(members)
    await stage.stop()
    assert list(await stage.database.read(loaded.coordinators)) == [("order", 1)]


async def test_what_a_killed_coordinator_had_loaded_goes_when_its_group_has_no_such_member(stage: Stage) -> None:
    await start(stage, Order)
    group = stage.coordinators[0].group
    gone = [("gone", 1)]
    await stage.database.write(lambda connection: loaded.enter(connection, group, "killed", gone, stage.now))
    await stage.database.write(lambda c: loaded.prune(c, group, ["living"], stage.now + 59 * SECOND))
    assert ("gone", 1) in await stage.database.read(loaded.coordinators), "it may be about to join"
    await stage.database.write(lambda c: loaded.prune(c, group, ["living"], stage.now + 61 * SECOND))
    assert ("gone", 1) not in await stage.database.read(loaded.coordinators)


def test_what_nobody_waits_for_any_more_is_dropped_when_the_code_is_there() -> None:
    play = Play()
    late = Send("undo", "reserve", "reserve.undo", 1)
    play.unloaded(late)
    assert play.instance.next_due is None
    play.loaded()
    assert play.commands() == []
    assert "Paused" not in play.instance.conditions
    assert play.last.changes[-1].reason == "reserve.undo is dropped: nobody waits for it any more"


async def test_a_saga_whose_version_nobody_has_is_shown_as_paused_and_one_without_any_coordinator_is_not(
    stage: Stage,
) -> None:
    await begun(stage, NewOrder, "order/4711")
    assert await _shown(stage) == ((), [])
    await start(stage, Order)
    assert await _shown(stage) == (
        ("Paused",),
        ["version 2 of order is loaded nowhere; run it with `saga run`"],
    )
    await start(stage, NewOrder)
    assert await _shown(stage) == ((), [])


async def _shown(stage: Stage) -> tuple[tuple[str, ...], list[str]]:
    """What `saga list` and `saga status` say of it."""

    def look(connection: Connection) -> tuple[tuple[str, ...], list[str]]:
        [row] = queries.list_sagas(connection, queries.Filter(), limit=None)
        assert len(queries.list_sagas(connection, queries.Filter(conditions=["Paused"]), limit=None)) == bool(
            row.conditions
        )
        found = queries.load(connection, row.id)
        told = report.conditions(found.instance, report.Observed(stage.now), queries.brakes(connection))
        return row.conditions, [each["message"] for each in told]

    return await stage.database.read(look)


SHIP = define(plan("ship", 0, send="ship.do", undo=None, undone=()), plan("bill", 1, "ship", when="when"))
SHIPPED = Send("do", "ship", "ship.do", 1)


def test_what_waited_for_its_code_has_the_rest_of_its_time_from_then_on() -> None:
    play = Play(SHIP)
    limit, again = play.step("ship").limit_at, play.step("ship").send_at
    assert limit is not None
    assert again is not None
    play.unloaded(SHIPPED)
    play.now += 1_500 * SECOND
    play.loaded()
    assert (play.step("ship").limit_at, play.step("ship").send_at) == (limit + 1_500 * SECOND, again + 1_500 * SECOND)


def test_an_undo_that_waited_for_its_code_has_the_rest_of_its_time_too() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    limit, again = play.step("reserve").undo_limit_at, play.step("reserve").undo_send_at
    assert limit is not None
    assert again is not None
    play.unloaded(Send("undo", "reserve", "reserve.undo", 1))
    play.now += 7 * SECOND
    play.loaded()
    assert play.commands() == ["reserve.undo#1"] * 2
    step = play.step("reserve")
    assert (step.undo_limit_at, step.undo_send_at) == (limit + 7 * SECOND, again + 7 * SECOND)


def test_what_is_not_sent_again_has_no_time_to_be_given() -> None:
    play = Play(define(plan("ship", 0, send="ship.do", resend=dataclasses.replace(RETRY, attempts=1))))
    assert play.step("ship").send_at is None
    play.unloaded(SHIPPED)
    play.later(7)
    play.loaded()
    assert play.step("ship").send_at is None


def test_of_what_waited_only_the_present_attempt_goes_out() -> None:
    play = Play(SHIP)
    attempt = play.step("ship").attempt
    others = [Send("do", "ship", "ship.do", number) for number in (attempt - 1, attempt + 1)]
    for stale in (*others, *(Send("undo", "ship", "ship.undo", number) for number in (0, attempt))):
        play.unloaded(stale)
        assert play.loaded().outputs == []
        assert play.told()[-1] == ("ship", "WAITING", f"{stale.type} is dropped: nobody waits for it any more")
    play.unloaded(SHIPPED)
    assert play.loaded().outputs == [SHIPPED]


def test_of_undos_that_waited_only_the_present_attempt_goes_out() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    first, second = (Send("undo", "reserve", "reserve.undo", number) for number in (1, 2))
    for stale in (second, Send("undo", "reserve", "reserve.undo", 0)):
        play.unloaded(stale)
        assert play.loaded().outputs == []
    play.unloaded(first)
    play.undone("reserve")
    assert play.loaded().outputs == [], "somebody has undone it meanwhile"


def test_a_command_whose_answer_is_overdue_is_wanted_still_but_not_once_the_saga_has_ended() -> None:
    play = Play(define(plan("pay", 0, send="pay.do", pivot=True)))
    play.later(31)
    assert play.states() == {"pay": "UNKNOWN"}
    again = Send("do", "pay", "pay.do", 1)
    play.unloaded(again)
    assert play.loaded().outputs == [again]
    play = Play(SHIP)
    play.unloaded(SHIPPED)
    play.person("cancel")
    assert (play.phase, play.states()["ship"]) == ("CANCELLED", "UNKNOWN")
    assert play.loaded().outputs == []


def test_a_question_that_waited_is_asked_as_long_as_nothing_has_answered_it() -> None:
    play = Play(define(plan("pack", 0, when="when", each="lines", by="sku")))
    when, each, due = Ask("when", "pack"), Ask("each", "pack"), Ask("due", "pack")
    play.unloaded(when, due)
    assert play.loaded().outputs == [when, due]
    play.unloaded(when, each, due)
    play.decided("pack", True)
    assert play.step("pack").asked == "each"
    assert play.loaded().outputs == [each, due]
    assert play.told() == [
        ("pack", "WAITING", "when= is dropped: nobody waits for it any more"),
        ("pack", "WAITING", "the code is loaded: each= goes out"),
        ("pack", "WAITING", "the code is loaded: due= goes out"),
    ]
    play.unloaded(each)
    play.person("cancel")
    assert play.loaded().outputs == []


def test_the_history_says_what_waits_for_its_code_and_that_it_goes_out_in_the_same_order() -> None:
    play = Play(SHIP)
    ended, told = Announce("ended"), Tell("SagaCompleted", Parent("trip/1", "order"))
    play.unloaded(SHIPPED)
    assert [tuple(each) for each in play.instance.waiting] == [(play.now, "e-cause", write_output(SHIPPED))]
    play.unloaded(ended, told, Ask("due", "bill"))
    assert play.told() == [
        (None, "RUNNING", "paused: ended waits for the code"),
        (None, "RUNNING", "paused: SagaCompleted waits for the code"),
        ("bill", "PENDING", "paused: due= waits for the code"),
    ]
    assert play.instance.conditions[Condition.PAUSED].reason == "NotLoaded"
    assert play.loaded().outputs == [SHIPPED, ended, told, Ask("due", "bill")]
    assert play.told() == [
        ("ship", "WAITING", "the code is loaded: ship.do goes out"),
        (None, "RUNNING", "the code is loaded: ended goes out"),
        (None, "RUNNING", "the code is loaded: SagaCompleted goes out"),
        ("bill", "PENDING", "the code is loaded: due= goes out"),
    ]
    assert (play.instance.waiting, play.instance.conditions) == ([], {})


def test_code_for_which_nothing_waits_changes_nothing() -> None:
    told = Play(SHIP).loaded()
    assert (told.verdict, told.reason, told.outputs, told.changes) == ("ignored", "nothing waits", [], [])


def test_bytes_that_went_out_before_and_news_for_a_parent_need_no_code() -> None:
    again = structs.replace(SHIPPED, again=True)
    told = Tell("SagaCompleted", Parent("trip/1", "order"))
    made = SHIPPED, Announce("ended"), Ask("when", "bill")
    assert pausing.divided([made[0], told, made[1], again, made[2]]) == ([told, again], tuple(map(write_output, made)))


def test_what_waits_is_read_as_it_was_written() -> None:
    undo = Send("undo", "ship", "ship.undo", 2, undoes=(Fact("placed", "e1"), Fact("", "c1")))
    told = Tell("SagaUndone", Parent("trip/1", "order", "0f", 2), "u1", empty=True)
    for output in (SHIPPED, undo, structs.replace(undo, again=True), Announce("ended"), Ask("each", "bill"), told):
        assert read_output(write_output(output)) == output
