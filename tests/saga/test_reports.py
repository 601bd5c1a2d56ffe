"""What the report of a service that a handler gave up does to a saga, and what it must not do."""

from __future__ import annotations

import pytest

from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Decided, command_id
from choreo.saga.occurrence import occurrence_id, wire_of
from choreo.saga.words import Condition
from tests.saga.play import LINE, Play, define, plan
from tests.saga.test_holding import NO_UNDO, PLAIN

SKIPPING = define(plan("a", 0, when="when"), plan("b", 1))


def test_a_step_whose_handler_gave_up_may_have_happened_and_its_undo_names_what_triggered_it() -> None:
    play = Play(LINE)
    told = play.gave_up("placed", ("reserve.done",), event_id="e-start")
    assert (told.verdict, play.step("reserve").certain, play.step("reserve").caused_by) == ("applied", False, "e-start")
    remark = play.instance.conditions[Condition.DEAD_LETTERED]
    assert (remark.reason, remark.message, remark.step) == ("Boom", "svc gave up on placed", "reserve")
    assert play.commands() == ["reserve.undo#1"]


def test_what_a_command_triggers_needs_no_other_name() -> None:
    play = Play(define(plan("a", 0, send="a.do", retry=PLAIN), plan("b", 1, "a")))
    play.gave_up("a.do", ("a.done",), event_id=play.do_id("a"))
    assert (play.states()["a"], play.step("a").caused_by) == ("COMPENSATING", None)


def test_a_handler_that_gave_up_for_now_is_shown_and_changes_nothing_else() -> None:
    for topic, condition, message, change in (
        ("", Condition.KEY_PARKED, "svc parked placed and tries again", "parked by svc: Boom"),
        (
            "orders.retry",
            Condition.DELAYED,
            "svc gave up on placed for now and tries again from orders.retry",
            "delayed by svc: Boom",
        ),
    ):
        play = Play(LINE)
        play.gave_up("placed", ("reserve.done",), dead=False, retry_topic=topic)
        remark = play.instance.conditions[condition]
        assert (remark.reason, remark.message, remark.step) == ("Boom", message, "reserve")
        assert play.told() == [("reserve", "WAITING", change)]
        assert list(play.instance.conditions) == [condition]


def test_a_delay_ends_with_the_dead_letter_of_its_own_step_and_with_no_other() -> None:
    for first, other in (("a", "b"), ("b", "a")):
        play = Play(define(plan("a", 0, optional=True), plan("b", 1, optional=True)))
        play.gave_up("placed", (f"{first}.done",), dead=False, retry_topic="orders.retry")
        play.gave_up("placed", (f"{other}.done",))
        assert play.instance.conditions[Condition.DELAYED].step == first
        play.gave_up("placed", (f"{first}.done",))
        assert Condition.DELAYED not in play.instance.conditions


def test_a_report_about_no_open_step_changes_nothing_and_shows_nowhere() -> None:
    done = Play(LINE)
    done.sees("reserve.done")
    degraded = Play(define(plan("reserve", 0, optional=True, **NO_UNDO), plan("b", 1)))
    degraded.later(29)
    degraded.sees("reserve.failed")
    elsewhere = Play(define(plan("a", 0), plan("reserve", 1, "a", send="reserve.do")))
    final = Play(define(plan("a", 0), plan("reserve", 1, final=True)))
    for play in (done, degraded, elsewhere, final):
        before = play.states()
        told = play.gave_up("placed", ("reserve.done",))
        assert (told.verdict, told.reason, play.states()) == ("ignored", "NoStep", before)
        assert Condition.UNEXPECTED not in play.instance.conditions
        assert Condition.DEAD_LETTERED not in play.instance.conditions


@pytest.mark.parametrize("event_id", ["0", "zzz"])
def test_a_report_about_an_attempt_of_an_undo_that_is_not_the_present_one_changes_nothing(event_id: str) -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    assert play.gave_up("reserve.undo", (), event_id=event_id).reason == "NoStep"
    assert play.step("reserve").undo_failures == []


