"""`advance` and a model of it that shares nothing with it are told the same story and must say the same."""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition, RetryPlan
from choreo.saga.inputs import Send, Transition
from tests.saga.model import ENDS, Model, Pauses, Rule
from tests.saga.play import Play, define, plan
from tests.support.profiles import machine_test

RETRIES = st.builds(Pauses, st.integers(1, 3), st.sampled_from([2, 5]), st.sampled_from([5, 60]))
NAMES = "abcde"


@st.composite
def sagas(draw: st.DrawFn) -> tuple[Rule, ...]:
    """Draw a small saga that `step()` would let pass: every step lies before or after the pivot."""
    number = draw(st.integers(1, 5))
    pivot = draw(st.none() | st.integers(0, number - 1))
    rules: list[Rule] = []
    for index, name in enumerate(NAMES[:number]):
        earlier = [rule.name for rule in rules]
        after = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2)) if earlier else []
        if pivot is not None and index == pivot:
            after = earlier
        elif pivot is not None and index > pivot and not set(after) & set(earlier[pivot:]):
            after.append(NAMES[pivot])
        before_pivot = pivot is None or index < pivot
        rules.append(
            Rule(
                name=name,
                after=tuple(after),
                within=draw(st.sampled_from([3, 30])),
                commanded=draw(st.booleans()),
                undoable=before_pivot and draw(st.integers(0, 3)) > 0,
                pivot=index == pivot,
                optional=index != pivot and draw(st.integers(0, 3)) == 0,
                tries=draw(RETRIES),
                resends=draw(RETRIES),
                undo_tries=draw(RETRIES),
                undo_resends=draw(RETRIES),
                undo_within=draw(st.sampled_from([20, 600])),
            )
        )
    return tuple(rules)


def declared(rules: tuple[Rule, ...], deadline: int | None, watching: bool) -> Definition:
    """Write what the model was told as a definition."""
    return define(
        *(
            plan(
                rule.name,
                index,
                *rule.after,
                within=rule.within * SECOND,
                send=f"{rule.name}.do" if rule.commanded else None,
                undo=f"{rule.name}.undo" if rule.undoable else None,
                undone=(f"{rule.name}.undone",) if rule.undoable else (),
                pivot=rule.pivot,
                optional=rule.optional,
                retry=retry_plan(rule.tries),
                resend=retry_plan(rule.resends),
                undo_retry=retry_plan(rule.undo_tries),
                undo_resend=retry_plan(rule.undo_resends),
                undo_within=rule.undo_within * SECOND,
            )
            for index, rule in enumerate(rules)
        ),
        deadline=None if deadline is None else deadline * SECOND,
        observe_only=watching,
    )


def retry_plan(pauses: Pauses) -> RetryPlan:
    return RetryPlan(pauses.tries, pauses.first * SECOND, pauses.most * SECOND)


STEP = st.integers(0, len(NAMES) - 1)
AGO = st.sampled_from([0, 0, 0, 1, 7])
"""How many seconds before it arrives an event has happened: its own time, by the participant's clock."""


