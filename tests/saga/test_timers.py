"""When something is due in a saga, and what the passing of that time does."""

from __future__ import annotations

import pytest

from choreo.events.clock import SECOND
from choreo.saga.advance import advance, begin
from choreo.saga.elapsing import TURNED
from choreo.saga.inputs import Elapsed, Observed
from choreo.saga.instance import Hold, Instance, Parent, Step, Waiting
from choreo.saga.lock import Lock
from choreo.saga.words import Condition, Phase, StepState
from tests.saga.play import LINE, RETRY, Play, define, plan
from tests.saga.test_holding import NO_UNDO, PLAIN

DAY = 86_400 * SECOND


def saga(**values: object) -> Instance:
    return Instance("order", "4711", 1, 1, "hash", **values)  # type: ignore[arg-type]


def waiting(**timers: int) -> dict[str, Step]:
    return {"a": Step(StepState.WAITING, **timers)}  # type: ignore[arg-type]


# ---- what is due next -----------------------------------------------------------------------------------------------


def test_the_earliest_of_all_timers_is_due_next() -> None:
    steps = {"a": Step(StepState.WAITING, limit_at=50, send_at=40), "b": Step(undo_limit_at=60, undo_send_at=30)}
    assert saga(steps=steps).next_due == 30
    assert saga(steps=steps, deadline_at=20).next_due == 20
    assert saga(steps=steps, deadline_at=20, phase=Phase.COMPENSATING).next_due == 30, "the deadline has no meaning now"
    assert saga(steps=steps, lock=Lock("order", "ann", "held", 1, until=10)).next_due == 10
    assert saga(steps=steps, opened_at=5, rotation=4).next_due == 9
    assert saga(steps=steps, opened_at=5, rotation=40).next_due == 30
    assert saga(opened_at=5, rotation=40).next_due == 45
    assert saga().next_due is None


def test_nothing_is_due_of_a_saga_that_has_ended_waits_for_its_code_or_is_paused() -> None:
    for values in (
        {"phase": Phase.COMPLETED},
        {"waiting": [Waiting(1, "e", "{}")]},
        {"paused": Hold(1, "ann", "because")},
    ):
        still = saga(steps=waiting(limit_at=50), deadline_at=20, opened_at=5, rotation=4, **values)
        assert (still.next_due, still.next_step_due, still.turn_due, still.limit_due) == (None,) * 4


def test_what_would_undo_a_running_saga_is_the_earliest_of_its_limits() -> None:
    steps = waiting(limit_at=50, send_at=40)
    assert saga(steps=steps).limit_due == 50
    assert saga(steps=steps, deadline_at=45).limit_due == 45
    assert saga(steps=steps, phase=Phase.COMPENSATING).limit_due is None
    assert saga(steps=steps, lock=Lock("order", "ann", "waiting", 1, until=10)).limit_due == 10
    assert saga(steps=steps, lock=Lock("order", "ann", "held", 1, until=10)).limit_due == 50, "who loses it goes on"
    assert saga(steps=steps, lock=Lock("order", "ann", "waiting", 1)).limit_due == 50
    assert saga().limit_due is None


def test_a_promise_is_broken_one_microsecond_after_it_while_the_success_is_expected() -> None:
    assert Step(due_at=99).overdue_from == 100
    assert Step(due_at=99).timers() == [100]
    for state in StepState:
        expected = state in (StepState.PENDING, StepState.WAITING, StepState.RETRYING)
        assert (Step(state, due_at=99).overdue_from == 100) is expected
    assert Step(due_at=99, overdue=True).overdue_from is None
    assert Step().overdue_from is None


def test_the_current_step_is_the_first_of_which_something_is_expected_whichever_its_element() -> None:
    for state in StepState:
        open_ = state in (
            StepState.WAITING,
            StepState.RETRYING,
            StepState.UNKNOWN,
            StepState.COMPENSATING,
            StepState.UNDO_FAILED,
        )
        steps = {"a": Step(StepState.DONE), "pack[x]": Step(state), "c": Step(StepState.WAITING)}
        assert saga(steps=steps).current_step == ("pack" if open_ else "c")
    assert saga(steps={"a": Step(StepState.DONE)}).current_step is None


def test_how_a_step_ended_is_fixed_the_first_time() -> None:
    step = Step()
    step.conclude(StepState.UNKNOWN, 5)
    step.conclude(StepState.DONE, 6)
    assert (step.outcome, step.ended_at) == (StepState.UNKNOWN, 5)
    step.conclude_undo(StepState.UNDO_FAILED, 7)
    step.conclude_undo(StepState.COMPENSATED, 8)
    assert (step.undo_outcome, step.undo_ended_at) == (StepState.UNDO_FAILED, 7)


def test_a_parent_is_the_same_whatever_it_says_of_how_deep_it_is() -> None:
    parent = Parent("trip/1", "order")
    assert parent == ("trip/1", "order", "", 1)
    assert parent.same(Parent("trip/1", "order", "", 3))
    for other in (("trip/0", "order", ""), ("trip/2", "order", ""), ("trip/1", "a", ""), ("trip/1", "order", "0f")):
        assert not parent.same(Parent(*other))


def test_what_is_stored_of_a_saga_is_what_is_not_as_usual() -> None:
    assert saga().to_json() == '{"type":"order","key":"4711","run":1,"version":1,"hash":"hash"}'


# ---- a trace that is long enough ------------------------------------------------------------------------------------


