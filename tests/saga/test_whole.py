"""What concerns a saga as a whole: cancellation by an event, policies for stray events, approvals."""

from __future__ import annotations

from datetime import timedelta

import pytest

from choreo import DefinitionError, Event, Refused, Saga, approval, policy, step
from choreo.events.clock import SECOND
from choreo.saga.definition import Definition
from choreo.saga.policy import Policy
from choreo.saga.testing import Harness, answers
from choreo.saga.words import Condition

from .play import LINE, PIVOT, Play, define, plan

DAY = 86_400


def play_of(definition: Definition, *done: str) -> Play:
    play = Play(definition)
    for name in done:
        play.sees(f"{name}.done")
    return play


def waits(play: Play) -> str | None:
    remark = play.instance.conditions.get(Condition.WAITING_FOR_PERSON)
    return None if remark is None else remark.reason


# ---- cancel= ---------------------------------------------------------------------------------------------------

CANCELLABLE = define(*LINE.steps, cancel=("off",))
CANCELLABLE_PIVOT = define(*PIVOT.steps, cancel=("off",))


def test_row_20_a_cancel_event_undoes_the_saga() -> None:
    play = play_of(CANCELLABLE, "reserve", "charge")
    transition = play.sees("off", id="e-off")
    assert transition.verdict == "applied"
    assert play.states() == {"reserve": "DONE", "charge": "DONE", "ship": "COMPENSATING"}
    assert play.phase == "COMPENSATING"
    assert play.instance.cause == {
        "step": None,
        "error": "Cancelled",
        "message": "off",
        "event": "e-off",
        "at": play.now,
    }
    for name in ("ship", "charge", "reserve"):
        play.undone(name)
    assert play.phase == "CANCELLED"
    assert play.announced() == ["reversed"]


def test_row_22_a_cancel_event_after_the_pivot_is_refused_and_says_why() -> None:
    play = play_of(CANCELLABLE_PIVOT, "reserve", "charge", "ship")
    transition = play.sees("off")
    assert (transition.verdict, transition.reason) == ("ignored", "AfterPivot")
    assert play.phase == "RUNNING"
    assert "the pivot ship is DONE" in play.instance.conditions[Condition.UNEXPECTED].message


def test_row_22_a_cancel_event_is_refused_while_the_pivot_is_in_flight() -> None:
    play = play_of(CANCELLABLE_PIVOT, "reserve", "charge")
    assert play.sees("off").reason == "AfterPivot"


def test_a_cancel_event_after_the_end_is_refused() -> None:
    play = play_of(CANCELLABLE, "reserve", "charge", "ship")
    assert play.phase == "COMPLETED"
    assert play.sees("off").reason == "Late"
    assert play.phase == "COMPLETED"


def test_a_cancel_event_changes_nothing_when_the_saga_is_being_undone() -> None:
    play = play_of(CANCELLABLE, "reserve")
    play.sees("charge.failed")
    assert play.sees("off").reason == "Undone"
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


class Order(Event, topic="orders", key="order_id"):
    order_id: str
    total: int = 1


class Off(Event, topic="orders", key="order_id"):
    order_id: str


class Held(Event, topic="stock", key="order_id"):
    order_id: str


