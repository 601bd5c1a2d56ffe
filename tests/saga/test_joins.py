"""Joins of which one is enough, conditions, steps that have only an undo, and finally-steps, on the pure function."""

from __future__ import annotations

import itertools

import pytest

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition
from choreo.saga.inputs import Ask
from tests.saga.play import Play, define, plan

GROUP = define(
    plan("card", 0),
    plan("transfer", 1),
    plan("ship", 2, any_of=(("card", "transfer"),)),
)
"""One of two payments is enough."""


def only_undo(name: str, index: int, *after: str, **options: object):  # type: ignore[no-untyped-def]
    return plan(name, index, *after, **{"done": (), "failed": (), **options})


# ---- any_of ----------------------------------------------------------------------------------------------------------


def test_the_first_success_of_any_of_is_enough_and_what_is_in_flight_is_given_up_and_undone() -> None:
    play = Play(GROUP)
    play.sees("card.done")
    assert play.states() == {"card": "DONE", "transfer": "COMPENSATING", "ship": "WAITING"}
    assert play.commands() == ["transfer.undo#1"]
    play.sees("ship.done")
    assert play.phase == "RUNNING", "an undo is unanswered"
    play.undone("transfer")
    assert play.phase == "COMPLETED"
    assert play.states()["transfer"] == "COMPENSATED"
    assert play.announced() == ["ended"]


