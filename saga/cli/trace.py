"""`saga trace`: a saga's trace as a waterfall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .shell import Shell

if TYPE_CHECKING:
    from rich.text import Text

    from ...tracing.tree import Node, SpanRow
    from ..queries import Found
    from ..traces import Trace

_LEAST_BAR = 10
_MOST_BAR = 60
_LEAST_PAGE = 80
_GAP = 2


async def trace(
    saga: str,
    /,
    *,
    depth: int | None = None,
    failed_only: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    bars: Annotated[bool, Parameter(negative="--no-bars", show_default=False)] = True,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Draw a saga's trace: its steps from the history, what services did from the span file of embedded runs.

    With CHOREO_JAEGER set, the same trace's page in Jaeger is named.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        depth: show so many levels only.
        failed_only: show only what failed, and what it is part of.
        bars: draw a scale of time, where there is room.
    """
    from .. import queries
    from .status import find

    async with shell.sagas() as database:
        id_ = await find(database, saga)
        found, now = await database.read(lambda connection: (queries.load(connection, id_), database.now(connection)))
    show_trace(shell, found, now, depth=depth, failed_only=failed_only, bars=bars)


def show_trace(
    shell: Shell, found: Found, now: int, *, depth: int | None = None, failed_only: bool = False, bars: bool = True
) -> None:
    """Print a saga's trace.

    Args:
        shell: where to, and where the span file is.
        found: the saga.
        now: the store's clock, microseconds.
        depth, failed_only, bars: as for the command.
    """
    from ...tracing.export import SPAN_FILE
    from ...tracing.ids import trace_id
    from ...tracing.spanfile import read_spans
    from ..running import COORDINATOR
    from ..traces import build_trace, tell

    settings, instance = shell.settings, found.instance
    epochs = [trace_id(settings.namespace, instance.id, epoch) for epoch in range(instance.epoch + 1)]
    spans = [span for each in epochs for span in read_spans(settings.home / SPAN_FILE, each)]
    built = build_trace(found.definition, instance, spans, settings.namespace, now, COORDINATOR)
    nodes = _chosen(built.nodes, depth, failed_only)
    url = f"{settings.jaeger.rstrip('/')}/trace/{built.trace_id}" if settings.jaeger else None
    if shell.machine:
        shell.json(tell(built._replace(nodes=nodes), instance, url))
    elif shell.output == "id":
        shell.lines([built.trace_id])
    else:
        for line in _lines(found, built, nodes, shell.page, bars=bars):
            shell.out.print(line, no_wrap=True, overflow="ellipsis")
        if url is not None:
            shell.show(f"Jaeger  {url}")
        _say_source(shell, built)


def _chosen(nodes: list[Node], depth: int | None, failed_only: bool) -> list[Node]:
    kept = [node for node in nodes if depth is None or node.depth < depth]
    if not failed_only:
        return kept
    wanted: set[str] = set()
    parents = {node.span.span_id: node.span.parent_id for node in nodes}
    for node in kept:
        at: str | None = node.span.span_id if node.status == "ERROR" else None
        while at is not None and at not in wanted:
            wanted.add(at)
            at = parents.get(at)
    return [node for node in kept if node.span.span_id in wanted]


def _lines(found: Found, built: Trace, nodes: list[Node], width: int, *, bars: bool) -> list[Text]:
    from rich.text import Text

    from ..traces import is_open
    from ..waterfall import Scale, axis
    from .tables import lay_out
    from .times import span

    start = min((node.start for node in nodes), default=0)
    end = max((node.end for node in nodes), default=1)
    services = {node.service for node in nodes}
    title = Text.assemble((found.instance.id, "bold"), f"  {built.trace_id}  {found.instance.phase.value}")
    title.append(f"  {span(end - start)} · {len(nodes)} spans · {len(services)} services", "dim")
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


def _bar(span: SpanRow, scale: object) -> str:
    from ..report import Segment
    from ..traces import is_open
    from ..waterfall import Scale, bar

    assert isinstance(scale, Scale)
    return bar([Segment("open" if is_open(span) else "work", span.start, span.end)], scale)


def _style(node: Node) -> str:
    return "red" if node.status == "ERROR" else ""


def _note(node: Node) -> str:
    from ..traces import is_open

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


def _say_source(shell: Shell, built: Trace) -> None:
    if built.silent:
        shell.hint(f"⚠ no span of who answered {', '.join(built.silent)}")
    elif "spans" in built.source:
        shell.hint("from the history, and the spans of this home folder")
    else:
        shell.hint("from the history alone; what services did is in the span file of embedded runs, and in Jaeger")
