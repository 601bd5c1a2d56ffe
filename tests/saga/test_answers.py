"""What an event does to a saga that did not expect it: it is early, comes twice or late, or may mean several steps."""

from __future__ import annotations

import dataclasses

from choreo.events.clock import SECOND
from choreo.saga.inputs import command_id
from choreo.saga.words import Condition
from tests.saga.play import LINE, Play, define, plan
from tests.saga.test_holding import NO_UNDO

BRANCHING = define(plan("a", 0), plan("b", 1, "a"), plan("c", 2, "b", when="when"))
BOTH = define(plan("a", 0, undone=("back",)), plan("b", 1, undone=("back",)), plan("c", 2, "a", "b"))
"""Two steps whose undo has one answer."""


def both_undone() -> Play:
    """A saga that undoes two steps at once, which have one answer."""
    play = Play(BOTH)
    play.sees("a.done")
    play.sees("b.done")
    play.sees("c.failed")
    assert play.states() == {"a": "COMPENSATING", "b": "COMPENSATING", "c": "FAILED"}
    return play


# ---- early ----------------------------------------------------------------------------------------------------------


def test_an_early_success_follows_what_it_says_itself_and_has_begun_when_it_came() -> None:
    play = Play(LINE)
    play.now += SECOND
    play.sees("charge.done", causation_id="before", traceparent="trace")
    step = play.step("charge")
    assert (step.trigger, step.trace, step.ready_at, step.early) == ("before", "trace", play.now, False)
    remark = play.instance.conditions[Condition.OUT_OF_ORDER]
    assert (remark.reason, remark.step) == ("EarlyEvent", "charge")


def test_a_success_that_outruns_the_answer_to_when_follows_what_its_step_follows() -> None:
    play = Play(BRANCHING)
    play.sees("a.done", id="first")
    play.sees("b.done", id="second")
    asked = play.now
    play.now += SECOND
    play.sees("c.done", causation_id="another")
    assert (play.step("c").trigger, play.step("c").ready_at, play.step("c").early) == ("second", asked, True)


def test_a_failure_is_out_of_order_only_before_its_turn() -> None:
    play = Play(LINE)
    play.sees("reserve.failed")
    assert Condition.OUT_OF_ORDER not in play.instance.conditions
    play = Play(LINE)
    play.sees("charge.failed")
    assert play.instance.conditions[Condition.OUT_OF_ORDER].step == "charge"


def test_a_failure_of_an_element_counts_before_the_elements_are_known() -> None:
    play = Play(define(plan("check", 0), plan("pack", 1, "check", each="lines", by="sku"), plan("ship", 2, "pack")))
    play.sees("pack.failed", element="x")
    assert (play.phase, play.states()["pack[x]"]) == ("COMPENSATING", "FAILED")
    assert play.sees("pack.failed", element="y").reason == "UnknownElement"
    assert "pack[y]" not in play.states()


def test_what_failed_before_its_turn_is_the_cause_as_it_was_told_when_that_comes() -> None:
    play = Play(BRANCHING)
    play.sees("b.failed")
    assert (play.phase, play.instance.cause) == ("RUNNING", None)
    play.sees("a.done")
    assert play.instance.cause == {"step": "b", "error": "b.failed", "message": "", "event": None, "at": play.now}


# ---- twice ----------------------------------------------------------------------------------------------------------


def test_a_failure_that_is_told_twice_is_counted_once() -> None:
    play = Play(define(plan("a", 0, send="a.do")))
    play.sees("a.failed", attempt=1)
    again = play.sees("a.failed", attempt=1)
    assert (again.verdict, again.reason, len(play.step("a").failures)) == ("ignored", "AlreadyAnswered", 1)


def test_who_gave_up_and_says_afterwards_that_nothing_happened_is_believed() -> None:
    play = Play(define(plan("a", 0, send="a.do")))
    play.gave_up("a.do", ("a.done",), event_id=play.do_id("a"))
    assert (play.states()["a"], play.step("a").certain) == ("RETRYING", False)
    play.sees("a.failed", id="sure", attempt=1)
    assert play.told() == [("a", "RETRYING", "a.failed: it is certain that it failed")]
    assert (play.step("a").certain, play.step("a").failed) == (True, ("a.failed", "sure"))
    assert len(play.step("a").failures) == 1


def test_a_degraded_step_that_may_have_happened_and_says_that_it_failed_need_not_be_undone() -> None:
    play = Play(define(plan("a", 0, optional=True), plan("b", 1, within=90 * SECOND)))
    play.later(31)
    assert (play.states()["a"], play.step("a").certain) == ("DEGRADED", False)
    play.sees("a.failed")
    assert play.step("a").certain
    assert play.sees("a.failed").reason == "AlreadyAnswered"
    play = Play(play.definition)
    play.later(31)
    play.sees("b.done")
    assert play.phase == "COMPLETED"
    assert (play.sees("a.failed").reason, play.step("a").certain) == ("Late", False)


def test_what_nobody_undoes_has_failed_for_certain_once_it_says_so() -> None:
    play = Play(define(plan("a", 0, **NO_UNDO), plan("b", 1), plan("c", 2)))
    play.sees("c.done")
    play.sees("b.failed")
    assert (play.phase, play.states()["a"], play.step("a").certain) == ("COMPENSATING", "UNKNOWN", False)
    play.sees("a.failed")
    assert (play.states()["a"], play.step("a").certain) == ("FAILED", True)


