"""`saga trace`: a saga's trace as a waterfall, and the same once more for whoever keeps traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from .letterbox import Flag
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from ...tracing.tree import Node, SpanRow
    from ..queries import Found
    from ..traces import Trace

Source = Literal["history", "jaeger", "both"]
EXPORT = "saga.trace-export/v1"

_DONE = ("done", "compensated", "skipped")

trace = App(
    name="trace",
    help="A saga's trace as a waterfall; or export it again.",
    help_format="plaintext",
    group_parameters=Group("Options", sort_key=1),
)


@trace.default
async def draw(
    saga: SagaName,
    /,
    *,
    source: Annotated[Source | None, Parameter(show_default=False)] = None,
    depth: int | None = None,
    fold: Annotated[Literal["done"] | None, Parameter(show_default=False)] = None,
    failed_only: Flag = False,
    critical: Flag = False,
    bars: Annotated[bool, Parameter(negative="--no-bars", show_default=False)] = True,
    web: Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Draw a saga's trace: its steps from the history, what services did from the span file and from Jaeger.

    For example: saga trace fulfilment/4711 --critical

    The span file is that of embedded runs; Jaeger is asked where CHOREO_JAEGER names it. `-o mermaid` draws a Gantt
    chart, `-o otlp-json` gives what any OTLP endpoint takes.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        source: history, jaeger or both; default: both where Jaeger is named.
        depth: show so many levels only.
        fold: `done` hides what lies beneath steps that are done.
        failed_only: show only what failed, and what it is part of.
        critical: show only the steps that the length is made of, and what lies beneath them.
        bars: draw a scale of time, where there is room.
        web: open the same trace's page in Jaeger.
    """
    from ...events.errors import ConfigurationError
    from .. import queries
    from .status import find

    if shell.settings.jaeger == "" and (web or source in ("jaeger", "both")):
        raise ConfigurationError("Jaeger is not named; set CHOREO_JAEGER to its base URL, e.g. http://127.0.0.1:16686")
    async with shell.sagas() as database:
        id_ = await find(database, saga)
        found, now = await database.read(lambda connection: (queries.load(connection, id_), database.now(connection)))
    show_trace(
        shell,
        found,
        now,
        source=source,
        depth=depth,
        fold=fold,
        failed_only=failed_only,
        critical=critical,
        bars=bars,
        web=web,
    )


def show_trace(
    shell: Shell,
    found: Found,
    now: int,
    *,
    source: Source | None = None,
    depth: int | None = None,
    fold: Literal["done"] | None = None,
    failed_only: bool = False,
    critical: bool = False,
    bars: bool = True,
    web: bool = False,
) -> None:
    """Print a saga's trace.

    Args:
        shell: where to, and where the span file is.
        found: the saga.
        now: the store's clock, microseconds.
        source, depth, fold, failed_only, critical, bars, web: as for the command.
    """
    from ..traces import gantt, is_open, tell

    instance = found.instance
    built = _build(shell, found, now, source)
    nodes = _chosen(built, depth, fold, failed_only, critical)
    url = page_of(shell, built.trace_id)
    if shell.output == "otlp-json":
        import json

        from ...tracing.otlp_json import to_otlp_json

        shell.lines([json.dumps(to_otlp_json(node.span for node in nodes if not is_open(node.span)))])
    elif shell.output == "mermaid":
        shell.lines(gantt(f"{instance.id} {instance.phase.value}", nodes))
    elif shell.machine:
        shell.json(tell(built, instance, url, nodes))
    elif shell.output == "id":
        shell.lines([built.trace_id])
    else:
        from .spanlines import draw_spans

        for line in draw_spans(found, built, nodes, shell.page, bars=bars):
            shell.out.print(line, no_wrap=True, overflow="ellipsis")
        if url is not None:
            shell.show(f"Jaeger  {url}")
        _say_source(shell, built)
    if web and url is not None:
        _open(shell, url, built)


def page_of(shell: Shell, trace_id: str) -> str | None:
    """Give the address of a trace's page in Jaeger; None where Jaeger is not named."""
    return f"{shell.settings.jaeger.rstrip('/')}/trace/{trace_id}" if shell.settings.jaeger else None


