"""The coordinator's spans of a saga, built from its history alone: the same story gives byte-identical spans.

Nothing is ever open: each span is built when its outcome is known, with ids derived from the saga's name and times from
the history. So a restart loses nothing, and an emission repeated after a crash is dropped by Jaeger as identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from .headers import SAMPLED, parse_traceparent
from .ids import ANCHOR, ROOT, STARTED, WAIT, compensation_path, span_id, step_path, trace_id
from .sampling import is_failure

SCOPE = "choreo"

OPEN = "open"
"""Outcome of the part of a step that had not ended when its epoch did."""

LOCK = "lock"
"""Name of the wait for the saga's lock, which is no step of the definition."""

Attributes = dict[str, str | int | bool]

_VERBS = {"action": "step", "compensation": "compensate", "wait": "wait"}
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)
_SCOPE = InstrumentationScope(SCOPE)


@dataclass(frozen=True, slots=True)
class StepStory:
    """One step, compensation or wait that has ended, as the history tells it.

    Args:
        name: the step's name.
        index: its position in the definition, from 1; it orders steps that start together. 0: it is none of them.
        kind: "action", "compensation" or "wait" (a timer, a person).
        trigger_at: when the event that made it its turn happened, microseconds.
        ended_at: when its outcome was known, microseconds.
        outcome: the step's state in the words of the state machine, e.g. "done".
        occurrence: tells branches and repetitions apart.
        element: the key of the element that it was done for, where it is done once per element.
        elements: how many those are, where this tells of all of them together.
        trigger: `traceparent` of the triggering message.
        attempts: how many were made.
        failed_attempts: time in microseconds and class of the error of each attempt that failed (in this epoch).
        failed_before: how many had failed in earlier epochs.
        final_failure: whether it failed for good; a retried and then successful step did not.
    """

    name: str
    index: int
    kind: Literal["action", "compensation", "wait"]
    trigger_at: int
    ended_at: int
    outcome: str
    occurrence: str = ""
    trigger: str | None = None
    attempts: int = 1
    failed_attempts: tuple[tuple[int, str], ...] = ()
    final_failure: bool = False
    element: str | None = None
    elements: int | None = None
    failed_before: int = 0

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from the other steps of its saga."""
        return self.name, self.occurrence, self.kind

    @property
    def path(self) -> tuple[str, ...]:
        """The path that its span's id is derived from."""
        if not self.index:
            return (*WAIT, self.name)
        make = compensation_path if self.kind == "compensation" else step_path
        return make(self.name, self.occurrence)


@dataclass(frozen=True, slots=True)
class SagaStory:
    """One run of a saga within one epoch of its trace, as the history tells it.

    Args:
        saga_id: the public name, with `~run` from run 2 on.
        type: the saga's type.
        version: of the definition.
        namespace: of the deployment.
        started_at: when its first trigger happened (of this epoch), microseconds.
        status: "running", "completed", "compensated", "failed", "cancelled" or "timed_out"; any case.
        run: counted from 1.
        epoch: of the trace; raised by every reopening, whose spans link to the root before (R11).
        ended_at: when its last outcome was known, microseconds; None while it runs.
        failed_step: the step whose failure turned it round.
        origin: `traceparent` of the start event.
        sampled: the saga's one decision, `Sampling.decide`.
        always: it is shown although it was not sampled: it failed, or was slow.
        view: names the emission where it is not the first one; it has a trace of its own then.
        steps: what has ended in this epoch, in the order of the history.
    """

    saga_id: str
    type: str
    version: int
    namespace: str
    started_at: int
    status: str = "running"
    run: int = 1
    epoch: int = 0
    ended_at: int | None = None
    failed_step: str | None = None
    origin: str | None = None
    sampled: bool = True
    always: bool = False
    view: str = ""
    steps: tuple[StepStory, ...] = ()


def started_spans(story: SagaStory, resource: Resource) -> list[ReadableSpan]:
    """Build what is emitted when the saga starts: its `started` mark, and the anchor in the origin's trace.

    Nothing for an unsampled saga; no anchor where the origin is absent or not sampled, for its trace does not exist.
    """
    return _started(story, resource) if story.sampled else []


def step_spans(story: SagaStory, step: StepStory, resource: Resource) -> list[ReadableSpan]:
    """Build what is emitted when a step, compensation or wait has ended; nothing for an unsampled saga."""
    return [_step(story, step, resource)] if story.sampled else []


def end_spans(story: SagaStory, resource: Resource) -> list[ReadableSpan]:
    """Build what is emitted when the saga has ended: its root.

    A saga that was not sampled but failed, was compensated or slow is told whole here: started, every step, root.

    Args:
        story: complete; its `ended_at` is set.
        resource: who emits it.
    """
    if story.sampled:
        return [_root(story, resource)]
    if not story.always and not is_failure(story.status):
        return []
    return [*_started(story, resource), *(_step(story, each, resource) for each in story.steps), _root(story, resource)]


def derived_span(
    name: str,
    trace: int,
    span: int,
    parent: int | None,
    start: int,
    end: int,
    *,
    resource: Resource,
    kind: SpanKind = SpanKind.INTERNAL,
    status: Status = _UNSET,
    attributes: Attributes | None = None,
    links: Sequence[Link] = (),
    events: Sequence[Event] = (),
) -> ReadableSpan:
    """Build an ended span from values alone; hand it to `Tracing.emit`.

    Args:
        name: of low cardinality: never an id, a key or an index.
        trace, span: the ids.
        parent: id of the parent within the trace; None for a root.
        start, end: microseconds; an end before the start is drawn as zero length.
        resource: who emits it.
        kind, status, attributes, links, events: as they are exported, in this order.
    """
    context = SpanContext(trace, span, False, SAMPLED)
    return ReadableSpan(
        name=name,
        context=context,
        parent=SpanContext(trace, parent, True, SAMPLED) if parent is not None else None,
        resource=resource,
        attributes=attributes or {},
        events=events,
        links=links,
        kind=kind,
        status=status,
        start_time=start * 1_000,
        end_time=max(start, end) * 1_000,
        instrumentation_scope=_SCOPE,
    )


