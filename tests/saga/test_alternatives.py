"""A step that takes the place of one that has failed for good, on the pure function."""

from __future__ import annotations

import pytest

from choreo.events.clock import SECOND
from choreo.saga.inputs import Send
from tests.saga.play import RETRY, Play, define, plan

AIR = define(
    plan("reserve", 0),
    plan("air", 1, "reserve"),
    plan("sea", 2, instead_of="air"),
    plan("bill", 3, "air"),
)
"""By sea, if not by air."""


def flying(definition=AIR) -> Play:  # type: ignore[no-untyped-def]
    play = Play(definition)
    play.sees("reserve.done")
    return play


def test_an_alternative_is_skipped_when_the_step_succeeds() -> None:
    play = flying()
    play.sees("air.done")
    assert play.states() == {"reserve": "DONE", "air": "DONE", "sea": "SKIPPED", "bill": "WAITING"}
    play.sees("bill.done")
    assert play.phase == "COMPLETED"


def test_an_alternative_has_its_turn_before_anything_is_undone() -> None:
    play = flying()
    play.sees("air.failed")
    assert play.phase == "RUNNING"
    assert play.states() == {"reserve": "DONE", "air": "FAILED", "sea": "WAITING", "bill": "PENDING"}
    assert play.commands() == []
    play.sees("sea.done")
    assert play.states()["bill"] == "WAITING"
    play.sees("bill.done")
    assert play.phase == "COMPLETED"
    assert play.instance.cause is None


def test_a_step_that_may_have_happened_is_undone_before_its_alternative_has_its_turn() -> None:
    play = flying()
    play.later(31)
    assert play.states() == {"reserve": "DONE", "air": "COMPENSATING", "sea": "PENDING", "bill": "PENDING"}
    play.undone("air")
    assert play.states() == {"reserve": "DONE", "air": "COMPENSATED", "sea": "WAITING", "bill": "PENDING"}
    play.sees("sea.done")
    play.sees("bill.done")
    assert play.phase == "COMPLETED"


def test_a_step_without_an_undo_gives_way_at_once() -> None:
    play = flying(define(plan("reserve", 0), plan("air", 1, "reserve", undo=None, undone=()), *AIR.steps[2:]))
    play.later(31)
    assert play.states() == {"reserve": "DONE", "air": "UNKNOWN", "sea": "WAITING", "bill": "PENDING"}
    assert "WaitingForPerson" not in play.instance.conditions


def test_the_saga_fails_when_the_last_alternative_fails() -> None:
    play = flying()
    play.sees("air.failed")
    play.sees("sea.failed")
    assert play.phase == "COMPENSATING"
    assert play.instance.cause is not None
    assert play.instance.cause["step"] == "sea"
    assert play.commands() == ["reserve.undo#1"]


CHAIN = define(
    plan("air", 0),
    plan("sea", 1, instead_of="air"),
    plan("land", 2, instead_of="sea"),
    plan("bill", 3, "air"),
)


def test_alternatives_may_follow_one_another() -> None:
    play = Play(CHAIN)
    play.sees("air.failed")
    play.later(31)
    assert play.states() == {"air": "FAILED", "sea": "COMPENSATING", "land": "PENDING", "bill": "PENDING"}
    play.undone("sea")
    assert play.states()["land"] == "WAITING"
    play.sees("land.done")
    play.sees("bill.done")
    assert play.phase == "COMPLETED"


def test_the_first_success_skips_every_alternative_after_it() -> None:
    play = Play(CHAIN)
    play.sees("air.done")
    assert play.states() == {"air": "DONE", "sea": "SKIPPED", "land": "SKIPPED", "bill": "WAITING"}


def test_an_alternative_that_does_not_apply_passes_on_to_the_next() -> None:
    play = Play(define(plan("air", 0), plan("sea", 1, instead_of="air", when=True), *CHAIN.steps[2:]))
    play.sees("air.failed")
    play.decided("sea", False)
    assert play.states() == {"air": "FAILED", "sea": "SKIPPED", "land": "WAITING", "bill": "PENDING"}


