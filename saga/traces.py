"""A saga's trace as rows: told by its history, completed by the spans that services left in the span file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from ..tracing.critical import critical_path, length
from ..tracing.ids import ROOT, compensation_path, span_id, step_path, trace_id
from ..tracing.saga_spans import end_spans, started_spans, step_spans
from ..tracing.spanfile import to_row
from ..tracing.tree import Node, SpanRow, build_tree
from .definition import Definition
from .instance import Instance, Step
from .occurrence import base_of, traced, unfold, wire_of
from .report import rfc3339
from .stories import stories_of
from .words import StepState

TRACE = "saga.trace/v1"
OPEN = "saga.open"
"""Attribute of a row that stands for something that has not ended: no span of it exists yet."""


class Trace(NamedTuple):
    """A saga's trace.

    Args:
        trace_id: of its present epoch.
        nodes: the lines, in the order of the tree; earlier epochs stand before it, as far as they are known.
        source: "history", "spans" where the span file had some, "jaeger" where Jaeger had.
        silent: steps that were answered and left no span of who did it, where others did.
    """

    trace_id: str
    nodes: list[Node]
    source: list[str]
    silent: list[str]

    @property
    def root(self) -> SpanRow | None:
        """The saga itself, in its present epoch."""
        tops = (node.span for node in self.nodes if not node.depth and not node.orphan)
        return next((span for span in tops if span.trace_id == self.trace_id), None)

    @property
    def critical(self) -> list[SpanRow]:
        """The steps of its present epoch that its length is made of."""
        return critical_path(self.nodes, self.root) if self.root is not None else []


def build_trace(
    definition: Definition,
    instance: Instance,
    spans: Sequence[SpanRow],
    namespace: str,
    now: int,
    service: str,
    jaeger: Sequence[SpanRow] = (),
) -> Trace:
    """Put a saga's trace together.

    Args:
        definition, instance: the saga.
        spans: what the span file has of its traces, one for each epoch.
        namespace: of the deployment.
        now: where what is open ends for now, microseconds.
        service: the name under which the coordinator's own spans go.
        jaeger: what Jaeger has of them.
    """
    trace = f"{trace_id(namespace, instance.id, instance.epoch):032x}"
    drawn = _told(definition, instance, namespace, service)
    drawn += _still_open(definition, instance, namespace, now, service)
    # The history decides about the coordinator's spans of this epoch: it knows what is open, and what is not sampled.
    ours = {(span.trace_id, span.span_id) for span in drawn}
    seen = [span for span in spans if (span.trace_id, span.span_id) not in ours]
    ours |= {(span.trace_id, span.span_id) for span in seen}
    asked = [span for span in jaeger if (span.trace_id, span.span_id) not in ours]
    seen += asked
    parents = {span.parent_id for span in seen if span.trace_id == trace and span.kind == "CONSUMER"}
    answered = [name for name, step in instance.steps.items() if _answered(instance, step)]
    shown = [name for name in answered if traced(instance, name) and name not in definition.fans]
    silent = [name for name in shown if parents and not _done_under(namespace, instance, name) & parents]
    source = ["history", *(["spans"] if len(seen) > len(asked) else []), *(["jaeger"] if jaeger else [])]
    return Trace(trace, build_tree([*drawn, *seen]), source, silent)


def as_jaeger_shows(instance: Instance, spans: Sequence[SpanRow], namespace: str) -> Trace:
    """Put together nothing but what Jaeger has of a saga's traces."""
    trace = f"{trace_id(namespace, instance.id, instance.epoch):032x}"
    return Trace(trace, build_tree(spans), ["jaeger"], [])


def _answered(instance: Instance, step: Step) -> bool:
    """Whether somebody did this step in the present epoch."""
    return step.outcome is StepState.DONE and step.ended_at is not None and step.ended_at >= instance.opened_at


