"""A person answers for a saga: approves, rejects, dismisses what is in doubt, and settles undos that have failed."""

from __future__ import annotations

from choreo.events.clock import SECOND
from choreo.saga.policy import policy
from choreo.saga.words import Condition
from tests.saga.play import LINE, RETRY, Play, define, plan
from tests.saga.test_holding import NO_UNDO

ONE = define(
    plan("reserve", 0),
    plan("agree", 1, "reserve", done=("yes",), failed=("no",), approval="sales", **NO_UNDO),
    plan("ship", 2, "agree"),
)
TWO = define(
    plan("legal", 0, done=("legal.yes",), failed=(), approval="lawyers", **NO_UNDO),
    plan("credit", 1, done=("credit.yes",), failed=(), approval="bank", **NO_UNDO),
    plan("ship", 2, "legal", "credit", send="ship.do"),
)
ALONE = (plan("a", 0), plan("b", 1), plan("c", 2))


def asking() -> Play:
    """A saga that waits for the approval of sales."""
    play = Play(ONE)
    play.sees("reserve.done")
    return play


def undoing() -> Play:
    """A saga of three undos, of which that of `a` and that of `b` have failed."""
    play = Play(define(*ALONE, plan("d", 3)))
    for name in "abc":
        play.sees(f"{name}.done")
    play.sees("d.failed")
    for name in "ab":
        play.unbuildable(name, "undo")
    assert list(play.states().values()) == ["UNDO_FAILED", "UNDO_FAILED", "COMPENSATING", "FAILED"]
    return play


def waits(play: Play) -> tuple[str, str | None, str, int] | None:
    """For what a person is waited for: why, at which step, the sentence, and since when."""
    remark = play.instance.conditions.get(Condition.WAITING_FOR_PERSON)
    return None if remark is None else (remark.reason, remark.step, remark.message, remark.since)


# ---- approve and reject ----------------------------------------------------------------------------------------------


def test_an_approved_step_is_done_by_whom_and_the_next_one_follows_the_approval() -> None:
    play = asking()
    assert waits(play) == ("Approval", "agree", "step agree waits for the approval of sales", play.now)
    play.person("approve")
    assert play.told()[0] == ("agree", "DONE", "approved by ann: because")
    step = play.step("agree")
    assert (step.by, step.limit_at, step.outcome, step.ended_at, step.certain) == ("ann", None, "DONE", play.now, True)
    assert (play.step("ship").trigger, waits(play)) == (f"c{play.counter}", None)


def test_a_rejected_step_has_failed_for_certain() -> None:
    play = asking()
    play.person("reject", "agree")
    assert play.told()[0] == ("agree", "FAILED", "rejected by ann: because")
    step = play.step("agree")
    assert (step.by, step.error, step.certain) == ("ann", "Rejected", True)
    cause = play.instance.cause
    assert cause is not None
    assert (cause["step"], cause["error"], cause["event"]) == ("agree", "Rejected", f"c{play.counter}")
    assert play.commands() == ["reserve.undo#1"]


def test_who_says_neither_who_nor_why_is_a_person() -> None:
    play = asking()
    play.person("approve", by="", why="")
    assert play.told()[0] == ("agree", "DONE", "approved by a person")
    play = asking()
    play.person("reject", by="", why="")
    assert play.told()[0] == ("agree", "FAILED", "rejected by a person")


def test_an_approval_that_nobody_asked_for_is_refused() -> None:
    play = asking()
    assert play.person("approve", "ship").reason == "nothing to do: step ship waits for no approval"
    assert play.person("reject", "aaa").reason == "nothing to do: step aaa waits for no approval"
    play.person("approve")
    assert play.person("approve").reason == "nothing to do: this saga waits for no approval"


def test_of_two_approvals_one_is_named_and_the_saga_waits_for_the_other_since_it_is_asked() -> None:
    play = Play(TWO)
    began = play.now
    assert play.person("approve").reason == "several steps wait for an approval, name one: legal, credit"
    play.now += SECOND
    assert waits(play) == ("Approval", "legal", "step legal waits for the approval of lawyers", began)
    play.person("approve", "credit")
    assert play.states() == {"legal": "WAITING", "credit": "DONE", "ship": "PENDING"}
    assert waits(play) == ("Approval", "legal", "step legal waits for the approval of lawyers", began), "as before"
    play.person("approve", "legal")
    assert play.states()["ship"] == "WAITING"


def test_a_saga_that_waits_for_another_approval_waits_for_it_since_then() -> None:
    for first, other in (("legal", "credit"), ("credit", "legal")):
        play = Play(define(*(plan(name, at, **_approval(name)) for at, name in enumerate((first, other)))))
        play.now += SECOND
        play.person("approve", first)
        assert waits(play) == ("Approval", other, f"step {other} waits for the approval of {other}", play.now)


