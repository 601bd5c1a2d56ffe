"""The tree of one trace, from its spans in any order: what `saga trace` draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct, field

AttributeValue = str | int | float | bool | Sequence[str | int | float | bool]


class LinkRow(Struct, frozen=True, array_like=True):
    """A link of a span; ids in lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class EventRow(Struct, frozen=True, array_like=True):
    """An event of a span, `at` in microseconds."""

    name: str
    at: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class SpanRow(Struct, frozen=True, array_like=True):
    """A span as it was exported: from the span file, an OTLP request, or Jaeger.

    In the span file it stands as it is here, as a list: another order of fields is another version of the file.

    Args:
        trace_id, span_id, parent_id: lower-case hex; no parent: None.
        name: of the span.
        kind: "INTERNAL", "SERVER", "CLIENT", "PRODUCER" or "CONSUMER".
        service: `service.name` of who emitted it.
        start, end: microseconds since the epoch.
        status: "UNSET", "OK" or "ERROR".
        description: of the status.
        attributes, links, events: in the order of the span.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    start: int
    end: int
    status: str = "UNSET"
    description: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    links: tuple[LinkRow, ...] = ()
    events: tuple[EventRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree.

    Args:
        span: what it shows.
        depth: 0 for a root.
        orphan: its parent is named but not there (still running, sampled away, or lost), so it stands at depth 0.
        last: whether no sibling follows, for drawing the branches.
    """

    span: SpanRow
    depth: int
    orphan: bool
    last: bool

    @property
    def name(self) -> str:
        """The span's name."""
        return self.span.name

    @property
    def service(self) -> str:
        """Who emitted it."""
        return self.span.service

    @property
    def status(self) -> str:
        """ "UNSET", "OK" or "ERROR"."""
        return self.span.status

    @property
    def start(self) -> int:
        """Microseconds since the epoch."""
        return self.span.start

    @property
    def end(self) -> int:
        """Microseconds since the epoch."""
        return self.span.end

    @property
    def queue_ms(self) -> int | None:
        """Milliseconds from the record's publishing to the handler's start, where it is known."""
        value = self.span.attributes.get("saga.queue_ms")
        return value if isinstance(value, int) else None


def build_tree(spans: Iterable[SpanRow]) -> list[Node]:
    """Order the spans of a trace as a tree, depth first, siblings by start: the same for every order of arrival.

    Duplicates of a span are dropped; of two with one id and different content the one that ends last stays. No span is
    lost: one whose parent is missing (or its own descendant) stands at depth 0 and says so.
    """
    unique: dict[tuple[str, str], SpanRow] = {}
    for span in spans:
        key = (span.trace_id, span.span_id)
        known = unique.get(key)
        if known is None or _content(span) > _content(known):
            unique[key] = span
    children: dict[tuple[str, str], list[SpanRow]] = defaultdict(list)
    roots: list[SpanRow] = []
    orphans: list[SpanRow] = []
    for span in sorted(unique.values(), key=_order):
        if span.parent_id is None:
            roots.append(span)
        elif (span.trace_id, span.parent_id) in unique:
            children[span.trace_id, span.parent_id].append(span)
        else:
            orphans.append(span)
    nodes: list[Node] = []
    seen: set[tuple[str, str]] = set()
    _append(nodes, seen, children, roots, orphan=False)
    _append(nodes, seen, children, orphans, orphan=True)
    for span in sorted(unique.values(), key=_order):  # what is left stands in a circle of parents
        if (span.trace_id, span.span_id) not in seen:
            _append(nodes, seen, children, [span], orphan=True)
    return nodes


def _append(
    nodes: list[Node],
    seen: set[tuple[str, str]],
    children: Mapping[tuple[str, str], list[SpanRow]],
    tops: list[SpanRow],
    *,
    orphan: bool,
) -> None:
    # A stack, not recursion: a trace that only propagates is as deep as it is long.
    stack = [(span, 0, number == 0) for number, span in enumerate(reversed(tops))]
    while stack:
        span, depth, last = stack.pop()
        key = (span.trace_id, span.span_id)
        if key in seen:
            continue
        seen.add(key)
        nodes.append(Node(span, depth, orphan and depth == 0, last))
        below = children.get(key, ())
        stack.extend((child, depth + 1, number == 0) for number, child in enumerate(reversed(below)))


def _order(span: SpanRow) -> tuple[int, str, str]:
    return span.start, span.span_id, span.trace_id


def _content(span: SpanRow) -> tuple[int, str]:
    return span.end, repr(span)
