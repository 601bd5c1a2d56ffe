"""The state of one saga instance, as values: what `advance` takes and gives back, and what the store keeps as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field
from msgspec.json import Decoder, Encoder
from msgspec.structs import replace

from .definition import Definition
from .lock import Lock
from .names import saga_id
from .policy import Stray
from .words import Condition, Phase, StepState

Question = Literal["when", "each", "due"]
GivenUp = Literal["failed", "unwanted"]

_EXPECTED = frozenset((StepState.PENDING, StepState.WAITING, StepState.RETRYING))
_OPEN = frozenset((StepState.WAITING, StepState.RETRYING, StepState.UNKNOWN))
_EXPECTING = _OPEN | {StepState.COMPENSATING, StepState.UNDO_FAILED}


class Fact(NamedTuple):
    """An event that the saga has seen: its type and id."""

    type: str
    id: str


class Parent(NamedTuple):
    """The saga that has begun another one: its name with the run, its step there, and how deep the child is nested."""

    id: str
    step: str
    occurrence: str = ""
    depth: int = 1

    def same(self, other: Parent) -> bool:
        """Whether another one is the same step of the same saga."""
        return self[:3] == other[:3]


class Failure(NamedTuple):
    """One failed attempt: when, and what the error was (never a payload)."""

    at: int
    error: str


class Step(Struct, omit_defaults=True, gc=False):
    """The state of one step; times are microseconds. Its lists are replaced, never changed: copies share them.

    Args:
        state: its word.
        since: when it entered that state.
        ready_at: when its turn came.
        trigger, trace: the event that made it its turn, and that event's traceparent.
        limit_at: when it is given up.
        send_at: when its command is sent, or sent again.
        attempt: number of the present attempt; rises only after a known failure.
        sends: how often its command was sent in this attempt.
        done: the event that told its success.
        failed: the event that told its latest failure.
        ended_at, outcome: when its action was concluded, and as what; set once in an epoch, whatever comes later.
        error: class of its error.
        message: what it said.
        failures: the attempts that failed.
        certain: its outcome is known; a step given up without an answer may have happened all the same.
        by: the person who approved or rejected it.
        caused_by: the event that its success names as its cause, for the undo's guard.
        asked: what a function of the user is asked about it; answered at once where the code is loaded.
        chosen: what its `when` said; None before its turn.
        decided: where in the history its elements are, for a step that runs once for each of them.
        early: its outcome came before its turn, and counts when that comes.
        given_up: the saga goes on without it, because it failed and another takes its place, or because it is not
            wanted; what it may have done is undone by itself.
        due_at, overdue: when its success is expected, as the start event says, and whether that has passed.
        undo_*: the same for its undo, `undo_outcome` COMPENSATED or UNDO_FAILED; `undo_event` is the answer,
            `undo_answered_at` the answer's own time, `undo_empty` says that the participant had nothing to undo.
    """

    state: StepState = StepState.PENDING
    since: int = 0
    ready_at: int = 0
    trigger: str | None = None
    trace: str | None = None
    limit_at: int | None = None
    send_at: int | None = None
    attempt: int = 0
    sends: int = 0
    done: Fact | None = None
    failed: Fact | None = None
    ended_at: int | None = None
    outcome: StepState | None = None
    error: str | None = None
    message: str | None = None
    failures: list[Failure] = field(default_factory=list)
    certain: bool = True
    by: str | None = None
    caused_by: str | None = None
    asked: Question | None = None
    chosen: bool | None = None
    decided: str | None = None
    early: bool = False
    given_up: GivenUp | None = None
    due_at: int | None = None
    overdue: bool = False
    undo_attempt: int = 0
    undo_sends: int = 0
    undo_ready_at: int = 0
    undo_limit_at: int | None = None
    undo_send_at: int | None = None
    undo_ended_at: int | None = None
    undo_outcome: StepState | None = None
    undo_event: str | None = None
    undo_answered_at: int | None = None
    undo_empty: bool = False
    undo_trace: str | None = None
    undo_failures: list[Failure] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether an answer may still come: it is its turn, or its limit passed without one."""
        return self.state in _OPEN

    def timers(self) -> list[int]:
        """Give every time at which something is due."""
        found = []  # most have none, and each event asks every step
        if self.limit_at is not None:
            found.append(self.limit_at)
        if self.send_at is not None:
            found.append(self.send_at)
        if self.undo_limit_at is not None:
            found.append(self.undo_limit_at)
        if self.undo_send_at is not None:
            found.append(self.undo_send_at)
        if self.due_at is not None and (due := self.overdue_from) is not None:
            found.append(due)
        return found

    @property
    def overdue_from(self) -> int | None:
        """From when on it is later than it was due, while its success is still expected."""
        if self.due_at is None or self.overdue or self.state not in _EXPECTED:
            return None
        return self.due_at + 1

    def conclude(self, outcome: StepState, at: int) -> None:
        """Fix when and how its action ended, the first time only: its span says so, and a span is never changed."""
        if self.ended_at is None:
            self.ended_at, self.outcome = at, outcome

    def conclude_undo(self, outcome: StepState, at: int) -> None:
        """Fix when and how its undo ended, the first time only."""
        if self.undo_ended_at is None:
            self.undo_ended_at, self.undo_outcome = at, outcome


