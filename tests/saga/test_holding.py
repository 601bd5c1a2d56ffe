"""A person pauses a saga, has a failed step tried again, or lets the saga go on without one: the pure part."""

from __future__ import annotations

import dataclasses

import pytest

from choreo.events.clock import SECOND
from choreo.saga.inputs import Tell
from choreo.saga.instance import Instance, Parent
from choreo.saga.words import Condition
from tests.saga.play import LINE, PIVOT, RETRY, Play, define, plan
from tests.saga.test_locking import PLAN as LOCK
from tests.saga.test_locking import Locking

NO_UNDO = {"undo": None, "undone": ()}
PLAIN = dataclasses.replace(RETRY, attempts=1)
COMMANDED = define(
    plan("reserve", 0),
    plan("charge", 1, "reserve", pivot=True),
    plan("ship", 2, "charge", send="ship.do", undo=None, undone=()),
    plan("notify", 3, "ship", send="notify.do", undo=None, undone=()),
)


def shipping_failed() -> Play:
    """A saga whose commanded step behind the pivot has failed for good."""
    play = Play(COMMANDED)
    play.sees("reserve.done")
    play.sees("charge.done")
    for number in range(3):
        play.sees("ship.failed", attempt=number + 1)
        play.later(6 * (number + 1))
    assert (play.phase, play.states()["ship"]) == ("RUNNING", "FAILED")
    return play


# ---- pause ----------------------------------------------------------------------------------------------------------


def test_what_happens_to_a_paused_saga_is_remembered_and_nothing_follows_from_it() -> None:
    play = Play(LINE)
    play.person("pause")
    assert play.instance.paused is not None
    assert (play.instance.paused.by, play.instance.paused.reason) == ("ann", "because")
    assert Condition.HELD in play.instance.conditions
    for name in ("reserve", "charge", "ship"):
        play.sees(f"{name}.done")
    assert set(play.states().values()) == {"DONE"}
    assert (play.phase, play.announced()) == ("RUNNING", [])
    play.person("resume")
    assert (play.phase, play.announced()) == ("COMPLETED", ["ended"])
    assert play.instance.paused is None
    assert Condition.HELD not in play.instance.conditions


def test_timers_of_a_paused_saga_stand_still_and_have_the_rest_of_their_time_afterwards() -> None:
    play = Play(define(plan("reserve", 0, send="reserve.do"), plan("charge", 1, "reserve"), deadline=100 * SECOND))
    limit, send = play.step("reserve").limit_at, play.step("reserve").send_at
    play.later(2)
    play.person("pause")
    assert (play.instance.next_due, play.instance.limit_due) == (None, None)
    assert play.later(5_000).verdict == "ignored"
    assert play.commands() == ["reserve.do#1"]
    play.person("resume")
    assert limit is not None and send is not None
    assert play.step("reserve").limit_at == limit + 5_000 * SECOND
    assert play.step("reserve").send_at == send + 5_000 * SECOND
    assert play.instance.deadline_at == 1_000 * SECOND + 100 * SECOND + 5_000 * SECOND


def test_a_step_whose_turn_comes_within_the_pause_has_its_whole_time_from_the_end_of_it() -> None:
    play = Play(LINE)
    play.person("pause")
    play.sees("reserve.done")
    play.now += 900 * SECOND
    play.person("resume")
    assert play.states()["charge"] == "WAITING"
    assert play.step("charge").limit_at == play.now + 30 * SECOND


def test_what_failed_within_a_pause_is_undone_when_it_is_over() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.person("pause")
    play.sees("charge.failed", id="refused")
    assert (play.phase, play.states()["charge"], play.commands()) == ("RUNNING", "FAILED", [])
    play.person("resume")
    assert (play.phase, play.commands()) == ("COMPENSATING", ["reserve.undo#1"])
    assert play.instance.cause == {
        "step": "charge",
        "error": "charge.failed",
        "message": "",
        "event": "refused",
        "at": play.now,
    }


