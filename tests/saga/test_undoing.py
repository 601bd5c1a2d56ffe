"""How a saga goes back: what becomes of each step that it gives up, and when each undo goes out, again, or in vain."""

from __future__ import annotations

import dataclasses

from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Decided, Send
from choreo.saga.words import Condition
from tests.saga.play import LINE, RETRY, Play, define, plan
from tests.saga.test_holding import NO_UNDO


def undoing(**options: object) -> Play:
    """A saga that undoes its only step that was done, at a time that is no round number."""
    play = Play(define(plan("a", 0, **options), plan("b", 1, "a")))
    play.sees("a.done")
    play.now += 3 * SECOND
    play.sees("b.failed")
    return play


# ---- what is given up -----------------------------------------------------------------------------------------------


def test_what_has_not_begun_has_an_end_only_if_a_service_may_have_begun_it_unasked() -> None:
    watched, then = plan("watched", 1, "a"), plan("then", 2, "watched")
    asked, last = plan("asked", 3, "a", send="asked.do"), plan("last", 4, "asked")
    play = Play(define(plan("a", 0), watched, then, asked, last, plan("z", 5)))
    play.sees("z.failed")
    outcomes = {name: play.step(name).outcome for name in ("watched", "then", "asked", "last")}
    assert outcomes == {"watched": "SKIPPED", "then": "SKIPPED", "asked": None, "last": None}
    play = Play(define(plan("a", 0), plan("b", 1, "a", when="when"), plan("z", 2)))
    play.sees("a.done")
    play.sees("z.failed")
    assert (play.states()["b"], play.step("b").outcome) == ("SKIPPED", "SKIPPED"), "it was asked whether it runs"


def test_what_an_early_success_may_rest_on_is_not_undone_before_its_group_is_decided() -> None:
    play = Play(define(plan("a", 0), plan("b", 1, within=90 * SECOND), plan("c", 2, any_of=(("a", "b"),))))
    play.sees("c.done")
    play.later(31)
    assert play.states() == {"a": "UNKNOWN", "b": "WAITING", "c": "DONE"}
    assert play.commands() == []
    play.sees("b.done")
    assert play.commands() == ["a.undo#1"]
    assert not play.step("c").early
    other = Play(define(*play.definition.steps, plan("d", 3, "c")))
    other.later(31)
    assert other.commands() == ["a.undo#1"], "nothing rests on it"


def test_an_alternative_may_have_begun_unasked_only_once_what_it_replaces_has_failed() -> None:
    for failed, outcome in ((True, "SKIPPED"), (False, None)):
        play = Play(define(plan("air", 0, "x"), plan("x", 1), plan("sea", 2, instead_of="air"), plan("z", 3)))
        if failed:
            play.sees("air.failed")  # before its turn: it does not count yet
        else:
            play.sees("air.done")
        play.sees("z.failed")
        assert (play.states()["sea"], play.step("sea").outcome) == ("SKIPPED", outcome)


def test_a_step_per_element_is_given_up_as_the_worst_of_its_elements() -> None:
    for answers, group in (((), "UNKNOWN"), (("x.failed",), "FAILED"), (("x.done", "y.done"), "DONE")):
        each = plan("pack", 0, each="lines", by="sku", send="pack.do", retry=RETRY)
        play = Play(define(each, plan("z", 1)))
        play._took(advance(play.definition, play.instance, Decided("pack", "each", ("x", "y")), play.now))
        for answer in answers:
            element, _, word = answer.partition(".")
            for _ in range(3 if word == "failed" else 1):
                play.sees(f"pack.{word}", element=element)
                play.now += 20 * SECOND
                play.later(0)
        if play.phase == "RUNNING":
            play.sees("z.failed")
        assert play.phase == "COMPENSATING"
        assert (play.states()["pack"], play.step("pack").outcome) == (group, group)


def test_what_was_to_be_tried_again_is_not() -> None:
    for dead, state in ((False, "FAILED"), (True, "COMPENSATING")):
        play = Play(define(plan("a", 0, send="a.do"), plan("z", 1)))
        if dead:
            play.gave_up("a.do", ("a.done",), event_id=play.do_id("a"))
        else:
            play.sees("a.failed")
        assert play.states()["a"] == "RETRYING"
        play.sees("z.failed")
        assert play.states()["a"] == state
        assert ("a", "UNKNOWN" if dead else "FAILED", "not tried again") in play.told()
        assert play.step("a").send_at is None


def test_what_was_in_flight_may_have_happened() -> None:
    play = Play(define(plan("a", 0, **NO_UNDO), plan("z", 1)))
    play.sees("z.failed")
    assert ("a", "UNKNOWN", "given up while in flight") in play.told()
    step = play.step("a")
    assert (step.certain, step.outcome, step.ended_at, step.limit_at) == (False, "UNKNOWN", play.now, None)


def test_a_saga_that_only_goes_forward_says_why() -> None:
    behind = Play(define(plan("pay", 0, pivot=True), plan("ship", 1, "pay", **NO_UNDO), deadline=9 * SECOND))
    behind.sees("pay.done")
    behind.later(9)
    assert behind.told() == [(None, "RUNNING", "its deadline passed; after the pivot it only goes forward")]
    settled = Play(define(plan("a", 0), plan("end", 1, final=True, **NO_UNDO), deadline=9 * SECOND))
    settled.sees("a.done")
    settled.later(9)
    assert settled.told() == [(None, "RUNNING", "its deadline passed; every step is settled, it only goes forward")]
    assert settled.instance.conditions[Condition.LATE].reason == "Deadline"