def test_a_report_while_the_saga_is_undone_is_noted_and_no_more() -> None:
    play = Play(define(plan("a", 0, **NO_UNDO), plan("b", 1), plan("c", 2)))
    play.sees("c.done")
    play.sees("b.failed")
    assert (play.phase, play.states()["a"]) == ("COMPENSATING", "UNKNOWN")
    play.gave_up("placed", ("a.done",))
    assert play.told() == [("a", "UNKNOWN", "Boom in svc")]
    assert [failure.error for failure in play.step("a").failures] == ["Boom"]
    assert play.instance.cause is not None
    assert play.instance.cause["step"] == "b"


def test_a_handler_that_gave_up_before_the_saga_saw_its_step_begin_may_have_done_it() -> None:
    play = Play(LINE)
    play.gave_up("reserve.done", ("charge.done",), event_id="reserved")
    remark = play.instance.conditions[Condition.OUT_OF_ORDER]
    assert (remark.reason, remark.step, remark.message) == ("EarlyReport", "charge", "svc gave up before charge began")
    step = play.step("charge")
    assert (step.caused_by, step.certain, step.state) == ("reserved", False, "COMPENSATING")
    parked = Play(LINE)
    assert parked.gave_up("reserve.done", ("charge.done",), dead=False).reason == "NoStep"


def test_a_skipped_step_whose_handler_gave_up_all_the_same_is_undone_if_it_can_be() -> None:
    for options, undone in (({}, True), (NO_UNDO, False)):
        play = Play(define(plan("a", 0, when="when", **options), plan("b", 1)))
        play.decided("a", False)
        told = play.gave_up("placed", ("a.done",), event_id="e-start")
        assert told.verdict == ("applied" if undone else "ignored")
        assert play.states()["a"] == ("COMPENSATING" if undone else "SKIPPED")
        if undone:
            assert (play.step("a").given_up, play.step("a").certain) == ("unwanted", False)
            assert ("a", "UNKNOWN", "Boom in svc: it may have happened") in play.told()
    watching = Play(define(*SKIPPING.steps, observe_only=True))
    watching.decided("a", False)
    assert watching.gave_up("placed", ("a.done",)).reason == "NoStep"


def test_a_report_about_a_handler_that_serves_every_element_concerns_all_that_are_open() -> None:
    play = Play(define(plan("pack", 0, each="lines", by="sku"), plan("b", 1)))
    play._took(advance(play.definition, play.instance, Decided("pack", "each", ("x", "y", "z")), play.now))
    play.sees("pack.done", element="z")
    play.gave_up("placed", ("pack.done",), dead=False)
    assert [step for step, _, _ in play.told()] == ["pack[x]", "pack[y]"]


def test_a_report_about_a_command_for_one_element_concerns_that_element_whichever_attempt_it_was() -> None:
    play = Play(define(plan("pack", 0, each="lines", by="sku", send="pack.do", within=900 * SECOND), plan("b", 1)))
    play._took(advance(play.definition, play.instance, Decided("pack", "each", ("x", "y")), play.now))
    play.sees("pack.failed", element="y", attempt=1)
    play.later(6)
    assert play.step("pack[y]").attempt == 2

    def concerned(attempt: int) -> list[str | None]:
        event = command_id(play.instance.id, *wire_of("pack[y]"), "do", attempt)
        told = play.gave_up("pack.do", ("pack.done",), dead=False, event_id=event)
        return [change.step for change in told.changes]

    assert [concerned(attempt) for attempt in (0, 1, 2, 3)] == [[], ["pack[y]"], ["pack[y]"], []]


def test_the_header_names_the_element_before_the_payload_does() -> None:
    play = Play(define(plan("pack", 0, each="lines", by="sku"), plan("b", 1)))
    play._took(advance(play.definition, play.instance, Decided("pack", "each", ("x", "y")), play.now))
    play.sees("pack.done", occurrence=occurrence_id("x"), element="y")
    assert (play.states()["pack[x]"], play.states()["pack[y]"]) == ("DONE", "WAITING")
