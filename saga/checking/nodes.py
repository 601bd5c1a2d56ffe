"""The coordinator of the model: instances made small, numbered, and what each input makes of them, each asked once.

Time stands still: every call of the code under test has the same `now`, so that nothing but armed timers tells moments
apart, and to fire a timer is to make it due. Timers may fire in any order, which is more than a definition's limits
allow: what holds here holds whatever the limits are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec.structs import fields

from ..definition import Definition
from ..inputs import Ask, Decided, Elapsed, HandlerGaveUp, Input, Observed, Send, Tell, Transition, Unbuildable
from ..instance import Failure, Instance, Remark, Step
from ..words import Condition, StepState
from .judge import Broken, Judge, Ledger, waits_for_person
from .shape import Shape

NOW = 1_000_000_000_000_000
"""The one moment, microseconds; every number above it in an instance is a timer."""

KEY = "model"

_TWICE = 7
"""One call in so many is made twice."""

Advance = Callable[[Definition, Instance, Any, int], Transition]
Begin = Callable[[Definition, str, int, Observed, int], Transition]

_KEPT = (Condition.WAITING_FOR_PERSON, "WaitingForLock")
_UNTOLD: dict[str, Any] = {
    **dict.fromkeys(("trigger", "trace", "undo_trace", "error", "message", "undo_ended_at", "undo_outcome")),
    **dict.fromkeys(("since", "ready_at", "undo_ready_at"), 0),
}
"""What is shown and never decided on."""


class Sent(NamedTuple):
    """A command that the coordinator published: which, of which step, and the ids that an undo's command names."""

    kind: str
    step: str
    attempt: int
    undoes: frozenset[str] = frozenset()


class Edge(NamedTuple):
    """What one input led to: the next node, what was sent, what is wrong with it, and how questions were answered."""

    node: int
    sent: tuple[Sent, ...]
    broken: Broken | None
    answers: str = ""
    fault: str = ""


@dataclass(slots=True)
class Node:
    """One state of the coordinator.

    Args:
        instance: as the code under test gave it, made small.
        ledger: what was read and sent until then.
        timers: what is armed: step ("" for the saga) and field.
        ended, needs_person: as its phase and conditions say.
    """

    instance: Instance
    ledger: Ledger
    timers: tuple[tuple[str, str], ...]
    ended: bool
    needs_person: bool


