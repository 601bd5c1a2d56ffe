"""What one event of a saga's history said, on demand and for operators, secrets masked."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import SagaNotFound
from .. import queries
from ..cli.history import Told, with_payload
from ..cli.history import read_payloads as decoded
from ..payloads import read_payloads
from ..queries import Entry
from ..report import history_entry
from .acting import allowed
from .asked import command, saga_path
from .rendering import Renderer
from .sources import Sources
from .visitors import Role

_MOST = 100_000
_NOT_KEPT = "it is not kept: it said nothing, was erased, or is older than CHOREO_RETENTION"


class SaidPages:
    """Answers `/payloads/{seq}/{saga}`, and its twin `/payloads/{seq}.json/{saga}`.

    Args:
        sources: the store and the broker.
        renderer: makes the page.
    """

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self._sources = sources
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        """Give the routes; the twin's suffix stands behind the number, for a saga's name may end with it."""
        return [
            Route("/payloads/{seq:int}.json/{id:path}", self._twin, methods=["GET"]),
            Route("/payloads/{seq:int}/{id:path}", self._page, methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        id_, entry, (body, problem) = await self._read(request)
        shown = "" if problem is not None else json.dumps(body, indent=2, ensure_ascii=False, default=str)
        path = saga_path(id_)
        return self._renderer.page(
            request,
            "payload.html",
            title=f"{id_} input {entry.seq}",
            now=system_clock(),
            here="sagas",
            cli=[command("saga", "history", id_, "--payloads")],
            twin=f"/payloads/{entry.seq}.json/{path.removeprefix('/sagas/')}",
            live=False,
            id=id_,
            path=path,
            seq=entry.seq,
            type=entry.type,
            body=shown[:_MOST],
            cut=max(0, len(shown) - _MOST),
            problem=problem,
        )

    async def _twin(self, request: Request) -> Response:
        id_, entry, told = await self._read(request)
        return JSONResponse(with_payload(history_entry(id_, entry), told, asked=True))

    async def _read(self, request: Request) -> tuple[str, Entry, Told]:
        """Read an input and what it said, or why that is not shown, for who may see it."""
        allowed(request, Role.OPERATOR)
        seq = min(request.path_params["seq"], 1 << 31)
        database = self._sources.database
        id_ = await database.read(lambda c: queries.resolve(c, request.path_params["id"].replace("\0", "")))
        entries, kept = await database.read(
            lambda c: (queries.read_history(c, id_, after=seq - 1, limit=1), read_payloads(c, id_, seq))
        )
        if not entries or entries[0].seq != seq:
            raise SagaNotFound(f"the history of {id_} has no input {seq}")
        told = (await decoded(self._sources.settings, kept)).get(seq, (None, _NOT_KEPT))
        return id_, entries[0], told
