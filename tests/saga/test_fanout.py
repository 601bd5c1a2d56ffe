"""Steps that run once per element, on the pure function."""

from __future__ import annotations

from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Decided, Send, Transition, command_id
from choreo.saga.occurrence import occurrence_id
from choreo.saga.queries import Brakes, Found
from choreo.saga.report import Observed, status
from choreo.saga.stories import step_stories
from tests.saga.play import Play, define, plan

CHOREOGRAPHED = define(plan("reserve", 0, each="lines", by="sku"), plan("ship", 1, "reserve", pivot=True))
COMMANDED = define(
    plan("reserve", 0, each="lines", by="sku", send="reserve.do"), plan("ship", 1, "reserve"), plan("bill", 2, "ship")
)
LATER = define(plan("check", 0), plan("reserve", 1, "check", each="lines", by="sku"), plan("ship", 2, "reserve"))
OPTIONAL = define(
    plan("mail", 0, each="people", by="name", optional=True, undo=None, undone=()), plan("end", 1, "mail")
)


def decide(play: Play, step: str, *elements: str) -> Transition:
    """The coordinator has asked the user's function."""
    return play._took(advance(play.definition, play.instance, Decided(step, "each", elements), play.now))


def opened(definition: object = COMMANDED, *elements: str) -> Play:
    play = Play(definition)  # type: ignore[arg-type]
    decide(play, "reserve", *(elements or ("a", "b")))
    return play


def of(play: Play, step: str, element: str, answer: str, **options: object) -> Transition:
    """A service answers for one element, with the header."""
    return play.sees(f"{step}.{answer}", step=step, occurrence=occurrence_id(element), **options)


def undone(play: Play, step: str, element: str, **options: object) -> Transition:
    cause = command_id(play.instance.id, step, occurrence_id(element), "undo", 1)
    return of(play, step, element, "undone", causation_id=cause, **options)


def test_the_elements_are_asked_for_when_the_turn_comes_and_joined_before_the_successors() -> None:
    play = Play(LATER)
    assert [type(each).__name__ for each in play.sent] == []
    play.sees("check.done")
    assert [(each.kind, each.step) for each in play.last.outputs] == [("each", "reserve")]
    decide(play, "reserve", "a", "b")
    assert play.states() == {
        "check": "DONE",
        "reserve": "WAITING",
        "reserve[a]": "WAITING",
        "reserve[b]": "WAITING",
        "ship": "PENDING",
    }
    play.sees("reserve.done", element="b")
    assert play.states()["ship"] == "PENDING"
    play.sees("reserve.done", element="a")
    assert play.states()["reserve"] == "DONE"
    assert play.states()["ship"] == "WAITING"


def test_each_element_has_a_command_of_its_own_with_an_id_of_its_own() -> None:
    play = opened()
    sent = [each for each in play.sent if isinstance(each, Send)]
    assert [(each.step, each.type) for each in sent] == [("reserve[a]", "reserve.do"), ("reserve[b]", "reserve.do")]
    of(play, "reserve", "a", "done")
    of(play, "reserve", "b", "done")
    play.sees("ship.failed")
    play.undone("ship")
    undos = [each for each in play.sent if isinstance(each, Send) and each.kind == "undo"]
    assert [each.step for each in undos] == ["reserve[b]", "reserve[a]"]  # both at once
    own = command_id(play.instance.id, "reserve", occurrence_id("a"), "do", 1)
    assert own in {fact.id for fact in undos[1].undoes}
    assert own not in {fact.id for fact in undos[0].undoes}
    undone(play, "reserve", "a")
    assert play.phase == "COMPENSATING"
    undone(play, "reserve", "b")
    assert play.phase == "COMPENSATED"


def test_the_failure_of_one_element_undoes_the_others() -> None:
    play = opened(COMMANDED, "a", "b", "c")
    of(play, "reserve", "a", "done")
    for _ in range(3):
        of(play, "reserve", "b", "failed")
        play.later(20)
    assert play.phase == "COMPENSATING"
    states = play.states()
    assert (states["reserve"], states["reserve[b]"]) == ("FAILED", "FAILED")
    assert (states["reserve[a]"], states["reserve[c]"]) == ("COMPENSATING", "COMPENSATING")
    undone(play, "reserve", "a")
    undone(play, "reserve", "c", nothing_undone=True)
    assert play.phase == "COMPENSATED"
    assert play.step("reserve[c]").undo_empty


def test_an_empty_list_is_done_at_once() -> None:
    play = opened(COMMANDED)
    play = Play(COMMANDED)
    decide(play, "reserve")
    assert play.states() == {"reserve": "DONE", "ship": "WAITING", "bill": "PENDING"}
    assert play.commands() == []
    play.sees("ship.failed")
    assert play.phase == "COMPENSATED"


