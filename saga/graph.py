"""A saga as a picture: the graph of its definition, with the states of one instance if there is one. Pure.

As text for a terminal, as Mermaid for pages that draw it, and as SVG that needs nothing else. A state always stands
there as a word; colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal

from ..events.clock import format_duration
from .definition import Definition, StepPlan
from .instance import Instance
from .words import StepState

EdgeKind = Literal["after", "any of", "instead of"]

_WIDE, _HEAD, _LINE, _GAP_X, _GAP_Y, _MARGIN = 230, 34, 15, 60, 26, 20
_TONES: Mapping[StepState, str] = {
    StepState.DONE: "done",
    StepState.WAITING: "open",
    StepState.RETRYING: "open",
    StepState.DEGRADED: "odd",
    StepState.UNKNOWN: "odd",
    StepState.FAILED: "bad",
    StepState.UNDO_FAILED: "bad",
    StepState.COMPENSATING: "back",
    StepState.COMPENSATED: "back",
    StepState.PENDING: "none",
    StepState.SKIPPED: "none",
}
_COLOURS = {  # fill and line; dark text on each has a contrast above 7
    "done": ("#d9f2dd", "#1a7f37"),
    "open": ("#d8ebff", "#0b5cad"),
    "odd": ("#fff1c9", "#8a5a00"),
    "bad": ("#ffdedb", "#b3261e"),
    "back": ("#eadcff", "#6b3fa0"),
    "none": ("#f2f2f2", "#6e6e6e"),
}


@dataclass(frozen=True, slots=True)
class Node:
    """A step: its name, lines that describe it, the column it stands in, and its state where an instance is shown."""

    name: str
    lines: tuple[str, ...]
    depth: int
    state: StepState | None


@dataclass(frozen=True, slots=True)
class Edge:
    """A step before another, and how."""

    before: str
    after: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """The picture as values.

    Args:
        title: the saga's name, or its type and version.
        start: what starts it.
        ends: what it publishes at its ends.
        nodes: the steps in the order of their columns.
        edges: between them.
    """

    title: str
    start: tuple[str, ...]
    ends: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def roots(self) -> tuple[str, ...]:
        """The steps that follow the start."""
        later = {edge.after for edge in self.edges}
        return tuple(node.name for node in self.nodes if node.name not in later)


def graph_of(definition: Definition, instance: Instance | None = None) -> Graph:
    """Lay a definition out.

    Args:
        definition: which.
        instance: whose states are shown; of this definition.
    """
    depths = _depths(definition)
    nodes = [
        Node(plan.name, tuple(_lines(plan)), depths[plan.name], _state(instance, plan)) for plan in definition.steps
    ]
    return Graph(
        title=instance.id if instance is not None else f"{definition.type}@{definition.version}",
        start=definition.start,
        ends=tuple(end for end in (definition.completed, definition.compensated) if end is not None),
        nodes=tuple(sorted(nodes, key=lambda node: node.depth)),
        edges=tuple(_edges(definition)),
    )


def text(graph: Graph) -> list[str]:
    """Draw it for a terminal: a line per step, indented by its column, with what comes before it."""
    before: dict[str, list[str]] = {}
    for edge in graph.edges:
        kind = "" if edge.kind == "after" else f"{edge.kind} "
        before.setdefault(edge.after, []).append(f"{kind}{edge.before}")
    lines = [f"{graph.title}  starts with {' or '.join(graph.start)}"]
    for node in graph.nodes:
        head = "└─ " if node.depth else "─ "
        state = f"  {node.state.value}" if node.state is not None else ""
        follows = f"  after {', '.join(before[node.name])}" if node.name in before else ""
        lines.append(f"{'   ' * node.depth}{head}{node.name}{state}{follows}")
        lines += [f"{'   ' * (node.depth + 1)}  {line}" for line in node.lines]
    if graph.ends:
        lines.append(f"publishes {' or '.join(graph.ends)} at its end")
    return lines


def mermaid(graph: Graph) -> list[str]:
    """Write it as a Mermaid flowchart."""
    ids = {node.name: f"s{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR", f'  start(["{label(" or ".join(graph.start))}"])']
    for node in graph.nodes:
        words = [node.name, *([node.state.value] if node.state is not None else []), *node.lines]
        left, right = ("{{", "}}") if "pivot" in node.lines else ("[", "]")
        lines.append(f'  {ids[node.name]}{left}"{"<br>".join(map(label, words))}"{right}')
    lines += [f"  start --> {ids[name]}" for name in graph.roots]
    for edge in graph.edges:
        arrow = "-->" if edge.kind == "after" else f"-. {edge.kind} .->"
        lines.append(f"  {ids[edge.before]} {arrow} {ids[edge.after]}")
    tones: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.state is not None:
            tones.setdefault(_TONES[node.state], []).append(ids[node.name])
    for tone, members in sorted(tones.items()):
        fill, line = _COLOURS[tone]
        lines += [f"  classDef {tone} fill:{fill},stroke:{line},color:#1b1b1b", f"  class {','.join(members)} {tone}"]
    return lines


def svg(graph: Graph) -> list[str]:
    """Draw it as SVG: steps as boxes in columns, what comes before from left to right."""
    places = _places(graph)
    width = max((x for x, _ in places.values()), default=0) + _WIDE + _MARGIN
    height = max((y for _, y in places.values()), default=0) + _tallest(graph) + _MARGIN
    title = escape(graph.title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{title}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
    ]
    lines += [_line(places[edge.before], places[edge.after], edge.kind) for edge in graph.edges]
    for node in graph.nodes:
        lines += _box(node, places[node.name])
    return [*lines, "</svg>"]


def _edges(definition: Definition) -> Iterator[Edge]:
    for plan in definition.steps:
        for name in plan.after:
            yield Edge(name, plan.name, "after")
        for group in plan.any_of:
            for name in group:
                yield Edge(name, plan.name, "any of")
        if plan.instead_of is not None:
            yield Edge(plan.instead_of, plan.name, "instead of")


def _depths(definition: Definition) -> dict[str, int]:
    """Give each step its column: behind everything that comes before it, the finally-steps behind all."""
    found: dict[str, int] = {}

    def depth(plan: StepPlan) -> int:
        if plan.name not in found:
            before = [*plan.before, *([plan.instead_of] if plan.instead_of is not None else [])]
            found[plan.name] = max((depth(definition.by_name[name]) + 1 for name in before), default=0)
        return found[plan.name]

    for plan in definition.steps:
        depth(plan)
    last = max((found[plan.name] for plan in definition.steps if not plan.final), default=-1)
    return {name: at + (last + 1 if definition.by_name[name].final else 0) for name, at in found.items()}


def _lines(plan: StepPlan) -> Iterator[str]:
    if plan.approval is not None:
        yield f"answered by {plan.approval}"
    if plan.child is not None:
        yield f"saga {plan.child}"
    if plan.send is not None:
        yield f"send {plan.send}"
    if plan.done:
        yield f"done {' or '.join(plan.done)} within {format_duration(plan.within)}"
    if plan.failed:
        yield f"failed {' or '.join(plan.failed)}"
    if plan.undo is not None:
        yield f"undo {plan.undo}"
    for said, word in (
        (plan.pivot, "pivot"),
        (plan.optional, "optional"),
        (plan.when, "only when its condition holds"),
        (plan.final, "at every end"),
    ):
        if said:
            yield word
    if plan.each is not None:
        yield f"for each of {plan.each}"


def _state(instance: Instance | None, plan: StepPlan) -> StepState | None:
    return instance.steps[plan.name].state if instance is not None and plan.name in instance.steps else None


def label(words: str) -> str:
    """Make text safe within a quoted Mermaid label (its own entity codes)."""
    return words.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def _tall(node: Node) -> int:
    return _HEAD + _LINE * max(1, len(node.lines) + (node.state is not None))


def _tallest(graph: Graph) -> int:
    return max((_tall(node) for node in graph.nodes), default=0)


def _places(graph: Graph) -> dict[str, tuple[int, int]]:
    rows: dict[int, int] = {}
    found = {}
    for node in graph.nodes:
        y = rows.get(node.depth, _MARGIN)
        found[node.name] = (_MARGIN + node.depth * (_WIDE + _GAP_X), y)
        rows[node.depth] = y + _tall(node) + _GAP_Y
    return found


def _line(before: tuple[int, int], after: tuple[int, int], kind: EdgeKind) -> str:
    x1, y1 = before[0] + _WIDE, before[1] + _HEAD // 2
    x2, y2 = after[0], after[1] + _HEAD // 2
    middle = (x1 + x2) // 2
    dash = "" if kind == "after" else ' stroke-dasharray="5 4"'
    told = "" if kind == "after" else f"<title>{kind}</title>"
    return (
        f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#555"{dash} '
        f'marker-end="url(#tip)">{told}</path>'
    )


def _box(node: Node, place: tuple[int, int]) -> list[str]:
    x, y = place
    fill, line = _COLOURS[_TONES[node.state] if node.state is not None else "none"]
    heavy = 3 if "pivot" in node.lines else 1.5
    lines = [
        f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_tall(node)}" rx="6" fill="{fill}" stroke="{line}" '
        f'stroke-width="{heavy}"/>',
        f'<text x="{x + 10}" y="{y + 20}" font-weight="600" fill="#1b1b1b">{escape(_short(node.name, 28))}</text>',
    ]
    words = [*([node.state.value] if node.state is not None else []), *node.lines]
    for number, each in enumerate(words):
        lines.append(
            f'<text x="{x + 10}" y="{y + 37 + _LINE * number}" font-size="11" fill="#1b1b1b">{escape(_short(each, 36))}'
            f"<title>{escape(each)}</title></text>"
        )
    return lines


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def as_json(graph: Graph) -> dict[str, object]:
    """Tell it as the shape `saga.graph/v1`."""
    return {
        "schema": "saga.graph/v1",
        "title": graph.title,
        "start": list(graph.start),
        "ends": list(graph.ends),
        "steps": [
            {"name": node.name, "lines": list(node.lines), "state": node.state.value if node.state else None}
            for node in graph.nodes
        ],
        "edges": [{"before": edge.before, "after": edge.after, "kind": edge.kind} for edge in graph.edges],
    }