def test_a_failed_child_of_a_saga_that_is_undone_leaves_what_it_did() -> None:
    child = {"done": ("SagaCompleted",), "failed": ("SagaFailed",), "child": "packing", **NO_UNDO}
    play = Play(define(plan("pack", 0, **child), plan("b", 1), plan("c", 2)))
    play.sees("c.done")
    play.sees("b.failed")
    play.sees("SagaFailed", step="pack")
    assert play.told() == [("pack", "UNKNOWN", "SagaFailed: what it did stands")]
    assert not play.step("pack").certain


def test_an_undo_that_nobody_asked_for_is_remembered_only_by_who_watches() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    assert (play.sees("reserve.undone").reason, play.step("reserve").undo_event) == ("Unasked", None)
    watching = Play(dataclasses.replace(LINE, observe_only=True))
    watching.sees("reserve.done")
    watching.sees("reserve.undone", id="seen")
    assert watching.step("reserve").undo_event == "seen"
    assert watching.told() == [("reserve", "DONE", "reserve.undone: undone by somebody else")]


def test_an_event_of_another_version_changes_nothing_and_shows_nowhere() -> None:
    told = Play(LINE).sees("of.another.version")
    assert (told.verdict, told.reason, told.instance.conditions) == ("ignored", "OtherVersion", {})


def test_a_failure_while_its_undo_is_out_changes_nothing() -> None:
    play = Play(define(plan("a", 0), plan("b", 1)))
    play.sees("b.failed")
    assert (play.states()["a"], play.step("a").certain) == ("COMPENSATING", False)
    told = play.sees("a.failed")
    assert (told.verdict, told.reason, play.step("a").certain) == ("ignored", "AlreadyAnswered", False)


def test_an_approval_that_comes_as_an_event_after_a_persons_is_a_duplicate_and_after_their_no_it_is_late() -> None:
    agree = plan("agree", 0, done=("yes",), failed=("no",), approval="sales", **NO_UNDO)
    play = Play(define(agree, plan("ship", 1, "agree")))
    play.person("approve")
    assert play.sees("yes").reason == "AlreadyDone"
    play = Play(define(plan("a", 0), dataclasses.replace(agree, index=1)))
    play.sees("a.done")
    play.person("reject")
    assert play.phase == "COMPENSATING"
    assert play.sees("yes").verdict == "applied"
    assert play.told()[0] == ("agree", "DONE", "late yes: nothing to undo")


# ---- late -----------------------------------------------------------------------------------------------------------


def test_a_success_after_the_end_is_undone_alone_only_if_the_saga_went_on_without_it_and_it_can_be() -> None:
    group = plan("c", 2, any_of=(("a", "b"),))
    for options, undone in (({}, True), (NO_UNDO, False)):
        play = Play(define(plan("a", 0, when="when", **options), plan("b", 1), group))
        play.decided("a", False)
        play.sees("b.done")
        play.sees("c.done")
        assert play.phase == "COMPLETED"
        told = play.sees("a.done")
        assert told.verdict == ("applied" if undone else "ignored")
        assert (play.commands() == ["a.undo#1"]) is undone
    play = Play(define(plan("a", 0, optional=True), plan("b", 1)))
    play.later(29)
    play.sees("b.done")
    play.sees("a.failed")
    assert (play.phase, play.states()["a"]) == ("COMPLETED", "DEGRADED")
    assert play.sees("a.done").reason == "Late"
    watching = Play(define(plan("a", 0, when="when"), plan("b", 1), group, observe_only=True))
    watching.decided("a", False)
    watching.sees("b.done")
    watching.sees("c.done")
    assert watching.sees("a.done").reason == "Late"


def test_the_history_says_what_a_late_success_leads_to() -> None:
    play = Play(LINE)
    play.sees("reserve.failed")
    play.sees("charge.done")
    assert play.told()[1] == ("charge", "DONE", "late charge.done")


def test_a_success_of_the_time_of_its_undo_is_undone_by_it() -> None:
    for after, again in ((0, []), (1, ["charge.undo#2"])):
        play = Play(LINE)
        play.sees("reserve.done")
        play.later(31)
        play.undone("charge", time=5_000)
        assert not play.step("charge").certain
        play.sees("charge.done", time=5_000 + after)
        assert play.step("charge").certain
        assert [command for command in play.commands() if command == "charge.undo#2"] == again


# ---- several steps --------------------------------------------------------------------------------------------------


def test_of_two_undos_with_one_answer_the_header_tells_which() -> None:
    play = both_undone()
    play.sees("back", step="b")
    assert play.states() == {"a": "COMPENSATING", "b": "COMPENSATED", "c": "FAILED"}
    play.sees("back")
    assert play.phase == "COMPENSATED"


def test_an_answer_to_an_attempt_that_was_never_made_is_taken_for_the_first_undo() -> None:
    for attempt in (0, 2, 3):
        play = both_undone()
        play.sees("back", causation_id=command_id(play.instance.id, "b", "", "undo", attempt))
        assert play.states() == {"a": "COMPENSATED", "b": "COMPENSATING", "c": "FAILED"}
    play = both_undone()
    play.gave_up("b.undo", ("back",), event_id=play.undo_id("b"))
    play.later(6)
    assert play.step("b").undo_attempt == 2
    play.sees("back", causation_id=play.undo_id("b", 3))
    assert play.states() == {"a": "COMPENSATED", "b": "COMPENSATING", "c": "FAILED"}
