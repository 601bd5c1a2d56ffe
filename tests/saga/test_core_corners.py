"""Corners of the pure core that no story of its own leads into: what stands when nothing is said, and who is meant."""

from __future__ import annotations

from choreo.events.clock import SECOND
from choreo.saga.advance import advance, begin_undone
from choreo.saga.definition import StepPlan
from choreo.saga.inputs import Decided, HandlerGaveUp, Locked, Observed, Tell, UndoAsked, command_id
from choreo.saga.instance import Instance, Parent, Step
from choreo.saga.names import saga_id
from choreo.saga.occurrence import LONGEST_ELEMENT, MOST_ELEMENTS, MOST_TRACED, occurrence_id, traced, wire_of
from choreo.saga.words import Condition
from tests.saga.play import Play, define, plan


def test_a_step_of_which_nothing_is_said_has_an_hour_and_nothing_special() -> None:
    step = StepPlan("a", 0, ("a.done",))
    assert step.within == 3_600 * SECOND
    assert (step.pivot, step.optional, step.when, step.final, step.only_undo) == (False,) * 5
    assert (step.retry.attempts, step.resend.attempts) == (5, 5)


def test_a_new_saga_has_begun_nothing() -> None:
    instance = Instance("order", "4711", 1, 1, "hash")
    assert (instance.seq, instance.epoch, instance.opened_at, instance.started_at, instance.started_time) == (0,) * 5
    assert (instance.sampled, instance.cancelling, instance.kept) == (True, False, False)
    step = Step()
    assert (step.attempt, step.sends, step.undo_attempt, step.undo_sends, step.undo_ready_at) == (0,) * 5
    assert (step.certain, step.early, step.overdue, step.undo_empty, step.timers()) == (True, False, False, False, [])


def test_each_input_counts_whatever_it_leads_to() -> None:
    play = Play()
    assert (play.instance.seq, play.instance.sampled, saga_id("order", "4711")) == (1, True, play.instance.id)
    play.sees("reserve.done")
    assert play.sees("nobody.knows.it").instance.seq == 3


def test_a_success_whose_question_cannot_be_answered_may_have_happened() -> None:
    play = Play(define(plan("a", 0, when="when"), plan("b", 1)))
    play.sees("a.done")
    assert play.step("a").early
    play.unbuildable("a", "when")
    assert (play.step("a").certain, play.step("a").early) == (False, False)
    assert play.states()["a"] == "COMPENSATING"


def test_what_is_not_said_of_an_input_is_the_usual() -> None:
    event = Observed("e", "a.done")
    assert (event.time, event.nothing_undone, event.attempt) == (0, False, None)
    report = HandlerGaveUp("r", "e", "a.done", "svc", "handler", (), True, "Boom")
    assert (report.attempts, report.message, report.retry_topic) == (1, "", "")
    assert (Locked(True).ahead, Locked(True).holder) == (0, None)


def test_of_very_many_elements_the_first_have_spans_and_what_is_no_element_always_has() -> None:
    instance = Instance("order", "4711", 1, 1, "hash")
    instance.steps = {"a": Step(), **{f"pack[{number}]": Step() for number in range(MOST_TRACED - 1)}}
    assert traced(instance, f"pack[{MOST_TRACED - 2}]")
    instance.steps = {"a": Step(), **{f"pack[{number}]": Step() for number in range(MOST_TRACED + 2)}}
    assert traced(instance, "a")
    assert traced(instance, "pack[0]")
    assert traced(instance, f"pack[{MOST_TRACED - 1}]")
    assert not traced(instance, f"pack[{MOST_TRACED}]")


def test_of_two_undos_with_one_answer_the_one_is_meant_whose_command_caused_it() -> None:
    both = define(plan("a", 0, undone=("back",)), plan("b", 1, undone=("back",)), plan("c", 2, "a", "b"))
    play = Play(both)
    play.sees("a.done")
    play.sees("b.done")
    play.sees("c.failed")
    play.sees("back", causation_id=command_id(play.instance.id, "b", "", "undo", 1))
    assert play.states() == {"a": "COMPENSATING", "b": "COMPENSATED", "c": "FAILED"}
    play.sees("back", causation_id=command_id(play.instance.id, "a", "", "undo", 1))
    assert play.phase == "COMPENSATED"


def test_of_two_undos_with_one_answer_a_second_attempt_is_told_from_the_other_step() -> None:
    both = define(plan("a", 0, undone=("back",)), plan("b", 1, undone=("back",)), plan("c", 2, "a", "b"))
    play = Play(both)
    play.sees("a.done")
    play.sees("b.done")
    play.sees("c.failed")
    play.gave_up("b.undo", ("back",), event_id=command_id(play.instance.id, "b", "", "undo", 1))
    play.later(600)
    attempts = {name: step.undo_attempt for name, step in play.instance.steps.items()}
    assert attempts["b"] == 2
    play.sees("back", causation_id=command_id(play.instance.id, "b", "", "undo", 2))
    assert play.states()["b"] == "COMPENSATED"


