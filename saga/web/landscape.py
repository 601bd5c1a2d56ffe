"""Pages about everything: the overview, the catalog as a graph, and definitions with their versions."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError
from .. import participants, queries
from .. import versions as versions_
from ..bottlenecks import Bottleneck, bottlenecks
from ..cli import bottlenecks as told_bottlenecks
from ..cli import versions as told_versions
from ..cli.catalog import from_broker
from ..durations import weeks_of
from ..graph import as_json as graph_json
from ..graph import graph_of, svg
from ..overview import NEWEST, SPANS, Overview, as_json, overview
from . import flows
from .acting import became
from .asked import command
from .rendering import Renderer
from .sources import Kept, Sources

_KEPT = 1.0
_LONG_KEPT = 10.0
HIGH = 40
_MOST_BOTTLENECKS = 12
_WEEKS = 4
"""As `saga bottlenecks` has it."""


class Landscape:
    """Answers what is asked about all sagas, services and definitions.

    Args:
        sources: the store and the broker.
        renderer: makes the pages.
    """

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self._sources = sources
        self._renderer = renderer
        self._catalog = sources.kept("catalog", self._ask_catalog, _LONG_KEPT)
        self._bottlenecks = sources.kept("bottlenecks", self._ask_bottlenecks, _LONG_KEPT)
        self._versions = sources.kept("versions", self._ask_versions, _LONG_KEPT)

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/", self._overview, methods=["GET"]),
            Route("/overview.json", self._overview_json, methods=["GET"]),
            Route("/catalog", self._catalog_page, methods=["GET"]),
            Route("/catalog.json", self._catalog_json, methods=["GET"]),
            Route("/definitions", self._definitions, methods=["GET"]),
            Route("/definitions.json", self._definitions_json, methods=["GET"]),
            Route("/definitions/{type}.json", self._definition_json, methods=["GET"]),
            Route("/definitions/{type}", self._definition, methods=["GET"]),
        ]

    # -- overview -----------------------------------------------------------------------------------------------------

    async def _overview(self, request: Request) -> Response:
        found, span = await self._glance(request)
        asked = request.query_params.get("asked", "")[:100].replace("\0", "")
        rows = [("began", found.began), *((phase, counts) for phase, counts in found.ended.items())]
        return self._renderer.page(
            request,
            "overview.html",
            title="Overview",
            now=found.now,
            here="overview",
            cli=[
                command("saga", "list", "--group-by", "state", "--since", span),
                command("saga", "list", "--failed", "--group-by", "error"),
                "saga bottlenecks",
            ],
            twin=f"/overview.json?span={span}",
            found=found,
            charts=[(word, counts, _bars(counts)) for word, counts in rows],
            span=span,
            spans=list(SPANS),
            newest=NEWEST,
            bottlenecks=(await self._bottlenecks.get())[:_MOST_BOTTLENECKS],
            became=await self._sources.database.read(lambda c: became(c, asked, None)) if asked else "",
        )

    async def _overview_json(self, request: Request) -> Response:
        found, _ = await self._glance(request)
        slow = [told_bottlenecks.told(each) for each in await self._bottlenecks.get()]
        return JSONResponse({**as_json(found), "bottlenecks": slow})

    async def _ask_bottlenecks(self) -> list[Bottleneck]:
        known = await self._sources.database.read(lambda c: weeks_of(c, ()))
        return bottlenecks(known, _WEEKS)

    async def _glance(self, request: Request) -> tuple[Overview, str]:
        span = request.query_params.get("span", "24h")
        if span not in SPANS:
            raise ConfigurationError(f"span {span[:20]!r}: write one of {', '.join(SPANS)}")
        database = self._sources.database

        async def ask() -> Overview:
            return await database.read(lambda c: overview(c, database.now(c), SPANS[span]))

        kept: Kept[Overview] = self._sources.kept(f"overview {span}", ask, _KEPT)
        return await kept.get(), span

    # -- catalog ------------------------------------------------------------------------------------------------------

    async def _catalog_page(self, request: Request) -> Response:
        found, trouble = await self._catalog.get()
        events = participants.flows(found)
        return self._renderer.page(
            request,
            "catalog.html",
            title="Catalog",
            now=system_clock(),
            here="catalog",
            cli=["saga catalog"],
            twin="/catalog.json",
            found=found,
            flows=events,
            trouble=trouble,
            picture=Markup(flows.svg(found, events)),  # noqa: S704 - escaped there
        )

    async def _catalog_json(self, request: Request) -> Response:
        found, trouble = await self._catalog.get()
        return JSONResponse(participants.as_json(found, trouble))

    async def _ask_catalog(self) -> tuple[list[participants.Participant], str | None]:
        announced, members, trouble = await from_broker(self._sources.shell)
        return participants.merged(announced, [], members), trouble

    # -- definitions --------------------------------------------------------------------------------------------------

    async def _definitions(self, request: Request) -> Response:
        return self._renderer.page(
            request,
            "definitions.html",
            title="Definitions",
            now=system_clock(),
            here="definitions",
            cli=["saga versions"],
            twin="/definitions.json",
            versions=await self._versions.get(),
        )

    async def _definitions_json(self, request: Request) -> Response:
        return JSONResponse([told_versions.told(each) for each in await self._versions.get()])

    async def _definition(self, request: Request) -> Response:
        type_ = request.path_params["type"]
        database = self._sources.database
        definition = await database.read(lambda c: queries.newest_definition(c, type_))
        drawn = graph_of(definition)
        return self._renderer.page(
            request,
            "definition.html",
            title=type_,
            now=system_clock(),
            here="definitions",
            cli=[command("saga", "graph", type_), command("saga", "versions", type_)],
            twin=f"/definitions/{type_}.json",
            definition=definition,
            drawn=drawn,
            picture=Markup("\n".join(svg(drawn))),  # noqa: S704 - escaped there
            versions=[each for each in await self._versions.get() if each.type == type_],
        )

    async def _definition_json(self, request: Request) -> Response:
        type_ = request.path_params["type"]
        definition = await self._sources.database.read(lambda c: queries.newest_definition(c, type_))
        return JSONResponse(graph_json(graph_of(definition)))

    async def _ask_versions(self) -> list[versions_.Version]:
        database = self._sources.database
        return await database.read(lambda c: versions_.versions(c, database.now(c)))


def _bars(counts: list[int]) -> list[tuple[int, int]]:
    """Give the height and the top of each bar."""
    most = max(1, *counts)
    heights: list[Any] = [0 if count == 0 else max(2, round(HIGH * count / most)) for count in counts]
    return [(height, HIGH - height) for height in heights]
