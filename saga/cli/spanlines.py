"""A trace as lines of text: a tree, who did what, how long it took and when; what `saga trace` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ...tracing.critical import length
from ..report import Segment
from ..traces import is_open
from ..waterfall import Scale, axis, bar
from .tables import lay_out
from .times import span

if TYPE_CHECKING:
    from ...tracing.tree import Node, SpanRow
    from ..queries import Found
    from ..traces import Trace

_LEAST_BAR = 10
_MOST_BAR = 60
_LEAST_PAGE = 80
_GAP = 2


def draw_spans(found: Found, built: Trace, nodes: list[Node], width: int, *, bars: bool) -> list[Text]:
    """Draw a trace: a title, and a line for each span.

    Args:
        found, built: the saga and its whole trace.
        nodes: what is shown of it.
        width: of the page.
        bars: draw a scale of time, where there is room.
    """

    start = min((node.start for node in nodes), default=0)
    end = max((node.end for node in nodes), default=1)
    services = {node.service for node in nodes}
    title = Text.assemble((found.instance.id, "bold"), f"  {built.trace_id}  {found.instance.phase.value}")
    if built.root is not None and built.critical:
        root = built.root
        title.append(f"  critical path {span(length(built.critical))} of {span(root.end - root.start)}")
    else:
        title.append(f"  {span(end - start)}")
    title.append(f" · {len(nodes)} spans · {len(services)} services", "dim")
    rows: list[list[str | Text]] = [
        [Text(branch, "dim") + Text(node.name, _style(node)), node.service, span(node.end - node.start)]
        for branch, node in zip(_branches(nodes), nodes, strict=True)
    ]
    table = lay_out(["SPAN", "SERVICE", "TIME"], rows, 10_000, right={2})
    taken = max(line.cell_len for line in table)
    notes = [_note(node) for node in nodes]
    room = min(_MOST_BAR, width - taken - _GAP - 2 - max([0, *(len(note) + 2 for note in notes)]))
    if bars and width >= _LEAST_PAGE and room >= _LEAST_BAR:
        scale = Scale(start, max(end, start + 1), room)
        drawn = [Text(axis(scale), "dim"), *(Text(_bar(node.span, scale), _style(node)) for node in nodes)]
        for line, text in zip(table, drawn, strict=True):
            line.append(" " * (taken - line.cell_len + _GAP))
            line.append_text(text)
    for line, note, node in zip(table[1:], notes, nodes, strict=True):
        if note:
            line.append(f"  {note}", "red" if node.status == "ERROR" else "cyan" if is_open(node.span) else "dim")
    for line in table:
        line.rstrip()
    return [title, *table]


def _branches(nodes: list[Node]) -> list[str]:
    """Draw the lines that lead to each node; what was left out (`--depth`, `--failed-only`) leaves no gap."""
    drawn: list[str] = []
    below: set[int] = set()  # levels on which a sibling follows, seen from the end
    for node in reversed(nodes):
        stems = "".join("│ " if level in below else "  " for level in range(1, node.depth))
        corner = ("├ " if node.depth in below else "└ ") if node.depth else "? " if node.orphan else ""
        drawn.append(stems + corner)
        below = {level for level in below if level < node.depth} | {node.depth}
    return drawn[::-1]


def _bar(row: SpanRow, scale: Scale) -> str:
    return bar([Segment("open" if is_open(row) else "work", row.start, row.end)], scale)


def _style(node: Node) -> str:
    return "red" if node.status == "ERROR" else ""


def _note(node: Node) -> str:
    attributes = node.span.attributes
    parts = []
    if is_open(node.span):
        parts.append(str(attributes.get("saga.step.outcome", "open")))
    attempt = attributes.get("saga.attempt")
    if isinstance(attempt, int) and attempt > 1:
        parts.append(f"attempt {attempt}")
    if (error := attributes.get("error.type")) is not None:
        parts.append(f"✖ {error}")
    elif node.status == "ERROR":
        parts.append(f"✖ {attributes.get('saga.status', attributes.get('saga.step.outcome', 'failed'))}")
    if node.queue_ms is not None:
        parts.append(f"queue {node.queue_ms}ms")
    if node.orphan:
        parts.append("its parent has not arrived")
    return " ".join(parts)