def test_a_limit_passes_for_each_element_alone() -> None:
    play = opened()
    of(play, "reserve", "a", "done")
    play.later(31)
    assert play.phase == "COMPENSATING"
    assert play.instance.cause is not None
    assert play.instance.cause["step"] == "reserve[b]"
    assert play.states()["reserve[b]"] == "COMPENSATING"


def test_silence_and_known_failures_send_again_for_that_element_only() -> None:
    play = opened()
    of(play, "reserve", "a", "done")
    play.later(6)
    assert play.commands() == ["reserve[a].do#1", "reserve[b].do#1", "reserve[b].do#1*"]
    of(play, "reserve", "b", "failed")
    play.later(6)
    assert play.commands()[-1] == "reserve[b].do#2"


def test_row_6_a_success_before_the_elements_are_known_counts_when_they_are() -> None:
    play = Play(LATER)
    play.sees("reserve.done", element="b")
    assert play.states()["reserve[b]"] == "DONE"
    assert "OutOfOrder" in play.instance.conditions
    play.sees("check.done")
    decide(play, "reserve", "a", "b")
    assert play.states()["reserve[a]"] == "WAITING"
    assert list(play.instance.steps) == ["check", "reserve", "reserve[a]", "reserve[b]", "ship"]
    play.sees("reserve.done", element="a")
    assert play.states()["ship"] == "WAITING"


def test_an_early_success_that_names_no_element_in_the_end_shows_and_counts_for_nothing() -> None:
    play = Play(LATER)
    play.sees("reserve.done", element="x")
    play.sees("check.done")
    decide(play, "reserve", "a")
    assert "reserve[x]" not in play.states()
    assert play.instance.conditions["Unexpected"].reason == "UnknownElement"  # type: ignore[index]


def test_an_answer_for_an_unknown_element_is_unexpected() -> None:
    play = opened()
    transition = of(play, "reserve", "x", "done")
    assert (transition.verdict, transition.reason) == ("ignored", "UnknownElement")
    assert "Unexpected" in play.instance.conditions
    assert play.sees("reserve.done").reason == "UnknownElement"
    assert play.sees("reserve.failed", element="x").reason == "UnknownElement"


def test_s11_a_late_success_of_one_element_is_undone_once() -> None:
    play = opened(COMMANDED, "a", "b")
    of(play, "reserve", "a", "done")
    play.later(31)
    undone(play, "reserve", "a")
    undone(play, "reserve", "b", nothing_undone=True)
    assert play.phase == "COMPENSATED"
    of(play, "reserve", "b", "done")
    assert (play.phase, play.instance.epoch) == ("COMPENSATING", 1)
    assert play.commands()[-1] == "reserve[b].undo#2"


def test_s11_a_success_of_an_element_that_never_had_its_turn_is_undone_once() -> None:
    play = Play(LATER)
    play.sees("check.failed")
    assert play.phase == "COMPENSATED"
    play.sees("reserve.done", element="a")
    assert play.phase == "COMPENSATING"
    assert play.commands() == ["reserve[a].undo#1"]


def test_an_optional_fan_out_goes_on_without_what_failed() -> None:
    play = Play(OPTIONAL)
    decide(play, "mail", "ann", "bob")
    play.sees("mail.failed", element="ann")
    play.sees("mail.done", element="bob")
    assert play.states() == {
        "mail": "DEGRADED",
        "mail[ann]": "DEGRADED",
        "mail[bob]": "DONE",
        "end": "WAITING",
    }


def test_a_handler_that_serves_all_elements_and_gives_up_concerns_them_all() -> None:
    play = opened(CHOREOGRAPHED, "a", "b")
    play.gave_up("placed", ("reserve.done", "reserve.failed"))
    assert play.phase == "COMPENSATING"
    assert [play.step(f"reserve[{each}]").error for each in "ab"] == ["Boom", "Boom"]


def test_a_handler_that_gives_up_on_one_command_concerns_its_element() -> None:
    play = opened()
    id_ = command_id(play.instance.id, "reserve", occurrence_id("b"), "do", 1)
    play.gave_up("reserve.do", ("reserve.done",), event_id=id_)
    assert (play.step("reserve[a]").error, play.step("reserve[b]").error) == (None, "Boom")
    assert play.gave_up("reserve.do", ("reserve.done",), event_id="stranger").reason == "NoStep"


