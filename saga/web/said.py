"""What one event of a saga's history said, on demand and for operators, secrets masked."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import SagaNotFound
from .. import queries
from ..payloads import Payloads
from ..tables import history
from .acting import allowed
from .asked import command, saga_path
from .rendering import Renderer
from .sources import Sources
from .visitors import Role

_MOST = 100_000


class SaidPages:
    """Answers `/payloads/{seq}/{saga}`.

    Args:
        sources: the store and the broker.
        renderer: makes the page.
    """

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self._sources = sources
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        """Give the route."""
        return [Route("/payloads/{seq:int}/{id:path}", self._page, methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        allowed(request, Role.OPERATOR)
        seq = min(request.path_params["seq"], 1 << 31)
        database = self._sources.database
        id_ = await database.read(lambda c: queries.resolve(c, request.path_params["id"].replace("\0", "")))
        columns = (history.c.type, history.c.event_id, history.c.content_type, history.c.value)
        query = select(*columns).where(history.c.saga_id == id_, history.c.seq == seq)
        row = await database.read(lambda c: c.execute(query).first())
        if row is None:
            raise SagaNotFound(f"the history of {id_} has no input {seq}")
        body, problem = await self._decoded(row)
        shown = "" if problem is not None else json.dumps(body, indent=2, ensure_ascii=False, default=str)
        return self._renderer.page(
            request,
            "payload.html",
            title=f"{id_} input {seq}",
            now=system_clock(),
            here="sagas",
            cli=[command("saga", "history", id_, "--payloads")],
            live=False,
            id=id_,
            path=saga_path(id_),
            seq=seq,
            type=row.type,
            body=shown[:_MOST],
            cut=max(0, len(shown) - _MOST),
            problem=problem,
        )

    async def _decoded(self, row: Any) -> tuple[Any, str | None]:
        """Decode a value as its schema says; give it, or None and why it is not shown."""
        if row.value is None:
            return (
                None,
                "it is not kept: it said nothing, was erased, or is older than CHOREO_RETENTION",
            )
        async with Payloads(self._sources.settings) as payloads:
            return await payloads.read(bytes(row.value), row.content_type or "", row.type, row.event_id)
