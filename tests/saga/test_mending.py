"""A person has a step tried again, or lets the saga go on without one: what is refused, why, and what is said of it."""

from __future__ import annotations

import dataclasses

from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Ask, Decided
from choreo.saga.words import Condition
from tests.saga.play import LINE, PIVOT, RETRY, Play, define, plan
from tests.saga.test_holding import NO_UNDO, PLAIN, shipping_failed
from tests.saga.test_locking import PLAN as LOCK
from tests.saga.test_locking import Locking

PAID = plan("pay", 0, pivot=True)
APPROVED = define(PAID, plan("agree", 1, "pay", done=("yes",), failed=("no",), approval="sales", **NO_UNDO))
PARCELS = define(PAID, plan("pack", 1, "pay", each="lines", by="sku", send="pack.do", retry=PLAIN, **NO_UNDO))


def two_failed() -> Play:
    """A saga of which two commanded steps behind the pivot have failed for good, the one named last first."""
    play = Play(
        define(PAID, *(plan(name, at, "pay", send="do", retry=PLAIN, **NO_UNDO) for at, name in ((1, "a"), (2, "b"))))
    )
    play.sees("pay.done")
    play.sees("b.failed")
    play.sees("a.failed")
    return play


def parcels(*elements: str) -> Play:
    """A saga that has paid, and packs parcel by parcel."""
    play = Play(PARCELS)
    play.sees("pay.done")
    play._took(advance(play.definition, play.instance, Decided("pack", "each", elements), play.now))
    return play


# ---- retry ----------------------------------------------------------------------------------------------------------


def test_the_history_says_who_has_had_a_step_tried_again_and_why() -> None:
    play = shipping_failed()
    play.person("retry")
    assert play.told() == [("ship", "WAITING", "tried again by ann: because")]
    play = shipping_failed()
    play.person("retry", by="", why="")
    assert play.told() == [("ship", "WAITING", "tried again by a person")]


def test_of_several_failed_steps_the_one_to_try_again_is_named() -> None:
    play = two_failed()
    assert play.person("retry").reason == "several steps have failed, name one: a, b"
    play.person("retry", "a")
    assert play.states() == {"pay": "DONE", "a": "WAITING", "b": "FAILED"}
    assert play.commands() == ["a.do#1", "b.do#1", "a.do#2"]


def test_why_a_saga_stands_still_is_forgotten_with_the_step_that_was_the_reason_and_with_no_other() -> None:
    for first, other in (("b", "a"), ("a", "b")):
        play = two_failed()
        play.instance.cause = {**(play.instance.cause or {}), "step": first}
        play.person("retry", other)
        assert (play.instance.cause or {}).get("step") == first
        play.person("retry", first)
        assert play.instance.cause is None
        play = two_failed()
        play.instance.cause = {**(play.instance.cause or {}), "step": first}
        play.person("skip", other)
        assert (play.instance.cause or {}).get("step") == first
        play.person("skip", first)
        assert play.instance.cause is None


def test_the_failed_elements_of_one_step_are_tried_again_together() -> None:
    play = parcels("x", "y", "z")
    for element in ("x", "y"):
        play.sees("pack.failed", element=element)
    play.sees("pack.done", element="z")
    play.person("retry")
    assert play.states() == {
        "pay": "DONE",
        "pack": "WAITING",
        "pack[x]": "WAITING",
        "pack[y]": "WAITING",
        "pack[z]": "DONE",
    }
    play.sees("pack.failed", element="x")
    play.sees("pack.failed", element="y")
    play.person("retry", "pack[y]")
    assert (play.states()["pack[x]"], play.states()["pack[y]"]) == ("FAILED", "WAITING")


def test_a_rejected_approval_is_asked_for_again_with_its_whole_time() -> None:
    play = Play(APPROVED)
    play.sees("pay.done")
    play.person("reject")
    assert (play.states()["agree"], play.step("agree").by) == ("FAILED", "ann")
    play.now += 500 * SECOND
    play.person("retry")
    step = play.step("agree")
    assert (step.state, step.by, step.limit_at, step.attempt) == ("WAITING", None, play.now + 30 * SECOND, 0)
    assert play.instance.conditions[Condition.WAITING_FOR_PERSON].reason == "Approval"
    assert play.commands() == []


