"""Pages about batches: what was asked of many at once, how far it is, and to pause, resume or abort it."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError
from .. import jobs
from ..cli.many import told
from .acting import allowed, reason_of, who_asks
from .asked import command
from .forms import read_form
from .rendering import Renderer
from .sources import Sources
from .visitors import Role, Visitors

LIMIT = 50
_MOST_ITEMS = 500
_KEPT = 1.0


class Turn(NamedTuple):
    """What one may do about a batch.

    Args:
        kind: pause, resume or abort.
        title: on its button.
        told: what it does.
        role: the least that may.
        states: in which it may be done.
    """

    kind: str
    title: str
    told: str
    role: Role
    states: tuple[str, ...]


_TURNS = (
    Turn(
        "pause",
        "Pause",
        "nothing more is asked for until it is resumed; what was asked for already is done",
        Role.OPERATOR,
        ("running",),
    ),
    Turn("resume", "Resume", "it goes on where it was paused", Role.OPERATOR, ("paused",)),
    Turn("abort", "Abort", "it ends here: what is not asked for yet never is", Role.ADMIN, ("running", "paused")),
)


class BatchPages:
    """Answers what is asked about batches.

    Args:
        sources: the store.
        renderer: makes the pages.
        visitors: who may do what.
    """

    def __init__(self, sources: Sources, renderer: Renderer, visitors: Visitors) -> None:
        self._sources = sources
        self._renderer = renderer
        self._visitors = visitors
        self._all = sources.kept("batches", self._ask, _KEPT)

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/batches", self._list, methods=["GET"]),
            Route("/batches.json", self._list_json, methods=["GET"]),
            Route("/batches/{id}.json", self._batch_json, methods=["GET"]),
            Route("/batches/{id}", self._batch, methods=["GET"]),
            Route("/batches/{id}", self._turn, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        return self._renderer.page(
            request,
            "batches.html",
            title="Batches",
            now=system_clock(),
            here="batches",
            cli=["saga batch list"],
            twin="/batches.json",
            batches=await self._all.get(),
            most=LIMIT,
        )

    async def _list_json(self, request: Request) -> Response:
        return JSONResponse([told(each) for each in await self._all.get()])

    async def _ask(self) -> list[jobs.Progress]:
        return await self._sources.database.read(lambda c: jobs.every(c, LIMIT))

    async def _batch(self, request: Request) -> Response:
        found, items, which = await self._look(request)
        id_, state = found.job.id, found.job.state
        option = {"": [], "refused": ["--refused"], "all": ["--items"]}[which]
        return self._renderer.page(
            request,
            "batch.html",
            title=f"Batch {id_}",
            now=system_clock(),
            here="batches",
            cli=[command("saga", "batch", "show", id_, *option)],
            twin=f"/batches/{id_}.json{f'?items={which}' if which else ''}",
            found=found,
            items=items,
            which=which,
            letters=found.job.kind.startswith("dlq"),
            turns=[turn for turn in _TURNS if state in turn.states],
        )

    async def _batch_json(self, request: Request) -> Response:
        found, items, which = await self._look(request)
        return JSONResponse({**told(found), **({"items": [each._asdict() for each in items]} if which else {})})

    async def _look(self, request: Request) -> tuple[jobs.Progress, list[jobs.Item], str]:
        id_, which = request.path_params["id"].replace("\0", ""), request.query_params.get("items", "")
        if which not in ("", "refused", "all"):
            raise ConfigurationError(f"items {which[:20]!r}: write refused or all")
        database = self._sources.database
        found = await database.read(lambda c: jobs.progress(c, id_))
        state = "refused" if which == "refused" else ""
        items = await database.read(lambda c: jobs.items(c, id_, state=state, limit=_MOST_ITEMS)) if which else []
        return found, items, which

    async def _turn(self, request: Request) -> Response:
        fields = await read_form(request, self._visitors)
        turn = next((each for each in _TURNS if each.kind == fields.get("kind")), None)
        if turn is None:
            raise ConfigurationError("one can pause, resume or abort a batch here")
        who, reason = who_asks(allowed(request, turn.role)), reason_of(fields)
        id_, what = request.path_params["id"].replace("\0", ""), cast(Literal["pause", "resume", "abort"], turn.kind)
        database = self._sources.database
        await database.write(lambda c: jobs.turn(c, id_, what, who, database.now(c), reason=reason))
        self._sources.forget()
        return RedirectResponse(f"{request.scope.get('root_path', '')}/batches/{id_}", 303)