def test_the_saga_fails_when_no_alternative_applies() -> None:
    play = flying(define(*AIR.steps[:2], plan("sea", 2, instead_of="air", when=True), AIR.steps[3]))
    play.sees("air.failed")
    play.decided("sea", False)
    assert play.phase == "COMPENSATING"
    assert play.instance.cause is not None
    assert play.instance.cause["step"] == "air"


def test_the_alternative_of_a_skipped_step_is_skipped() -> None:
    play = flying(define(plan("reserve", 0), plan("air", 1, "reserve", when=True), *AIR.steps[2:]))
    play.decided("air", False)
    assert play.states() == {"reserve": "DONE", "air": "SKIPPED", "sea": "SKIPPED", "bill": "SKIPPED"}
    assert play.phase == "COMPLETED"


def test_row_18_an_alternative_is_undone_before_the_step_that_it_replaces_and_what_follows_before_both() -> None:
    play = Play(define(*AIR.steps[:2], AIR.steps[2], plan("bill", 3, "air"), plan("pack", 4, "bill")))
    play.sees("reserve.done")
    play.sees("air.failed")
    play.sees("sea.done")
    play.sees("bill.done")
    play.sees("pack.failed")
    assert play.commands() == ["bill.undo#1"]
    play.undone("bill")
    play.undone("sea")
    play.undone("reserve")
    assert play.commands() == ["bill.undo#1", "sea.undo#1", "reserve.undo#1"]
    assert play.phase == "COMPENSATED"


def test_s11_a_late_success_of_a_replaced_step_is_undone_once_and_the_alternative_goes_on() -> None:
    play = flying()
    play.sees("air.failed")
    play.sees("air.done")
    assert play.states() == {"reserve": "DONE", "air": "COMPENSATING", "sea": "WAITING", "bill": "PENDING"}
    play.sees("sea.done")
    play.undone("air")
    play.sees("bill.done")
    assert play.phase == "COMPLETED"
    assert play.commands() == ["air.undo#1"]


def test_s11_a_late_success_while_the_replaced_step_is_being_undone_is_covered_by_that_undo() -> None:
    play = flying()
    play.later(31)
    play.sees("air.done")
    play.undone("air")
    assert play.commands() == ["air.undo#1"]
    assert play.states()["sea"] == "WAITING"


def test_s11_a_late_success_after_its_empty_undo_is_undone_again() -> None:
    play = flying()
    play.later(31)
    play.undone("air", nothing_undone=True)
    play.sees("air.done")
    assert play.commands() == ["air.undo#1", "air.undo#2"]
    assert play.states()["sea"] == "WAITING"
    play.sees("sea.done")
    play.sees("bill.done")
    assert play.phase == "RUNNING"
    play.undone("air", causation_id=play.undo_id("air", 2))
    assert play.phase == "COMPLETED"


def test_row_6_an_alternative_that_succeeds_before_its_turn_counts_when_that_comes() -> None:
    play = flying()
    play.sees("sea.done")
    assert play.states() == {"reserve": "DONE", "air": "WAITING", "sea": "DONE", "bill": "PENDING"}
    play.sees("air.failed")
    assert play.states()["bill"] == "WAITING"


def test_row_6_an_alternative_that_succeeds_though_nobody_needs_it_is_undone() -> None:
    play = flying()
    play.sees("sea.done")
    play.sees("air.done")
    assert play.states() == {"reserve": "DONE", "air": "DONE", "sea": "COMPENSATING", "bill": "WAITING"}


def test_row_6_an_alternative_that_fails_before_its_turn_fails_the_saga_only_when_it_is_needed() -> None:
    needless, needed = flying(), flying()
    for play in (needless, needed):
        play.sees("sea.failed")
        assert play.phase == "RUNNING"
    needless.sees("air.done")
    needless.sees("bill.done")
    assert needless.phase == "COMPLETED"
    needed.sees("air.failed")
    assert needed.phase == "COMPENSATING"