def test_elements_stand_behind_their_step_and_before_what_was_declared_after_it() -> None:
    play = Play(define(plan("zeta", 0), plan("pack", 1, "zeta", each="lines", by="sku"), plan("ship", 2, "pack")))
    play.sees("zeta.done")
    play._took(advance(play.definition, play.instance, Decided("pack", "each", ("b", "a")), play.now))
    assert list(play.instance.steps) == ["zeta", "pack", "pack[b]", "pack[a]", "ship"]
    assert Condition.UNEXPECTED not in play.instance.conditions


def test_when_one_of_three_failed_undos_is_settled_the_next_one_is_shown() -> None:
    play = Play(define(*(plan(name, index) for index, name in enumerate("abcd"))))
    for name in "abc":
        play.sees(f"{name}.done")
    play.sees("d.failed")
    play.later(601)
    assert play.states() == {"a": "UNDO_FAILED", "b": "UNDO_FAILED", "c": "UNDO_FAILED", "d": "FAILED"}
    shown = play.instance.conditions[Condition.WAITING_FOR_PERSON].step
    assert shown is not None
    play.person("mark-undone", shown)
    left = [name for name in "abc" if name != shown]
    remark = play.instance.conditions[Condition.WAITING_FOR_PERSON]
    assert (remark.step, remark.reason, remark.message) == (left[0], "UndoFailed", f"step {left[0]}: Timeout")


def test_a_handler_that_gave_up_for_now_is_forgotten_with_its_own_step_only() -> None:
    for first, other in (("a", "b"), ("b", "a")):
        play = Play(define(plan("a", 0), plan("b", 1)))
        play.gave_up("placed", (f"{first}.done",), dead=False)
        assert play.instance.conditions[Condition.KEY_PARKED].step == first
        play.sees(f"{other}.done")
        assert Condition.KEY_PARKED in play.instance.conditions
        play.sees(f"{first}.done")
        assert Condition.KEY_PARKED not in play.instance.conditions


def test_a_child_that_is_undone_before_it_began_has_skipped_every_step() -> None:
    asked = UndoAsked("u1", Parent("ordering/1", "pack", "", 1), None)
    begun = begin_undone(define(plan("a", 0), plan("b", 1)), "4711", 1, asked, 7)
    assert {name: (step.state.value, step.since) for name, step in begun.instance.steps.items()} == {
        "a": ("SKIPPED", 7),
        "b": ("SKIPPED", 7),
    }
    assert begun.instance.cancelling
    assert (begun.instance.phase.value, begun.instance.seq, begun.instance.ended_at) == ("CANCELLED", 1, 7)
    assert begun.outputs == [Tell("SagaUndone", asked.parent, "u1", empty=True)]


def test_what_cannot_be_built_though_nobody_asked_for_it_shows_nowhere() -> None:
    play = Play()
    told = play.unbuildable("reserve", "when")
    assert (told.verdict, told.instance.conditions) == ("ignored", {})


def test_an_alternative_follows_what_its_step_followed_when_that_was_silent() -> None:
    play = Play(define(plan("air", 0, undo=None, undone=()), plan("sea", 1, instead_of="air"), plan("bill", 2, "air")))
    play.later(31)
    assert play.instance.steps["air"].trigger == "e-start"
    assert play.instance.steps["sea"].trigger == "e-start"


def test_what_follows_a_step_that_is_only_undone_follows_what_that_one_follows() -> None:
    definition = define(
        plan("a", 0), plan("mark", 1, "a", done=(), failed=()), plan("b", 2, "mark"), plan("c", 3, "b", optional=True)
    )
    assert definition.triggers == {
        "a": ("placed",),
        "mark": ("a.done",),
        "b": ("a.done",),
        "c": ("b.done",),
    }


def test_the_id_of_an_element_on_the_wire_stays_what_it_is() -> None:
    assert occurrence_id("sku-1") == "ee5b38282387a5c7"
    assert wire_of("pack[a%2Fb]") == ("pack", occurrence_id("a/b"))
    assert wire_of("pack") == ("pack", "")
    assert (MOST_ELEMENTS, LONGEST_ELEMENT, MOST_TRACED) == (1_000, 200, 100)


def test_each_of_several_steps_per_element_has_its_own_elements() -> None:
    saga = define(
        *(plan(name, at, each="lines", by="sku") for at, name in enumerate(("a", "b", "c"))), plan("d", 3, "b")
    )
    play = Play(saga)
    for name in ("a", "b", "c"):
        play._took(advance(play.definition, play.instance, Decided(name, "each", (f"{name}1", f"{name}2")), play.now))
    for name in ("a", "b", "c"):
        for element in (f"{name}1", f"{name}2"):
            assert play.states()[f"{name}[{element}]"] == "WAITING"
    play.sees("b.done", element="b1")
    assert play.states()["b"] == "WAITING"
    play.sees("b.done", element="b2")
    assert {name: state for name, state in play.states().items() if len(name) == 1} == {
        "a": "WAITING",
        "b": "DONE",
        "c": "WAITING",
        "d": "WAITING",
    }
