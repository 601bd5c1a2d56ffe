"""The critical path of a trace: the steps that its length is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .tree import Node, SpanRow


def critical_path(nodes: Sequence[Node], root: SpanRow) -> list[SpanRow]:
    """Walk back from the end of a root: what ended last before, then what ended last before that began, and so on.

    What lies between two of them is time in which nobody did anything for this saga.

    Args:
        nodes: of the trace, in any order.
        root: whose children are looked at.

    Returns:
        The children that count, the earliest first.
    """
    ours = (root.trace_id, root.span_id)
    left = [node.span for node in nodes if (node.span.trace_id, node.span.parent_id) == ours]
    left = [span for span in left if span.end > span.start]
    at, found = root.end, list[SpanRow]()
    while before := [span for span in left if span.end <= at and span.start < at]:
        last = max(before, key=lambda span: (span.end, -span.start, span.span_id))
        found.append(last)
        left.remove(last)
        at = last.start
    return found[::-1]


def length(spans: Iterable[SpanRow]) -> int:
    """Add up how long spans took, microseconds."""
    return sum(span.end - span.start for span in spans)