def test_a_dead_letter_counts_no_longer_when_its_step_is_tried_again_or_skipped() -> None:
    for kind, left in (("retry", "WAITING"), ("skip", "DEGRADED")):
        play = Play(define(PAID, plan("ship", 1, "pay", send="ship.do", retry=PLAIN, **NO_UNDO)))
        play.sees("pay.done")
        play.gave_up("ship.do", ("ship.done",), event_id=play.do_id("ship"))
        assert play.states()["ship"] == "UNKNOWN"
        assert Condition.DEAD_LETTERED in play.instance.conditions
        play.person(kind, "ship")  # type: ignore[arg-type]
        assert play.states()["ship"] == left
        assert Condition.DEAD_LETTERED not in play.instance.conditions


def test_a_retry_is_refused_with_the_reason() -> None:
    play = parcels("x", "y")
    play.sees("pack.done", element="y")
    assert play.person("retry", "pack").reason == "nothing to try again: step pack has not failed, it is WAITING"
    play = Play(LINE)
    assert play.person("retry").reason == "nothing to try again: no step of this saga has failed"
    assert play.person("retry", "charge").reason == ("nothing to try again: step charge has not failed, it is PENDING")
    assert play.person("retry", "nobody").reason == "nothing to try again: step nobody has not failed"
    play.sees("reserve.done")
    play.sees("charge.failed")
    undone = "no step can be tried again: the saga is being undone, and what ran now would run behind its undo"
    assert play.person("retry").reason == undone
    play.undone("reserve")
    assert play.person("retry").reason == "no step can be tried again: the saga is COMPENSATED already"
    play = Play(dataclasses.replace(LINE, observe_only=True))
    assert play.person("retry").reason == "no step can be tried again: this saga only observes"
    play = Locking(define(plan("a", 0), lock=LOCK))
    play.told_of_lock(False)
    assert play.person("skip", "a").reason == "no step can be skipped: the saga waits for its lock, and has not begun"


def test_what_failed_is_not_tried_again_where_another_step_or_another_saga_answers_for_it() -> None:
    play = Play(define(plan("air", 0, send="air.do", retry=PLAIN), plan("sea", 1, instead_of="air")))
    play.sees("air.failed")
    assert play.person("retry").reason == "air has failed, and the saga goes on without it"
    play = Play(define(PAID, plan("pack", 1, "pay", child="packing", send="pack.do", retry=PLAIN, **NO_UNDO)))
    play.sees("pay.done")
    play.sees("pack.failed")
    assert (
        play.person("retry").reason == "pack is a saga of its own, of type packing: what failed is a step of that one"
    )
    play = Play(define(plan("a", 0), plan("b", 1, "a"), plan("c", 2, "b", when="when")))
    play.sees("b.failed")
    assert play.states()["b"] == "FAILED"
    assert play.person("retry").reason == "b has failed before its turn; it counts when that comes"


def test_a_step_whose_elements_are_not_known_cannot_be_tried_again() -> None:
    play = Play(PARCELS)
    play.sees("pay.done")
    play.unbuildable("pack", "each")
    assert play.states()["pack"] == "FAILED"
    assert (
        play.person("retry").reason == "its each= has not said for which elements pack runs: there is nothing to send"
    )


# ---- skip -----------------------------------------------------------------------------------------------------------


def test_the_history_says_who_has_skipped_a_step_and_why_and_what_follows_it_follows_what_it_followed() -> None:
    play = shipping_failed()
    play.person("skip", "ship")
    assert play.told()[0] == ("ship", "DEGRADED", "skipped by ann: because")
    assert (play.step("ship").outcome, play.step("ship").ended_at) == ("DEGRADED", play.now)
    assert play.step("notify").trigger == play.step("ship").trigger
    play.person("skip", "notify", by="", why="")
    assert play.told()[0] == ("notify", "DEGRADED", "skipped by a person")


