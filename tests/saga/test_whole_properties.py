"""Cancellations, policies, approvals and locks together, in any order: what must hold of a saga after each input."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from choreo.saga.advance import advance, begin
from choreo.saga.definition import Definition
from choreo.saga.inputs import Locked, Observed, Send
from choreo.saga.instance import Instance
from choreo.saga.lock import LockPlan
from choreo.saga.policy import Policy
from choreo.saga.words import Condition, Phase, StepState
from tests.support.profiles import bounded

from .play import Play, define, plan
from .test_properties import happen

SECOND = 1_000_000
STEPS = {
    "before": (
        plan("a", 0),
        plan("agree", 1, "a", done=("agree.done",), failed=("agree.failed",), undo=None, undone=(), approval="credit"),
        plan("b", 2, "agree", send="b.do"),
    ),
    "pivot": (
        plan("a", 0),
        plan("agree", 1, done=(), failed=(), undo=None, undone=(), approval="credit", optional=True),
        plan("b", 2, "a", "agree", send="b.do", pivot=True),
        plan("sign", 3, "b", done=(), failed=(), undo=None, undone=(), approval="boss", within=20 * SECOND),
    ),
}
PERSON = ("cancel", "approve", "reject", "dismiss", "retry-undo", "mark-undone")


@dataclass
class Whole(Play):
    """A saga that may want a lock before its first step."""

    def __post_init__(self) -> None:
        start = Observed("e-start", "placed", time=self.now, lock="ann")
        self._took(begin(self.definition, "4711", 1, start, self.now))

    def told(self, granted: bool) -> None:
        holder = None if granted else "order/1"
        self._took(advance(self.definition, self.instance, Locked(granted, holder), self.now))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Definition, list[tuple[str, str, float]]]:
    steps = STEPS[draw(st.sampled_from(sorted(STEPS)))]
    word = st.sampled_from(["ignore", "ask", "undo"])
    policy = st.builds(Policy, unexpected=word, duplicate=word, late=word)
    types = ["placed", "off", "a.done", "a.failed", "a.undone", "b.failed", "agree.done"]
    known = {type_ for step in steps for type_ in (*step.done, *step.failed, *step.undone)} | {"placed", "off"}
    policies = draw(st.dictionaries(st.sampled_from([each for each in types if each in known]), policy))
    lock = draw(
        st.sampled_from([None, LockPlan("x", "x", 40 * SECOND, 90 * SECOND), LockPlan("x", "x", otherwise="refuse")])
    )
    definition = define(
        *steps, cancel=("off",), policies=policies, lock=lock, deadline=draw(st.sampled_from([None, 100 * SECOND]))
    )
    name = st.sampled_from([step.name for step in steps])
    event = st.tuples(st.sampled_from(["done", "failed", "undone", "gave up", "undo gave up"]), name, st.just(0.0))
    whole = st.tuples(st.sampled_from(["off", "placed", "granted", "queued"]), st.just(""), st.just(0.0))
    person = st.tuples(st.sampled_from(PERSON), name, st.just(0.0))
    time = st.tuples(st.just("time"), st.just(""), st.sampled_from([1.0, 31.0, 700.0]))
    return definition, draw(st.lists(st.one_of(event, event, whole, person, time), max_size=25))


def step_on(play: Whole, kind: str, name: str, seconds: float) -> None:
    asked = play.definition.by_name.get(name)
    if kind in ("off", "placed"):
        play.sees(kind)
    elif kind in ("granted", "queued"):
        play.told(kind == "granted")
    elif kind in PERSON:
        play.person(kind, None if kind in ("cancel", "dismiss") else name)  # type: ignore[arg-type]
    elif kind in ("done", "failed") and asked is not None and f"{name}.{kind}" not in (*asked.done, *asked.failed):
        return
    else:
        happen(play, kind, name, seconds)


def check(play: Whole, before: Instance) -> None:
    instance, definition = play.instance, play.definition
    assert Instance.from_json(instance.to_json()) == instance
    steps = {plan_.name: (plan_, instance.steps[plan_.name]) for plan_ in definition.steps}
    sends = [output for output in play.last.outputs if isinstance(output, Send)]
    if before.phase.ended and instance.epoch == before.epoch:
        assert play.last.outputs == [], "S8"
    pivot = definition.pivot
    done = pivot is not None and before.steps[pivot.name].state is StepState.DONE
    if done and before.phase in (Phase.RUNNING, Phase.COMPLETED):
        assert not [each for each in sends if each.kind == "undo"], "S9: whatever a policy or a person says"
    asked = [name for name, (plan_, step) in steps.items() if plan_.approval and step.state is StepState.WAITING]
    assert not asked or instance.phase is Phase.RUNNING, "nobody is asked about a saga that is being undone"
    stuck = any(step.state is StepState.UNDO_FAILED for _, step in steps.values()) or (
        instance.phase is Phase.RUNNING
        and any(s.state in (StepState.FAILED, StepState.UNKNOWN) and s.send_at is None for _, s in steps.values())
    )
    waits = Condition.WAITING_FOR_PERSON in instance.conditions
    assert waits == bool(asked or instance.doubts or stuck)
    if instance.lock is not None:
        assert instance.lock.state not in ("waiting", "held") or not instance.phase.ended
        assert (instance.lock.until is not None) == (instance.lock.state in ("waiting", "held"))
    if instance.waits_for_lock:
        assert sends == [], "nothing is sent before the saga has its lock"
        assert not any(step.state is StepState.WAITING or step.timers() for _, step in steps.values())
        assert instance.deadline_at is None
    if instance.phase.ended:
        assert instance.next_due is None
    if instance.phase in (Phase.COMPENSATED, Phase.CANCELLED):
        assert not [name for name, (plan_, step) in steps.items() if plan_.undo and step.state is StepState.DONE]


@bounded(120)
@given(cases())
def test_what_concerns_the_whole_saga_breaks_no_invariant_in_any_order(
    case: tuple[Definition, list[tuple[str, str, float]]],
) -> None:
    definition, happening = case
    play = Whole(definition)
    for each in happening:
        before = play.instance
        step_on(play, *each)
        if play.instance is not before:
            check(play, before)
