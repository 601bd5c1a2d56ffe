"""Play a saga by hand: events in, states and commands out, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from choreo.events.clock import SECOND
from choreo.saga.advance import advance, begin
from choreo.saga.definition import Definition, RetryPlan, StepPlan
from choreo.saga.inputs import (
    Announce,
    Ask,
    Change,
    Decided,
    Elapsed,
    HandlerGaveUp,
    Loaded,
    Observed,
    Operator,
    OperatorKind,
    Output,
    Send,
    Transition,
    Unbuildable,
    UndoAsked,
    Unloaded,
    command_id,
)
from choreo.saga.instance import Instance, Parent, Question, Step
from choreo.saga.outputs import write_output
from choreo.saga.words import StepState

RETRY = RetryPlan(attempts=3, first=5 * SECOND, most=60 * SECOND)


def plan(name: str, index: int, *after: str, **options: object) -> StepPlan:
    """A step with its usual events: `reserve` is done by `reserve.done`, undone by `reserve.undo`, and so on."""
    usual: dict[str, object] = {
        "done": (f"{name}.done",),
        "failed": (f"{name}.failed",),
        "undo": f"{name}.undo",
        "undone": (f"{name}.undone",),
        "within": 30 * SECOND,
        "retry": RETRY,
        "resend": RETRY,
        "undo_retry": RETRY,
        "undo_resend": RETRY,
        "undo_within": 600 * SECOND,
    }
    if options.get("pivot"):
        usual.update(undo=None, undone=())
    usual.update(options)
    return StepPlan(name=name, index=index, after=after, **usual)  # type: ignore[arg-type]


def define(*steps: StepPlan, **options: object) -> Definition:
    """A definition that starts with `placed`."""
    types = {"placed", "ended", "reversed"}
    for step in steps:
        types |= {*step.done, *step.failed, *step.undone, *(t for t in (step.send, step.undo) if t)}
    usual: dict[str, object] = {"completed": "ended", "compensated": "reversed"}
    usual.update(options)
    return Definition(
        type="order",
        version=1,
        key="order_id",
        start=("placed",),
        steps=steps,
        topics=dict.fromkeys(sorted(types), "topic"),
        **usual,  # type: ignore[arg-type]
    )


LINE = define(plan("reserve", 0), plan("charge", 1, "reserve"), plan("ship", 2, "charge"))
"""Three steps in a row, all of which can be undone."""

PIVOT = define(
    plan("reserve", 0),
    plan("charge", 1),
    plan("ship", 2, "reserve", "charge", pivot=True),
    plan("notify", 3, "ship", send="notify.do", undo=None, undone=(), optional=True),
)
"""A parallel branch, a pivot, and an optional commanded step."""


@dataclass
class Play:
    """One saga being played."""

    definition: Definition = LINE
    now: int = 1_000 * SECOND
    instance: Instance = field(init=False)
    last: Transition = field(init=False)
    sent: list[Send | Announce | Ask] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    counter: int = 0

    def __post_init__(self) -> None:
        self._took(begin(self.definition, "4711", 1, Observed("e-start", "placed", time=self.now), self.now))

    def sees(self, type_: str, **options: object) -> Transition:
        """An event arrives."""
        self.counter += 1
        event = Observed(str(options.pop("id", f"e{self.counter}")), type_, **{"time": self.now, **options})  # type: ignore[arg-type]
        return self._took(advance(self.definition, self.instance, event, self.now))

    def later(self, seconds: float) -> Transition:
        """Time passes, everything was read, and timers fire."""
        self.now += int(seconds * SECOND)
        return self._took(advance(self.definition, self.instance, Elapsed(self.now), self.now))

    def gave_up(
        self,
        event_type: str,
        produces: tuple[str, ...],
        *,
        dead: bool = True,
        event_id: str = "x",
        retry_topic: str = "",
    ) -> Transition:
        """A service reports that its handler failed."""
        self.counter += 1
        report = HandlerGaveUp(
            f"r{self.counter}", event_id, event_type, "svc", "handler", produces, dead, "Boom", retry_topic=retry_topic
        )
        return self._took(advance(self.definition, self.instance, report, self.now))

    def person(
        self, kind: OperatorKind, step: str | None = None, *, by: str = "ann", why: str = "because"
    ) -> Transition:
        """Somebody types a command."""
        self.counter += 1
        command = Operator(f"c{self.counter}", kind, by, why, step)
        return self._took(advance(self.definition, self.instance, command, self.now))

    def unbuildable(self, step: str, kind: str) -> Transition:
        """A command could not be built."""
        return self._took(advance(self.definition, self.instance, Unbuildable(step, kind, "no field"), self.now))  # type: ignore[arg-type]

    def decided(self, step: str, value: object, kind: Question = "when") -> Transition:
        """A function of the user answers."""
        return self._took(advance(self.definition, self.instance, Decided(step, kind, value), self.now))

    def unloaded(self, *outputs: Output) -> Transition:
        """What is to be published needs code that is loaded nowhere."""
        return self._took(
            advance(self.definition, self.instance, Unloaded(tuple(map(write_output, outputs)), "e-cause"), self.now)
        )

    def asked_to_undo(self, parent: Parent) -> Transition:
        """A parent undoes its child."""
        return self._took(advance(self.definition, self.instance, UndoAsked("u-1", parent), self.now))

    def loaded(self) -> Transition:
        """A coordinator has the code."""
        return self._took(advance(self.definition, self.instance, Loaded(), self.now))

    def told(self) -> list[tuple[str | None, str, str]]:
        """What the history says of the last input."""
        return [(change.step, change.state, change.reason) for change in self.last.changes]

    def _took(self, transition: Transition) -> Transition:
        self.instance, self.last = transition.instance, transition
        self.sent += transition.outputs
        self.changes += transition.changes
        return transition

    @property
    def phase(self) -> str:
        return self.instance.phase.value

    def step(self, name: str) -> Step:
        return self.instance.steps[name]

    def states(self) -> dict[str, str]:
        return {name: step.state.value for name, step in self.instance.steps.items()}

    def commands(self) -> list[str]:
        """Every command so far, one that was sent again marked with `*`."""
        return [f"{s.step}.{s.kind}#{s.attempt}{'*' if s.again else ''}" for s in self.sent if isinstance(s, Send)]

    def announced(self) -> list[str]:
        return [s.type for s in self.sent if isinstance(s, Announce)]

    def do_id(self, step: str, attempt: int = 1) -> str:
        return command_id(self.instance.id, step, "", "do", attempt)

    def undo_id(self, step: str, attempt: int = 1) -> str:
        return command_id(self.instance.id, step, "", "undo", attempt)

    def undone(self, step: str, **options: object) -> Transition:
        """The participant answers the undo of a step."""
        return self.sees(f"{step}.undone", **{"causation_id": self.undo_id(step), **options})


def state(play: Play, name: str) -> StepState:
    return play.step(name).state