def test_an_undo_that_fails_for_good_is_retried_by_element_or_for_all() -> None:
    play = opened()
    of(play, "reserve", "a", "done")
    of(play, "reserve", "b", "done")
    play.sees("ship.failed")
    play.undone("ship")
    play.later(601)
    assert play.phase == "FAILED"
    play.person("retry-undo", "reserve[a]")
    assert play.states()["reserve[a]"] == "COMPENSATING"
    assert play.states()["reserve[b]"] == "UNDO_FAILED"
    play.person("mark-undone", "reserve")
    assert set(play.states()) >= {"reserve[a]", "reserve[b]"}
    assert play.states()["reserve[b]"] == "COMPENSATED"


def test_a_saga_that_turns_back_while_the_elements_are_asked_for_does_not_run_them() -> None:
    play = Play(COMMANDED)
    play.person("cancel")
    assert play.phase == "CANCELLED"
    assert decide(play, "reserve", "a").reason == "Unasked"


def test_a_function_that_fails_fails_the_step_for_certain() -> None:
    play = Play(COMMANDED)
    play.unbuildable("reserve", "each")
    assert play.states()["reserve"] == "FAILED"
    assert play.phase == "COMPENSATED"


def test_elements_with_odd_keys_have_names_that_can_be_typed() -> None:
    keys = ("a b", "ä/[x]", "~", "é" * 100, "reserve[a]", "\n")
    play = opened(COMMANDED, *keys)
    assert [name for name in play.states() if name.endswith("]")][:3] == [
        "reserve[a%20b]",
        "reserve[%C3%A4%2F%5Bx%5D]",
        "reserve[~]",
    ]
    for key in keys:
        of(play, "reserve", key, "done")
    assert play.states()["reserve"] == "DONE"


def test_hundreds_of_elements_are_joined_and_undone() -> None:
    keys = tuple(f"sku-{number}" for number in range(300))
    play = opened(COMMANDED, *keys)
    for key in keys:
        of(play, "reserve", key, "done")
    assert play.states()["ship"] == "WAITING"
    play.now += 10 * SECOND
    play.sees("ship.failed")
    play.undone("ship")
    for key in keys:
        undone(play, "reserve", key)
    assert play.phase == "COMPENSATED"


def test_each_element_has_a_span_and_all_have_one_together() -> None:
    play = opened()
    of(play, "reserve", "a", "done")
    of(play, "reserve", "b", "done")
    told = step_stories(play.definition, play.instance)
    assert [(story.name, story.occurrence, story.element, story.elements) for story in told] == [
        ("reserve", "", None, 2),
        ("reserve", occurrence_id("a"), "a", None),
        ("reserve", occurrence_id("b"), "b", None),
    ]
    assert len({story.trigger_at + story.index for story in told}) == 3, "or Jaeger draws them in any order"


def test_above_a_hundred_elements_only_the_first_ones_and_the_failed_ones_have_spans() -> None:
    keys = [f"k{number:03}" for number in range(150)]
    play = opened(COMMANDED, *keys)
    for key in keys[:-1]:
        of(play, "reserve", key, "done")
    play.later(31)
    told = [story for story in step_stories(play.definition, play.instance) if story.kind == "action"]
    assert [story.element for story in told if story.element] == [*keys[:100], keys[-1]]
    assert told[0].elements == 150


def shown(play: Play) -> list[dict[str, object]]:
    found = Found(play.definition, play.instance, play.now)
    told = status(found, (), Observed(play.now), Brakes(False, False), "")
    return [{name: step[name] for name in ("name", "state", "element", "elements")} for step in told["steps"]]


def test_status_counts_the_elements_and_lists_them_while_they_are_few() -> None:
    play = opened()
    of(play, "reserve", "a", "done")
    assert shown(play)[:3] == [
        {"name": "reserve", "state": "WAITING", "element": None, "elements": {"DONE": 1, "WAITING": 1}},
        {"name": "reserve[a]", "state": "DONE", "element": "a", "elements": None},
        {"name": "reserve[b]", "state": "WAITING", "element": "b", "elements": None},
    ]


def test_status_lists_of_many_elements_only_those_that_need_a_look() -> None:
    keys = [f"k{number:03}" for number in range(50)]
    play = opened(COMMANDED, *keys)
    for key in keys[:-2]:
        of(play, "reserve", key, "done")
    names = [step["name"] for step in shown(play)]
    assert names == ["reserve", "reserve[k048]", "reserve[k049]", "ship", "bill"]
    play.later(31)
    assert len(shown(play)) < 60
    assert {name: shown(play)[0][name] for name in ("name", "state", "element")} == {
        "name": "reserve",
        "state": "COMPENSATING",
        "element": None,
    }
