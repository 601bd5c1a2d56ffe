"""The sharp edges of a saga, row by row of docs/semantics.md, on the pure function."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from choreo.events.clock import SECOND
from choreo.events.envelope import Delivery, Envelope
from choreo.saga.inputs import Send
from choreo.saga.instance import Fact, Instance
from choreo.saga.routing import Routes
from tests.saga.play import LINE, PIVOT, Play, define, plan


def charged() -> Play:
    play = Play()
    play.sees("reserve.done")
    play.sees("charge.done")
    return play


def test_the_happy_path_completes_and_announces_itself_once() -> None:
    play = charged()
    play.sees("ship.done")
    assert play.phase == "COMPLETED"
    assert play.announced() == ["ended"]
    assert play.commands() == []
    assert play.instance.next_due is None


def test_a_failure_undoes_the_done_steps_in_reverse_and_waits_for_each_answer() -> None:
    play = charged()
    play.sees("ship.failed")
    assert play.phase == "COMPENSATING"
    assert play.commands() == ["charge.undo#1"]
    play.undone("charge")
    assert play.commands() == ["charge.undo#1", "reserve.undo#1"]
    assert play.announced() == []
    play.undone("reserve")
    assert play.phase == "COMPENSATED"
    assert play.announced() == ["reversed"]
    assert play.states() == {"reserve": "COMPENSATED", "charge": "COMPENSATED", "ship": "FAILED"}


def test_row_2_an_event_after_the_end_changes_nothing_and_says_why() -> None:
    play = charged()
    play.sees("ship.done")
    before = play.instance
    transition = play.sees("ship.failed")
    assert transition.verdict == "ignored"
    assert transition.reason == "Late"
    assert transition.outputs == []
    assert play.phase == "COMPLETED"
    assert play.instance.steps == before.steps
    assert "Unexpected" in play.instance.conditions


def test_row_3_a_second_start_does_not_reopen_a_finished_saga() -> None:
    play = charged()
    play.sees("ship.done")
    transition = play.sees("placed")
    assert (transition.verdict, transition.reason) == ("ignored", "SecondStart")
    assert play.phase == "COMPLETED"


def test_row_4_a_second_success_of_a_step_is_ignored() -> None:
    play = Play()
    play.sees("reserve.done")
    transition = play.sees("reserve.done")
    assert (transition.verdict, transition.reason) == ("ignored", "AlreadyDone")
    assert play.states() == {"reserve": "DONE", "charge": "WAITING", "ship": "PENDING"}


@pytest.mark.parametrize("order", list(itertools.permutations(["reserve", "charge", "ship"])))
def test_row_6_every_order_of_the_same_facts_ends_the_same(order: tuple[str, ...]) -> None:
    play = Play()
    for step in order:
        play.sees(f"{step}.done")
    assert play.phase == "COMPLETED"
    assert set(play.states().values()) == {"DONE"}
    assert ("OutOfOrder" in play.instance.conditions) == (order != ("reserve", "charge", "ship"))


def test_row_14_a_step_in_flight_is_undone_when_another_branch_fails() -> None:
    play = Play(PIVOT)
    play.sees("charge.failed")
    assert play.states()["reserve"] == "COMPENSATING"
    assert play.commands() == ["reserve.undo#1"]


def test_row_14_a_step_whose_limit_passed_is_undone_too() -> None:
    play = Play()
    play.sees("reserve.done")
    play.later(31)
    assert play.states() == {"reserve": "DONE", "charge": "COMPENSATING", "ship": "SKIPPED"}
    assert play.instance.cause is not None
    assert (play.instance.cause["step"], play.instance.cause["error"]) == ("charge", "Timeout")


def test_row_15_the_answer_to_an_empty_undo_compensates_the_step() -> None:
    play = Play()
    play.later(31)
    play.undone("reserve", nothing_undone=True)
    assert play.phase == "COMPENSATED"
    assert play.step("reserve").undo_empty


def test_late_success_during_compensation_is_undone_once() -> None:
    play = Play()
    play.sees("reserve.done")
    play.later(31)
    play.sees("charge.done")
    play.undone("charge")
    play.undone("reserve")
    assert play.commands() == ["charge.undo#1", "reserve.undo#1"]
    assert play.phase == "COMPENSATED"


def test_late_success_of_a_step_that_never_had_its_turn_is_undone_once() -> None:
    play = Play()
    play.sees("reserve.failed")
    assert play.phase == "COMPENSATED"
    play.sees("charge.done", id="late", causation_id="somewhere")
    assert play.phase == "COMPENSATING"
    assert play.commands() == ["charge.undo#1"]
    play.undone("charge")
    assert play.phase == "COMPENSATED"
    assert play.announced() == ["reversed"]


def test_late_success_that_is_older_than_the_answer_to_its_undo_was_undone_by_it() -> None:
    play = Play()
    play.later(31)
    happened = play.now
    play.now += 5 * SECOND
    play.undone("reserve")
    transition = play.sees("reserve.done", time=happened)
    assert play.commands() == ["reserve.undo#1"]
    assert play.phase == "COMPENSATED"
    assert transition.verdict == "applied"


def test_late_success_that_happened_after_its_undo_was_answered_is_undone_again() -> None:
    play = Play()
    play.later(31)
    play.undone("reserve")
    play.now += 5 * SECOND
    play.sees("reserve.done")
    assert play.commands() == ["reserve.undo#1", "reserve.undo#2"]
    assert play.phase == "COMPENSATING"


def test_row_16_a_failure_that_becomes_certain_needs_no_undo() -> None:
    play = Play(define(plan("charge", 0), plan("pack", 1), plan("ship", 2, "charge")))
    play.sees("ship.done")  # before its turn: its undo comes first, that of charge has to wait
    play.sees("pack.failed")
    assert play.states()["charge"] == "UNKNOWN"
    play.sees("charge.failed")
    play.undone("ship")
    assert play.commands() == ["ship.undo#1"]
    assert play.phase == "COMPENSATED"


def test_row_16_a_handler_that_gave_up_before_the_saga_saw_its_step_begin_leaves_it_unknown() -> None:
    play = Play()
    play.gave_up("reserve.done", ("charge.done", "charge.failed"))
    assert play.states() == {"reserve": "UNKNOWN", "charge": "COMPENSATING", "ship": "SKIPPED"}
    play.undone("charge")
    assert play.commands() == ["charge.undo#1", "reserve.undo#1"]


@pytest.mark.parametrize("ended", [False, True])
def test_row_16_a_handler_that_gave_up_on_a_step_that_was_skipped_is_undone_once(ended: bool) -> None:
    play = Play(define(plan("reserve", 0), plan("charge", 1), plan("book", 2, "reserve")))
    play.sees("charge.failed")
    assert play.states()["book"] == "SKIPPED"
    if ended:
        play.undone("reserve")
        assert play.phase == "COMPENSATED"
    play.gave_up("reserve.done", ("book.done", "book.failed"))
    assert play.states()["book"] == "COMPENSATING"
    assert play.phase == "COMPENSATING"
    sent = play.last.outputs[-1]
    assert isinstance(sent, Send)
    assert Fact("", "x") in sent.undoes  # the guard finds the step by the event that triggered it
    play.gave_up("reserve.done", ("book.done", "book.failed"))
    assert play.commands() == ["reserve.undo#1", "book.undo#1"]


COMMANDED = define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do"))


def test_row_16_a_handler_that_gave_up_names_what_triggered_it_to_the_guard_of_its_undo() -> None:
    play = Play(define(plan("gift", 0, optional=True), plan("charge", 1, "gift")))
    play.sees("gift.failed")
    play.gave_up("gift.failed", ("charge.done",), event_id="e-gift")
    sent = play.last.outputs[-1]
    assert isinstance(sent, Send)
    assert Fact("", "e-gift") in sent.undoes


def test_row_15_an_undo_that_found_nothing_of_a_step_that_is_known_to_be_done_is_sent_again() -> None:
    play = Play(define(plan("gift", 0, optional=True), plan("charge", 1, "gift")))
    play.sees("gift.failed")
    play.later(31)
    play.sees("charge.done", causation_id="e-gift")  # triggered by an event that the undo did not name
    play.undone("charge", nothing_undone=True)
    assert play.states()["charge"] == "COMPENSATING"
    play.later(6)
    assert play.commands() == ["charge.undo#1", "charge.undo#2"]
    sent = play.last.outputs[-1]
    assert isinstance(sent, Send)
    assert Fact("", "e-gift") in sent.undoes
    play.undone("charge")
    assert play.phase == "COMPENSATED"


def test_row_4_a_copy_of_a_failure_under_another_id_does_not_use_up_an_attempt() -> None:
    play = Play(COMMANDED)
    play.sees("reserve.done")
    play.sees("ship.failed", step="ship", attempt=1)
    play.sees("ship.failed", step="ship", attempt=1)
    assert len(play.step("ship").failures) == 1
    play.later(6)
    assert play.commands() == ["ship.do#1", "ship.do#2"]


def test_row_22_a_pivot_whose_limit_passes_between_two_attempts_is_sent_under_the_next_one() -> None:
    play = Play(define(plan("ship", 0, send="ship.do", pivot=True, within=3 * SECOND)))
    play.gave_up("ship.do", ("ship.done",))
    play.later(4)
    assert play.states()["ship"] == "UNKNOWN"
    play.later(2)
    assert play.commands() == ["ship.do#1", "ship.do#2"]


def test_row_16_an_attempt_that_may_have_happened_is_undone_although_another_was_planned() -> None:
    play = Play(COMMANDED)
    play.sees("reserve.done")
    play.gave_up("ship.do", ("ship.done",))
    assert play.states()["ship"] == "RETRYING"
    play.person("cancel")
    assert play.commands() == ["ship.do#1", "ship.undo#1"]


def test_row_16_an_attempt_that_may_have_happened_is_undone_when_the_limit_passes_before_the_next() -> None:
    play = Play(define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do", within=3 * SECOND)))
    play.sees("reserve.done")
    play.gave_up("ship.do", ("ship.done",))
    play.later(4)
    assert play.commands() == ["ship.do#1", "ship.undo#1"]


def test_row_16_an_attempt_that_surely_failed_needs_no_undo_when_another_was_planned() -> None:
    play = Play(COMMANDED)
    play.sees("reserve.done")
    play.sees("ship.failed")
    assert play.states()["ship"] == "RETRYING"
    play.person("cancel")
    assert play.commands() == ["ship.do#1", "reserve.undo#1"]


def test_ruling_7_a_pivot_that_may_have_happened_blocks_compensation_while_it_is_retried() -> None:
    play = Play(define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do", pivot=True)))
    play.sees("reserve.done")
    play.gave_up("ship.do", ("ship.done",))
    assert play.states()["ship"] == "RETRYING"
    assert play.person("cancel").verdict == "ignored"
    assert play.phase == "RUNNING"


def test_row_17_an_undo_that_fails_for_good_ends_failed_and_waits_for_a_person() -> None:
    play = charged()
    play.sees("ship.failed")
    for attempt in (1, 2, 3):
        play.gave_up("charge.undo", ("charge.undone",), event_id=play.undo_id("charge", attempt))
        play.later(61)
    assert play.commands() == ["charge.undo#1", "charge.undo#2", "charge.undo#3"]
    assert play.phase == "FAILED"
    assert play.states()["charge"] == "UNDO_FAILED"
    assert play.states()["reserve"] == "DONE", "what charge depends on is not undone before it"
    assert "WaitingForPerson" in play.instance.conditions
    assert play.announced() == []


def test_row_17_retry_undo_opens_the_saga_again_in_a_trace_of_its_own() -> None:
    play = charged()
    play.sees("ship.failed")
    play.later(601)
    assert play.phase == "FAILED"
    play.person("retry-undo")
    assert (play.phase, play.instance.epoch) == ("COMPENSATING", 1)
    play.undone("charge", causation_id=play.undo_id("charge", play.step("charge").undo_attempt))
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


def test_row_17_mark_undone_goes_on_with_the_steps_before_it() -> None:
    play = charged()
    play.sees("ship.failed")
    play.later(601)
    play.person("mark-undone", "charge")
    assert play.states()["charge"] == "COMPENSATED"
    assert play.commands()[-1] == "reserve.undo#1"
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


def test_row_17_an_answer_that_comes_after_all_heals_the_saga() -> None:
    play = charged()
    play.sees("ship.failed")
    play.later(601)
    assert play.phase == "FAILED"
    play.undone("charge")
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


def test_row_18_independent_branches_are_undone_side_by_side() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, "a", "b")))
    play.sees("a.done")
    play.sees("b.done")
    play.sees("c.failed")
    assert sorted(play.commands()) == ["a.undo#1", "b.undo#1"]


def test_row_19_the_undo_names_what_may_have_triggered_the_step() -> None:
    play = charged()
    play.sees("ship.failed")
    (undo,) = [output for output in play.sent if isinstance(output, Send)]
    assert Fact("placed", "e-start") in undo.undoes
    assert Fact("reserve.done", "e1") in undo.undoes
    assert not any(fact.type == "charge.done" for fact in undo.undoes)


def test_row_20_a_cancel_undoes_everything_and_ends_cancelled() -> None:
    play = charged()
    play.person("cancel")
    play.undone("ship")
    play.undone("charge")
    play.undone("reserve")
    assert play.phase == "CANCELLED"
    assert play.announced() == ["reversed"]


def test_row_22_after_the_pivot_a_cancel_is_refused_with_a_reason() -> None:
    play = Play(PIVOT)
    for step in ("reserve", "charge", "ship"):
        play.sees(f"{step}.done")
    transition = play.person("cancel")
    assert transition.verdict == "ignored"
    assert "pivot ship is DONE" in transition.reason
    assert play.phase == "RUNNING"


def test_row_22_an_optional_step_that_fails_after_the_pivot_does_not_fail_the_saga() -> None:
    play = Play(PIVOT)
    for step in ("reserve", "charge", "ship"):
        play.sees(f"{step}.done")
    play.later(31)
    assert play.phase == "COMPLETED"
    assert play.states()["notify"] == "DEGRADED"


def test_row_24_a_timer_whose_answer_came_does_nothing() -> None:
    play = charged()
    play.sees("ship.done")
    transition = play.later(10_000)
    assert transition.verdict == "ignored"
    assert transition.changes == []


def test_row_26_limits_count_from_the_coordinators_clock_not_the_events() -> None:
    play = Play()
    play.sees("reserve.done", time=play.now - 3_600 * SECOND)
    assert play.step("charge").limit_at == play.now + 30 * SECOND


def test_ruling_3_silence_sends_the_same_command_again_and_only_a_known_failure_raises_the_attempt() -> None:
    commanded = define(plan("notify", 0, send="notify.do", within=3_600 * SECOND))
    play = Play(commanded)
    play.later(6)
    assert play.commands() == ["notify.do#1", "notify.do#1*"]
    play.sees("notify.failed")
    assert play.states()["notify"] == "RETRYING"
    play.later(6)
    assert play.commands()[-1] == "notify.do#2"
    late = play.sees("notify.failed", attempt=1)
    assert (late.verdict, late.reason) == ("ignored", "EarlierAttempt")


def test_ruling_3_retries_end() -> None:
    play = Play(define(plan("notify", 0, send="notify.do", within=36_000 * SECOND)))
    for _ in range(3):
        play.sees("notify.failed")
        play.later(61)
    assert play.phase == "COMPENSATED"
    assert play.instance.cause is not None
    assert play.instance.cause["error"] == "notify.failed"


def test_ruling_5_a_success_of_a_pending_step_during_compensation_counts_as_late() -> None:
    play = Play()
    play.sees("reserve.done")
    play.sees("charge.failed")
    play.sees("ship.done", id="s", causation_id="cause")
    assert play.commands() == ["reserve.undo#1", "ship.undo#1"]
    ship = [output for output in play.sent if isinstance(output, Send)][-1]
    assert Fact("", "cause") in ship.undoes


def test_ruling_7_a_pivot_whose_outcome_is_unknown_blocks_compensation_and_asks_a_person() -> None:
    play = Play(PIVOT)
    play.sees("reserve.done")
    play.sees("charge.done")
    play.later(31)
    assert play.states()["ship"] == "UNKNOWN"
    assert play.phase == "RUNNING"
    assert play.commands() == []
    assert play.instance.conditions["WaitingForPerson"].step == "ship"
    assert play.person("cancel").verdict == "ignored"
    play.sees("ship.done")
    assert play.states()["ship"] == "DONE"
    assert "WaitingForPerson" not in play.instance.conditions


def test_ruling_7_a_commanded_pivot_is_asked_again_before_a_person_is() -> None:
    play = Play(define(plan("pay", 0), plan("ship", 1, "pay", send="ship.do", pivot=True, within=4 * SECOND)))
    play.sees("pay.done")
    play.later(5)
    assert play.states()["ship"] == "UNKNOWN"
    play.later(30)
    assert play.commands()[:2] == ["ship.do#1", "ship.do#1*"]
    play.later(60)
    assert "WaitingForPerson" in play.instance.conditions
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_ruling_7_a_pivot_that_surely_failed_is_no_obstacle() -> None:
    play = Play(PIVOT)
    play.sees("reserve.done")
    play.sees("charge.done")
    play.sees("ship.failed")
    assert play.phase == "COMPENSATING"
    assert sorted(play.commands()) == ["charge.undo#1", "reserve.undo#1"]


def test_ruling_7_a_choreographed_step_that_fails_after_the_pivot_waits_for_a_person() -> None:
    play = Play(define(plan("ship", 0, pivot=True), plan("bill", 1, "ship", undo=None, undone=())))
    play.sees("ship.done")
    play.sees("bill.failed")
    assert play.phase == "RUNNING"
    assert play.instance.conditions["WaitingForPerson"].reason == "FailedAfterPivot"
    play.sees("bill.done")
    assert play.phase == "COMPLETED"


def test_ruling_7_a_person_is_waited_for_as_long_as_one_step_needs_one() -> None:
    steps = (
        plan("pay", 0, send="pay.do"),
        plan("ship", 1, "pay", pivot=True),
        plan("bill", 2, "ship", undo=None, undone=()),
    )
    play = Play(define(*steps))
    play.sees("ship.done")
    play.later(31)
    play.sees("bill.done")
    assert play.instance.conditions["WaitingForPerson"].step == "pay"


def test_ruling_11_a_saga_is_not_compensated_while_an_undo_is_unanswered() -> None:
    play = charged()
    play.sees("ship.failed")
    play.undone("charge")
    assert play.phase == "COMPENSATING"
    play.later(6)
    assert play.commands()[-1] == "reserve.undo#1*"


def test_ruling_11_what_reopens_a_saga_raises_its_epoch() -> None:
    play = Play()
    play.sees("reserve.failed")
    play.sees("ship.done")
    assert (play.instance.epoch, play.instance.opened_at) == (1, play.now)


def test_ruling_14_a_dead_handler_fails_the_step_that_it_produces_and_the_step_is_undone() -> None:
    play = Play()
    play.sees("reserve.done")
    play.gave_up("reserve.done", ("charge.done", "charge.failed"))
    assert play.instance.cause is not None
    assert play.instance.cause["error"] == "Boom"
    assert play.commands() == ["charge.undo#1"], "it may have had its effect before it raised"


def test_ruling_14_a_parked_event_only_sets_a_condition() -> None:
    play = Play()
    play.sees("reserve.done")
    play.gave_up("reserve.done", ("charge.done",), dead=False)
    assert play.states()["charge"] == "WAITING"
    assert play.instance.conditions["KeyParked"].step == "charge"
    play.sees("charge.done")
    assert "KeyParked" not in play.instance.conditions


def test_an_event_on_a_retry_topic_is_delayed_and_not_parked_until_it_is_answered_or_dead() -> None:
    for ends in ("charge.done", "dead"):
        play = Play()
        play.sees("reserve.done")
        play.gave_up("reserve.done", ("charge.done",), dead=False, retry_topic="stock.retry.payment.1m")
        assert play.states()["charge"] == "WAITING"
        told = play.instance.conditions["Delayed"]
        assert (told.step, "KeyParked" in play.instance.conditions) == ("charge", False)
        assert "tries again from stock.retry.payment.1m" in told.message
        if ends == "dead":
            play.gave_up("reserve.done", ("charge.done",))
            assert "DeadLettered" in play.instance.conditions
        else:
            play.sees("charge.done")
        assert "Delayed" not in play.instance.conditions


def test_ruling_14_a_dead_handler_that_produces_no_outcome_changes_nothing() -> None:
    play = Play()
    transition = play.gave_up("placed", ("analytics.row",))
    assert transition.verdict == "ignored"
    assert play.phase == "RUNNING"


def test_a_command_that_cannot_be_built_fails_its_step_or_its_undo() -> None:
    forward = Play(define(plan("notify", 0, send="notify.do")))
    forward.unbuildable("notify", "do")
    assert forward.phase == "COMPENSATED"
    backward = charged()
    backward.sees("ship.failed")
    backward.unbuildable("charge", "undo")
    assert backward.phase == "FAILED"


def test_the_deadline_compensates_before_the_pivot_and_only_warns_after_it() -> None:
    early = Play(define(*LINE.steps, deadline=20 * SECOND))
    early.sees("reserve.done")
    early.later(21)
    assert early.phase == "COMPENSATING"
    late = Play(
        define(
            *PIVOT.steps[:3], plan("bill", 3, "ship", undo=None, undone=(), within=90 * SECOND), deadline=20 * SECOND
        )
    )
    for step in ("reserve", "charge", "ship"):
        late.sees(f"{step}.done")
    late.later(21)
    assert late.phase == "RUNNING"
    assert late.instance.conditions["Late"].reason == "Deadline"


def test_observing_sends_nothing_and_a_failure_that_nobody_undoes_ends_failed() -> None:
    play = Play(define(*LINE.steps, observe_only=True))
    play.sees("reserve.failed")
    assert play.phase == "FAILED"
    assert play.sent == []


def test_observing_sees_others_undo_even_before_it_knows_why() -> None:
    play = Play(define(*LINE.steps, observe_only=True))
    play.sees("reserve.done")
    play.sees("reserve.undone", causation_id=None)
    play.sees("charge.failed")
    assert play.phase == "COMPENSATED"
    assert play.sent == []


def test_a_transition_leaves_the_given_instance_as_it_was() -> None:
    play = charged()
    before = play.instance.to_json()
    instance = play.instance
    play.sees("ship.failed")
    assert instance.to_json() == before


def test_an_instance_survives_its_own_json() -> None:
    play = charged()
    play.sees("ship.failed")
    play.gave_up("charge.undo", ("charge.undone",), event_id=play.undo_id("charge"))
    assert Instance.from_json(play.instance.to_json()) == play.instance


def test_a_failure_of_a_command_that_was_not_sent_yet_does_not_send_it_before_its_turn() -> None:
    play = Play(define(plan("reserve", 0), plan("notify", 1, "reserve", send="notify.do")))
    transition = play.sees("notify.failed")
    assert (transition.verdict, transition.reason) == ("ignored", "NotAsked")
    play.later(10)
    assert play.commands() == []


def test_row_17_nobody_is_waited_for_once_the_undo_is_tried_again() -> None:
    play = charged()
    play.sees("ship.failed")
    play.later(601)
    assert play.instance.conditions["WaitingForPerson"].step == "charge"
    play.person("retry-undo")
    assert "WaitingForPerson" not in play.instance.conditions


def test_row_17_a_person_is_waited_for_until_every_failed_undo_is_dealt_with() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, "a", "b")))
    play.sees("a.done")
    play.sees("b.done")
    play.sees("c.failed")
    play.later(601)
    assert play.phase == "FAILED"
    play.person("mark-undone", play.instance.conditions["WaitingForPerson"].step)
    assert play.phase == "FAILED"
    assert play.states()[play.instance.conditions["WaitingForPerson"].step or ""] == "UNDO_FAILED"


def test_row_18_undo_is_the_reverse_of_dependency_and_each_waits_for_its_answer() -> None:
    diamond = define(plan("a", 0), plan("b", 1, "a"), plan("c", 2, "a"), plan("d", 3, "b", "c"), plan("e", 4, "d"))
    play = Play(diamond)
    for name in ("a", "b", "c", "d"):
        play.sees(f"{name}.done")
    play.sees("e.failed")
    assert play.commands() == ["d.undo#1"]
    play.undone("d")
    assert sorted(play.commands()[1:]) == ["b.undo#1", "c.undo#1"], "side by side: neither depends on the other"
    play.undone("b")
    assert "a.undo#1" not in play.commands(), "c still stands on it"
    play.undone("c")
    assert play.commands()[-1] == "a.undo#1"
    play.undone("a")
    assert play.phase == "COMPENSATED"


def test_row_28_an_event_concerns_one_saga_of_each_type_and_never_several() -> None:
    """Fan-out over instances is what a service does, one event for each: then each has an id and can be undone."""
    other = replace(LINE, type="audit")
    routes = Routes([LINE, other], {"order": 0, "audit": 0}, {})
    delivery = Delivery("topic", 0, 0, 1, b"4711", b"", ())
    plain = Envelope("id", "reserve.done", "svc", 1, "4711")
    found = routes.observe(delivery, plain, lambda *_: "")
    assert [(target.type, target.key) for target in found.targets] == [("order", "4711"), ("audit", "4711")]
    named = replace(plain, saga_id="order/815", saga_type="order")
    found = routes.observe(delivery, named, lambda *_: "")
    assert [(target.type, target.key) for target in found.targets] == [("order", "815"), ("audit", "4711")]


def test_row_2_a_pivot_that_is_done_when_the_saga_is_undone_asks_for_a_person() -> None:
    play = Play(PIVOT)
    play.sees("charge.failed")
    play.undone("reserve")
    assert play.phase == "COMPENSATED"
    play.sees("ship.done")
    assert (play.phase, play.instance.epoch) == ("COMPENSATED", 0), "there is nothing that could undo it"
    assert play.instance.conditions["WaitingForPerson"].reason == "Late"
    assert "ship cannot be undone" in play.instance.conditions["WaitingForPerson"].message
    play.person("dismiss")
    assert "WaitingForPerson" not in play.instance.conditions


def test_row_2_a_late_success_of_a_step_with_nothing_to_undo_asks_nobody() -> None:
    play = Play(define(plan("a", 0, undo=None, undone=()), plan("b", 1), plan("p", 2, "a", "b", pivot=True)))
    play.sees("b.failed")
    play.sees("a.done")
    assert play.phase == "COMPENSATED"
    assert "WaitingForPerson" not in play.instance.conditions
