"""Whatever happens to sagas of every shape of the graph language, the invariants hold (S8 to S12, V1)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.inputs import Announce, Ask, Change, Send
from choreo.saga.instance import Instance
from choreo.saga.words import Phase, StepState
from tests.saga.play import Play, define, plan
from tests.saga.test_properties import KINDS, happen
from tests.saga.test_stories import spans_of

NO_UNDO: dict[str, object] = {"undo": None, "undone": ()}


def last(index: int, **options: object) -> StepPlan:
    return plan("last", index, **{**NO_UNDO, "final": True, **options})


SHAPES = [
    define(plan("a", 0), plan("b", 1), plan("c", 2, any_of=(("a", "b"),)), last(3)),
    define(plan("a", 0), plan("b", 1), plan("p", 2, any_of=(("a", "b"),), pivot=True), plan("c", 3, "p", **NO_UNDO)),
    define(plan("a", 0), plan("b", 1, instead_of="a"), plan("c", 2, "a", send="c.do"), plan("d", 3, "c"), last(4)),
    define(
        plan("a", 0, send="a.do"),
        plan("b", 1, instead_of="a", when=True),
        plan("c", 2, instead_of="b"),
        plan("p", 3, "a", pivot=True),
        deadline=60 * SECOND,
    ),
    define(plan("a", 0), plan("b", 1, "a", when=True), plan("c", 2, "b"), plan("d", 3, "a", "c"), last(4, when=True)),
    define(
        plan("x", 0, done=(), failed=()),
        plan("a", 1, "x", when=True),
        plan("b", 2, "x"),
        plan("alt", 3, instead_of="a"),
        plan("c", 4, any_of=(("a", "b"),), optional=True),
        deadline=90 * SECOND,
    ),
    define(
        plan("p", 0, pivot=True),
        plan("a", 1, "p"),
        plan("b", 2, "p", when=True),
        plan("c", 3, any_of=(("a", "b"),), **NO_UNDO),
        plan("d", 4, "c", **NO_UNDO),
        plan("e", 5, instead_of="d", send="e.do", **NO_UNDO),
    ),
    define(
        plan("a", 0),
        plan("b", 1),
        plan("c", 2, **NO_UNDO),
        plan("d", 3, any_of=(("a", "b"), ("b", "c"))),
        plan("e", 4, any_of=(("b", "c"),), optional=True),
        last(5, send="last.do"),
    ),
    define(plan("a", 0, when=True), plan("p", 1, "a", pivot=True), plan("c", 2, "p", **NO_UNDO)),
]
Life = tuple[int, list[tuple[str, str, float]], list[bool]]
"""Which shape, what happens to an instance of it, and what its functions say."""

WATCHED = [define(*shape.steps, deadline=shape.deadline, observe_only=True) for shape in SHAPES[:4]]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    shape = draw(st.integers(0, len(SHAPES) + len(WATCHED) - 1))
    definition = [*SHAPES, *WATCHED][shape]
    names = st.sampled_from([step.name for step in definition.steps])
    event = st.tuples(st.sampled_from(KINDS), names, st.just(0.0))
    time = st.tuples(st.just("time"), st.just(""), st.sampled_from([1.0, 6.0, 31.0, 61.0, 700.0]))
    person = st.tuples(st.sampled_from(["cancel", "retry-undo", "mark-undone"]), names, st.just(0.0))
    happening = draw(st.lists(st.one_of(event, event, event, event, time, person), max_size=30))
    return shape, happening, draw(st.lists(st.booleans(), min_size=4, max_size=4))


def answer(play: Play, says: list[bool]) -> None:
    """Functions of the user answer at once, in the same transaction."""
    for step in play.definition.steps:
        if play.step(step.name).asked == "when":
            play.decided(step.name, says[step.index % len(says)])


def live(shape: int, happening: list[tuple[str, str, float]], says: list[bool]) -> Play:
    play = Play([*SHAPES, *WATCHED][shape])
    answer(play, says)
    for each in happening:
        play.now += 1
        before, sent, changed = play.instance, len(play.sent), len(play.changes)
        happen(play, *each)
        answer(play, says)
        if play.instance is not before:
            check(
                play, before, [each for each in play.sent[sent:] if not isinstance(each, Ask)], play.changes[changed:]
            )
    return play


def undone_by_itself(before: Instance, changes: list[Change]) -> set[str]:
    """Steps whose undo began before the whole saga was being undone."""
    phase, found = before.phase, set()
    for change in changes:
        if isinstance(change.state, Phase):
            phase = change.state
        elif change.step is not None and change.state is StepState.COMPENSATING and phase is Phase.RUNNING:
            found.add(change.step)
    return found


def check(play: Play, before: Instance, outputs: list[object], changes: list[Change]) -> None:
    instance, definition = play.instance, play.definition
    assert Instance.from_json(instance.to_json()) == instance
    sends = [output for output in outputs if isinstance(output, Send)]
    undos = [output.step for output in sends if output.kind == "undo"]
    if before.phase.ended and instance.epoch == before.epoch:
        assert outputs == [], "S8: an end is final unless the saga is opened again"
    if definition.observe_only:
        assert outputs == []
    pivot = definition.pivot
    if pivot is not None and before.steps[pivot.name].state is StepState.DONE and before.phase is Phase.RUNNING:
        # Once it has begun nobody calls it back, also where it turns out that the saga cannot go on without its step.
        begun = [output.step for output in sends if output.kind == "undo" and not output.again]
        kept = [name for name in begun if instance.steps[name].given_up is None]
        assert kept == [], "S9: after the pivot nothing is undone but what the saga goes on without"
    if before.phase is Phase.COMPLETED:
        assert instance.phase in (Phase.COMPLETED, Phase.RUNNING)
        assert all(instance.steps[name].given_up is not None for name in undos)
    fresh = [output.step for output in sends if output.kind == "undo" and not output.again and output.attempt == 1]
    alone = undone_by_itself(before, changes)
    for name in fresh:
        if instance.steps[name].given_up is not None and name in definition.alternatives:
            continue  # it is undone before its alternative has its turn, even if that came before its turn
        for later in definition.descendants[name]:
            if instance.phase is Phase.COMPENSATING and before.steps[name].given_up is None and name not in alone:
                assert instance.steps[later].state is not StepState.COMPENSATING, "S10: order of undo"
    assert all(number == 1 for number in Counter(undos).values()), "S10: one at a time"
    assert [each for each in play.sent if isinstance(each, Announce)][1:] == [], "an end is told once"
    states = {name: step.state for name, step in instance.steps.items()}
    if instance.phase.ended:
        assert instance.next_due is None
        assert not {StepState.COMPENSATING, StepState.WAITING, StepState.RETRYING} & set(states.values()), states
        assert StepState.PENDING not in states.values()
        assert not any(step.early for step in instance.steps.values())
        assert not any(step.timers() for step in instance.steps.values())
    if instance.phase is Phase.COMPLETED:
        for step in definition.steps:
            told = instance.steps[step.name]
            if told.given_up is not None and step.undo is not None and not definition.observe_only:
                assert told.state not in (StepState.DONE, StepState.UNKNOWN), "S11: what was given up is undone"
            if told.given_up is None:
                assert told.state in (StepState.DONE, StepState.DEGRADED, StepState.SKIPPED), states
    if instance.phase in (Phase.COMPENSATED, Phase.CANCELLED) and not definition.observe_only:
        assert [s.name for s in definition.steps if s.undo and states[s.name] is StepState.DONE] == []
    for step in definition.steps:
        if instance.steps[step.name].state is StepState.WAITING:
            assert instance.steps[step.name].limit_at is not None, "every wait has a limit"


@settings(max_examples=1_000, deadline=None)
@given(lives())
def test_the_invariants_hold_for_every_shape(
    given_: Life,
) -> None:
    live(*given_)


@settings(max_examples=500, deadline=None)
@given(lives())
def test_v1_when_nothing_more_happens_every_shape_ends_or_waits_for_a_person(
    given_: Life,
) -> None:
    play = live(*given_)
    for _ in range(200):
        if play.instance.next_due is None:
            break
        play.later(max(0.0, (play.instance.next_due - play.now) / 1_000_000))
        answer(play, given_[2])
    assert play.instance.next_due is None
    assert play.instance.phase.ended or "WaitingForPerson" in play.instance.conditions, play.states()


@settings(max_examples=300, deadline=None)
@given(lives())
def test_no_span_of_any_shape_is_told_twice_with_changes(
    given_: Life,
) -> None:
    shape, happening, says = given_
    play = Play([*SHAPES, *WATCHED][shape])
    definition = play.definition
    answer(play, says)
    for each in happening:
        play.now += 1
        before = play.instance
        happen(play, *each)
        answer(play, says)
        after = play.instance
        if after is not before and after.epoch == before.epoch:
            first, second = spans_of(definition, before), spans_of(definition, after)
            assert {id_: second.get(id_) for id_ in first} == first


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHAPES), st.data())
def test_row_6_the_order_of_the_same_successes_does_not_decide_which_steps_count(
    definition: Definition, data: st.DataObject
) -> None:
    """Steps without groups: of a group the first success counts, so there the order decides on purpose."""
    if any(step.any_of for step in definition.steps):
        return
    facts = [f"{step.name}.done" for step in definition.steps if step.done and not step.final]
    says = data.draw(st.lists(st.booleans(), min_size=4, max_size=4))
    ends = []
    for _ in range(2):
        play = Play(definition)
        answer(play, says)
        for fact in data.draw(st.permutations(facts)):
            play.sees(fact)
            answer(play, says)
        ends.append(
            {name: step.given_up is None and step.state is StepState.DONE for name, step in play.instance.steps.items()}
        )
    assert ends[0] == ends[1]
