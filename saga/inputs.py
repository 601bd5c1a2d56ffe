"""What goes into `advance` and what comes out of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field

from ..events.ids import derived_id
from .instance import Fact, Instance, Parent, Question

Kind = Literal["do", "undo"]


class Observed(Struct, frozen=True, omit_defaults=True, gc=False):
    """An event of a type that the definition names.

    Args:
        id, type, source, time: of the event; `time` is its own, microseconds.
        causation_id: id of the event that led to it.
        step, attempt: from the saga headers, where it carries them for this saga.
        occurrence: which element of a step it is about, as the header names it.
        element: the same, the element's key as its payload names it; read where the header is missing.
        traceparent: its trace context.
        lock: on a start event, the key of the lock that the saga wants.
        nothing_undone: on the answer to an undo: the participant had nothing to undo.
        parent: on the start event of a child: the saga that begins it.
        handled: how long its handler was waited for and ran, as the header has it; for people.
        queue: on the start event of a saga whose type limits its open ones: its place among those that wait, 0 where
            there is room; None without a limit.
    """

    id: str
    type: str
    source: str = ""
    time: int = 0
    causation_id: str | None = None
    step: str | None = None
    attempt: int | None = None
    traceparent: str | None = None
    nothing_undone: bool = False
    occurrence: str | None = None
    element: str | None = None
    lock: str | None = None
    parent: Parent | None = None
    handled: str | None = None
    queue: int | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Observed:
        """Make one of what JSON has kept of it."""
        parent = values.get("parent")
        return cls(**{**values, "parent": None if parent is None else Parent(*parent)})


class UndoAsked(Struct, frozen=True, gc=False):
    """The parent undoes its child, whatever that is at (row 21).

    Args:
        id: of the command.
        parent: who asks, of which step.
        traceparent: the command's trace context.
    """

    id: str
    parent: Parent
    traceparent: str | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> UndoAsked:
        """Make one of what JSON has kept of it."""
        return cls(**{**values, "parent": Parent(*values["parent"])})


class HandlerGaveUp(Struct, frozen=True, omit_defaults=True, gc=False):
    """A service says that a handler failed on an event (ruling R14).

    Args:
        id: of the report.
        event_id, event_type: what the handler failed on.
        service, handler: who.
        produces: event types that the catalog says this handler produces.
        dead: no further try is made; otherwise the event will be tried again.
        error, message: class and text of the error.
        attempts: how often it was tried.
        traceparent: the report's trace context.
        retry_topic: where the event waits for that; empty where it is parked, and its key waits behind it.
        handled: how long the handler was waited for and ran, as the header has it; for people.
    """

    id: str
    event_id: str
    event_type: str
    service: str
    handler: str
    produces: tuple[str, ...]
    dead: bool
    error: str
    message: str = ""
    attempts: int = 1
    traceparent: str | None = None
    retry_topic: str = ""
    handled: str | None = None


class Elapsed(Struct, frozen=True, gc=False):
    """Every timer due at or before `until` (microseconds) may fire: all answers up to then were read (ruling R1)."""

    until: int


OperatorKind = Literal[
    "cancel", "retry-undo", "mark-undone", "approve", "reject", "dismiss", "pause", "resume", "retry", "skip"
]


class Operator(Struct, frozen=True, gc=False):
    """A person's command.

    Args:
        id: of the command.
        kind: what to do.
        by, reason: who and why, for the record.
        step: for `retry-undo` and `mark-undone`; None means every step whose undo failed. For `approve` and `reject`;
            None means the one that waits. For `retry`; None means the one that failed. For `skip`, always.
    """

    id: str
    kind: OperatorKind
    by: str = ""
    reason: str = ""
    step: str | None = None


class Unbuildable(Struct, frozen=True, gc=False):
    """A command that `advance` asked for could not be built from the saga's events, or a question not be answered."""

    step: str
    kind: Kind | Question
    message: str


class Decided(Struct, frozen=True, gc=False):
    """What a function of the user answered to an `Ask`: it is in the history, so that nobody has to ask again.

    Args:
        step: whose function.
        kind: what was asked.
        value: for "when" whether the step runs, for "due" microseconds or None, for "each" its elements.
    """

    step: str
    kind: Question
    value: Any