def test_what_may_have_happened_within_a_pause_is_undone_when_it_is_over() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, any_of=(("a", "b"),)), plan("d", 3)))
    play.sees("a.failed")
    play.person("pause")
    play.gave_up("placed", ("d.done",))
    assert (play.phase, play.states()["d"]) == ("RUNNING", "UNKNOWN")
    play.person("resume")
    assert (play.phase, play.states()["d"]) == ("COMPENSATING", "COMPENSATING")


def test_a_pivot_that_failed_for_certain_within_a_pause_lets_the_saga_go_back_when_it_is_over() -> None:
    play = Play(PIVOT)
    play.sees("reserve.done")
    play.sees("charge.done")
    play.person("pause")
    play.sees("ship.failed")
    assert play.phase == "RUNNING"
    play.person("resume")
    assert (play.phase, play.commands()) == ("COMPENSATING", ["charge.undo#1", "reserve.undo#1"])


def test_what_failed_within_a_pause_may_be_tried_again_and_then_nothing_is_undone() -> None:
    steps = plan("reserve", 0), plan("charge", 1, "reserve", send="charge.do", retry=PLAIN)
    play = Play(define(*steps))
    play.sees("reserve.done")
    play.person("pause")
    play.sees("charge.failed", attempt=1)
    assert play.states()["charge"] == "FAILED"
    play.person("retry")
    assert play.commands() == ["charge.do#1"], "nothing goes out of a paused saga"
    play.person("resume")
    assert (play.phase, play.commands()) == ("RUNNING", ["charge.do#1", "charge.do#2"])
    play.sees("charge.done")
    assert play.phase == "COMPLETED"


def test_what_failed_again_within_a_pause_needs_a_person_again_when_it_is_over() -> None:
    either = (("air", "sea"),)
    play = Play(
        define(
            plan("pay", 0, pivot=True),
            plan("air", 1, "pay", send="air.do", retry=PLAIN, **NO_UNDO),
            plan("sea", 2, "pay", when="when", **NO_UNDO),
            plan("bill", 3, any_of=either, **NO_UNDO),
        )
    )
    play.sees("pay.done")
    play.sees("air.failed")
    play.decided("sea", False)
    assert play.instance.conditions[Condition.WAITING_FOR_PERSON].step == "air", "nobody can take its place"
    play.person("retry", "air")
    play.person("pause")
    play.sees("air.failed")
    assert Condition.WAITING_FOR_PERSON not in play.instance.conditions
    play.person("resume")
    assert play.instance.conditions[Condition.WAITING_FOR_PERSON].step == "air"
    assert play.instance.cause is not None


def test_the_end_of_a_pause_decides_nothing_that_was_decided_or_cannot_be_yet() -> None:
    given_up = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, any_of=(("a", "b"),))))
    given_up.sees("a.failed")
    unwanted = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, any_of=(("a", "b"),))))
    unwanted.sees("b.done")
    unwanted.undone("a", nothing_undone=True)
    early = Play(define(plan("a", 0), plan("b", 1, "a"), plan("c", 2, instead_of="b")))
    early.sees("b.failed")
    pivot = Play(define(plan("pay", 0, pivot=True, send="pay.do")))
    pivot.later(31)
    for play in (given_up, unwanted, early, pivot):
        assert play.phase == "RUNNING"
        before, sent = play.instance.steps, len(play.sent)
        play.person("pause")
        play.person("resume")
        assert (play.instance.steps, len(play.sent), play.phase) == (before, sent, "RUNNING")
        assert len(play.told()) == 1, "nothing but that it goes on"


def test_the_history_says_who_has_paused_and_resumed_and_why() -> None:
    play = Play(LINE)
    play.person("pause")
    assert play.told() == [(None, "RUNNING", "paused by ann: because")]
    remark = play.instance.conditions[Condition.HELD]
    assert (remark.reason, remark.message) == ("ByPerson", "paused by ann: because")
    play.person("resume")
    assert play.told() == [(None, "RUNNING", "resumed by ann: because")]
    play.person("pause", by="", why="")
    assert play.told() == [(None, "RUNNING", "paused by a person")]
    assert play.person("pause").reason == "it is paused already, by a person"
    play.person("resume", by="", why="")
    assert play.told() == [(None, "RUNNING", "resumed by a person")]


