"""What a cancellation would do, told before it is done."""

from __future__ import annotations

from choreo.saga.preview import Undo, cancel_plan
from tests.saga.play import LINE, PIVOT, Play, define, plan


def test_undos_go_out_in_waves_each_after_the_answers_to_the_one_before() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.done")
    told = cancel_plan(LINE, play.instance, play.now)
    assert told.waves == (
        (Undo("ship", "ship.undo", certain=False),),  # its turn has come: whether it happened is not known
        (Undo("charge", "charge.undo", certain=True),),
        (Undo("reserve", "reserve.undo", certain=True),),
    )
    assert told.refused is None


def test_independent_branches_are_undone_side_by_side() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2, "a", "b")))
    play.sees("a.done")
    told = cancel_plan(play.definition, play.instance, play.now)
    assert {undo.step for undo in told.waves[0]} == {"a", "b"}


def test_a_step_that_happened_and_has_no_undo_is_named() -> None:
    play = Play(define(plan("look", 0, undo=None, undone=()), plan("pay", 1, "look")))
    play.sees("look.done")
    play.sees("pay.done")
    told = cancel_plan(play.definition, play.instance, play.now)
    assert told.refused is not None  # it is COMPLETED already
    play = Play(define(plan("look", 0, undo=None, undone=()), plan("pay", 1, "look"), plan("ship", 2, "pay")))
    play.sees("look.done")
    play.sees("pay.done")
    told = cancel_plan(play.definition, play.instance, play.now)
    assert told.untouched == ("look",)


def test_after_the_pivot_the_plan_is_the_refusal() -> None:
    play = Play(PIVOT)
    for step in ("reserve", "charge", "ship"):
        play.sees(f"{step}.done")
    told = cancel_plan(PIVOT, play.instance, play.now)
    assert "from here it only goes forward" in str(told.refused)
    assert told.waves == ()


def test_looking_changes_nothing() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    before = play.instance.to_json()
    cancel_plan(LINE, play.instance, play.now)
    assert play.instance.to_json() == before