class Story(RuleBasedStateMachine):
    """Anything may happen, in any order, at any time."""

    @initialize(rules=sagas(), deadline=st.none() | st.sampled_from([10, 100]), watching=st.integers(0, 7))
    def begins(self, rules: tuple[Rule, ...], deadline: int | None, watching: int) -> None:
        self.rules = rules
        self.play = Play(declared(rules, deadline, watching == 0))
        self.model = Model(rules, self.seconds, deadline, watching == 0)
        self.last = ""

    @property
    def seconds(self) -> int:
        return self.play.now // SECOND

    def rule_of(self, index: int) -> Rule:
        return self.rules[index % len(self.rules)]

    def same(self, transition: Transition, meant: bool, what: str) -> None:
        self.last = what
        assert (transition.verdict == "applied") == meant, f"{what}: {transition.verdict} {transition.reason}"

    @rule(index=STEP, ago=AGO)
    def succeeds(self, index: int, ago: int) -> None:
        name, at = self.rule_of(index).name, self.seconds - ago
        self.same(self.play.sees(f"{name}.done", time=at * SECOND), self.model.success(name, at), f"{name} done")

    @rule(index=STEP, earlier=st.none() | st.integers(0, 1))
    def fails(self, index: int, earlier: int | None) -> None:
        name = self.rule_of(index).name
        attempt = None if earlier is None else max(1, self.model.told[name].attempt - earlier)
        transition = self.play.sees(f"{name}.failed", attempt=attempt)
        self.same(transition, self.model.failure(name, attempt), f"{name} failed, attempt {attempt}")

    @rule(index=STEP)
    def gives_up(self, index: int) -> None:
        name = self.rule_of(index).name
        self.same(self.play.gave_up("anything", (f"{name}.done",)), self.model.gave_up(name), f"{name} given up")

    @rule(index=STEP)
    def parks(self, index: int) -> None:
        before = self.play.states(), list(self.play.sent)
        self.play.gave_up("anything", (f"{self.rule_of(index).name}.done",), dead=False)
        assert (self.play.states(), self.play.sent) == before, "what is parked is only remarked"

    @rule(index=STEP, ago=AGO, empty=st.booleans(), earlier=st.integers(0, 1))
    def is_undone(self, index: int, ago: int, empty: bool, earlier: int) -> None:
        rule_ = self.rule_of(index)
        if not rule_.undoable:
            return
        attempt = max(1, self.model.told[rule_.name].undo_attempt - earlier)
        at = self.seconds - ago
        answer: dict[str, Any] = {"causation_id": self.play.undo_id(rule_.name, attempt), "time": at * SECOND}
        transition = self.play.undone(rule_.name, nothing_undone=empty, **answer)
        self.same(transition, self.model.undone(rule_.name, at, empty=empty), f"{rule_.name} undone")

    @rule(index=STEP, earlier=st.integers(0, 1))
    def undo_gives_up(self, index: int, earlier: int) -> None:
        rule_ = self.rule_of(index)
        if not rule_.undoable:
            return
        attempt = max(1, self.model.told[rule_.name].undo_attempt - earlier)
        transition = self.play.gave_up(
            f"{rule_.name}.undo", (f"{rule_.name}.undone",), event_id=self.play.undo_id(rule_.name, attempt)
        )
        self.same(transition, self.model.undo_gave_up(rule_.name, attempt), f"undo of {rule_.name} given up")

    @rule()
    def starts_again(self) -> None:
        self.same(self.play.sees("placed"), False, "a second start")

    @rule(seconds=st.sampled_from([0, 1, 2, 3, 5, 10, 31, 61, 601]))
    def waits(self, seconds: int) -> None:
        self.same(self.play.later(seconds), self.model.elapse(seconds), f"{seconds} s")

    @precondition(lambda self: self.model.next_due() is not None)
    @rule(short=st.sampled_from([0, 0, 0, 1]))
    def waits_until_something_is_due(self, short: int) -> None:
        due = self.model.next_due()
        assert due is not None
        seconds = max(0, due - self.seconds - short)
        self.same(self.play.later(seconds), self.model.elapse(seconds), f"{seconds} s, until just then")

    @rule(kind=st.sampled_from(["cancel", "retry-undo", "mark-undone"]), index=st.none() | STEP)
    def a_person_asks(self, kind: Literal["cancel", "retry-undo", "mark-undone"], index: int | None) -> None:
        name = None if index is None or kind == "cancel" else self.rule_of(index).name
        meant = {
            "cancel": self.model.cancel,
            "retry-undo": lambda: self.model.retry_undo(name),
            "mark-undone": lambda: self.model.mark_undone(name),
        }[kind]()
        self.same(self.play.person(kind, name), meant, f"{kind} {name}")

    @rule(index=st.none() | STEP)
    def a_person_has_it_tried_again(self, index: int | None) -> None:
        name = None if index is None else self.rule_of(index).name
        meant = self.model.retry(name)
        self.same(self.play.person("retry", name), meant, f"retry {name}")

    @rule(index=STEP)
    def a_person_goes_on_without(self, index: int) -> None:
        name = self.rule_of(index).name
        meant = self.model.skip(name)
        self.same(self.play.person("skip", name), meant, f"skip {name}")

    @rule()
    def a_person_pauses(self) -> None:
        self.same(self.play.person("pause"), self.model.pause(), "pause")

    @rule()
    def a_person_resumes(self) -> None:
        self.same(self.play.person("resume"), self.model.resume(), "resume")

    @precondition(lambda self: any(isinstance(sent, Send) for sent in self.play.last.outputs))
    @rule()
    def cannot_be_built(self) -> None:
        sent = next(sent for sent in self.play.last.outputs if isinstance(sent, Send))
        if sent.again:
            return  # what is sent again is not built again
        self.play.unbuildable(sent.step, sent.kind)
        if sent.kind == "undo":
            self.model.undo_unbuildable(sent.step)
        else:
            self.model.unbuildable(sent.step)

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "play"):
            return
        play, model = self.play, self.model
        assert play.states() == model.states(), self.last
        assert (play.phase, play.instance.epoch) == (model.phase, model.epoch), self.last
        assert play.commands() == model.sent, self.last
        assert play.announced() == model.announced, self.last
        due = play.instance.next_due
        assert (due if due is None else due // SECOND) == model.next_due(), self.last
        if model.paused is None:
            assert ("WaitingForPerson" in play.instance.conditions) == model.needs_a_person(), self.last

    def teardown(self) -> None:
        """When nothing more happens, it ends or a person is told (V1)."""
        if not hasattr(self, "play"):
            return
        if self.model.paused is not None:
            self.a_person_resumes()
        for _ in range(300):
            due = self.model.next_due()
            if due is None:
                break
            self.waits(max(0, due - self.seconds))
            self.both_say_the_same()
        assert self.play.phase in ENDS or self.model.needs_a_person(), self.play.states()


TestStory = machine_test(Story, cases=400, steps=30)