class Waiting(NamedTuple):
    """Something to publish that waits for its code: since when, what led to it, and what it is (`outputs.py`)."""

    at: int
    cause: str
    output: str


class Hold(NamedTuple):
    """That a person has paused a saga: since when, who, and why."""

    at: int
    by: str
    reason: str


class Admission(NamedTuple):
    """How a saga stands whose type limits its open ones.

    Args:
        since: when it asked for room.
        ahead: its place among those that waited then; 0: there was room at once.
        admitted_at: when it was let in; None: it waits.
    """

    since: int
    ahead: int
    admitted_at: int | None = None


class Doubt(NamedTuple):
    """An event that came in vain, about which a person is asked: which, how it came, a sentence, and since when."""

    type: str
    id: str
    stray: Stray
    message: str
    at: int


class Remark(NamedTuple):
    """One condition that holds: a machine-readable reason, a sentence, since when, and of which step."""

    reason: str
    message: str
    since: int
    step: str | None = None


class Instance(Struct, omit_defaults=True, gc=False):
    """The state of one saga. Its lists are replaced, never changed: copies share them.

    Args:
        type, key, run: its name.
        version: of the definition that it runs under, with its hash.
        phase: where it is.
        seq: how many inputs were applied; rises by one with each.
        epoch: number of its trace; rises when it is reopened after its end, and every `rotation`.
        opened_at: when it was started or last opened again.
        rotation: after how long its trace goes on in another one, microseconds; None: never.
        turned: when it did so, since it was opened.
        started_at, started_by, started_time: when, by which event, and that event's own time.
        ended_at, deadline_at: when it ended, when it should have.
        origin: traceparent of the event that started it.
        sampled: whether its trace is recorded.
        cause: why it does not simply go on: step, error class, message, event and time.
        cancelling: it is undone on request.
        announced: the event type that it published at its end.
        kept: every step is settled well, so what it did is kept: it is about to complete, or has completed.
        steps: by name.
        conditions: by word.
        waiting: what is to be published and needs code that is loaded nowhere.
        doubts: events about which a person is asked.
        lock: how it stands with its semantic lock.
        parent: the saga that has begun it.
        undo_asked: the command by which its parent undoes it.
        told: what it has told its parent last.
        paused: that a person has paused it.
        held: what is to be published once they resume it.
        erased: when what was said in it was erased.
        admission: how it stands with the limit of open sagas of its type; None: there was no limit when it began.
    """

    type: str
    key: str
    run: int
    version: int
    hash: str
    phase: Phase = Phase.RUNNING
    seq: int = 0
    epoch: int = 0
    opened_at: int = 0
    started_at: int = 0
    started_by: Fact | None = None
    started_time: int = 0
    ended_at: int | None = None
    deadline_at: int | None = None
    origin: str | None = None
    sampled: bool = True
    cause: dict[str, Any] | None = None
    cancelling: bool = False
    announced: str | None = None
    kept: bool = False
    steps: dict[str, Step] = field(default_factory=dict)
    conditions: dict[str, Remark] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    lock: Lock | None = None
    parent: Parent | None = None
    undo_asked: str | None = None
    told: str | None = None
    rotation: int | None = None
    turned: list[int] = field(default_factory=list)
    paused: Hold | None = None
    held: list[Waiting] = field(default_factory=list)
    erased: int | None = None
    admission: Admission | None = None

    @property
    def id(self) -> str:
        """Its public name."""
        return _name(self.type, self.key, self.run)

    @property
    def opened_in(self) -> int:
        """The epoch in which it was started or last opened again."""
        return self.epoch - len(self.turned)

    @property
    def waits_for_lock(self) -> bool:
        """Whether it stands in the queue of its lock, and so opens no step."""
        return self.lock is not None and self.lock.state == "waiting"

    @property
    def waits_to_start(self) -> bool:
        """Whether as many sagas of its type are open as may be, so that it opens no step."""
        return self.admission is not None and self.admission.admitted_at is None

    @property
    def lock_due(self) -> int | None:
        """When it has waited for its lock, or held it, long enough."""
        return None if self.lock is None else self.lock.until

    @property
    def still(self) -> bool:
        """Whether its timers stand still: something waits for its code, or a person has paused it."""
        return bool(self.waiting) or self.paused is not None

    @property
    def next_due(self) -> int | None:
        """When the earliest of its timers is due, its trace's included; none while something waits for its code."""
        turn, due = None if self.rotation is None else self.turn_due, self.next_step_due
        return due if turn is None else turn if due is None else min(turn, due)

    @property
    def turn_due(self) -> int | None:
        """When its trace is long enough and goes on in another one."""
        if self.rotation is None or self.phase.ended or self.still:
            return None
        return (self.turned[-1] if self.turned else self.opened_at) + self.rotation

    @property
    def next_step_due(self) -> int | None:
        """When the earliest timer is due that changes more than its trace."""
        if self.phase.ended or self.still:
            return None
        due = [at for step in self.steps.values() for at in step.timers()]
        if self.deadline_at is not None and self.phase is Phase.RUNNING:
            due.append(self.deadline_at)
        if self.lock_due is not None:
            due.append(self.lock_due)
        return min(due, default=None)

    @property
    def limit_due(self) -> int | None:
        """When the earliest limit of the running saga passes: what would start its compensation."""
        if self.phase is not Phase.RUNNING or self.still:
            return None
        limits = [step.limit_at for step in self.steps.values() if step.limit_at is not None]
        if self.deadline_at is not None:
            limits.append(self.deadline_at)
        if self.lock_due is not None and self.waits_for_lock:
            limits.append(self.lock_due)
        return min(limits, default=None)

    def waits(self) -> Iterator[int]:
        """Give since when it waits for each thing that it waits for; nothing while it waits for a person, who knows."""
        conditions = self.conditions
        if self.phase.ended or (conditions and Condition.WAITING_FOR_PERSON in conditions):
            return
        for step in self.steps.values():
            state = step.state
            if state is StepState.WAITING or state is StepState.RETRYING:
                yield step.ready_at
            elif state is StepState.COMPENSATING:
                yield step.undo_ready_at
        if self.paused is not None:
            yield self.paused.at
        for remark in conditions.values():
            if remark.step not in self.steps:
                yield remark.since

    @property
    def current_step(self) -> str | None:
        """The first step that something is expected of."""
        for name, step in self.steps.items():
            if step.state in _EXPECTING:
                return name.partition("[")[0]  # of an occurrence, the step
        return None

    def copy(self) -> Instance:
        """Copy it, so that the original stays what it was."""
        steps = {name: replace(step) for name, step in self.steps.items()}
        return replace(self, steps=steps, conditions=self.conditions.copy())

    def to_json(self) -> str:
        """Write it compactly: fields that have their default are left out."""
        return _WRITER.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Instance:
        """Read what `to_json` wrote."""
        return _READER.decode(text)


_READER = Decoder(Instance)
_WRITER = Encoder()
_name = lru_cache(maxsize=4_096)(saga_id)  # asked for several times with each input


def new_instance(definition: Definition, key: str, run: int) -> Instance:
    """Make an instance with every step PENDING."""
    return Instance(
        type=definition.type,
        key=key,
        run=run,
        version=definition.version,
        hash=definition.hash,
        steps={step.name: Step() for step in definition.steps},
    )