def _started(story: SagaStory, resource: Resource) -> list[ReadableSpan]:
    trace, root = _root_of(story)
    origin = parse_traceparent(story.origin)
    attributes = _identity(story)
    attributes["saga.status"] = "running"
    attributes["saga.epoch"] = story.epoch
    spans = [
        derived_span(
            f"saga {story.type} started",
            trace,
            span_id(story.namespace, story.saga_id, *STARTED),
            root,
            story.started_at,
            story.started_at,
            resource=resource,
            attributes=attributes,
            links=_links_back(story, origin),
        )
    ]
    if origin is not None and origin.trace_flags.sampled and not story.epoch and not story.view:
        anchor = _identity(story)
        anchor["saga.trace_id"] = f"{trace:032x}"
        spans.append(
            derived_span(
                f"saga start {story.type}",
                origin.trace_id,
                span_id(story.namespace, story.saga_id, *ANCHOR),
                origin.span_id,
                # The message's own time: a later one would stretch the origin's trace.
                story.started_at,
                story.started_at,
                resource=resource,
                attributes=anchor,
                links=[Link(SpanContext(trace, root, True, SAMPLED), {"saga.link": "saga"})],
            )
        )
    return spans


def _step(story: SagaStory, step: StepStory, resource: Resource) -> ReadableSpan:
    trace, root = _root_of(story)
    attributes = _identity(story)
    attributes["saga.step"] = step.name
    attributes["saga.step.kind"] = step.kind
    attributes["saga.step.index"] = step.index
    attributes["saga.step.outcome"] = step.outcome.lower()
    attributes["saga.step.attempts"] = step.attempts
    if step.element is not None:
        attributes["saga.step.element"] = step.element
    if step.elements is not None:
        attributes["saga.step.elements"] = step.elements
    if step.final_failure and step.failed_attempts:
        attributes["error.type"] = step.failed_attempts[-1][1]
    trigger = parse_traceparent(step.trigger)
    start, end = _bounds(step)
    return derived_span(
        f"{_VERBS[step.kind]} {step.name}",
        trace,
        span_id(story.namespace, story.saga_id, *step.path),
        root,
        start,
        end,
        resource=resource,
        status=_ERROR if step.final_failure else _UNSET,
        attributes=attributes,
        links=[Link(trigger, {"saga.link": "trigger"})] if trigger is not None else (),
        events=[
            Event("saga.step.attempt_failed", {"saga.attempt": number, "error.type": error}, at * 1_000)
            for number, (at, error) in enumerate(step.failed_attempts, start=step.failed_before + 1)
        ],
    )


def _root(story: SagaStory, resource: Resource) -> ReadableSpan:
    trace, root = _root_of(story)
    attributes = _identity(story)
    attributes["saga.status"] = story.status.lower()
    attributes["saga.epoch"] = story.epoch
    if story.failed_step is not None:
        attributes["saga.failed_step"] = story.failed_step
    # What was answered after the end does not change the end: the root may have been emitted before.
    bounds = [_bounds(step) for step in story.steps if story.ended_at is None or step.ended_at <= story.ended_at]
    failed = is_failure(story.status)
    description = f"{story.status.lower()} after {story.failed_step}" if failed and story.failed_step else None
    return derived_span(
        f"saga {story.type}",
        trace,
        root,
        None,
        min([story.started_at, *(start for start, _ in bounds)]),
        # Jaeger gives a span without length one nanosecond. Where that reached beyond the root, it would take the
        # clocks for skewed, note it in the span that it keeps, and no longer know a copy of it.
        max([story.ended_at or story.started_at, *(end + (start >= end) for start, end in bounds)]),
        resource=resource,
        status=Status(StatusCode.ERROR, description) if failed else _UNSET,
        attributes=attributes,
        links=_links_back(story, parse_traceparent(story.origin)),
    )


def _root_of(story: SagaStory) -> tuple[int, int]:
    return _derived_root(story.namespace, story.saga_id, story.epoch, story.view)


@lru_cache(maxsize=4_096)  # each span of a saga asks for it
def _derived_root(namespace: str, saga_id: str, epoch: int, view: str) -> tuple[int, int]:
    return trace_id(namespace, saga_id, epoch, view), span_id(namespace, saga_id, *ROOT)


def _identity(story: SagaStory) -> Attributes:
    return {"saga.id": story.saga_id, "saga.type": story.type, "saga.version": story.version}


def _links_back(story: SagaStory, origin: SpanContext | None) -> list[Link]:
    links = []
    if origin is not None:
        links.append(Link(origin, {"saga.link": "origin"}))
    root = span_id(story.namespace, story.saga_id, *ROOT)
    if story.epoch:
        before = trace_id(story.namespace, story.saga_id, story.epoch - 1, story.view)
        links.append(Link(SpanContext(before, root, True, SAMPLED), {"saga.link": "previous"}))
    if story.view:
        first = trace_id(story.namespace, story.saga_id, story.epoch)
        links.append(Link(SpanContext(first, root, True, SAMPLED), {"saga.link": "first"}))
    return links


def _bounds(step: StepStory) -> tuple[int, int]:
    # Jaeger draws siblings with equal start times in another order at each page load.
    start = step.trigger_at + step.index
    return start, max(start, step.ended_at)
