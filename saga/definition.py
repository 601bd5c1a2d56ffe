"""A saga's definition as data: what `advance` needs to know, and what can be stored, compared and sent.

Durations are microseconds. Events are named by their type; nothing here needs the user's classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

from ..events.clock import SECOND

Unmatched = Literal["park", "ignore"]


@dataclass(frozen=True)
class RetryPlan:
    """How often and how soon something is sent again.

    Args:
        attempts: at most, the first one included.
        first: pause after the first attempt.
        most: the longest pause; each is twice the one before.
    """

    attempts: int = 5
    first: int = 30 * SECOND
    most: int = 600 * SECOND

    def pause(self, attempt: int) -> int:
        """Give the pause after the given attempt (1 is the first)."""
        return min(self.most, self.first << min(attempt - 1, 40))


UNDO_RETRY = RetryPlan(attempts=10, first=5 * SECOND, most=300 * SECOND)
UNDO_WITHIN = 1_800 * SECOND
RESEND_FIRST = 30 * SECOND
RESEND_MOST = 600 * SECOND


@dataclass(frozen=True)
class StepPlan:
    """One step of a definition.

    Args:
        name, index: its name and place in the declaration.
        done, failed: event types that tell its outcome.
        after: names of the steps that must be done before it.
        within: limit from its turn to its outcome.
        send: type of the command that the coordinator publishes; None for a choreographed step.
        undo: type of the command that undoes it; None when there is nothing to undo.
        undone: event types that answer the undo.
        retry: after a known failure of a commanded step.
        resend: on silence; the same command goes out again.
        undo_retry, undo_resend, undo_within: the same for its undo, and the undo's limit.
        pivot: once it is done, the saga only goes forward.
        optional: its failure does not fail the saga.
    """

    name: str
    index: int
    done: tuple[str, ...]
    failed: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    within: int = 3_600 * SECOND
    send: str | None = None
    undo: str | None = None
    undone: tuple[str, ...] = ()
    retry: RetryPlan = RetryPlan()
    resend: RetryPlan = RetryPlan()
    undo_retry: RetryPlan = UNDO_RETRY
    undo_resend: RetryPlan = UNDO_RETRY
    undo_within: int = UNDO_WITHIN
    pivot: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Definition:
    """A whole saga definition of one version.

    Args:
        type, version: its public name and number.
        key: field of the business key.
        start: event types that start an instance.
        steps: in the order of declaration.
        topics: the topic of every event type that it names.
        correlate: the key field of event types where it has another name.
        deadline: limit of the whole saga; None for none.
        completed, compensated: event types that the saga publishes at its end.
        observe_only: track, never send.
        active_from: "registration", "beginning", or microseconds since the epoch: where its history begins.
        rerun: a finished key may start again.
        unmatched: what to do with an event whose saga does not exist: park it for a while, or ignore it.
    """

    type: str
    version: int
    key: str
    start: tuple[str, ...]
    steps: tuple[StepPlan, ...]
    topics: Mapping[str, str] = field(default_factory=dict)
    correlate: Mapping[str, str] = field(default_factory=dict)
    deadline: int | None = None
    completed: str | None = None
    compensated: str | None = None
    observe_only: bool = False
    active_from: str | int = "registration"
    rerun: bool = False
    unmatched: Unmatched = "park"

    @cached_property
    def by_name(self) -> Mapping[str, StepPlan]:
        """The steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """For each step the names of all steps before it."""
        known: dict[str, frozenset[str]] = {}

        def walk(name: str) -> frozenset[str]:
            if name not in known:
                before = self.by_name[name].after
                known[name] = frozenset(before).union(*(walk(earlier) for earlier in before))
            return known[name]

        for step in self.steps:
            walk(step.name)
        return known

    @cached_property
    def descendants(self) -> Mapping[str, frozenset[str]]:
        """For each step the names of all steps after it."""
        return {
            step.name: frozenset(other for other, before in self.ancestors.items() if step.name in before)
            for step in self.steps
        }

    @cached_property
    def successors(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """For each step those that directly follow it."""
        return {step.name: tuple(other for other in self.steps if step.name in other.after) for step in self.steps}

    @cached_property
    def pivot(self) -> StepPlan | None:
        """The pivot, if there is one."""
        return next((step for step in self.steps if step.pivot), None)

    @cached_property
    def done_step(self) -> Mapping[str, StepPlan]:
        """The step whose success an event type tells."""
        return {type_: step for step in self.steps for type_ in step.done}

    @cached_property
    def failed_steps(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """The steps whose failure an event type tells."""
        found: dict[str, tuple[StepPlan, ...]] = {}
        for step in self.steps:
            for type_ in step.failed:
                found[type_] = (*found.get(type_, ()), step)
        return found

    @cached_property
    def undone_steps(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """The steps whose undo an event type answers."""
        found: dict[str, tuple[StepPlan, ...]] = {}
        for step in self.steps:
            for type_ in step.undone:
                found[type_] = (*found.get(type_, ()), step)
        return found

    @cached_property
    def consumed(self) -> frozenset[str]:
        """Every event type that moves an instance."""
        return frozenset((*self.start, *self.done_step, *self.failed_steps, *self.undone_steps))

    @cached_property
    def consumed_topics(self) -> tuple[str, ...]:
        """The topics of those, sorted."""
        return tuple(sorted({self.topics[type_] for type_ in self.consumed}))

    @cached_property
    def hash(self) -> str:
        """A digest of everything that decides; whether and since when it only observes are ways to run the same one."""
        same = replace(self, observe_only=False, active_from="registration")
        return blake2b(same.to_json().encode(), digest_size=8).hexdigest()

    def to_json(self) -> str:
        """Write it as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Definition:
        """Read what `to_json` wrote; fields that it does not know are left out."""
        data: dict[str, Any] = json.loads(text)
        steps = tuple(_step_from(step) for step in data.pop("steps"))
        known = {name: _tuples(value) for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(steps=steps, **known)


def _step_from(data: dict[str, Any]) -> StepPlan:
    known = {name: _tuples(value) for name, value in data.items() if name in StepPlan.__dataclass_fields__}
    for name in ("retry", "resend", "undo_retry", "undo_resend"):
        if name in known:
            known[name] = RetryPlan(**known[name])
    return StepPlan(**known)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