# ---- when an undo goes out ------------------------------------------------------------------------------------------


def test_an_undo_is_sent_again_on_silence_after_longer_and_longer_pauses_and_not_for_ever() -> None:
    play = undoing()
    step = play.step("a")
    assert (step.undo_sends, step.undo_empty) == (1, False)
    assert (step.undo_ready_at, step.undo_send_at, step.undo_limit_at) == (
        play.now,
        play.now + 5 * SECOND,
        play.now + 600 * SECOND,
    )
    play.later(5)
    assert play.step("a").undo_send_at == play.now + 10 * SECOND
    play.later(10)
    assert play.step("a").undo_send_at is None
    assert play.commands() == ["a.undo#1", "a.undo#1*", "a.undo#1*"]
    once = undoing(undo_resend=dataclasses.replace(RETRY, attempts=1))
    assert once.step("a").undo_send_at is None
    twice = undoing(undo_resend=dataclasses.replace(RETRY, attempts=2))
    twice.later(5)
    assert (twice.commands(), twice.step("a").undo_send_at) == (["a.undo#1", "a.undo#1*"], None)


def test_an_undo_that_failed_is_tried_again_after_a_pause_and_then_a_person_is_asked() -> None:
    play = undoing()
    for number, pause in ((1, 5), (2, 10)):
        play.now += SECOND
        play.gave_up("a.undo", (), event_id=play.undo_id("a", number))
        assert play.told() == [("a", "COMPENSATING", "its undo failed: Boom; it is sent again")]
        assert play.step("a").undo_send_at == play.now + pause * SECOND
        play.later(pause)
        assert play.told() == [("a", "COMPENSATING", f"attempt {number + 1} of its undo")]
        assert play.commands()[-1] == f"a.undo#{number + 1}"
    play.gave_up("a.undo", (), event_id=play.undo_id("a", 3))
    step = play.step("a")
    assert (step.state, step.undo_outcome, step.undo_ended_at, step.error) == (
        "UNDO_FAILED",
        "UNDO_FAILED",
        play.now,
        "Boom",
    )
    remark = play.instance.conditions[Condition.WAITING_FOR_PERSON]
    assert (remark.reason, remark.message) == ("UndoFailed", "the undo of step a failed for good: Boom")
    assert step.timers() == []


def test_an_undo_of_which_nobody_has_heard_fails_at_its_limit() -> None:
    play = undoing()
    play.later(600)
    assert ("a", "UNDO_FAILED", "no answer to a.undo within 10m 00s") in play.told()
    assert (play.phase, play.step("a").error) == ("FAILED", "Timeout")


def named(play: Play, step: str) -> list[tuple[str, str]]:
    """What the undo of a step that went out last says may have triggered it."""
    undo = next(
        each for each in reversed(play.sent) if isinstance(each, Send) and (each.kind, each.step) == ("undo", step)
    )
    return [tuple(fact) for fact in undo.undoes]


def test_an_undo_names_every_fact_and_every_attempt_that_may_have_triggered_its_step() -> None:
    for attempts in (1, 2):
        play = Play(define(plan("a", 0), plan("b", 1, "a", send="b.do"), plan("c", 2)))
        play.sees("a.done", id="a-done")
        for _ in range(attempts - 1):
            play.sees("b.failed", attempt=1)
            play.later(6)
        play.sees("b.done", id="b-done", causation_id="cause")
        play.sees("c.failed", id="c-failed")
        commands = [("", play.do_id("b", number + 1)) for number in range(attempts)]
        facts = [("placed", "e-start"), ("a.done", "a-done"), ("c.failed", "c-failed")]
        assert named(play, "b") == [*facts, *commands, ("", "cause")]


def test_an_undo_of_one_element_names_nothing_that_was_done_for_another() -> None:
    play = Play(define(plan("pack", 0, each="lines", by="sku"), plan("a", 1), plan("z", 2)))
    play._took(advance(play.definition, play.instance, Decided("pack", "each", ("x", "y")), play.now))
    for name in ("x", "y"):
        play.sees("pack.done", element=name, id=f"{name}-done")
    play.sees("a.done", id="a-done")
    play.sees("z.failed", id="z-failed")
    assert named(play, "pack[x]") == [("placed", "e-start"), ("a.done", "a-done"), ("z.failed", "z-failed")]


def test_an_undo_of_an_alternative_names_the_failure_that_it_followed() -> None:
    play = Play(define(plan("air", 0), plan("sea", 1, instead_of="air"), plan("z", 2)))
    play.gave_up("placed", ("air.done",), event_id="e-start")
    play.undone("air")
    assert play.states()["sea"] == "WAITING"
    followed = play.step("sea").trigger
    assert followed is not None
    play.sees("z.failed", id="z-failed")
    assert named(play, "sea") == [("placed", "e-start"), ("z.failed", "z-failed"), ("", followed)]


def test_what_is_opened_again_is_undone_in_a_trace_of_its_own() -> None:
    play = Play(LINE)
    play.sees("reserve.failed")
    assert play.phase == "COMPENSATED"
    ended = play.now
    play.now += SECOND
    play.sees("charge.done")
    assert (None, "COMPENSATING", "opened again") in play.told()
    instance = play.instance
    assert (instance.epoch, instance.opened_at, instance.ended_at) == (1, ended + SECOND, None)
    play.undone("charge")
    assert (play.phase, play.instance.ended_at, play.announced()) == ("COMPENSATED", play.now, ["reversed"])