class Nodes:
    """All states of the coordinator that were met, and the edges between them.

    Args:
        definition: what is checked, with its attempts cut.
        advance, begin: the code under test.
        exact: leave instances as they are: the same states, but many more of them.
    """

    def __init__(self, definition: Definition, advance: Advance, begin: Begin, exact: bool = False) -> None:
        self.definition = definition
        self.exact = exact
        self.shape = Shape(definition)
        self.judge = Judge(self.shape)
        self._advance = advance
        self._begin = begin
        self.nodes: list[Node] = []
        self._numbers: dict[object, int] = {}
        self._edges: dict[tuple[int, object], tuple[Edge, ...]] = {}
        self.calls = 0
        self.broken: list[tuple[int, Broken]] = []

    def start(self, event: Observed) -> tuple[Edge, ...]:
        """Begin the instance."""
        try:
            transition = self._begin(self.definition, KEY, 1, event, NOW)
        except Exception as error:
            return (Edge(-1, (), Broken("no-exception", f"begin raised {type(error).__name__}: {error}")),)
        blank = Instance(
            transition.instance.type, KEY, 1, transition.instance.version, transition.instance.hash, started_at=NOW
        )
        blank.started_by = transition.instance.started_by
        blank.steps = {name: Step() for name in transition.instance.steps}
        return tuple(self._follow(blank, Ledger(), None, event, transition))

    def edges(
        self, number: int, step: str | None, input_: Input, timer: tuple[str, str] | None = None
    ) -> tuple[Edge, ...]:
        """Apply an input to a node; each pair is asked once."""
        key = (number, timer or input_)
        found = self._edges.get(key)
        if found is None:
            found = self._edges[key] = tuple(self._apply(number, step, input_, timer))
        return found

    def fire(self, number: int, timer: tuple[str, str]) -> tuple[Edge, ...]:
        """Let one armed timer be due, and no other."""
        return self.edges(number, timer[0] or None, Elapsed(NOW), timer)

    # ---- one input -----------------------------------------------------------------------------------------------

    def _apply(self, number: int, step: str | None, input_: Input, timer: tuple[str, str] | None) -> Iterator[Edge]:
        node = self.nodes[number]
        before = node.instance
        if timer is not None:
            before = before.copy()
            holder: Any = before.steps[timer[0]] if timer[0] else before
            setattr(holder, timer[1], NOW)
        transition, broken = self._call(before, input_)
        if transition is None:
            yield Edge(-1, (), broken)
        else:
            yield from self._follow(before, node.ledger, step, input_, transition, broken)

    def _call(self, before: Instance, input_: Input) -> tuple[Transition | None, Broken | None]:
        """Call the code under test, now and then twice: a function says the same, and leaves what it was given."""
        self.calls += 1
        try:
            if not self.exact and self.calls % _TWICE:
                return self._advance(self.definition, before, input_, NOW), None
            was = _key(before)
            transition = self._advance(self.definition, before, input_, NOW)
            if _key(before) != was:
                return transition, Broken("S3", "the instance that was given was changed")
            same = self._advance(self.definition, before, input_, NOW)
        except Exception as error:
            return None, Broken("no-exception", f"{type(error).__name__}: {error}")
        if _key(same.instance) != _key(transition.instance) or same.outputs != transition.outputs:
            return transition, Broken("S3", "the same input gave another result the second time")
        return transition, None

    def _follow(
        self,
        before: Instance,
        ledger: Ledger,
        step: str | None,
        input_: Input,
        transition: Transition,
        broken: Broken | None = None,
        asked: Sequence[Ask] = (),
        sent: tuple[Sent, ...] = (),
        answers: str = "",
    ) -> Iterator[Edge]:
        """Note what came of it, and answer what it asks for, in every way, as the batch does within its transaction."""
        broken = broken or next(self.judge.transition(ledger, before, step, input_, transition), None)
        known = self.judge.read(ledger, step, input_, transition)
        asked = list(asked)
        for output in transition.outputs:
            if isinstance(output, Ask):
                asked.append(output)
                continue
            if isinstance(output, Tell):  # of a child to its parent, which is no part of the model
                continue
            known = self.judge.send(known, output)
            if isinstance(output, Send):
                undoes = frozenset(fact.id for fact in output.undoes)
                sent = (*sent, Sent(output.kind, output.step, output.attempt, undoes))
        instance = transition.instance
        while asked and instance.steps[asked[0].step].asked != asked[0].kind:
            del asked[0]  # what came in between has settled it
        if not asked:
            yield Edge(self._number(instance, known), sent, broken, answers)
            return
        ask, rest = asked[0], asked[1:]
        for answer in _answers(ask):
            after, wrong = self._call(instance, answer)
            told = f"{answers}, " if answers else ""
            told += f"{ask.step}: {_spelled(answer)}"
            if after is None:
                yield Edge(-1, (), wrong, told)
            else:
                bad = broken or wrong
                yield from self._follow(instance, known, ask.step, answer, after, bad, rest, sent, told)

    # ---- numbering -----------------------------------------------------------------------------------------------

    def _number(self, instance: Instance, ledger: Ledger) -> int:
        if self.exact:
            instance.seq = 1
        else:
            small(instance, self.shape)
            ledger = ledger.small()
        key = (_key(instance), ledger.key)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.nodes)
            node = Node(instance, ledger, armed(instance), instance.phase.ended, waits_for_person(instance))
            self.nodes.append(node)
            self.broken += [(number, broken) for broken in self._probe(node)]
        return number

    def _probe(self, node: Node) -> Iterator[Broken]:
        """Ask what must never matter: time that has not come, parked events, strangers, a second start."""
        before = node.instance
        if not node.timers:
            yield from self.judge.quiet(before)
        if self.exact and Instance.from_json(before.to_json()) != before:
            yield Broken("S3", "the instance is another when it is stored and read again")
        decided = _decided(before)
        for what, invariant, input_ in self._idle(before):
            transition, broken = self._call(before, input_)
            if broken is not None:
                yield broken
            elif transition is not None and (transition.outputs or _decided(transition.instance) != decided):
                yield Broken(invariant, f"{what} changed something")

    def _idle(self, instance: Instance) -> Iterator[tuple[str, str, Input]]:
        yield "a timer that is not due", "S12", Elapsed(NOW)
        if instance.phase.ended:
            yield "time that passed after the end", "S12", Elapsed(NOW * 2)
        yield "an event that it does not know", "S15", Observed("stranger", "Stranger")
        if instance.started_by is not None:
            yield "a second start", "S15", Observed("start-again", instance.started_by.type)
        for name, step in instance.steps.items():
            plan = self.shape.plan(name)
            if step.state in (StepState.WAITING, StepState.UNKNOWN) and plan.done:
                produces = (*plan.done, *plan.failed)
                parked = HandlerGaveUp("parked", "x", "X", "service", "handler", produces, False, "Error")
                yield f"an event of {name} that is parked", "R14", parked
            if step.state is StepState.DONE and plan.done and not self._has_policy(plan.done[0]):
                yield f"a second success of {name}", "S1", Observed(f"{name}:twice", plan.done[0], step=name)

    def _has_policy(self, type_: str) -> bool:
        """Whether something is said of this event for when it comes in vain: then it may change the saga."""
        return type_ in self.definition.policies


