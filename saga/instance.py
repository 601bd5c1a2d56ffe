"""The state of one saga instance, as values: what `advance` takes and gives back, and what the store keeps as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from .definition import Definition
from .names import saga_id
from .words import Phase, StepState

_OPEN = frozenset((StepState.WAITING, StepState.RETRYING, StepState.UNKNOWN))


class Fact(NamedTuple):
    """An event that the saga has seen: its type and id."""

    type: str
    id: str


class Failure(NamedTuple):
    """One failed attempt: when, and what the error was (never a payload)."""

    at: int
    error: str


@dataclass(slots=True)
class Step:
    """The state of one step; times are microseconds.

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
        ended_at, outcome: when its action was concluded, and as what; set once in an epoch, whatever comes later.
        error: class of its error.
        message: what it said.
        failures: the attempts that failed.
        certain: its outcome is known; a step given up without an answer may have happened all the same.
        caused_by: the event that its success names as its cause, for the undo's guard.
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
    ended_at: int | None = None
    outcome: StepState | None = None
    error: str | None = None
    message: str | None = None
    failures: list[Failure] = field(default_factory=list)
    certain: bool = True
    caused_by: str | None = None
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
        return [at for at in (self.limit_at, self.send_at, self.undo_limit_at, self.undo_send_at) if at is not None]

    def conclude(self, outcome: StepState, at: int) -> None:
        """Fix when and how its action ended, the first time only: its span says so, and a span is never changed."""
        if self.ended_at is None:
            self.ended_at, self.outcome = at, outcome

    def conclude_undo(self, outcome: StepState, at: int) -> None:
        """Fix when and how its undo ended, the first time only."""
        if self.undo_ended_at is None:
            self.undo_ended_at, self.undo_outcome = at, outcome


class Remark(NamedTuple):
    """One condition that holds: a machine-readable reason, a sentence, since when, and of which step."""

    reason: str
    message: str
    since: int
    step: str | None = None


@dataclass(slots=True)
class Instance:
    """The state of one saga.

    Args:
        type, key, run: its name.
        version: of the definition that it runs under, with its hash.
        phase: where it is.
        seq: how many inputs were applied; rises by one with each.
        epoch: number of its trace; rises when it is reopened after its end.
        opened_at: when its present epoch began.
        started_at, started_by, started_time: when, by which event, and that event's own time.
        ended_at, deadline_at: when it ended, when it should have.
        origin: traceparent of the event that started it.
        sampled: whether its trace is recorded.
        cause: why it does not simply go on: step, error class, message, event and time.
        cancelling: it is undone on request.
        announced: the event type that it published at its end.
        steps: by name.
        conditions: by word.
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
    steps: dict[str, Step] = field(default_factory=dict)
    conditions: dict[str, Remark] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its public name."""
        return saga_id(self.type, self.key, self.run)

    @property
    def next_due(self) -> int | None:
        """When the earliest of its timers is due."""
        if self.phase.ended:
            return None
        due = [at for step in self.steps.values() for at in step.timers()]
        if self.deadline_at is not None and self.phase is Phase.RUNNING:
            due.append(self.deadline_at)
        return min(due, default=None)

    @property
    def limit_due(self) -> int | None:
        """When the earliest limit of the running saga passes: what would start its compensation."""
        if self.phase is not Phase.RUNNING:
            return None
        limits = [step.limit_at for step in self.steps.values() if step.limit_at is not None]
        if self.deadline_at is not None:
            limits.append(self.deadline_at)
        return min(limits, default=None)

    @property
    def current_step(self) -> str | None:
        """The first step that something is expected of."""
        for name, step in self.steps.items():
            if step.state in (StepState.COMPENSATING, StepState.UNDO_FAILED) or step.open:
                return name
        return None

    def copy(self) -> Instance:
        """Copy it, so that the original stays what it was."""
        steps = {name: _copy_step(step) for name, step in self.steps.items()}
        values = {f: getattr(self, f) for f in _INSTANCE_FIELDS}
        values["steps"] = steps
        values["conditions"] = dict(self.conditions)
        return Instance(**values)

    def to_json(self) -> str:
        """Write it compactly: fields that have their default are left out."""
        data = {f: value for f in _INSTANCE_FIELDS if (value := getattr(self, f)) != _INSTANCE_DEFAULTS[f]}
        data["steps"] = {name: _step_values(step) for name, step in self.steps.items()}
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Instance:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        data["steps"] = {name: _read_step(values) for name, values in data["steps"].items()}
        data["conditions"] = {name: Remark(*values) for name, values in data.get("conditions", {}).items()}
        data["phase"] = Phase(data.get("phase", Phase.RUNNING))
        if (started_by := data.get("started_by")) is not None:
            data["started_by"] = Fact(*started_by)
        return cls(**data)


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


_INSTANCE_FIELDS = tuple(f.name for f in fields(Instance))
_INSTANCE_DEFAULTS: dict[str, Any] = {f: getattr(Instance("", "", 0, 0, ""), f) for f in _INSTANCE_FIELDS}
_INSTANCE_DEFAULTS.update(type=None, key=None, run=None, version=None, hash=None)  # these are always written
_STEP_FIELDS = tuple(f.name for f in fields(Step))
_STEP_DEFAULTS: dict[str, Any] = {f: getattr(Step(), f) for f in _STEP_FIELDS}


def _copy_step(step: Step) -> Step:
    copy = Step(*[getattr(step, f) for f in _STEP_FIELDS])
    copy.failures = list(step.failures)
    copy.undo_failures = list(step.undo_failures)
    return copy


def _step_values(step: Step) -> dict[str, Any]:
    return {f: value for f in _STEP_FIELDS if (value := getattr(step, f)) != _STEP_DEFAULTS[f]}


def _read_step(values: dict[str, Any]) -> Step:
    step = Step(**values)
    step.state = StepState(step.state)
    step.outcome = None if step.outcome is None else StepState(step.outcome)
    step.undo_outcome = None if step.undo_outcome is None else StepState(step.undo_outcome)
    if step.done is not None:
        step.done = Fact(*step.done)
    step.failures = [Failure(*failure) for failure in step.failures]
    step.undo_failures = [Failure(*failure) for failure in step.undo_failures]
    return step
