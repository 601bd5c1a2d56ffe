"""A saga's definition as data: what `advance` needs to know, and what can be stored, compared and sent.

Durations are microseconds. Events are named by their type; nothing here needs the user's classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

from ..events.clock import SECOND
from .lock import LockPlan
from .policy import Policy
from .schedule import SchedulePlan

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
        any_of: groups of steps before it; of each group one must be done.
        when: whether a function of the saga decides, when its turn comes, if it runs at all.
        instead_of: the step that it replaces when that one has failed for good.
        final: it runs when the saga is about to end, whatever the end.
        each: what its elements are called, for a step that runs once for each of them.
        by: the field of its answers that names the element.
        approval: who answers it, for a step that a person answers.
        child: the type of the saga that does it.
        due: what says when its success is expected: a field of the start event, or a function's name.
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
    any_of: tuple[tuple[str, ...], ...] = ()
    when: bool = False
    instead_of: str | None = None
    final: bool = False
    each: str | None = None
    by: str | None = None
    approval: str | None = None
    child: str | None = None
    due: str | None = None

    @property
    def before(self) -> tuple[str, ...]:
        """The steps that it names as coming before it, each once: all of `after`, and every member of its groups."""
        return tuple(dict.fromkeys((*self.after, *(name for group in self.any_of for name in group))))

    @property
    def only_undo(self) -> bool:
        """Whether there is nothing to wait for: it is DONE the moment its turn comes."""
        return not self.done and self.each is None and self.approval is None and self.child is None


@dataclass(frozen=True)
class Definition:
    """A whole saga definition of one version.

    Args:
        type, version: its public name and number.
        key: field of the business key.
        start: event types that start an instance.
        steps: in the order of declaration.
        topics: the topic of every event type that it names.
        correlate: where the key of event types stands that is not their record's key (see `correlation`).
        deadline: limit of the whole saga; None for none.
        completed, compensated: event types that the saga publishes at its end.
        observe_only: track, never send.
        active_from: "registration", "beginning", or microseconds since the epoch: where its history begins.
        rerun: a finished key may start again.
        unmatched: what to do with an event whose saga does not exist: park it for a while, or ignore it.
        cancel: event types that cancel it.
        policies: what to do with events at odd times, by event type.
        lock: what it holds while it runs.
        schedule: when instances start by themselves.
        tags: what people search by and want to know, e.g. the team, or where a runbook is.
        max_open: how many instances may be open at a time, of all versions; None: any number.
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
    cancel: tuple[str, ...] = ()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    lock: LockPlan | None = None
    schedule: SchedulePlan | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    max_open: int | None = None

    @cached_property
    def by_name(self) -> Mapping[str, StepPlan]:
        """The steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def alternatives(self) -> Mapping[str, StepPlan]:
        """For each step that has one, the step that replaces it when it has failed for good."""
        return {step.instead_of: step for step in self.steps if step.instead_of is not None}

    @cached_property
    def chains(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """For each step itself and the alternatives after it: the next one's turn comes when the one before failed."""
        return {step.name: self._chain(step) for step in self.steps}

    def _chain(self, step: StepPlan) -> tuple[StepPlan, ...]:
        found = [step]
        while (other := self.alternatives.get(found[-1].name)) is not None and other not in found:
            found.append(other)
        return tuple(found)

    @cached_property
    def groups(self) -> Mapping[str, tuple[tuple[str, ...], ...]]:
        """For each step the groups of which it is a member."""
        groups = [group for step in self.steps for group in step.any_of]
        return {step.name: tuple(group for group in groups if step.name in group) for step in self.steps}

    @cached_property
    def branching(self) -> bool:
        """Whether some step may not be wanted: then what comes before its turn counts only when that has come."""
        return any(step.any_of or step.when or step.instead_of for step in self.steps)

    @cached_property
    def edges(self) -> Mapping[str, tuple[str, ...]]:
        """For each step those that it may have to wait for: what it names, their alternatives, and what it replaces."""
        found: dict[str, tuple[str, ...]] = {}
        for step in self.steps:
            waited = [other.name for name in step.before for other in self.chains[name]]
            replaced = [] if step.instead_of is None else [step.instead_of]
            found[step.name] = tuple(dict.fromkeys((*waited, *replaced)))
        return found

    @cached_property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """For each step the names of all steps before it, by whatever edge; in a cycle a step comes before itself."""
        found: dict[str, frozenset[str]] = {}
        for step in self.steps:
            seen: set[str] = set()
            ahead = list(self.edges[step.name])
            while ahead:
                if (name := ahead.pop()) not in seen:
                    seen.add(name)
                    ahead += self.edges[name]
            found[step.name] = frozenset(seen)
        return found

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
        return {
            step.name: tuple(other for other in self.steps if step.name in self.edges[other.name])
            for step in self.steps
        }

    @cached_property
    def fans(self) -> Mapping[str, StepPlan]:
        """The steps that run once per element, by name."""
        return {step.name: step for step in self.steps if step.each is not None}

    @cached_property
    def predecessors(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """For each step those that it names; the occurrences after which a group comes (`occurrence`) are its own."""
        return {
            step.name: tuple(self.by_name[name] for name in step.after if name.partition("[")[0] != step.name)
            for step in self.steps
        }

    @cached_property
    def finals(self) -> tuple[StepPlan, ...]:
        """The steps that run when the saga is about to end."""
        return tuple(step for step in self.steps if step.final)

    @cached_property
    def undoable(self) -> tuple[StepPlan, ...]:
        """The steps that have an undo, the last one first."""
        return tuple(step for step in reversed(self.steps) if step.undo is not None)

    @cached_property
    def approvals(self) -> tuple[StepPlan, ...]:
        """The steps that a person answers."""
        return tuple(step for step in self.steps if step.approval is not None)

    @cached_property
    def children(self) -> Mapping[str, StepPlan]:
        """The steps that are sagas of their own, by name."""
        return {step.name: step for step in self.steps if step.child is not None}

    @cached_property
    def unfoldings(self) -> dict[tuple[str, ...], Definition]:
        """What `occurrence.unfold` has made of it: one definition for each set of occurrences."""
        return {}

    @cached_property
    def named_by(self) -> Mapping[str, tuple[StepPlan, str]]:
        """For the events of steps that run once per element: the step, and the field that names the element."""
        return {
            type_: (step, step.by)
            for step in self.steps
            if step.each is not None and step.by is not None and step.child is None
            for type_ in (*step.done, *step.failed, *step.undone)
        }

    def key_field(self, type_: str) -> str | None:
        """Name the field of an event type that holds the business key; None where no field does."""
        where = self.correlate.get(type_, self.key)
        kind, colon, name = where.partition(":")
        if not colon:
            return None if "." in where else where
        return name if kind == "key" else None

    @cached_property
    def triggers(self) -> Mapping[str, tuple[str, ...]]:
        """For each step the event types that a service which does it unasked may follow."""
        return {step.name: tuple(dict.fromkeys(self._triggers(step, frozenset()))) for step in self.steps}

    def _triggers(self, step: StepPlan, seen: frozenset[str]) -> Iterable[str]:
        if step.instead_of is not None:
            yield from self.by_name[step.instead_of].failed
        waited = [other for name in step.before for other in self.chains[name] if other.name not in seen]
        for other in waited:
            if other.done:
                yield from (*other.done, *(other.failed if other.optional else ()))
            else:  # it is settled without an event: what follows it follows what it follows
                yield from self._triggers(other, seen | {step.name})
        if not step.before and (step.instead_of is None or not self.by_name[step.instead_of].failed):
            yield from self.start

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
        return frozenset((*self.start, *self.cancel, *self.done_step, *self.failed_steps, *self.undone_steps))

    @cached_property
    def consumed_topics(self) -> tuple[str, ...]:
        """The topics of those, sorted."""
        return tuple(sorted({self.topics[type_] for type_ in self.consumed}))

    @cached_property
    def hash(self) -> str:
        """A digest of everything that decides; whether and since when it only observes are ways to run the same one.

        Its schedule says when instances start, `max_open` how many, and its tags who cares: nothing of what they do.
        """
        same = replace(self, observe_only=False, active_from="registration", schedule=None, tags={}, max_open=None)
        return blake2b(same.to_json().encode(), digest_size=8).hexdigest()

    def to_json(self) -> str:
        """Write it as canonical JSON; what came with later releases is left out where it has its default."""
        data = _written(self)
        data["steps"] = [_written(step) for step in self.steps]
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Definition:
        """Read what `to_json` wrote; fields that it does not know are left out."""
        data: dict[str, Any] = json.loads(text)
        steps = tuple(_step_from(step) for step in data.pop("steps"))
        known = {name: _tuples(value) for name, value in data.items() if name in cls.__dataclass_fields__}
        if "policies" in known:
            known["policies"] = {type_: Policy(**policy) for type_, policy in known["policies"].items()}
        for name, plan in (("lock", LockPlan), ("schedule", SchedulePlan)):
            if known.get(name) is not None:
                known[name] = plan(**known[name])
        return cls(steps=steps, **known)


_SINCE_0_1 = frozenset(
    (
        *("name", "index", "done", "failed", "after", "within", "send", "undo", "undone", "retry", "resend"),
        *("undo_retry", "undo_resend", "undo_within", "pivot", "optional", "type", "version", "key", "start"),
        *("steps", "topics", "correlate", "deadline", "completed", "compensated", "observe_only", "active_from"),
        *("rerun", "unmatched"),
    )
)
"""Fields that are always written: a definition's hash must stay what it was when it was registered."""


def _written(value: StepPlan | Definition) -> dict[str, Any]:
    usual = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(value)}
    data = asdict(value)
    return {name: data[name] for name in data if name in _SINCE_0_1 or getattr(value, name) != usual[name]}


def _step_from(data: dict[str, Any]) -> StepPlan:
    known = {name: _tuples(value) for name, value in data.items() if name in StepPlan.__dataclass_fields__}
    for name in ("retry", "resend", "undo_retry", "undo_resend"):
        if name in known:
            known[name] = RetryPlan(**known[name])
    return StepPlan(**known)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