@pytest.mark.parametrize("again", ["reported again", "said by the service"])
def test_row_6_an_alternative_that_fails_twice_before_its_turn_still_waits_for_it(again: str) -> None:
    needless, needed = flying(), flying()
    for play in (needless, needed):
        play.gave_up("sea.asked", ("sea.done",))
        if again == "reported again":
            play.gave_up("sea.asked", ("sea.done",), event_id="y")
        else:
            play.sees("sea.failed")
        assert (play.phase, play.step("sea").early, play.commands()) == ("RUNNING", True, [])
    needless.sees("air.done")
    needless.sees("bill.done")
    if again == "reported again":  # it may have happened
        assert needless.commands() == ["sea.undo#1"]
        needless.undone("sea")
    assert (needless.phase, needless.commands()) == ("COMPLETED", needless.commands()[:1])
    needed.sees("air.failed")
    assert needed.phase == "COMPENSATING"
    assert not needed.step("sea").early


def test_ruling_3_a_commanded_step_is_retried_before_its_alternative_has_its_turn() -> None:
    play = flying(
        define(plan("reserve", 0), plan("air", 1, "reserve", send="air.do", within=900 * SECOND), *AIR.steps[2:])
    )
    for _ in range(RETRY.attempts):
        play.later(25)
        assert play.states()["sea"] == "PENDING"
        play.sees("air.failed")
    assert [each for each in play.commands() if "*" not in each] == ["air.do#1", "air.do#2", "air.do#3"]
    assert play.states()["sea"] == "WAITING"


def test_ruling_3_a_commanded_alternative_is_sent_when_its_turn_comes_and_retried() -> None:
    play = flying(define(*AIR.steps[:2], plan("sea", 2, instead_of="air", send="sea.do"), AIR.steps[3]))
    assert play.commands() == []
    play.sees("air.failed")
    play.sees("sea.failed")
    play.later(6)
    assert play.commands() == ["sea.do#1", "sea.do#2"]
    assert play.sees("sea.failed", attempt=1).reason == "EarlierAttempt"


def test_an_optional_alternative_that_fails_lets_the_saga_go_on() -> None:
    play = flying(define(*AIR.steps[:2], plan("sea", 2, instead_of="air", optional=True), AIR.steps[3]))
    play.sees("air.failed")
    play.sees("sea.failed")
    assert play.states() == {"reserve": "DONE", "air": "FAILED", "sea": "DEGRADED", "bill": "WAITING"}


AFTER = define(
    plan("ship", 0, pivot=True),
    plan("mail", 1, "ship"),
    plan("paper", 2, instead_of="mail", undo=None, undone=()),
)


def test_row_22_after_the_pivot_a_failed_step_gives_way_to_its_alternative() -> None:
    play = Play(AFTER)
    play.sees("ship.done")
    play.later(31)
    assert play.commands() == ["mail.undo#1"]
    play.undone("mail")
    play.sees("paper.done")
    assert play.phase == "COMPLETED"


def test_ruling_7_after_the_pivot_the_last_alternative_that_fails_waits_for_a_person_and_a_late_success_heals() -> None:
    play = Play(AFTER)
    play.sees("ship.done")
    play.sees("mail.failed")
    play.sees("paper.failed")
    assert play.phase == "RUNNING"
    assert play.instance.conditions["WaitingForPerson"].step == "paper"
    play.sees("paper.done")
    assert play.phase == "COMPLETED"
    assert "WaitingForPerson" not in play.instance.conditions


def test_ruling_7_after_the_pivot_a_step_whose_alternative_does_not_apply_waits_for_a_person() -> None:
    play = Play(define(*AFTER.steps[:2], plan("paper", 2, instead_of="mail", undo=None, undone=(), when=True)))
    play.sees("ship.done")
    play.sees("mail.failed")
    play.decided("paper", False)
    assert play.phase == "RUNNING"
    assert play.instance.conditions["WaitingForPerson"].step == "mail"
    play.sees("mail.done")
    assert play.phase == "COMPLETED"