def test_a_trace_goes_on_in_another_one_after_its_time_and_nothing_else_changes() -> None:
    start = Observed("e-start", "placed", time=DAY)
    rotating = begin(define(plan("a", 0, within=9 * DAY, **NO_UNDO)), "4711", 1, start, DAY, rotation=2 * DAY).instance
    before = rotating.steps
    for turn in (1, 2, 3):
        due = DAY + 2 * turn * DAY
        assert rotating.turn_due == due
        told = advance(define(plan("a", 0, within=9 * DAY, **NO_UNDO)), rotating, Elapsed(due), due)
        rotating = told.instance
        assert [tuple(change) for change in told.changes] == [(None, "RUNNING", TURNED)]
        assert (rotating.epoch, rotating.opened_in, len(rotating.turned)) == (turn, 0, turn)
        assert (rotating.steps, told.outputs) == (before, [])
    assert rotating.turned == [3 * DAY, 5 * DAY, 7 * DAY]


def test_the_epoch_in_which_a_saga_was_opened_does_not_count_how_its_trace_went_on() -> None:
    assert saga(epoch=7, turned=[1, 2, 3]).opened_in == 4


# ---- what happens then ----------------------------------------------------------------------------------------------


def test_a_limit_that_passes_says_what_was_awaited_and_for_how_long() -> None:
    play = Play(LINE)
    play.later(30)
    remark = play.instance.conditions[Condition.LATE]
    message = "no reserve.done or reserve.failed within 30.0s"
    assert (remark.reason, remark.step, remark.message) == ("Timeout", "reserve", message)
    asked = Play(define(plan("agree", 0, done=("yes",), failed=(), approval="sales", **NO_UNDO), plan("b", 1, "agree")))
    asked.later(30)
    assert asked.instance.conditions[Condition.LATE].message == "no answer of sales within 30.0s"
    assert (asked.states()["agree"], asked.step("agree").certain) == ("FAILED", True)


def test_a_step_that_waits_for_its_next_attempt_at_its_limit_has_failed_as_surely_as_its_attempts() -> None:
    for dead, state in ((False, "FAILED"), (True, "COMPENSATING")):
        play = Play(define(plan("a", 0, send="a.do", within=7 * SECOND), plan("b", 1, "a")))
        play.later(4)
        if dead:
            play.gave_up("a.do", ("a.done",), event_id=play.do_id("a"))
        else:
            play.sees("a.failed", attempt=1)
        play.later(4)
        assert play.states()["a"] == state


def test_silence_has_a_command_sent_again_after_longer_and_longer_pauses_and_not_for_ever() -> None:
    play = Play(define(plan("a", 0, send="a.do", within=600 * SECOND, resend=RETRY)))
    play.later(5)
    assert play.told() == [("a", "WAITING", "no answer so far: a.do is sent again")]
    assert play.step("a").send_at == play.now + 10 * SECOND
    play.later(10)
    assert (play.step("a").send_at, play.commands()) == (None, ["a.do#1", "a.do#1*", "a.do#1*"])


def test_the_next_attempt_of_a_step_begins_after_its_pause() -> None:
    play = Play(define(plan("a", 0, send="a.do", within=600 * SECOND, retry=RETRY)))
    play.sees("a.failed", attempt=1)
    assert play.later(4).reason == "nothing was due"
    play.later(1)
    assert play.told() == [("a", "WAITING", "attempt 2")]
    assert (play.step("a").sends, play.step("a").send_at) == (1, play.now + 5 * SECOND)


def test_a_pivot_of_which_nobody_hears_is_asked_for_again_and_then_a_person_is_asked() -> None:
    play = Play(define(plan("pay", 0, send="pay.do", pivot=True, within=7 * SECOND, resend=RETRY)))
    play.later(7)
    assert play.states()["pay"] == "UNKNOWN"
    assert Condition.WAITING_FOR_PERSON not in play.instance.conditions
    play.later(10)
    remark = play.instance.conditions[Condition.WAITING_FOR_PERSON]
    assert (remark.reason, remark.message) == ("PivotUnknown", "the outcome of the pivot pay is not known")
    once = Play(define(plan("pay", 0, send="pay.do", pivot=True, within=7 * SECOND, resend=PLAIN)))
    once.later(7)
    message = "the outcome of the pivot pay is not known: Timeout"
    assert once.instance.conditions[Condition.WAITING_FOR_PERSON].message == message


@pytest.mark.parametrize(("pivot", "phase"), [(False, "COMPENSATING"), (True, "RUNNING")])
def test_a_deadline_passes_once_and_undoes_what_can_be_undone(pivot: bool, phase: str) -> None:
    play = Play(define(plan("a", 0, pivot=pivot), plan("b", 1, "a", **NO_UNDO), deadline=9 * SECOND))
    play.sees("a.done")
    assert play.later(8).reason == "nothing was due"
    play.later(1)
    assert (play.phase, play.instance.deadline_at) == (phase, None)
    remark = play.instance.conditions[Condition.LATE]
    assert (remark.reason, remark.message) == ("Deadline", "the saga's deadline passed")
    cause = {"step": None, "error": "Deadline", "message": remark.message, "event": None, "at": play.now}
    assert play.instance.cause == (None if pivot else cause)


def test_many_steps_whose_time_passes_at_once_all_do_unless_the_first_ends_the_saga() -> None:
    play = Play(define(*(plan(name, at, optional=True, **NO_UNDO) for at, name in enumerate("abc")), plan("d", 3, "a")))
    play.sees("d.done")
    play.later(30)
    assert (set(play.states().values()), play.phase) == ({"DEGRADED", "DONE"}, "COMPLETED")
    failing = Play(define(plan("a", 0, **NO_UNDO), plan("b", 1, optional=True, **NO_UNDO)))
    failing.later(30)
    assert (failing.phase, failing.states()) == ("COMPENSATED", {"a": "UNKNOWN", "b": "UNKNOWN"})