def test_an_undo_that_is_out_has_the_rest_of_its_time_after_the_pause() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    limit, again = play.step("reserve").undo_limit_at, play.step("reserve").undo_send_at
    assert limit is not None
    assert again is not None
    play.later(2)
    play.person("pause")
    play.later(700)
    play.person("resume")
    step = play.step("reserve")
    assert (step.undo_limit_at, step.undo_send_at) == (limit + 700 * SECOND, again + 700 * SECOND)


def test_what_is_tried_again_within_a_pause_has_its_whole_time_from_the_end_of_it() -> None:
    play = shipping_failed()
    play.person("pause")
    play.now += 100 * SECOND
    play.person("retry")
    play.now += 300 * SECOND
    play.person("resume")
    assert play.commands()[-1] == "ship.do#4"
    assert (play.step("ship").limit_at, play.step("ship").send_at) == (play.now + 30 * SECOND, play.now + 5 * SECOND)


def test_a_lock_is_waited_for_and_held_as_long_as_without_a_pause() -> None:
    play = Locking(define(plan("ship", 0), lock=LOCK, deadline=3_600 * SECOND))
    play.told_of_lock(False, "order/1")
    play.person("pause")
    play.now += 500 * SECOND
    play.person("resume")
    assert (play.lock.state, play.lock.until) == ("waiting", play.now + 60 * SECOND)
    play.person("pause")
    play.now += 500 * SECOND
    play.told_of_lock(True)
    play.now += 5_000 * SECOND
    play.sees("placed")
    play.person("resume")
    assert (play.lock.state, play.lock.until) == ("held", play.now + 600 * SECOND)
    assert play.instance.deadline_at == play.now + 3_600 * SECOND


def test_a_paused_saga_keeps_what_it_would_send_with_what_led_to_it_and_tells_a_parent_at_once() -> None:
    play = shipping_failed()
    play.person("pause")
    play.now += SECOND
    play.person("retry")
    [kept] = play.instance.held
    assert (kept.at, kept.cause) == (play.now, f"c{play.counter}")
    stranger = Parent("trip/1", "order")
    play.asked_to_undo(stranger)
    assert play.last.outputs == [Tell("SagaUndone", stranger, "u-1", empty=True)]
    assert play.instance.held == [kept]


def test_what_nobody_waits_for_any_more_when_the_pause_is_over_is_dropped() -> None:
    play = shipping_failed()
    play.person("pause")
    play.person("retry")
    play.sees("ship.done", time=play.now)
    before = play.commands()
    play.person("resume")
    assert [command for command in play.commands()[len(before) :] if "ship" in command] == []
    assert ("ship", "DONE", "dropped: nobody waits for it any more") in play.told()
    assert play.instance.held == []


def test_an_undo_that_a_late_success_calls_for_waits_for_the_end_of_the_pause() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.later(40)  # nobody knows whether it was charged
    play.undone("charge", nothing_undone=True)
    play.person("pause")
    before = play.commands()
    play.sees("charge.done", time=play.now + 1)
    play.undone("reserve")
    assert (play.phase, play.commands()) == ("COMPENSATING", before), "nothing goes out, and nothing ends"
    play.person("resume")
    assert play.commands() == [*before, "charge.undo#2"]
    play.undone("charge", causation_id=play.undo_id("charge", 2))
    assert play.phase == "COMPENSATED"


def test_a_cancelled_saga_that_is_paused_is_undone_when_it_goes_on() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.person("pause")
    play.person("cancel")
    assert (play.phase, play.commands()) == ("COMPENSATING", [])
    play.person("resume")
    assert play.commands() == ["charge.undo#1"]
    play.undone("charge")
    play.undone("reserve")
    assert play.phase == "CANCELLED"


def test_a_saga_is_paused_once_resumed_once_and_never_after_its_end() -> None:
    play = Play(LINE)
    assert play.person("resume").reason == "nothing to do: it is not paused"
    play.person("pause")
    assert play.person("pause").reason == "it is paused already, by ann"
    play.person("resume")
    for name in ("reserve", "charge", "ship"):
        play.sees(f"{name}.done")
    assert "it is COMPLETED already" in play.person("pause").reason