def tell(trace: Trace, instance: Instance, url: str | None, nodes: Sequence[Node] | None = None) -> dict[str, Any]:
    """Tell a trace as `saga.trace/v1`.

    Args:
        trace, instance: of the saga.
        url: of its page in Jaeger.
        nodes: the lines to tell; None: all.
    """
    shown = trace.nodes if nodes is None else nodes
    first = min((node.start for node in shown), default=0)
    return {
        "schema": TRACE,
        "id": instance.id,
        "trace_id": trace.trace_id,
        "epoch": instance.epoch,
        "phase": instance.phase.value,
        "source": trace.source,
        "steps_without_spans": trace.silent,
        "url": url,
        "critical_path_ms": length(trace.critical) // 1_000,
        "spans": [_told_span(node, first) for node in shown],
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
    resource = Resource({"service.name": service})
    spans = []
    own = set()
    for told in stories_of(definition, instance, namespace):
        story = replace(told, sampled=True)
        spans += started_spans(story, resource)
        for step in story.steps:
            spans += step_spans(story, step, resource)
        if story.ended_at is not None:
            spans += end_spans(story, resource)
        own.add(f"{trace_id(namespace, instance.id, story.epoch):032x}")
    return [row for span in spans if (row := to_row(span)) is not None and row.trace_id in own]


def spans_again(definition: Definition, instance: Instance, namespace: str, resource: Resource) -> list[ReadableSpan]:
    """Make the coordinator's spans of every epoch once more, in traces that no earlier emission can mix with.

    Args:
        definition, instance: the saga.
        namespace: of the deployment.
        resource: who emits them.
    """
    spans = []
    view = f"again/{instance.seq}"  # another state is another view: no span has two contents
    for told in stories_of(definition, instance, namespace):
        story = replace(told, sampled=True, view=view)
        spans += started_spans(story, resource)
        for step in story.steps:
            spans += step_spans(story, step, resource)
        spans += end_spans(story, resource)
    return spans


def gantt(title: str, nodes: Iterable[Node]) -> list[str]:
    """Write a trace as a Mermaid Gantt chart, one section for each service."""
    lines = ["gantt", f"  title {_plain(title)}", "  dateFormat x", "  axisFormat %H:%M:%S"]
    services: dict[str, list[SpanRow]] = {}
    for node in nodes:
        services.setdefault(node.service, []).append(node.span)
    for service, spans in services.items():
        lines.append(f"  section {_plain(service) or 'unknown'}")
        for span in spans:
            word = "active, " if is_open(span) else "crit, " if span.status == "ERROR" else ""
            start = span.start // 1_000
            lines.append(f"  {_plain(span.name)} :{word}{start}, {max(start + 1, span.end // 1_000)}")
    return lines


def _plain(text: str) -> str:
    """Leave out what means something in Mermaid: a name comes from whoever sends spans."""
    return "".join(char if char.isalnum() or char in " ._-/~%" else "_" for char in text)


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

    begin = instance.turned[-1] if instance.turned else instance.opened_at
    rows = [row(root, None, f"saga {instance.type}", begin, {})]
    for plan in unfold(definition, instance).steps:
        step = instance.steps[plan.name]
        name, occurrence = wire_of(plan.name)
        if step.ready_at and step.ended_at is None and step.open:
            rows.append(
                row(
                    _step_id(namespace, instance, plan.name),
                    root,
                    f"{'wait' if plan.approval is not None else 'step'} {name}",
                    max(begin, step.ready_at) + plan.index + 1,
                    _state(step),
                )
            )
        if step.undo_ready_at and step.undo_ended_at is None:
            id_ = f"{span_id(namespace, instance.id, *compensation_path(name, occurrence)):016x}"
            rows.append(
                row(id_, root, f"compensate {name}", max(begin, step.undo_ready_at) + plan.index + 1, _state(step))
            )
    return rows


def _state(step: Step) -> dict[str, Any]:
    return {"saga.step.outcome": step.state.value.lower()}


def _step_id(namespace: str, instance: Instance, name: str) -> str:
    return f"{span_id(namespace, instance.id, *step_path(*wire_of(name))):016x}"


def _done_under(namespace: str, instance: Instance, name: str) -> set[str | None]:
    """Give the spans under which somebody may have done it: one handler may have done it for all elements at once."""
    return {_step_id(namespace, instance, each) for each in (name, base_of(name))}