class Unloaded(Struct, frozen=True, gc=False):
    """What an input led to needs the code of the saga's version, which is not loaded where it was applied: it waits.

    Args:
        outputs: what waits, in order, as `write_output` writes it.
        cause: id of the input that led to it.
    """

    outputs: tuple[str, ...]
    cause: str


class Loaded(Struct, frozen=True, gc=False):
    """A coordinator that has the code found the saga paused: what waits goes out, and has its time from now on."""


class Migrated(Struct, frozen=True, gc=False):
    """The saga is moved to another version of its definition: from here on its whole history is read under that one.

    Args:
        was, version, hash: of its definition before and after, and the latter's digest.
        by, reason: who and why, for the record.
    """

    was: int
    version: int
    hash: str
    by: str = ""
    reason: str = ""


class Locked(Struct, frozen=True, gc=False):
    """What the store says of the lock that a saga wants.

    Args:
        granted: it has it.
        holder: else, who has it; None while it is passed on.
        ahead: how many wait already.
    """

    granted: bool
    holder: str | None = None
    ahead: int = 0


class Admitted(Struct, frozen=True, gc=False):
    """There is room for a saga that waits to start: fewer of its type are open than may be."""


Input = (
    Observed
    | HandlerGaveUp
    | Elapsed
    | Operator
    | Unbuildable
    | Decided
    | Unloaded
    | Loaded
    | Migrated
    | Locked
    | Admitted
    | UndoAsked
)


def input_id(input_: Input, seq: int) -> str:
    """Give an input's id in the history: its own, or one made of the place where it is applied."""
    match input_:
        case Observed() | HandlerGaveUp() | Operator() | UndoAsked():
            return input_.id
        case Elapsed():
            return f"timer:{seq}"
        case Unbuildable():
            return f"unbuildable:{input_.kind}:{input_.step}:{seq}"
        case Decided():
            return f"decided:{input_.kind}:{input_.step}:{seq}"
        case Unloaded():
            return f"paused:{seq}"
        case Loaded():
            return f"released:{seq}"
        case Migrated():
            return f"migrated:{seq}"
        case Locked():
            return f"lock:{seq}"
        case Admitted():
            return f"admitted:{seq}"


class Send(Struct, frozen=True, gc=False):
    """Publish a command of a step, or publish it again under the same id.

    Args:
        kind: do or undo.
        step: its name.
        type: the command's event type.
        attempt: rises only after a known failure.
        again: the same command was sent before: the same bytes go out.
        undoes: on an undo, what may have triggered the step: everything seen so far, to be narrowed by the catalog
            (ruling R5); a fact whose type is "" always counts.
    """

    kind: Kind
    step: str
    type: str
    attempt: int
    again: bool = False
    undoes: tuple[Fact, ...] = ()


class Announce(Struct, frozen=True, gc=False):
    """Publish the saga's own event, of this type, at its end; once in a saga's life."""

    type: str


class Ask(Struct, frozen=True, gc=False):
    """Ask a function of the user, with the saga's events, and apply what it says as `Decided`, in this transaction.

    Args:
        kind: whether the step runs ("when"), or for which elements ("each").
        step: its name.
    """

    kind: Question
    step: str


class Tell(Struct, frozen=True, gc=False):
    """Tell a parent what became of its child.

    Args:
        type: one of `outcomes.OUTCOMES`.
        to: the parent.
        undo: the undo command that this answers, if any.
        empty: there was nothing to undo.
    """

    type: str
    to: Parent
    undo: str | None = None
    empty: bool = False


Output = Send | Announce | Ask | Tell


class Change(NamedTuple):
    """One decision: the step (None for the saga itself), its new word, and why."""

    step: str | None
    state: str
    reason: str = ""


Verdict = Literal["applied", "ignored"]


class Transition(Struct, gc=False):
    """What came of one input: the new state, what to publish, and what was decided.

    An ignored input changes nothing but `seq` and, possibly, a condition; `reason` says why it was ignored.
    """

    instance: Instance
    verdict: Verdict = "applied"
    reason: str = ""
    outputs: list[Output] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def command_id(saga: str, step: str, occurrence: str, kind: Kind, attempt: int) -> str:
    """Derive a command's id (ruling R3): silence resends it, only a known failure or a person gives a new one.

    Args:
        saga: the saga's name with its run.
        step, occurrence: which step, and which element of a fan-out ("" for the only one).
        kind: do or undo.
        attempt: from 1.
    """
    return derived_id("command", saga, step, occurrence, kind, str(attempt))
