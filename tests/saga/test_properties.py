"""Whatever happens in whatever order, the invariants of a saga hold (S8 to S12)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from choreo.saga.definition import Definition
from choreo.saga.inputs import Send
from choreo.saga.instance import Instance
from choreo.saga.words import Phase, StepState
from tests.saga.play import LINE, PIVOT, Play, define, plan
from tests.support.profiles import bounded

DEFINITIONS = [
    LINE,
    PIVOT,
    define(plan("a", 0), plan("b", 1), plan("c", 2, "a"), plan("d", 3, "b", "c", optional=True), deadline=60_000_000),
    define(
        plan("a", 0, send="a.do"), plan("b", 1, "a", send="b.do", pivot=True), plan("c", 2, "b", undo=None, undone=())
    ),
]
KINDS = ("done", "failed", "undone", "gave up", "undo gave up", "parked")


@st.composite
def happenings(draw: st.DrawFn) -> tuple[Definition, list[tuple[str, str, float]]]:
    """A definition, and what happens to an instance of it."""
    definition = draw(st.sampled_from(DEFINITIONS))
    names = st.sampled_from([step.name for step in definition.steps])
    event = st.tuples(st.sampled_from(KINDS), names, st.just(0.0))
    time = st.tuples(st.just("time"), st.just(""), st.sampled_from([1.0, 6.0, 31.0, 61.0, 700.0]))
    person = st.tuples(st.sampled_from(["cancel", "retry-undo", "mark-undone"]), names, st.just(0.0))
    return definition, draw(st.lists(st.one_of(event, event, event, time, person), max_size=25))


def happen(play: Play, kind: str, name: str, seconds: float) -> None:
    plan_ = play.definition.by_name.get(name)
    if kind == "time":
        play.later(seconds)
    elif kind in ("cancel", "retry-undo", "mark-undone"):
        play.person(kind, None if kind == "cancel" else name)  # type: ignore[arg-type]
    elif kind == "undone" and plan_ is not None and plan_.undone:
        play.undone(name, causation_id=play.undo_id(name, max(1, play.step(name).undo_attempt)))
    elif kind == "gave up":
        play.gave_up("anything", (f"{name}.done",))
    elif kind == "parked":
        play.gave_up("anything", (f"{name}.done",), dead=False)
    elif kind == "undo gave up":
        attempt = max(1, play.step(name).undo_attempt)
        play.gave_up(f"{name}.undo", (f"{name}.undone",), event_id=play.undo_id(name, attempt))
    elif kind in ("done", "failed"):
        play.sees(f"{name}.{kind}")


def check(play: Play, before: Instance, pivot_was_done: bool) -> None:
    instance, definition = play.instance, play.definition
    assert instance.seq == before.seq + 1
    assert Instance.from_json(instance.to_json()) == instance
    outputs = play.last.outputs
    if before.phase.ended and not instance.epoch > before.epoch:
        assert outputs == [], "S8: an end is final unless the saga is opened again"
    if before.phase is Phase.COMPLETED:
        assert instance.phase is Phase.COMPLETED
        assert outputs == []
    undos = [output.step for output in outputs if isinstance(output, Send) and output.kind == "undo"]
    if pivot_was_done and before.phase in (Phase.RUNNING, Phase.COMPLETED):
        assert undos == [], "S9: after the pivot nothing is undone"
    new = [output for output in outputs if isinstance(output, Send) and output.kind == "undo" and not output.again]
    for output in new:
        if output.attempt > 1:  # it was issued before; a late success further down cannot call it back
            continue
        for name in definition.descendants[output.step]:
            assert instance.steps[name].state is not StepState.COMPENSATING or name == output.step, "S10: order of undo"
    assert all(number == 1 for number in Counter(output.step for output in new).values()), "S10: one at a time"
    states = [step.state for step in instance.steps.values()]
    if instance.phase.ended:
        assert instance.next_due is None
        assert StepState.COMPENSATING not in states
        assert StepState.WAITING not in states
        assert instance.ended_at is not None
    if instance.phase in (Phase.COMPENSATED, Phase.CANCELLED):
        left = [p.name for p in definition.steps if p.undo and instance.steps[p.name].state is StepState.DONE]
        assert left == [], "nothing that can be undone is left"
    assert (instance.phase is Phase.FAILED) <= (StepState.UNDO_FAILED in states)


@bounded(600)
@given(happenings())
def test_the_invariants_hold_whatever_happens(given_: tuple[Definition, list[tuple[str, str, float]]]) -> None:
    definition, happening = given_
    play = Play(definition)
    for each in happening:
        before = play.instance
        pivot = definition.pivot
        pivot_was_done = pivot is not None and before.steps[pivot.name].state is StepState.DONE
        happen(play, *each)
        if play.instance is not before:
            check(play, before, pivot_was_done)


@bounded(60)
@given(happenings())
def test_the_same_inputs_give_the_same_saga_byte_for_byte(
    given_: tuple[Definition, list[tuple[str, str, float]]],
) -> None:
    definition, happening = given_
    told = []
    for _ in range(2):
        play = Play(definition)
        for each in happening:
            happen(play, *each)
        told.append((play.instance.to_json(), play.sent))
    assert told[0] == told[1]
