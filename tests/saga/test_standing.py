"""How a step stands for those that wait for it, where elements, groups and alternatives meet."""

from __future__ import annotations

from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Decided
from tests.saga.play import Play, define, plan
from tests.saga.test_holding import NO_UNDO

ELSEWHERE = plan("mail", 9, when="when")
"""What makes a saga branch: what comes before its turn then counts when that comes."""


def packing(**options: object) -> Play:
    """A saga that checks first and packs parcel by parcel, of which one has been packed unasked."""
    steps = plan("check", 0), plan("pack", 1, "check", each="lines", by="sku", **options), plan("ship", 2, "pack")
    play = Play(define(*steps, ELSEWHERE))
    play.sees("pack.done", element="x")
    return play


def elements(play: Play, *names: str) -> None:
    """The elements are known."""
    play._took(advance(play.definition, play.instance, Decided("pack", "each", names), play.now))


def test_an_element_that_is_done_before_the_elements_are_known_counts_when_they_are() -> None:
    play = packing()
    assert (play.states()["pack[x]"], play.step("pack[x]").early) == ("DONE", True)
    play.sees("check.done")
    assert play.step("pack[x]").early, "the elements are being asked for"
    elements(play, "x", "y")
    assert ("pack[x]", "DONE", "its turn has come") in play.told()
    assert not play.step("pack[x]").early
    assert play.states()["pack[y]"] == "WAITING"
    play.sees("pack.done", element="y")
    assert play.states()["ship"] == "WAITING"


def test_an_element_that_was_done_though_its_step_is_skipped_is_undone() -> None:
    play = packing(when="when")
    play.sees("check.done")
    play.decided("pack", False)
    assert play.states()["pack"] == "SKIPPED"
    assert play.states()["pack[x]"] == "COMPENSATING"
    assert play.states()["ship"] == "SKIPPED"


def test_what_follows_nothing_but_skipped_steps_is_skipped() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1, when="when"), plan("c", 2, any_of=(("a", "b"),))))
    play.decided("a", False)
    assert play.states()["c"] == "PENDING"
    play.decided("b", False)
    assert (play.states()["c"], play.phase) == ("SKIPPED", "COMPLETED")


def test_a_group_of_which_one_is_skipped_and_one_has_failed_fails_its_saga() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1), plan("c", 2, any_of=(("a", "b"),)), plan("d", 3)))
    play.decided("a", False)
    play.sees("d.done")
    play.sees("b.failed")
    assert (play.phase, play.states()["c"]) == ("COMPENSATING", "SKIPPED")


def test_the_failure_of_a_last_alternative_is_borne_while_another_of_its_group_may_succeed() -> None:
    play = Play(
        define(
            plan("air", 0),
            plan("sea", 1, instead_of="air"),
            plan("land", 2),
            plan("bill", 3, any_of=(("air", "land"),)),
        )
    )
    play.sees("air.failed")
    play.sees("sea.failed")
    assert (play.phase, play.states()["land"]) == ("RUNNING", "WAITING")
    play.sees("land.done")
    assert play.states()["bill"] == "WAITING"


def test_an_alternative_is_not_wanted_any_more_when_another_of_its_group_has_succeeded() -> None:
    play = Play(
        define(
            plan("air", 0),
            plan("sea", 1, instead_of="air"),
            plan("land", 2),
            plan("bill", 3, any_of=(("air", "land"),)),
        )
    )
    play.sees("air.failed")
    play.sees("land.done")
    assert (play.states()["sea"], play.step("sea").certain) == ("COMPENSATING", False)


