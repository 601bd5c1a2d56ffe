"""What people and traces see of groups, alternatives, conditions and finally-steps: each thing once, and rightly."""

from __future__ import annotations

from choreo.events.catalog import StepAnnouncement
from choreo.saga.definition import Definition
from choreo.saga.definitions import announcements
from choreo.saga.report import Observed, StepReport, progress, step_reports
from choreo.saga.stories import step_stories
from tests.saga.play import Play, define, plan

SHAPES = define(
    plan("hold", 0, done=(), failed=()),
    plan("card", 1, "hold"),
    plan("transfer", 2, "hold"),
    plan("air", 3, any_of=(("card", "transfer"),), when=True),
    plan("sea", 4, instead_of="air"),
    plan("tell", 5, undo=None, undone=(), final=True),
)


def reports(play: Play) -> dict[str, StepReport]:
    told = step_reports(play.definition, play.instance, [], Observed(play.now))
    names = [each["name"] for each in told]
    assert len(set(names)) == len(names)
    return {each["name"]: each for each in told}


def notes(play: Play) -> dict[str, str | None]:
    return {name: told["note"] for name, told in reports(play).items()}


def stories(play: Play) -> list[tuple[str, str, str]]:
    told = [(each.kind, each.name, each.outcome) for each in step_stories(play.definition, play.instance)]
    assert len(set(told)) == len(told)
    return told


def test_status_says_why_a_step_does_not_run() -> None:
    play = Play(SHAPES)
    assert notes(play) == {
        "hold": None,
        "card": "waiting for card.done or card.failed",
        "transfer": "waiting for transfer.done or transfer.failed",
        "air": None,
        "sea": "only if air fails",
        "tell": "runs at the end",
    }
    play.sees("card.done")
    assert notes(play)["transfer"] == "not needed any more"
    assert notes(play)["air"] == "its when= is asked"
    play.decided("air", False)
    assert notes(play)["air"] == "its when= said no"


def test_status_lists_what_a_running_saga_undoes_by_itself() -> None:
    play = Play(SHAPES)
    play.sees("card.done")
    undo = reports(play)["transfer.undo"]
    assert (undo["state"], undo["compensates"], undo["note"]) == (
        "COMPENSATING",
        "transfer",
        "waiting for transfer.undone",
    )
    play.undone("transfer")
    assert reports(play)["transfer.undo"]["state"] == "COMPENSATED"
    assert "card.undo" not in reports(play)


def test_status_says_what_takes_a_steps_place() -> None:
    play = Play(SHAPES)
    play.sees("card.done")
    play.decided("air", True)
    play.sees("air.failed")
    told = reports(play)
    assert told["air"]["note"] == "sea takes its place"
    assert told["air"]["ended_at"] is not None
    assert (told["sea"]["instead_of"], told["tell"]["final"]) == ("air", True)
    assert told["air"]["any_of"] == [["card", "transfer"]]


def test_progress_counts_what_the_saga_goes_on_without() -> None:
    play = Play(SHAPES)
    play.sees("card.failed")
    play.sees("transfer.done")
    play.decided("air", False)
    play.sees("tell.done")
    assert play.phase == "COMPLETED"
    assert progress(play.instance) == {"done": 6, "known": 6}


def test_each_step_has_one_span_and_what_is_undone_alone_one_more() -> None:
    play = Play(SHAPES)
    play.sees("card.done")
    play.decided("air", True)
    play.sees("air.failed")
    play.sees("sea.done")
    play.sees("transfer.done")
    play.undone("transfer")
    play.sees("tell.done")
    assert play.phase == "COMPLETED"
    assert sorted(stories(play)) == [
        ("action", "air", "FAILED"),
        ("action", "card", "DONE"),
        ("action", "hold", "DONE"),
        ("action", "sea", "DONE"),
        ("action", "tell", "DONE"),
        ("action", "transfer", "SKIPPED"),
        ("compensation", "transfer", "COMPENSATED"),
    ]


def test_the_undo_of_a_step_that_has_only_an_undo_is_told_as_soon_as_it_is_answered() -> None:
    play = Play(define(plan("a", 0), plan("hold", 1, "a", done=(), failed=()), plan("b", 2, "hold")))
    play.sees("a.done")
    play.sees("b.failed")
    play.undone("hold")
    assert ("compensation", "hold", "COMPENSATED") in stories(play)
    assert play.phase == "COMPENSATING"


def test_a_step_that_is_skipped_by_its_condition_has_a_span_that_says_so() -> None:
    play = Play(SHAPES)
    play.sees("card.done")
    play.decided("air", False)
    assert ("action", "air", "SKIPPED") in stories(play)


def announced(definition: Definition) -> dict[str, StepAnnouncement]:
    [told] = announcements([definition], "shop")
    return {each.name: each for each in told.steps}


def test_services_learn_what_each_step_may_follow() -> None:
    told = announced(SHAPES)
    assert told["card"].follows == ["placed"], "before it there is no event but the start"
    assert told["air"].follows == ["card.done", "transfer.done"]
    assert told["air"].after == ["card", "transfer"]
    assert told["sea"].follows == ["air.failed"]
    assert told["tell"].follows == ["placed"]