def test_a_paused_saga_is_stored_and_read_back_as_it_is() -> None:
    play = Play(LINE)
    play.person("pause")
    assert Instance.from_json(play.instance.to_json()) == play.instance


# ---- retry ----------------------------------------------------------------------------------------------------------


def test_r3_a_person_raises_the_attempt_of_a_step_that_has_failed() -> None:
    play = shipping_failed()
    assert Condition.WAITING_FOR_PERSON in play.instance.conditions
    play.person("retry")
    assert play.commands()[-1] == "ship.do#4"
    assert play.states()["ship"] == "WAITING"
    assert Condition.WAITING_FOR_PERSON not in play.instance.conditions
    assert play.step("ship").limit_at == play.now + 30 * SECOND
    play.sees("ship.done")
    play.sees("notify.done")
    assert (play.phase, play.instance.cause) == ("COMPLETED", None)


def test_a_step_that_waits_for_its_next_attempt_has_it_now() -> None:
    play = Play(COMMANDED)
    play.sees("reserve.done")
    play.sees("charge.done")
    play.sees("ship.failed", attempt=1)
    assert play.states()["ship"] == "RETRYING"
    play.person("retry", "ship")
    assert (play.states()["ship"], play.commands()) == ("WAITING", ["ship.do#1", "ship.do#2"])


@pytest.mark.parametrize(
    ("tale", "step", "why"),
    [
        (["reserve.done"], None, "nothing to try again: no step of this saga has failed"),
        (["reserve.done"], "reserve", "it is DONE"),
        (["reserve.done", "charge.failed"], None, "the saga is being undone"),
        (["reserve.failed"], None, "the saga is COMPENSATED already"),
    ],
)
def test_a_retry_that_would_break_something_is_refused_with_the_reason(
    tale: list[str], step: str | None, why: str
) -> None:
    play = Play(LINE)
    for each in tale:
        play.sees(each)
    before = play.instance.to_json(), play.commands()
    assert why in play.person("retry", step).reason
    assert play.commands() == before[1]
    assert play.last.verdict == "ignored"


def test_nobody_can_command_a_choreographed_step_and_its_dead_letter_is_named_instead() -> None:
    steps = plan("pay", 0, pivot=True), plan("ship", 1, "pay", undo=None, undone=())
    play = Play(define(*steps))
    play.sees("pay.done")
    play.sees("ship.failed")
    assert "saga dlq retry --saga order/4711" in play.person("retry").reason


# ---- skip -----------------------------------------------------------------------------------------------------------


def test_a_saga_goes_on_without_a_skipped_step() -> None:
    play = shipping_failed()
    play.person("skip", "ship")
    assert play.states() == {"reserve": "DONE", "charge": "DONE", "ship": "DEGRADED", "notify": "WAITING"}
    assert play.instance.cause is None
    play.person("skip", "notify")
    assert (play.phase, play.announced()) == ("COMPLETED", ["ended"])


def test_a_skipped_step_that_happens_all_the_same_is_undone_with_the_rest() -> None:
    play = Play(LINE)
    play.person("skip", "reserve")
    play.sees("charge.failed")
    assert play.states()["reserve"] == "COMPENSATING", "it was under way, and nobody knows"


def test_a_step_may_be_skipped_before_its_turn() -> None:
    play = Play(PIVOT)
    play.person("skip", "charge")
    play.sees("reserve.done")
    assert play.states()["ship"] == "WAITING"


@pytest.mark.parametrize(
    ("tale", "step", "why"),
    [
        ([], "ship", "ship is the pivot"),
        (["reserve.done"], "reserve", "it is DONE"),
        (["reserve.done", "charge.failed"], "charge", "the saga is being undone"),
        ([], None, "which step shall be skipped?"),
    ],
)
def test_a_skip_that_would_break_something_is_refused_with_the_reason(
    tale: list[str], step: str | None, why: str
) -> None:
    play = Play(PIVOT)
    for each in tale:
        play.sees(each)
    assert why in play.person("skip", step).reason
    assert play.last.verdict == "ignored"