def test_the_late_success_of_an_alternative_counts_as_long_as_the_next_one_waits_for_something_else() -> None:
    steps = (
        plan("air", 0, **NO_UNDO),
        plan("sea", 1, instead_of="air", **NO_UNDO),
        plan("harbour", 2),
        plan("land", 3, "harbour", instead_of="sea"),
        plan("bill", 4, "air"),
    )
    play = Play(define(*steps))
    play.sees("air.failed")
    play.sees("sea.failed")
    assert play.states()["land"] == "PENDING"
    play.sees("sea.done")
    assert (play.states()["sea"], play.states()["bill"]) == ("DONE", "WAITING")
    late = Play(define(*steps))
    late.sees("harbour.done")
    late.sees("air.failed")
    late.sees("sea.failed")
    assert late.states()["land"] == "WAITING"
    late.sees("sea.done")
    assert (late.states()["land"], late.states()["bill"]) == ("WAITING", "PENDING"), (
        "too late: land has taken its place"
    )


def test_the_late_success_of_what_failed_before_it_turned_out_to_be_skipped_is_undone() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1, "a"), plan("c", 2)))
    play.sees("b.failed")
    play.decided("a", False)
    assert (play.states()["b"], play.step("b").given_up) == ("FAILED", "unwanted")
    play.sees("b.done")
    assert play.states()["b"] == "COMPENSATING"


def test_a_step_whose_condition_is_answered_late_had_its_turn_when_it_was_asked() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1)))
    asked = play.now
    play.now += 5 * SECOND
    play.decided("a", True)
    assert (play.step("a").ready_at, play.step("a").limit_at) == (asked, play.now + 30 * SECOND)


def test_what_is_skipped_has_an_end_only_if_somebody_may_have_done_it_all_the_same() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1, "a"), plan("c", 2, "a", send="c.do"), plan("d", 3)))
    play.now += SECOND
    play.decided("a", False)
    ended = {name: (play.step(name).outcome, play.step(name).ended_at) for name in "abc"}
    assert ended == {"a": ("SKIPPED", play.now), "b": ("SKIPPED", play.now), "c": (None, None)}


def test_what_is_tried_again_though_it_may_have_happened_is_undone_when_nobody_needs_it() -> None:
    play = Play(define(plan("a", 0, send="a.do"), plan("b", 1), plan("c", 2, any_of=(("a", "b"),))))
    play.now += 3 * SECOND
    play.gave_up("a.do", ("a.done",), event_id=play.do_id("a"))
    assert (play.states()["a"], play.step("a").send_at) == ("RETRYING", play.now + 5 * SECOND)
    play.sees("b.done")
    assert (play.states()["a"], play.step("a").given_up) == ("COMPENSATING", "unwanted")


def test_the_last_alternative_that_failed_is_the_cause_when_those_after_it_do_not_apply() -> None:
    play = Play(
        define(
            plan("air", 0),
            plan("sea", 1, instead_of="air"),
            plan("land", 2, instead_of="sea", when="when"),
            plan("bill", 3, "air"),
        )
    )
    play.sees("air.failed")
    play.sees("sea.failed")
    play.decided("land", False)
    assert play.phase == "COMPENSATED"
    assert play.instance.cause is not None
    assert (play.instance.cause["step"], play.instance.cause["error"]) == ("sea", "sea.failed")


def test_a_step_per_element_is_degraded_as_soon_as_one_element_is() -> None:
    play = Play(define(plan("mail", 0, each="people", by="name", optional=True, **NO_UNDO), plan("end", 1, "mail")))
    play._took(advance(play.definition, play.instance, Decided("mail", "each", ("ann", "bob")), play.now))
    play.sees("mail.failed", element="ann")
    assert play.states()["mail"] == "WAITING"
    play.sees("mail.done", element="bob")
    assert (play.states()["mail"], play.step("mail").outcome) == ("DEGRADED", "DEGRADED")
    fine = Play(play.definition)
    fine._took(advance(fine.definition, fine.instance, Decided("mail", "each", ("ann",)), fine.now))
    fine.sees("mail.done", element="ann")
    assert (fine.states()["mail"], fine.step("mail").outcome) == ("DONE", "DONE")
