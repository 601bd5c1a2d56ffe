"""A saga's trace as rows: told by its history, completed by the spans that services left in the span file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from opentelemetry.sdk.resources import Resource

from ..tracing.ids import ROOT, compensation_path, span_id, step_path, trace_id
from ..tracing.saga_spans import end_spans, started_spans, step_spans
from ..tracing.spanfile import to_row
from ..tracing.tree import Node, SpanRow, build_tree
from .definition import Definition
from .instance import Instance, Step
from .occurrence import base_of, traced, unfold, wire_of
from .report import rfc3339
from .stories import story_of
from .words import StepState

TRACE = "saga.trace/v1"
OPEN = "saga.open"
"""Attribute of a row that stands for something that has not ended: no span of it exists yet."""


class Trace(NamedTuple):
    """A saga's trace.

    Args:
        trace_id: of its present epoch.
        nodes: the lines, in the order of the tree; earlier epochs stand before it, as far as the span file has them.
        source: "history", and "spans" where the span file had some.
        silent: steps that were answered and left no span of who did it, where others did.
    """

    trace_id: str
    nodes: list[Node]
    source: list[str]
    silent: list[str]


def build_trace(
    definition: Definition, instance: Instance, spans: Sequence[SpanRow], namespace: str, now: int, service: str
) -> Trace:
    """Put a saga's trace together.

    Args:
        definition, instance: the saga.
        spans: what the span file has of its traces, one for each epoch.
        namespace: of the deployment.
        now: where what is open ends for now, microseconds.
        service: the name under which the coordinator's own spans go.
    """
    trace = f"{trace_id(namespace, instance.id, instance.epoch):032x}"
    drawn = _told(definition, instance, namespace, service)
    drawn += _still_open(definition, instance, namespace, now, service)
    # The history decides about the coordinator's spans of this epoch: it knows what is open, and what is not sampled.
    ours = {(span.trace_id, span.span_id) for span in drawn}
    seen = [span for span in spans if (span.trace_id, span.span_id) not in ours]
    parents = {span.parent_id for span in seen if span.trace_id == trace and span.kind == "CONSUMER"}
    answered = [name for name, step in instance.steps.items() if _answered(instance, step)]
    shown = [name for name in answered if traced(instance, name) and name not in definition.fans]
    silent = [name for name in shown if parents and not _done_under(namespace, instance, name) & parents]
    return Trace(trace, build_tree([*drawn, *seen]), ["history", *(["spans"] if seen else [])], silent)


def _answered(instance: Instance, step: Step) -> bool:
    """Whether somebody did this step in the present epoch."""
    return step.outcome is StepState.DONE and step.ended_at is not None and step.ended_at >= instance.opened_at


def tell(trace: Trace, instance: Instance, url: str | None) -> dict[str, Any]:
    """Tell a trace as `saga.trace/v1`."""
    first = min((node.start for node in trace.nodes), default=0)
    return {
        "schema": TRACE,
        "id": instance.id,
        "trace_id": trace.trace_id,
        "epoch": instance.epoch,
        "phase": instance.phase.value,
        "source": trace.source,
        "steps_without_spans": trace.silent,
        "url": url,
        "spans": [_told_span(node, first) for node in trace.nodes],
    }


def is_open(span: SpanRow) -> bool:
    """Whether a row stands for something that has not ended."""
    return bool(span.attributes.get(OPEN, False))


def _told_span(node: Node, first: int) -> dict[str, Any]:
    span = node.span
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "depth": node.depth,
        "orphan": node.orphan,
        "name": span.name,
        "kind": span.kind,
        "service": span.service,
        "status": span.status,
        "open": is_open(span),
        "started_at": rfc3339(span.start),
        "ended_at": None if is_open(span) else rfc3339(span.end),
        "offset_ms": (span.start - first) // 1_000,
        "duration_ms": (span.end - span.start) // 1_000,
        "queue_ms": node.queue_ms,
        "attributes": {name: value for name, value in span.attributes.items() if name != OPEN},
        "links": [
            {"trace_id": link.trace_id, "span_id": link.span_id, "attributes": dict(link.attributes)}
            for link in span.links
        ],
        "events": [
            {"name": event.name, "at": rfc3339(event.at), "attributes": dict(event.attributes)} for event in span.events
        ],
    }


def _told(definition: Definition, instance: Instance, namespace: str, service: str) -> list[SpanRow]:
    """Make the coordinator's spans from the history, whether or not they were sampled."""
    story = replace(story_of(definition, instance, namespace), sampled=True)
    resource = Resource({"service.name": service})
    spans = started_spans(story, resource)
    for step in story.steps:
        spans += step_spans(story, step, resource)
    if instance.phase.ended:
        spans += end_spans(story, resource)
    own = f"{trace_id(namespace, instance.id, instance.epoch):032x}"
    return [row for span in spans if (row := to_row(span)) is not None and row.trace_id == own]


def _still_open(definition: Definition, instance: Instance, namespace: str, now: int, service: str) -> list[SpanRow]:
    """Draw what has no span yet: the saga itself, and each step or undo that is awaited."""
    if instance.phase.ended:
        return []
    trace = f"{trace_id(namespace, instance.id, instance.epoch):032x}"
    root = f"{span_id(namespace, instance.id, *ROOT):016x}"

    def row(id_: str, parent: str | None, name: str, start: int, attributes: dict[str, Any]) -> SpanRow:
        return SpanRow(
            trace, id_, parent, name, "INTERNAL", service, start, max(start, now), attributes={OPEN: True, **attributes}
        )

    rows = [row(root, None, f"saga {instance.type}", instance.opened_at, {})]
    for plan in unfold(definition, instance).steps:
        step = instance.steps[plan.name]
        name, occurrence = wire_of(plan.name)
        if step.ready_at and step.ended_at is None and step.open:
            rows.append(
                row(
                    _step_id(namespace, instance, plan.name),
                    root,
                    f"step {name}",
                    step.ready_at + plan.index + 1,
                    _state(step),
                )
            )
        if step.undo_ready_at and step.undo_ended_at is None:
            id_ = f"{span_id(namespace, instance.id, *compensation_path(name, occurrence)):016x}"
            rows.append(row(id_, root, f"compensate {name}", step.undo_ready_at + plan.index + 1, _state(step)))
    return rows


def _state(step: Step) -> dict[str, Any]:
    return {"saga.step.outcome": step.state.value.lower()}


def _step_id(namespace: str, instance: Instance, name: str) -> str:
    return f"{span_id(namespace, instance.id, *step_path(*wire_of(name))):016x}"


def _done_under(namespace: str, instance: Instance, name: str) -> set[str | None]:
    """Give the spans under which somebody may have done it: one handler may have done it for all elements at once."""
    return {_step_id(namespace, instance, each) for each in (name, base_of(name))}