@trace.command
async def export(
    *sagas: str,
    timeout: float = 30.0,
    dry_run: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Emit sagas once more from their history, to the OTLP endpoint that the environment names.

    For one whose spans are gone or were never sampled: root, steps and waits, each epoch in a trace of its own that no
    earlier emission can mix with. Exporting the same state again gives the same spans.

    For example: saga trace export fulfilment/4711

    Args:
        sagas: type/key, or the key alone where only one type has it.
        timeout: seconds that the endpoint has.
        dry_run: send nothing, say what would be sent.
    """
    import asyncio

    from opentelemetry.sdk.resources import Resource

    from ...events.errors import ConfigurationError
    from ...tracing.export import endpoint, export_again
    from ...tracing.ids import trace_id
    from .. import queries
    from ..running import COORDINATOR
    from ..traces import spans_again
    from . import exits
    from .status import find

    if not sagas:
        raise ConfigurationError("name a saga, as in saga trace export fulfilment/4711")
    namespace, resource = shell.settings.namespace, Resource({"service.name": COORDINATOR})
    spans: list[ReadableSpan] = []
    told: list[dict[str, Any]] = []
    async with shell.sagas() as database:
        for saga in sagas:
            id_ = await find(database, saga)
            found = await database.read(lambda connection, id_=id_: queries.load(connection, id_))  # type: ignore[misc]
            made = spans_again(found.definition, found.instance, namespace, resource)
            spans += made
            instance = found.instance
            traces = [f"{trace:032x}" for trace in dict.fromkeys(span.context.trace_id for span in made)]
            told.append(
                {
                    "schema": EXPORT,
                    "id": instance.id,
                    "phase": instance.phase.value,
                    "first_trace_id": f"{trace_id(namespace, instance.id, instance.epoch):032x}",
                    "trace_ids": traces,
                    "spans": len(made),
                    "url": page_of(shell, traces[-1]),
                    "sent": not dry_run,
                }
            )
    losses = None if dry_run else await asyncio.to_thread(export_again, spans, timeout)
    lost = 0 if losses is None else losses.dropped + losses.failed
    if lost:
        shell.complain(f"{endpoint()} did not take {lost} of {len(spans)} spans", kind="Export", code=exits.UNREACHABLE)
        return exits.UNREACHABLE
    if shell.machine:
        shell.json(told)
    elif shell.output == "id":
        shell.lines(trace for each in told for trace in each["trace_ids"])
    else:
        for each in told:
            shell.show(f"{each['id']}  {each['spans']} spans as {' '.join(each['trace_ids'])}")
            if each["url"]:
                shell.show(f"Jaeger  {each['url']}")
        shell.hint(f"nothing was sent to {endpoint() or 'anybody'}" if dry_run else f"sent to {endpoint()}")
    return exits.OK


def _build(shell: Shell, found: Found, now: int, source: Source | None) -> Trace:
    from ...events.errors import StoreUnreachable
    from ...tracing.export import SPAN_FILE
    from ...tracing.ids import trace_id
    from ...tracing.jaeger import fetch_spans
    from ...tracing.spanfile import read_spans
    from ..running import COORDINATOR
    from ..traces import as_jaeger_shows, build_trace

    settings, instance = shell.settings, found.instance
    epochs = [trace_id(settings.namespace, instance.id, epoch) for epoch in range(instance.epoch + 1)]
    jaeger: list[SpanRow] = []
    if settings.jaeger and source != "history":
        try:
            jaeger = fetch_spans(settings.jaeger, epochs)
        except StoreUnreachable as error:
            if source is not None:
                raise
            shell.hint(f"⚠ {error.message}")
    if source == "jaeger":
        return as_jaeger_shows(instance, jaeger, settings.namespace)
    spans = [span for each in epochs for span in read_spans(settings.home / SPAN_FILE, each)]
    return build_trace(found.definition, instance, spans, settings.namespace, now, COORDINATOR, jaeger)


def _chosen(built: Trace, depth: int | None, fold: str | None, failed_only: bool, critical: bool) -> list[Node]:
    kept = [node for node in built.nodes if depth is None or node.depth < depth]
    parents = {node.span.span_id: node.span.parent_id for node in built.nodes}
    if fold is not None:
        folded = {n.span.span_id for n in built.nodes if n.span.attributes.get("saga.step.outcome") in _DONE}
        kept = [node for node in kept if folded.isdisjoint(_above(node.span.parent_id, parents))]
    if critical:
        path = {span.span_id for span in built.critical}
        tops = {node.span.span_id for node in built.nodes if not node.depth}
        kept = [n for n in kept if n.span.span_id in tops or path & set(_above(n.span.span_id, parents))]
    if failed_only:
        wanted = {each for n in kept if n.status == "ERROR" for each in _above(n.span.span_id, parents)}
        kept = [node for node in kept if node.span.span_id in wanted]
    return kept


def _above(span_id: str | None, parents: dict[str, str | None]) -> list[str]:
    """Give a span and everything that it is part of; a circle of parents ends."""
    found: list[str] = []
    while span_id is not None and span_id not in found:
        found.append(span_id)
        span_id = parents.get(span_id)
    return found


def _open(shell: Shell, url: str, built: Trace) -> None:
    import webbrowser

    from ..traces import is_open

    steps = [node.span for node in built.nodes if node.depth == 1]
    wanted = next((span for span in steps if is_open(span)), next((s for s in steps if s.status == "ERROR"), None))
    find = "" if wanted is None else f"?uiFind={wanted.name.partition(' ')[2]}"
    if not webbrowser.open(url + find):
        shell.hint(f"no browser can be opened here: {url}{find}")


def _say_source(shell: Shell, built: Trace) -> None:
    if built.silent:
        shell.hint(f"⚠ no span of who answered {', '.join(built.silent)}")
    where = {"history": "the history", "spans": "the spans of this home folder", "jaeger": "Jaeger"}
    if built.source == ["history"]:
        shell.hint("from the history alone; what services did is in the span file of embedded runs, and in Jaeger")
    elif built.source == ["jaeger"]:
        shell.hint("from Jaeger alone")
    else:
        shell.hint(f"from {', and '.join(where[each] for each in built.source)}")