class Free(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Freed(Event, topic="stock", key="order_id"):
    order_id: str


class Packed(Event, topic="packing", key="order_id"):
    order_id: str


class Granted(Event, topic="credit", key="order_id"):
    order_id: str


class Denied(Event, topic="credit", key="order_id"):
    order_id: str


class Plain(Saga, start=Order, key="order_id", cancel=Off):
    hold = step(done=Held, undo=Free, undone=Freed, within="1h")
    pack = step(after=hold, done=Packed, undo=None, within="1d")


FREES = {Free: answers(Freed)}


async def test_row_1_a_cancel_event_before_its_saga_waits_and_holds_at_the_start() -> None:
    async with Harness(Plain, play=FREES) as harness:
        await harness.publish(Off(order_id="1"))
        await harness.settle()
        assert harness.sagas == {}
        await harness.publish(Order(order_id="1"))
        await harness.run()
        assert harness.saga("1").phase == "CANCELLED"


async def test_a_cancel_event_and_the_command_have_one_rule() -> None:
    async with Harness(Plain, play=FREES) as harness:
        await harness.publish(Order(order_id="1"), Held(order_id="1"), Order(order_id="2"), Held(order_id="2"))
        await harness.settle()
        await harness.publish(Off(order_id="1"))
        await harness.cancel("plain/2", reason="as well")
        assert [saga.phase for saga in harness.sagas.values()] == ["CANCELLED", "CANCELLED"]
        assert len(harness.sent(Free)) == 2


async def test_an_observer_follows_a_cancel_event() -> None:
    async with Harness(Plain.observe_only()) as harness:
        await harness.publish(Order(order_id="1"), Held(order_id="1"), Off(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "COMPENSATING"
        await harness.publish(Freed(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "CANCELLED"
        assert harness.sent(Free) == []


# ---- policies --------------------------------------------------------------------------------------------------


def with_policy(base: Definition, type_: str, **words: str) -> Definition:
    return define(*base.steps, policies={type_: policy(**words)})  # type: ignore[arg-type]


def test_row_2_a_late_event_reopens_a_saga_that_ended_well_and_undoes_it() -> None:
    play = play_of(with_policy(LINE, "charge.failed", late="undo"), "reserve", "charge", "ship")
    assert play.announced() == ["ended"]
    transition = play.sees("charge.failed")
    assert transition.verdict == "applied"
    assert (play.phase, play.instance.epoch) == ("COMPENSATING", 1)
    for name in ("ship", "charge", "reserve"):
        play.undone(name)
    assert play.phase == "COMPENSATED"
    assert play.announced() == ["ended", "reversed"]
    assert play.commands() == ["ship.undo#1", "charge.undo#1", "reserve.undo#1"]


def test_row_2_after_the_pivot_a_late_event_asks_a_person_instead() -> None:
    play = play_of(with_policy(PIVOT, "charge.failed", late="undo"), "reserve", "charge", "ship", "notify")
    assert play.phase == "COMPLETED"
    play.sees("charge.failed")
    assert play.phase == "COMPLETED"
    assert waits(play) == "Late"
    assert "cannot be cancelled" in play.person("cancel").reason
    play.person("dismiss")
    assert waits(play) is None


def test_row_2_a_late_event_may_ask_and_the_person_may_undo() -> None:
    play = play_of(with_policy(LINE, "ship.failed", late="ask"), "reserve", "charge", "ship")
    play.sees("ship.failed", id="late-1")
    assert (play.phase, waits(play)) == ("COMPLETED", "Late")
    assert [(doubt.type, doubt.id, doubt.stray) for doubt in play.instance.doubts] == [
        ("ship.failed", "late-1", "late")
    ]
    play.person("cancel")
    assert (play.phase, waits(play), play.instance.doubts) == ("COMPENSATING", None, [])
    for name in ("ship", "charge", "reserve"):
        play.undone(name)
    assert play.phase == "CANCELLED"


def test_row_2_a_late_event_to_an_undone_saga_undoes_nothing_more() -> None:
    play = Play(with_policy(LINE, "reserve.failed", late="undo"))
    play.sees("reserve.failed")
    assert play.phase == "COMPENSATED"
    transition = play.sees("reserve.failed")
    assert (transition.verdict, transition.reason, play.phase) == ("ignored", "Late", "COMPENSATED")
    assert waits(play) is None


def test_row_3_a_second_start_may_ask_a_person() -> None:
    play = play_of(with_policy(LINE, "placed", duplicate="ask"), "reserve")
    assert play.sees("placed").reason == "SecondStart"
    assert waits(play) == "Duplicate"
    play.sees("placed")
    assert len(play.instance.doubts) == 1
    play.sees("charge.done")
    play.sees("ship.done")
    assert (play.phase, waits(play)) == ("COMPLETED", "Duplicate")
    play.person("dismiss")
    assert waits(play) is None


def test_row_3_a_second_start_may_undo_the_saga() -> None:
    play = play_of(with_policy(LINE, "placed", duplicate="undo"), "reserve")
    play.sees("placed")
    assert play.phase == "COMPENSATING"
    assert play.instance.cause is not None
    assert play.instance.cause["error"] == "Duplicate"


def test_row_28_a_fact_that_is_told_twice_under_two_ids_may_undo_the_saga() -> None:
    play = play_of(with_policy(LINE, "reserve.done", duplicate="undo"), "reserve")
    play.sees("reserve.done")
    assert play.phase == "COMPENSATING"


def test_an_unexpected_event_may_undo_the_saga_but_not_after_the_pivot() -> None:
    words = {"unexpected": "undo"}
    play = play_of(with_policy(LINE, "reserve.failed", **words), "reserve")
    play.sees("reserve.failed")
    assert play.phase == "COMPENSATING"
    play = play_of(with_policy(PIVOT, "reserve.failed", **words), "reserve", "charge", "ship")
    play.sees("reserve.failed")
    assert (play.phase, waits(play)) == ("RUNNING", "Unexpected")


def test_without_a_policy_nothing_is_asked_and_nothing_undone() -> None:
    play = play_of(LINE, "reserve")
    play.sees("reserve.failed")
    play.sees("reserve.done")
    play.sees("placed")
    assert (play.phase, waits(play), play.instance.doubts) == ("RUNNING", None, [])


def test_a_late_success_of_a_step_that_was_given_up_is_undone_whatever_the_policy_says() -> None:
    play = Play(with_policy(LINE, "charge.done", late="ask"))
    play.sees("reserve.failed")
    play.sees("charge.done")
    assert play.commands() == ["charge.undo#1"]


def test_dismissing_what_nobody_asked_is_refused() -> None:
    assert "asks about no event" in play_of(LINE, "reserve").person("dismiss").reason


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({Granted: Policy()}, "Granted, which is no event of this saga; it has Freed, Held, Order, Packed"),
        ({Held: "ask"}, r'write Held: policy\(late="ask"\)'),
    ],
)
def test_policies_are_checked_at_definition(policies: dict[type[Event], Policy], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):

        class Bad(Saga, start=Order, key="order_id", policies=policies):
            hold = step(done=Held, undo=Free, undone=Freed, within="1h")
            pack = step(after=hold, done=Packed, undo=None, within="1d")


def test_a_policy_of_an_unknown_word_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"policy\(late='retry'\): write 'ignore' or 'ask' or 'undo'"):
        policy(late="retry")  # type: ignore[arg-type]


# ---- approvals -------------------------------------------------------------------------------------------------


class Credit(Saga, start=Order, key="order_id"):
    hold = step(done=Held, undo=Free, undone=Freed, within="1h")
    agree = approval(who="credit", within="2d", after=hold, approved=Granted, rejected=Denied)
    pack = step(after=agree, done=Packed, undo=None, within="1d")


class Two(Saga, start=Order, key="order_id"):
    one = approval(who="sales", within="2d")
    other = approval(who="legal", within="3d", optional=True)
    pack = step(after=(one, other), done=Packed, undo=None, within="1d")


async def asking(harness: Harness) -> None:
    await harness.publish(Order(order_id="1"), Held(order_id="1"))
    await harness.settle()


async def test_an_approved_step_is_done_and_the_history_says_by_whom() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        view = harness.saga("1")
        assert view.steps["agree"] == "WAITING"
        assert "WaitingForPerson" in view.conditions
        await harness.approve("credit/1", by="ann", reason="good customer")
        view = harness.saga("1")
        assert view.steps == {"hold": "DONE", "agree": "DONE", "pack": "WAITING"}
        assert "WaitingForPerson" not in view.conditions
        assert "approved by ann: good customer" in str(view.history)


async def test_a_rejected_step_fails_for_certain_and_the_saga_is_undone() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.reject("credit/1", by="ann", reason="owes us")
        view = harness.saga("1")
        assert (view.phase, view.steps["agree"], view.steps["hold"]) == ("COMPENSATED", "FAILED", "COMPENSATED")
        assert "rejected by ann: owes us" in str(view.history)


async def test_an_approval_may_come_as_an_event() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.publish(Granted(order_id="1"))
        await harness.settle()
        assert harness.saga("1").steps["pack"] == "WAITING"
        with pytest.raises(Refused, match="waits for no approval"):
            await harness.approve("credit/1")


async def test_a_rejection_may_come_as_an_event() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.publish(Denied(order_id="1"))
        await harness.settle()
        assert harness.saga("1").phase == "COMPENSATED"


async def test_an_event_after_a_persons_approval_is_a_duplicate() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.approve("credit/1")
        await harness.publish(Granted(order_id="1"), Denied(order_id="1"))
        await harness.settle()
        view = harness.saga("1")
        assert view.steps == {"hold": "DONE", "agree": "DONE", "pack": "WAITING"}
        assert "Unexpected" in view.conditions


async def test_an_approval_that_nobody_gives_fails_at_its_limit() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.advance("2d")
        view = harness.saga("1")
        assert (view.phase, view.steps["agree"]) == ("COMPENSATED", "FAILED")


async def test_of_several_approvals_one_is_named() -> None:
    async with Harness(Two) as harness:
        await harness.publish(Order(order_id="1"))
        await harness.settle()
        with pytest.raises(Refused, match="several steps wait for an approval, name one: one, other"):
            await harness.approve("two/1")
        await harness.approve("two/1", step="one")
        assert "WaitingForPerson" in harness.saga("1").conditions
        await harness.reject("two/1", step="other")
        assert harness.saga("1").steps == {"one": "DONE", "other": "DEGRADED", "pack": "WAITING"}
        assert "WaitingForPerson" not in harness.saga("1").conditions


async def test_a_cancelled_saga_asks_nobody_any_more() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        await harness.cancel("credit/1", reason="no need")
        view = harness.saga("1")
        assert (view.phase, view.steps["agree"], list(view.conditions)) == ("CANCELLED", "SKIPPED", [])


async def test_time_does_not_run_past_an_approval_by_itself() -> None:
    async with Harness(Credit, play=FREES) as harness:
        await asking(harness)
        before = harness.now
        await harness.run()
        assert harness.saga("1").steps["agree"] == "WAITING"
        assert harness.now - before < timedelta(seconds=5)


def test_nothing_can_be_filled_from_a_step_that_a_person_may_approve() -> None:
    class Noted(Event, topic="credit", key="order_id"):
        order_id: str
        note: str

    class Write(Event, topic="credit", key="order_id"):
        order_id: str
        note: str

    with pytest.raises(DefinitionError, match=r"Write\.note cannot be filled"):

        class Bad(Saga, start=Order, key="order_id"):
            agree = approval(who="credit", within="2d", approved=Noted)
            write = step(after=agree, send=Write, done=Packed, undo=None, within="1d")


def test_an_approval_keeps_its_time_and_who_in_the_definition() -> None:
    agree = Credit.definition().by_name["agree"]
    assert (agree.approval, agree.within, agree.done, agree.failed) == (
        "credit",
        2 * DAY * SECOND,
        ("Granted",),
        ("Denied",),
    )
    assert Definition.from_json(Credit.definition().to_json()) == Credit.definition()


def test_the_waiting_of_a_stuck_step_comes_before_an_approval() -> None:
    definition = define(
        plan("go", 0, pivot=True),
        plan("bill", 1, "go", undo=None, undone=()),
        plan("agree", 2, "go", done=(), failed=(), undo=None, undone=(), approval="credit"),
    )
    play = play_of(definition, "go")
    assert waits(play) == "Approval"
    play.sees("bill.failed")
    assert waits(play) == "FailedAfterPivot"
    play.sees("bill.done")
    assert waits(play) == "Approval"
    play.person("approve", "agree")
    assert play.phase == "COMPLETED"
