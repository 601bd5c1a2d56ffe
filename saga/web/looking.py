"""Pages about sagas: the list, and one of them. Each has a twin that gives the JSON of the command line."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.errors import SagaNotFound
from .. import grouping, paging, queries, report
from ..explaining import Explained, explain_saga
from ..graph import as_json, graph_of, svg
from ..looking import look
from ..words import Phase
from .acting import acts_on, became
from .asked import Asked, command, read_list, saga_path
from .rendering import Renderer
from .sources import Sources
from .timeline import timeline

_MOST_HISTORY = 500
_KEPT = 0.5
"""Seconds that a list is kept for others who ask for the same."""
_GROUPS_KEPT = 5.0
"""The same for a count, which may have to read all that its filters leave."""


class SagaPages:
    """Answers what is asked about sagas.

    Args:
        sources: the store and the broker.
        renderer: makes the pages.
    """

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self._sources = sources
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/sagas", self._list, methods=["GET"]),
            Route("/sagas.json", self._list_json, methods=["GET"]),
            Route("/approvals", self._approvals, methods=["GET"]),
            Route("/approvals.json", self._approvals_json, methods=["GET"]),
            Route("/sagas/{id:path}", self._saga, methods=["GET"]),
            Route("/why/{id:path}.json", self._why_json, methods=["GET"]),
            Route("/graph/{id:path}.json", self._graph_json, methods=["GET"]),
        ]

    # -- lists --------------------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        asked, now = await self._asked(request)
        groups = await self._groups(asked) if asked.group_by else []
        page = paging.Page([], None) if asked.group_by else await self._page(asked)
        types = [each.type for each in await self._sources.database.read(queries.newest_definitions)]
        return self._renderer.page(
            request,
            "sagas.html",
            title=f"Sagas by {asked.group_by}" if asked.group_by else "Sagas",
            now=now,
            here="sagas",
            cli=[asked.cli],
            twin=asked.address("/sagas.json", after=asked.after),
            asked=asked,
            groups=[(each, _alike(asked, each), grouping.spoken(each)) for each in groups[: asked.limit]],
            counted=(sum(each["count"] for each in groups), len(groups)),
            rows=page.rows,
            following=asked.address("/sagas", after=page.after) if page.after else "",
            first=asked.address("/sagas"),
            types=types,
            phases=[phase.value for phase in Phase],
            sorts=queries.SORTS,
            each_one=asked.address("/sagas", group_by=""),
            counts=[(name, asked.address("/sagas", group_by=name, limit="")) for name in queries.GROUPS],
        )

    async def _list_json(self, request: Request) -> Response:
        asked, now = await self._asked(request)
        if asked.group_by:
            return JSONResponse([grouping.told(each) for each in (await self._groups(asked))[: asked.limit]])
        page = await self._page(asked)
        root = request.scope.get("root_path", "")
        headers = {}
        if page.after:
            headers["link"] = f'<{root}{asked.address("/sagas.json", after=page.after)}>; rel="next"'
        return JSONResponse([report.summary(row, now) for row in page.rows], headers=headers)

    async def _asked(self, request: Request) -> tuple[Asked, int]:
        database = self._sources.database
        now = await database.read(database.now)
        return read_list(request.query_params, now), now

    async def _groups(self, asked: Asked) -> list[dict[str, Any]]:
        async def ask() -> list[dict[str, Any]]:
            return await self._sources.database.read(lambda c: grouping.groups(c, asked.wanted, asked.group_by))

        return await self._sources.kept(f"groups {asked.given}", ask, _GROUPS_KEPT).get()

    async def _page(self, asked: Asked) -> paging.Page:
        database = self._sources.database

        async def ask() -> paging.Page:
            return await database.read(
                lambda c: paging.page_of(c, asked.wanted, sort=asked.sort, limit=asked.limit, after=asked.after)
            )

        # Many look at the same list at the same time, whenever something changes: it is read once for them.
        kept = self._sources.kept(f"list {asked.after} {asked.given}", ask, _KEPT)
        return await kept.get()

    async def _approvals(self, request: Request) -> Response:
        rows, asking, now = await self._waiting()
        return self._renderer.page(
            request,
            "approvals.html",
            title="Approvals",
            now=now,
            here="approvals",
            cli=["saga list --waiting-for-person"],
            twin="/approvals.json",
            rows=rows,
            asking=asking,
        )

    async def _approvals_json(self, request: Request) -> Response:
        rows, _, now = await self._waiting()
        return JSONResponse([report.summary(row, now) for row in rows])

    async def _waiting(self) -> Any:
        wanted = queries.Filter(conditions=("WaitingForPerson",))
        database = self._sources.database
        page = await database.read(lambda c: paging.page_of(c, wanted, sort="attention", limit=200))
        found = await database.read(lambda c: queries.states(c, [row.id for row in page.rows]))
        asking = {id_: each.instance.conditions.get("WaitingForPerson") for id_, each in found.items()}
        return page.rows, asking, await database.read(database.now)

    # -- one saga -----------------------------------------------------------------------------------------------------

    async def _saga(self, request: Request) -> Response:
        text = request.path_params["id"]
        raw: bytes = request.scope.get("raw_path") or b""
        machine = text.endswith(".json") and raw.partition(b"?")[0].endswith(b".json")
        id_ = await self._find(text.removesuffix(".json") if machine else text)
        database = self._sources.database
        observed = await self._sources.observed()
        view = await look(database, self._sources.settings, id_, observed)
        if machine:
            entries = [report.history_entry(id_, entry) for entry in view.entries]
            return JSONResponse({**view.told, "history": entries})
        explained = await self._explain(id_)
        person = any(each["type"] == "WaitingForPerson" for each in view.told["conditions"])
        return self._renderer.page(
            request,
            "saga.html",
            title=id_,
            now=view.observed.at,
            here="sagas",
            cli=[command("saga", "status", id_, "--history"), command("saga", "why", id_)],
            twin=f"{saga_path(id_)}.json",
            saga_id=id_,
            told=view.told,
            person=person,
            timeline=timeline(view),
            picture=Markup("\n".join(svg(graph_of(view.found.definition, view.found.instance)))),  # noqa: S704 - escaped
            why=explained.as_json(),
            entries=view.entries[-_MOST_HISTORY:],
            acts=acts_on(view, view.observed.at),
            became=await self._became(request, id_),
            earlier=max(0, len(view.entries) - _MOST_HISTORY),
        )

    async def _became(self, request: Request, id_: str) -> str:
        command_id = request.query_params.get("asked", "")[:100].replace("\0", "")
        return await self._sources.database.read(lambda c: became(c, command_id, id_)) if command_id else ""

    async def _why_json(self, request: Request) -> Response:
        return JSONResponse((await self._explain(request.path_params["id"])).as_json())

    async def _graph_json(self, request: Request) -> Response:
        id_ = await self._find(request.path_params["id"])
        found = await self._sources.database.read(lambda c: queries.load(c, id_))
        return JSONResponse(as_json(graph_of(found.definition, found.instance)))

    async def _find(self, text: str) -> str:
        if "\0" in text:
            raise SagaNotFound("there is no saga with a NUL character in its name")
        return await self._sources.database.read(lambda c: queries.resolve(c, text))

    async def _explain(self, id_: str) -> Explained:
        async def around(topics: Any) -> Any:
            return await self._sources.surroundings()

        return await explain_saga(self._sources.database, id_, around)


def _alike(asked: Asked, group: dict[str, Any]) -> str:
    """Write the address of the list of a group's sagas; "" where no filter says what they have in common."""
    if group["value"] is None:
        return ""
    if group["by"] == "error":
        return asked.address("/sagas", group_by="", limit="", type=group["type"], error=group["value"])
    return asked.address("/sagas", group_by="", limit="", **{group["by"]: group["value"]})
