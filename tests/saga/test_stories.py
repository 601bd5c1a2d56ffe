"""The story that a saga's spans are made of: what was told once is never told otherwise, whatever happens later."""

from __future__ import annotations

from hypothesis import given, settings
from opentelemetry.sdk.resources import Resource

from choreo.saga.definition import Definition
from choreo.saga.instance import Instance
from choreo.saga.stories import newly_told, step_stories, story_of
from choreo.saga.words import StepState
from choreo.tracing.saga_spans import StepStory, end_spans, started_spans, step_spans
from tests.saga.play import LINE, Play, define, plan, state
from tests.saga.test_properties import happen, happenings

WHO = Resource({"service.name": "choreo-coordinator"})


def told(play: Play) -> dict[tuple[str, str, str], StepStory]:
    """What has ended, by name, kind and occurrence."""
    return {(each.name, each.kind, each.occurrence): each for each in step_stories(play.definition, play.instance)}


def spans_of(definition: Definition, instance: Instance) -> dict[int, str]:
    """Every span that this state gives, by id, as it is exported."""
    story = story_of(definition, instance, "")
    made = started_spans(story, WHO) + [each for step in story.steps for each in step_spans(story, step, WHO)]
    if instance.phase.ended:
        made += end_spans(story, WHO)
    by_id = {span.get_span_context().span_id: span.to_json() for span in made}
    assert len(by_id) == len(made), "an id for each"
    return by_id


@settings(max_examples=300, deadline=None)
@given(happenings())
def test_no_span_is_told_twice_with_changes(given_: tuple[Definition, list[tuple[str, str, float]]]) -> None:
    definition, happening = given_
    play = Play(definition)
    for each in happening:
        play.now += 1  # two transactions never share their time
        before = play.instance
        happen(play, *each)
        after = play.instance
        if after.epoch != before.epoch or after is before:
            continue
        first, second = spans_of(definition, before), spans_of(definition, after)
        assert {id_: second.get(id_) for id_ in first} == first
        fresh = {id_ for id_ in second if id_ not in first}
        if not after.phase.ended or before.phase.ended:
            new = newly_told(definition, before, after)
            assert len(new) == len(fresh)
            earlier = {each.identity for each in step_stories(definition, before)}
            assert new == [each for each in step_stories(definition, after) if each.identity not in earlier]


def test_an_undo_that_failed_is_told_when_nobody_can_try_it_again_within_this_trace() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2)))
    for event in ("a.done", "b.done", "c.failed"):
        play.sees(event)
    for _ in range(3):
        play.gave_up("a.undo", ("a.undone",), event_id=play.undo_id("a"))
    assert state(play, "a") is StepState.UNDO_FAILED
    assert ("a", "compensation", "") not in told(play)
    play.person("retry-undo", "a")
    play.later(1)
    play.undone("a", causation_id=play.undo_id("a", 2))
    assert told(play)["a", "compensation", ""].outcome == "COMPENSATED"
    for _ in range(3):
        play.gave_up("b.undo", ("b.undone",), event_id=play.undo_id("b"))
    assert play.phase == "FAILED"
    assert told(play)["b", "compensation", ""].final_failure
    play.person("retry-undo", "b")
    assert play.instance.epoch == 1, "after the end it is another trace"


def test_an_undo_that_found_nothing_is_told_when_its_step_cannot_come_any_more() -> None:
    play = Play(define(plan("a", 0), plan("b", 1), plan("c", 2)))
    for event in ("b.done", "c.failed"):
        play.sees(event)
    play.undone("a", nothing_undone=True)
    assert ("a", "compensation", "") not in told(play)
    play.later(1)
    play.sees("a.done")
    assert state(play, "a") is StepState.COMPENSATING, "it happened after its undo was answered"
    first = spans_of(play.definition, play.instance)
    play.later(1)
    play.undone("a", causation_id=play.undo_id("a", 2))
    play.undone("b")
    assert play.phase == "COMPENSATED"
    second = spans_of(play.definition, play.instance)
    assert {id_: second[id_] for id_ in first} == first
    assert told(play)["a", "compensation", ""].attempts == 2


def test_a_success_after_the_end_does_not_change_the_end() -> None:
    play = Play(define(plan("a", 0), plan("b", 1, undo=None, undone=())))
    play.sees("a.failed")
    assert play.phase == "COMPENSATED"
    first = spans_of(play.definition, play.instance)
    play.later(5)
    play.sees("b.done")
    assert play.phase == "COMPENSATED"
    second = spans_of(play.definition, play.instance)
    assert {id_: second.get(id_) for id_ in first} == first


def test_a_step_that_was_given_up_before_its_turn_is_told_where_it_may_run_all_the_same() -> None:
    """Its trigger may be out already: what its handler does then needs a parent."""
    play = Play(define(plan("reserve", 0), plan("charge", 1), plan("book", 2, "reserve"), plan("label", 3, "book")))
    play.sees("charge.failed")
    assert (state(play, "book"), state(play, "label")) == (StepState.SKIPPED, StepState.SKIPPED)
    for name in ("book", "label"):
        story = told(play)[name, "action", ""]
        assert (story.outcome, story.trigger_at, story.ended_at) == ("SKIPPED", play.now, play.now)
        assert not story.final_failure
    play.later(1)
    play.sees("reserve.done")
    play.sees("book.failed")
    assert told(play)["book", "action", ""].outcome == "SKIPPED", "and not otherwise, whatever comes"


def test_a_step_that_cannot_run_is_not_told() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    assert set(told(play)) == {("reserve", "action", ""), ("charge", "action", "")}
    commanded = Play(define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do")))
    commanded.later(31)
    assert state(commanded, "ship") is StepState.SKIPPED
    assert set(told(commanded)) == {("reserve", "action", "")}, "nobody was asked to ship"


def test_a_failure_before_its_turn_is_told() -> None:
    play = Play(LINE)
    play.sees("charge.failed")
    assert told(play)["charge", "action", ""].final_failure