ELEMENTS = ("a", "b")
"""Of a step that runs once per element, at most."""


def _answers(ask: Ask) -> list[Input]:
    """List what a function of the user may say: every answer, and that it raised."""
    values: list[Any] = [True, False] if ask.kind == "when" else [ELEMENTS[:n] for n in range(len(ELEMENTS), -1, -1)]
    return [*(Decided(ask.step, ask.kind, value) for value in values), Unbuildable(ask.step, ask.kind, "it raised")]


def _spelled(answer: Input) -> str:
    if not isinstance(answer, Decided):
        return "the function raised"
    if answer.kind == "when":
        return "yes" if answer.value else "no"
    return f"for {', '.join(answer.value) or 'no elements'}"


def armed(instance: Instance) -> tuple[tuple[str, str], ...]:
    """List the armed timers of an instance: step ("" for the saga itself) and field."""
    if instance.phase.ended:
        return ()
    found = [("", name) for name in _INSTANCE_FIELDS if _is_timer(getattr(instance, name))]
    found += [
        (step, name)
        for step, state in instance.steps.items()
        for name in _STEP_FIELDS
        if _is_timer(getattr(state, name))
    ]
    return tuple(found)


def small(instance: Instance, shape: Shape) -> None:
    """Take from an instance what is only shown, what only grows, and what has been decided and is not asked for again.

    A test compares this with instances that are left as they are.
    """
    instance.seq = 1
    instance.epoch = 0
    instance.origin = None
    if instance.cause is not None:
        instance.cause = {"step": None, "error": "", "message": "", "event": None, "at": 0}
    instance.conditions = {
        word: Remark(remark.reason, "", 0, remark.step) for word, remark in instance.conditions.items() if word in _KEPT
    }
    for name, step in instance.steps.items():
        for shown, value in _SHOWN.items():
            setattr(step, shown, value)
        if step.outcome is not StepState.SKIPPED:
            step.ended_at = step.outcome = None
        commanded = shape.plan(name).send is not None
        step.failures = [Failure(0, "")] * len(step.failures) if commanded and step.state in _OPEN else []
        undoing = step.state is StepState.COMPENSATING
        step.undo_failures = [Failure(0, "")] * len(step.undo_failures) if undoing else []
        if step.state in _GIVEN_BACK:
            step.certain = True
        if step.done is not None:
            step.undo_answered_at, step.undo_empty = None, False


_INSTANCE_FIELDS = tuple(f.name for f in fields(Instance) if f.name not in ("steps", "conditions", "cause"))
_STEP_FIELDS = tuple(f.name for f in fields(Step))
_LISTS = ("failures", "undo_failures")
_OWN_LISTS = tuple(f.name for f in fields(Instance) if f.default_factory is list)
_OWN = attrgetter(*(name for name in _INSTANCE_FIELDS if name not in _OWN_LISTS))
_OF_STEP = attrgetter(*(name for name in _STEP_FIELDS if name not in _LISTS))
_LISTS_OF_STEP = attrgetter(*_LISTS)
_SHOWN = {name: value for name, value in _UNTOLD.items() if name in _STEP_FIELDS}
_OPEN = (StepState.WAITING, StepState.RETRYING, StepState.UNKNOWN)
_GIVEN_BACK = (StepState.COMPENSATING, StepState.COMPENSATED, StepState.UNDO_FAILED)


def _is_timer(value: object) -> bool:
    return isinstance(value, int) and value > NOW


def _key(instance: Instance) -> object:
    return (
        _OWN(instance),
        *(tuple(getattr(instance, name)) for name in _OWN_LISTS),
        instance.cause is None,
        tuple(sorted(instance.conditions.items())),
        *((name, _OF_STEP(step), *map(tuple, _LISTS_OF_STEP(step))) for name, step in instance.steps.items()),
    )


def _decided(instance: Instance) -> object:
    """What an input that does not matter must leave as it is."""
    return (instance.phase, *((name, _OF_STEP(step)) for name, step in instance.steps.items()))