def test_a_skipped_step_has_no_time_any_more_and_nothing_is_sent_for_it() -> None:
    play = Play(define(plan("a", 0, send="a.do"), plan("b", 1)))
    play.person("skip", "a")
    assert play.step("a").timers() == []
    play.later(20)
    assert play.commands() == ["a.do#1"]


def test_the_answer_to_a_question_about_a_skipped_step_changes_nothing() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1)))
    assert play.sent == [Ask("when", "a")]
    play.person("skip", "a")
    assert play.decided("a", True).verdict == "ignored"
    assert play.states() == {"a": "DEGRADED", "b": "WAITING"}


def test_a_skipped_step_is_undone_with_the_rest_unless_nobody_can_have_done_it() -> None:
    for options, undone in (({}, ["b.undo#1"]), ({"send": "b.do"}, [])):
        play = Play(define(plan("a", 0), plan("b", 1, "a", **options), plan("c", 2)))
        play.person("skip", "b")
        assert play.step("b").certain is not bool(undone)
        play.sees("c.failed")
        assert [command for command in play.commands() if command.startswith("b.undo")] == undone
    play = Play(define(plan("a", 0, send="a.do"), plan("c", 1)))
    play.sees("a.failed", attempt=1)
    play.person("skip", "a")
    assert play.step("a").certain, "its only attempt is known to have failed"


def test_what_failed_before_its_turn_may_be_skipped_and_then_what_follows_it_has_its_turn() -> None:
    play = Play(define(plan("a", 0), plan("b", 1, "a"), plan("c", 2, "b"), plan("d", 3, when="when")))
    play.sees("b.failed")
    play.person("skip", "b")
    assert play.states()["c"] == "WAITING"


def test_a_skip_is_refused_with_the_reason() -> None:
    play = parcels("x", "y")
    assert play.person("skip").reason == "which step shall be skipped?"
    assert play.person("skip", "nobody").reason == "which step shall be skipped?"
    assert play.person("skip", "pack").reason == "pack runs for each element; name one, as in pack[KEY]"
    assert play.person("skip", "pack[x]").verdict == "applied"
    assert play.person("skip", "pack[x]").reason == "pack[x] cannot be skipped: it is DEGRADED"
    play = Play(PIVOT)
    assert play.person("skip", "ship").reason == (
        "ship is the pivot: whether it happened decides whether this saga can be undone"
    )
    play.sees("reserve.done")
    assert play.person("skip", "reserve").reason == "reserve cannot be skipped: it is DONE"
    play = Play(APPROVED)
    assert play.person("skip", "agree").reason == "agree waits for sales: say saga approve or saga reject"
    play = Play(define(plan("air", 0), plan("sea", 1, instead_of="air")))
    play.sees("air.failed")
    assert play.person("skip", "air").reason == "air cannot be skipped: the saga goes on without it already"
    play = Play(define(plan("a", 0), plan("b", 1, "a", when="when"), plan("c", 2)))
    play.sees("b.done")
    assert play.person("skip", "b").reason == "b cannot be skipped: it is DONE"
    play.sees("c.failed")
    assert play.person("skip", "c").reason == (
        "no step can be skipped: the saga is being undone, and what ran now would run behind its undo"
    )


def test_every_step_that_is_open_may_be_skipped() -> None:
    waiting = Play(define(plan("a", 0)))
    pending = Play(define(plan("z", 0), plan("a", 1, "z")))
    retrying = Play(define(plan("a", 0, send="a.do", retry=RETRY)))
    retrying.sees("a.failed")
    unknown = Play(define(PAID, plan("a", 1, "pay", **NO_UNDO)))
    unknown.sees("pay.done")
    unknown.later(31)
    failed = Play(define(PAID, plan("a", 1, "pay", **NO_UNDO)))
    failed.sees("pay.done")
    failed.sees("a.failed")
    for play, state in (
        (waiting, "WAITING"),
        (pending, "PENDING"),
        (retrying, "RETRYING"),
        (unknown, "UNKNOWN"),
        (failed, "FAILED"),
    ):
        assert play.states()["a"] == state
        play.person("skip", "a")
        assert (play.last.verdict, play.states()["a"]) == ("applied", "DEGRADED")