def test_a_saga_that_is_undone_asks_nobody_any_more() -> None:
    play = Play(
        define(plan("a", 0), *(plan(each.name, each.index + 1, **_approval(each.approval)) for each in TWO.steps[:2]))
    )
    play.person("approve", "credit")
    play.sees("a.failed")
    assert play.states() == {"a": "FAILED", "legal": "SKIPPED", "credit": "DONE"}
    assert ("legal", "SKIPPED", "nobody is asked any more") in play.told()
    step = play.step("legal")
    assert (step.outcome, step.ended_at, step.limit_at) == ("SKIPPED", play.now, None)
    assert waits(play) is None


def _approval(who: str | None) -> dict[str, object]:
    return {"done": (f"{who}.yes",), "failed": (), "approval": who, **NO_UNDO}


# ---- dismiss --------------------------------------------------------------------------------------------------------


def doubtful() -> Play:
    """A saga that has completed and asks about two events that came late."""
    late = {name: policy(late="ask") for name in ("reserve.failed", "ship.failed")}
    play = Play(define(*LINE.steps, policies=late))
    for name in ("reserve", "charge", "ship"):
        play.sees(f"{name}.done")
    play.sees("reserve.failed")
    play.now += SECOND
    play.sees("ship.failed")
    return play


def test_the_first_of_several_events_in_doubt_is_shown_since_it_came() -> None:
    play = doubtful()
    message = "reserve.failed came when no step expected it: what shall be done?"
    assert waits(play) == ("Late", None, message, play.now - SECOND)


def test_what_is_dismissed_is_in_the_history_event_by_event() -> None:
    play = doubtful()
    play.person("dismiss")
    assert play.told() == [
        (None, "COMPLETED", "reserve.failed dismissed by ann: because"),
        (None, "COMPLETED", "ship.failed dismissed by ann: because"),
    ]
    assert (waits(play), play.instance.doubts) == (None, [])
    assert play.person("dismiss").reason == "nothing to do: this saga asks about no event"
    play = doubtful()
    play.person("dismiss", by="")
    assert play.told()[0] == (None, "COMPLETED", "reserve.failed dismissed by a person: because")


# ---- undos that have failed -----------------------------------------------------------------------------------------


def test_a_failed_undo_is_sent_again_as_a_new_attempt_with_all_its_tries() -> None:
    play = undoing()
    play.step("a").undo_failures = [*play.step("a").undo_failures]
    play.person("retry-undo", "a")
    assert play.told() == [("a", "COMPENSATING", "retried by ann")]
    assert [play.states()[name] for name in "abc"] == ["COMPENSATING", "UNDO_FAILED", "COMPENSATING"]
    assert play.commands()[-1] == "a.undo#2"
    for number in range(RETRY.attempts - 1):
        play.gave_up("a.undo", (), event_id=play.undo_id("a", 2 + number))
        play.later(30)
        assert play.states()["a"] == "COMPENSATING", "it has as many tries as at first"


def test_without_a_name_every_failed_undo_is_meant_and_none_that_is_under_way() -> None:
    play = undoing()
    before = play.commands()
    play.person("retry-undo", by="")
    assert play.told() == [("a", "COMPENSATING", "retried by a person"), ("b", "COMPENSATING", "retried by a person")]
    assert play.commands() == [*before, "a.undo#2", "b.undo#2"]
    play = undoing()
    play.person("mark-undone")
    assert [play.states()[name] for name in "abc"] == ["COMPENSATED", "COMPENSATED", "COMPENSATING"]
    assert play.told()[0] == ("a", "COMPENSATED", "marked as undone by ann: because")


def test_an_undo_that_is_under_way_is_marked_as_undone_by_name_but_not_sent_once_more() -> None:
    play = undoing()
    assert play.person("retry-undo", "c").reason == "nothing to do: no undo of step c has failed"
    play.person("mark-undone", "c", by="")
    assert play.told()[0] == ("c", "COMPENSATED", "marked as undone by a person: because")
    assert play.person("mark-undone", "c").reason == "nothing to do: no undo of step c has failed"
    assert play.person("retry-undo", "d").reason == "nothing to do: no undo of step d has failed"
    play.person("mark-undone")
    assert play.phase == "COMPENSATED"
    assert play.person("mark-undone").reason == "nothing to do: no undo of this saga has failed"


def test_a_saga_that_has_ended_with_a_failed_undo_is_opened_again_to_retry_it() -> None:
    play = undoing()
    play.undone("c")
    assert (play.phase, play.instance.epoch) == ("FAILED", 0)
    play.person("retry-undo")
    assert (play.phase, play.instance.epoch) == ("COMPENSATING", 1)
    for name in "ab":
        play.undone(name, causation_id=play.undo_id(name, 2))
    assert play.phase == "COMPENSATED"