def test_row_17_a_replaced_step_whose_undo_fails_for_good_compensates_the_rest_and_ends_failed() -> None:
    play = flying()
    play.later(31)
    play.later(601)
    assert play.states() == {"reserve": "DONE", "air": "UNDO_FAILED", "sea": "SKIPPED", "bill": "SKIPPED"}
    assert play.phase == "FAILED"
    play.person("mark-undone", "air")
    play.undone("reserve")
    assert play.phase == "COMPENSATED"


def test_row_20_a_cancel_while_a_replaced_step_is_being_undone() -> None:
    play = flying()
    play.later(31)
    play.person("cancel")
    assert play.states() == {"reserve": "DONE", "air": "COMPENSATING", "sea": "SKIPPED", "bill": "SKIPPED"}
    play.undone("air")
    play.undone("reserve")
    assert play.phase == "CANCELLED"


def test_a_member_of_any_of_may_have_an_alternative() -> None:
    play = Play(
        define(
            plan("card", 0),
            plan("other", 1, instead_of="card"),
            plan("transfer", 2),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    play.sees("transfer.failed")
    play.sees("card.failed")
    assert play.states() == {"card": "FAILED", "other": "WAITING", "transfer": "FAILED", "ship": "PENDING"}
    play.sees("other.done")
    assert play.states()["ship"] == "WAITING"


def test_any_of_lets_go_of_the_alternative_in_flight_as_well() -> None:
    play = Play(
        define(
            plan("card", 0),
            plan("other", 1, instead_of="card"),
            plan("transfer", 2),
            plan("ship", 3, any_of=(("card", "transfer"),)),
        )
    )
    play.sees("card.failed")
    play.sees("transfer.done")
    assert play.states() == {"card": "FAILED", "other": "COMPENSATING", "transfer": "DONE", "ship": "WAITING"}


def test_an_alternative_may_wait_for_steps_of_its_own() -> None:
    play = Play(
        define(plan("air", 0), plan("book", 1), plan("sea", 2, "book", instead_of="air"), plan("bill", 3, "air"))
    )
    play.sees("air.failed")
    assert play.states()["sea"] == "PENDING"
    play.sees("book.done")
    assert play.states()["sea"] == "WAITING"


def test_a_failed_step_that_succeeds_before_its_alternative_has_begun_counts() -> None:
    play = Play(
        define(plan("air", 0), plan("book", 1), plan("sea", 2, "book", instead_of="air"), plan("bill", 3, "air"))
    )
    play.sees("air.failed")
    play.sees("air.done")
    assert play.states() == {"air": "DONE", "book": "WAITING", "sea": "SKIPPED", "bill": "WAITING"}


def test_row_19_the_undo_of_an_alternative_names_the_failure_that_it_follows() -> None:
    play = flying()
    play.sees("air.failed", id="refused")
    play.later(31)
    (undo,) = [output for output in play.sent if isinstance(output, Send)]
    assert (undo.step, "refused") in [(undo.step, fact.id) for fact in undo.undoes]


def test_observing_lets_the_alternative_go_on_without_waiting_for_an_undo() -> None:
    play = flying(define(*AIR.steps, observe_only=True))
    play.later(31)
    assert play.states() == {"reserve": "DONE", "air": "UNKNOWN", "sea": "WAITING", "bill": "PENDING"}
    play.sees("sea.done")
    play.sees("bill.done")
    assert play.phase == "COMPLETED"
    assert play.sent == []


@pytest.mark.parametrize("seen", ["done", "failed"])
def test_a_handler_that_gave_up_gives_way_to_the_alternative_and_what_it_says_later_is_kept_apart(seen: str) -> None:
    play = flying()
    play.gave_up("reserve.done", ("air.done",))
    assert play.commands() == ["air.undo#1"]
    play.sees(f"air.{seen}")
    assert play.phase == "RUNNING"
    play.undone("air")
    assert play.states()["sea"] == "WAITING"