def test_what_any_of_has_not_begun_is_skipped() -> None:
    play = Play(
        define(
            plan("check", 0),
            plan("card", 1),
            plan("transfer", 2, "check"),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    play.sees("card.done")
    assert play.states() == {"check": "WAITING", "card": "DONE", "transfer": "SKIPPED", "ship": "WAITING"}
    play.sees("check.done")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"
    assert play.commands() == []


def test_what_any_of_gives_up_without_an_undo_is_skipped() -> None:
    play = Play(define(plan("a", 0), plan("b", 1, undo=None, undone=()), plan("c", 2, any_of=(("a", "b"),))))
    play.sees("a.done")
    assert play.states() == {"a": "DONE", "b": "SKIPPED", "c": "WAITING"}


def test_a_failure_within_any_of_is_borne_while_another_may_still_succeed() -> None:
    play = Play(GROUP)
    play.sees("card.failed")
    assert play.phase == "RUNNING"
    assert play.states() == {"card": "FAILED", "transfer": "WAITING", "ship": "PENDING"}
    play.sees("transfer.done")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"
    assert play.instance.cause is None


def test_when_all_of_any_of_fail_the_saga_fails_with_the_last_one() -> None:
    play = Play(
        define(
            plan("reserve", 0),
            *(s for s in (plan("card", 1, "reserve"), plan("transfer", 2, "reserve"))),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    play.sees("reserve.done")
    play.sees("card.failed")
    play.sees("transfer.failed")
    assert play.phase == "COMPENSATING"
    assert play.instance.cause is not None
    assert play.instance.cause["step"] == "transfer"
    assert play.commands() == ["reserve.undo#1"]


def test_a_limit_that_passes_within_any_of_undoes_that_step_alone() -> None:
    play = Play(
        define(
            plan("card", 0), plan("transfer", 1, within=90 * SECOND), plan("ship", 2, any_of=(("card", "transfer"),))
        )
    )
    play.later(31)
    assert play.phase == "RUNNING"
    assert play.states()["card"] == "COMPENSATING"
    play.sees("transfer.done")
    play.undone("card")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_s11_a_late_success_of_what_any_of_gave_up_is_undone_once() -> None:
    play = Play(GROUP)
    play.sees("card.done")
    play.sees("transfer.done")
    assert play.commands() == ["transfer.undo#1"], "its undo is under way: the guard puts them in order"
    play.undone("transfer")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_s11_a_late_success_after_the_end_opens_a_completed_saga_for_its_undo_alone() -> None:
    play = Play(
        define(
            plan("check", 0),
            plan("card", 1),
            plan("transfer", 2, "check"),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    for event in ("card.done", "check.done", "ship.done"):
        play.sees(event)
    assert play.phase == "COMPLETED"
    play.sees("transfer.done")
    assert (play.phase, play.instance.epoch) == ("RUNNING", 1)
    assert play.commands() == ["transfer.undo#1"]
    assert play.person("cancel").verdict == "ignored", "what it did is kept"
    play.undone("transfer")
    assert play.phase == "COMPLETED"
    assert play.announced() == ["ended"], "once in a saga's life"


def test_s11_an_undo_that_fails_after_the_end_waits_for_a_person_and_takes_nothing_back() -> None:
    play = Play(
        define(
            plan("check", 0),
            plan("card", 1),
            plan("transfer", 2, "check"),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    for event in ("card.done", "check.done", "ship.done", "transfer.done"):
        play.sees(event)
    play.later(601)
    assert play.states()["transfer"] == "UNDO_FAILED"
    assert play.phase == "RUNNING"
    assert play.instance.conditions["WaitingForPerson"].step == "transfer"
    play.person("mark-undone", "transfer")
    assert play.phase == "COMPLETED"
    assert "WaitingForPerson" not in play.instance.conditions


def test_row_17_a_local_undo_that_fails_for_good_compensates_the_rest_and_ends_failed() -> None:
    play = Play(GROUP)
    play.sees("card.done")
    play.later(29)
    play.sees("ship.done")
    play.later(600)
    assert play.phase == "COMPENSATING"
    assert play.states() == {"card": "DONE", "transfer": "UNDO_FAILED", "ship": "COMPENSATING"}
    play.undone("ship")
    play.undone("card")
    assert play.phase == "FAILED"
    assert "WaitingForPerson" in play.instance.conditions


def test_row_17_after_the_pivot_a_local_undo_that_fails_for_good_waits_for_a_person() -> None:
    play = Play(define(*GROUP.steps[:2], plan("ship", 2, any_of=(("card", "transfer"),), pivot=True)))
    play.sees("card.done")
    play.sees("ship.done")
    play.later(601)
    assert play.phase == "RUNNING"
    assert play.commands()[-1] != "card.undo#1"
    play.person("retry-undo")
    play.undone("transfer", causation_id=play.undo_id("transfer", play.step("transfer").undo_attempt))
    assert play.phase == "COMPLETED"


def test_row_22_a_cancel_during_a_local_undo_undoes_the_rest_and_waits_for_both() -> None:
    play = Play(GROUP)
    play.sees("card.done")
    play.person("cancel")
    assert play.states() == {"card": "DONE", "transfer": "COMPENSATING", "ship": "COMPENSATING"}
    play.undone("ship")
    assert play.states()["card"] == "COMPENSATING"
    play.undone("card")
    assert play.phase == "COMPENSATING"
    play.undone("transfer")
    assert play.phase == "CANCELLED"


def test_the_deadline_during_a_local_undo_compensates_the_rest() -> None:
    play = Play(define(*GROUP.steps, deadline=20 * SECOND))
    play.sees("card.done")
    play.later(21)
    assert play.phase == "COMPENSATING"
    assert play.states() == {"card": "DONE", "transfer": "COMPENSATING", "ship": "COMPENSATING"}


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", "c"])))
def test_row_6_every_order_of_the_successes_of_a_group_ends_the_same(order: tuple[str, ...]) -> None:
    play = Play(
        define(plan("a", 0), plan("b", 1, undo=None, undone=()), plan("c", 2, any_of=(("a", "b"),), pivot=True))
    )
    for step in order:
        play.sees(f"{step}.done")
    for step in ("a",):
        if play.states()[step] == "COMPENSATING":
            play.undone(step)
    assert play.phase == "COMPLETED"


def test_a_member_of_two_groups_is_waited_for_as_long_as_one_of_them_needs_it() -> None:
    play = Play(
        define(
            plan("a", 0),
            plan("b", 1),
            plan("c", 2),
            plan("x", 3, any_of=(("a", "b"),)),
            plan("y", 4, any_of=(("b", "c"),)),
        )
    )
    play.sees("a.done")
    assert play.states() == {"a": "DONE", "b": "WAITING", "c": "WAITING", "x": "WAITING", "y": "PENDING"}
    play.sees("b.done")
    assert play.states()["c"] == "COMPENSATING"
    assert play.states()["y"] == "WAITING"


def test_a_failed_member_heals_a_group_that_nobody_has_satisfied_yet() -> None:
    play = Play(
        define(plan("a", 0, undo=None, undone=()), plan("b", 1, within=90 * SECOND), plan("c", 2, any_of=(("a", "b"),)))
    )
    play.later(31)
    assert play.states() == {"a": "UNKNOWN", "b": "WAITING", "c": "PENDING"}
    play.sees("a.done")
    assert play.states() == {"a": "DONE", "b": "COMPENSATING", "c": "WAITING"}


def test_a_commanded_member_that_is_retried_is_let_go() -> None:
    play = Play(define(plan("a", 0, send="a.do"), plan("b", 1, send="b.do"), plan("c", 2, any_of=(("a", "b"),))))
    play.sees("a.failed")
    assert play.states()["a"] == "RETRYING"
    play.sees("b.done")
    assert play.states() == {"a": "SKIPPED", "b": "DONE", "c": "WAITING"}
    assert play.instance.steps["a"].timers() == []


def test_observing_undoes_nothing_of_what_any_of_gave_up() -> None:
    play = Play(define(*GROUP.steps, observe_only=True))
    play.sees("card.done")
    assert play.states() == {"card": "DONE", "transfer": "SKIPPED", "ship": "WAITING"}
    play.sees("transfer.done")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"
    assert play.sent == []


# ---- when ------------------------------------------------------------------------------------------------------------

CONDITION = define(
    plan("reserve", 0),
    plan("inspect", 1, "reserve", when=True),
    plan("certify", 2, "inspect"),
    plan("ship", 3, "reserve", "certify"),
)
"""Inspection, and what only it feeds, may be skipped."""


def asks(play: Play) -> list[tuple[str, str]]:
    return [(each.kind, each.step) for each in play.last.outputs if isinstance(each, Ask)]


def test_a_condition_is_asked_when_its_turn_comes_and_true_lets_the_step_run() -> None:
    play = Play(CONDITION)
    assert asks(play) == []
    play.sees("reserve.done")
    assert asks(play) == [("when", "inspect")]
    assert play.states()["inspect"] == "PENDING"
    play.decided("inspect", True)
    assert play.states()["inspect"] == "WAITING"
    assert play.step("inspect").limit_at == play.now + 30 * SECOND
    for step in ("inspect", "certify", "ship"):
        play.sees(f"{step}.done")
    assert play.phase == "COMPLETED"


def test_false_skips_the_step_and_what_only_it_feeds() -> None:
    play = Play(CONDITION)
    play.sees("reserve.done")
    play.decided("inspect", False)
    assert play.states() == {"reserve": "DONE", "inspect": "SKIPPED", "certify": "SKIPPED", "ship": "WAITING"}
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_a_decision_that_nobody_asked_for_changes_nothing() -> None:
    play = Play(CONDITION)
    transition = play.decided("inspect", False)
    assert (transition.verdict, transition.reason) == ("ignored", "Unasked")
    assert play.states()["inspect"] == "PENDING"


def test_a_condition_that_raises_fails_its_step_certainly() -> None:
    play = Play(CONDITION)
    play.sees("reserve.done")
    play.unbuildable("inspect", "when")
    assert play.phase == "COMPENSATING"
    assert play.states()["inspect"] == "FAILED"
    assert play.commands() == ["reserve.undo#1"]


def test_s11_a_skipped_step_that_happens_all_the_same_is_undone_once() -> None:
    play = Play(CONDITION)
    play.sees("reserve.done")
    play.decided("inspect", False)
    play.sees("inspect.done")
    assert play.commands() == ["inspect.undo#1"]
    assert play.states()["ship"] == "WAITING"
    play.sees("ship.done")
    assert play.phase == "RUNNING"
    play.undone("inspect")
    assert play.phase == "COMPLETED"
    assert play.commands() == ["inspect.undo#1"]


@pytest.mark.parametrize("early", ["inspect", "certify"])
def test_row_6_a_success_before_its_turn_does_not_answer_the_condition(early: str) -> None:
    play = Play(CONDITION)
    play.sees(f"{early}.done")
    assert play.states()[early] == "DONE"
    assert play.states()["ship"] == "PENDING"
    play.sees("reserve.done")
    play.decided("inspect", False)
    assert play.states()[early] == "COMPENSATING", "it happened, and nothing wanted it"
    play.undone(early)
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_row_6_a_success_before_its_turn_counts_when_that_comes() -> None:
    play = Play(CONDITION)
    play.sees("inspect.done")
    play.sees("reserve.done")
    play.decided("inspect", True)
    assert play.states() == {"reserve": "DONE", "inspect": "DONE", "certify": "WAITING", "ship": "PENDING"}


def test_row_6_a_failure_before_its_turn_counts_when_that_comes() -> None:
    skipped, wanted = Play(CONDITION), Play(CONDITION)
    for play in (skipped, wanted):
        play.sees("inspect.failed")
        assert play.phase == "RUNNING"
        play.sees("reserve.done")
    skipped.decided("inspect", False)
    assert skipped.states()["ship"] == "WAITING"
    wanted.decided("inspect", True)
    assert wanted.phase == "COMPENSATING"


def test_a_pivot_that_is_skipped_lies_behind_all_the_same() -> None:
    play = Play(
        define(plan("a", 0), plan("p", 1, "a", pivot=True, when=True), plan("b", 2, "a", "p", undo=None, undone=()))
    )
    play.sees("a.done")
    play.decided("p", False)
    assert play.states() == {"a": "DONE", "p": "SKIPPED", "b": "WAITING"}
    assert "pivot p is SKIPPED" in play.person("cancel").reason


# ---- steps that have only an undo ------------------------------------------------------------------------------------


def test_a_step_that_has_only_an_undo_is_done_the_moment_its_turn_comes() -> None:
    play = Play(define(plan("reserve", 0), only_undo("hold", 1, "reserve"), plan("ship", 2, "hold")))
    play.sees("reserve.done")
    assert play.states() == {"reserve": "DONE", "hold": "DONE", "ship": "WAITING"}
    assert play.step("hold").timers() == []
    play.sees("ship.failed")
    assert play.commands() == ["hold.undo#1"]
    play.undone("hold")
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


def test_a_saga_of_nothing_but_undos_completes_at_once() -> None:
    play = Play(define(only_undo("hold", 0)))
    assert play.phase == "COMPLETED"


# ---- finally-steps ---------------------------------------------------------------------------------------------------

FINALLY = define(
    plan("reserve", 0),
    plan("ship", 1, "reserve"),
    plan("report", 2, send="report.do", undo=None, undone=(), final=True),
)


def test_a_finally_step_runs_before_the_saga_completes() -> None:
    play = Play(FINALLY)
    play.sees("reserve.done")
    assert play.states()["report"] == "PENDING"
    play.sees("ship.done")
    assert (play.phase, play.states()["report"]) == ("RUNNING", "WAITING")
    assert play.commands() == ["report.do#1"]
    assert play.announced() == []
    play.sees("report.done")
    assert play.phase == "COMPLETED"
    assert play.announced() == ["ended"]


def test_a_finally_step_runs_after_the_last_undo_is_answered() -> None:
    play = Play(FINALLY)
    play.sees("reserve.done")
    play.sees("ship.failed")
    assert play.commands() == ["reserve.undo#1"]
    play.undone("reserve")
    assert (play.phase, play.commands()[-1]) == ("COMPENSATING", "report.do#1")
    play.sees("report.done")
    assert play.phase == "COMPENSATED"
    assert play.announced() == ["reversed"]


def test_a_finally_step_runs_when_a_saga_is_cancelled_and_when_an_undo_fails() -> None:
    for failing in (False, True):
        play = Play(FINALLY)
        play.person("cancel")
        if failing:
            play.later(601)
        else:
            play.undone("reserve")
        assert play.commands()[-1] == "report.do#1"
        play.sees("report.done")
        assert play.phase == ("FAILED" if failing else "CANCELLED")


def test_a_finally_step_that_fails_changes_nothing_and_is_remarked() -> None:
    play = Play(define(*FINALLY.steps[:2], plan("report", 2, undo=None, undone=(), final=True)))
    play.sees("reserve.done")
    play.sees("ship.done")
    play.sees("report.failed")
    assert play.phase == "COMPLETED"
    assert play.states()["report"] == "DEGRADED"
    assert play.instance.conditions["Unexpected"].reason == "FinallyFailed"


def test_a_commanded_finally_step_is_retried_while_the_saga_compensates() -> None:
    play = Play(FINALLY)
    play.sees("reserve.failed")
    play.sees("report.failed")
    assert play.states()["report"] == "RETRYING"
    play.later(6)
    assert play.commands() == ["report.do#1", "report.do#2"]
    play.later(31)
    assert (play.phase, play.states()["report"]) == ("COMPENSATED", "DEGRADED")


def test_row_22_a_cancel_during_a_finally_step_is_refused() -> None:
    play = Play(FINALLY)
    play.sees("reserve.done")
    play.sees("ship.done")
    transition = play.person("cancel")
    assert transition.verdict == "ignored"
    assert "every step is settled" in transition.reason


def test_the_deadline_during_a_finally_step_only_shows() -> None:
    play = Play(define(*FINALLY.steps, deadline=20 * SECOND))
    play.sees("reserve.done")
    play.sees("ship.done")
    play.later(21)
    assert play.phase == "RUNNING"
    assert play.instance.conditions["Late"].reason == "Deadline"


def test_ruling_11_a_finally_step_does_not_run_again_after_a_reopening() -> None:
    play = Play(FINALLY)
    play.sees("reserve.failed")
    play.sees("report.done")
    assert play.phase == "COMPENSATED"
    play.sees("ship.done")
    assert play.phase == "COMPENSATING"
    play.undone("ship")
    assert play.phase == "COMPENSATED"
    assert play.commands() == ["report.do#1", "ship.undo#1"]


def test_s11_a_late_success_during_a_finally_step_is_undone_before_the_end() -> None:
    play = Play(FINALLY)
    play.sees("reserve.failed")
    play.sees("ship.done")
    play.sees("report.done")
    assert play.phase == "COMPENSATING"
    play.undone("ship")
    assert play.phase == "COMPENSATED"


def test_finally_steps_may_follow_one_another_and_have_conditions() -> None:
    play = Play(
        define(
            plan("a", 0),
            plan("x", 1, undo=None, undone=(), final=True, when=True),
            plan("y", 2, "x", undo=None, undone=(), final=True),
            plan("z", 3, undo=None, undone=(), final=True),
        )
    )
    play.sees("a.done")
    assert asks(play) == [("when", "x")]
    assert play.states() == {"a": "DONE", "x": "PENDING", "y": "PENDING", "z": "WAITING"}
    play.decided("x", False)
    assert play.states() == {"a": "DONE", "x": "SKIPPED", "y": "SKIPPED", "z": "WAITING"}
    play.sees("z.done")
    assert play.phase == "COMPLETED"


def test_a_late_answer_of_a_finally_step_changes_nothing() -> None:
    play = Play(FINALLY)
    play.sees("reserve.failed")
    play.later(31)
    assert play.phase == "COMPENSATED"
    assert play.sees("report.done").reason == "Late"
    assert (play.phase, play.instance.epoch) == ("COMPENSATED", 0)


def test_observing_waits_for_finally_steps_too() -> None:
    definition: Definition = define(*FINALLY.steps, observe_only=True)
    play = Play(definition)
    play.sees("reserve.done")
    play.sees("ship.done")
    assert play.phase == "RUNNING"
    play.sees("report.done")
    assert play.phase == "COMPLETED"
    assert play.sent == []


def test_a_skipped_step_whose_handler_gave_up_all_the_same_is_undone_alone() -> None:
    play = Play(CONDITION)
    play.sees("reserve.done")
    play.decided("inspect", False)
    play.gave_up("reserve.done", ("inspect.done",), event_id="e1")
    assert play.commands() == ["inspect.undo#1"], "it may have had its effect before it raised"
    play.undone("inspect")
    play.sees("ship.done")
    assert play.phase == "COMPLETED"


def test_a_step_whose_condition_raised_is_undone_when_its_handler_gave_up_all_the_same() -> None:
    play = Play(define(plan("a", 0), plan("b", 1, when=True), plan("c", 2, any_of=(("a", "b"),))))
    play.unbuildable("b", "when")
    assert play.states() == {"a": "WAITING", "b": "FAILED", "c": "PENDING"}
    play.gave_up("placed", ("b.done",))
    assert play.states()["b"] == "COMPENSATING"
