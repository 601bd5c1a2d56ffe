"""The web view as an ASGI app: to serve with `saga serve`, or to mount in an app of one's own."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ...events.clock import system_clock
from ...events.errors import AmbiguousSaga, ChoreoError, ConfigurationError, Refused, SagaNotFound
from ...events.event import Event
from ...events.problems import Problem
from ...events.settings import Settings, load_settings
from .acting import Acts
from .batches import BatchPages
from .entrance import Entrance
from .feed import Feed, TooMany
from .guard import Guard, refusal
from .landscape import Landscape
from .letters import LetterPages
from .looking import SagaPages
from .records import AuditPages
from .rendering import STATIC, Renderer
from .said import SaidPages
from .sources import Sources
from .visitors import Role, Visitors

log = structlog.get_logger("choreo.web")

_STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_KEPT = "public, max-age=31536000, immutable"


class WebView:
    """Pages about sagas; `async with view` opens it, as does the lifespan of a server.

    Args:
        settings: where store and broker are, and who may come (`CHOREO_WEB_*`); read from the environment when None.
        hosts: names under which it may be called (the header `Host`), beside `CHOREO_WEB_HOSTS`; None takes any.
        local: the role of everybody where neither tokens nor proxies are set; None lets nobody in then.
        events: what an admin may publish in place of a dead letter's handler.

    Raises:
        ConfigurationError: a token or an address in the settings is none.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        hosts: Iterable[str] | None = None,
        local: Role | None = None,
        events: Sequence[type[Event]] = (),
    ) -> None:
        self._settings = load_settings() if settings is None else settings
        self._visitors = Visitors(
            self._settings.web_tokens.get_secret_value(),
            self._settings.web_proxies,
            self._settings.web_user_header,
            self._settings.web_role_header,
            local,
        )
        self.feed = Feed()
        self._sources = Sources(self._settings)
        self._renderer = Renderer(self._visitors)
        self._events = events
        self._opened = False
        named = [host.strip() for host in self._settings.web_hosts.split(",") if host.strip()]
        allowed = None if hosts is None else {*hosts, *named}
        self._app = Guard(self._make(), self._visitors, allowed)

    async def __aenter__(self) -> Self:
        database = await self._sources.open()
        self.feed.open(database)
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened = False
        await self.feed.close()
        await self._sources.close()

    async def reach(self) -> None:
        """Read something from the store.

        Raises:
            StoreError: it does not answer.
        """
        database = self._sources.database
        await database.read(database.now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        if self._opened:
            yield
            return
        async with self:
            yield

    def _make(self) -> Starlette:
        routes: list[BaseRoute] = [
            Route("/live", self._live, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/static/{name}", _static, methods=["GET"]),
            *Entrance(self._visitors, self._renderer).routes(),
            *Landscape(self._sources, self._renderer).routes(),
            *Acts(self._sources, self._visitors).routes(),
            *AuditPages(self._sources, self._renderer).routes(),
            *BatchPages(self._sources, self._renderer, self._visitors).routes(),
            *SaidPages(self._sources, self._renderer).routes(),
            *LetterPages(self._sources, self._renderer, self._visitors, self._events).routes(),
            *SagaPages(self._sources, self._renderer).routes(),
        ]
        return Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={
                Problem: self._refuse,
                HTTPException: self._refuse,
                ChoreoError: self._refuse,
                Exception: self._refuse,
            },
        )

    async def _live(self, request: Request) -> Response:
        try:
            client = self.feed.join()
        except TooMany:
            told = "enough others look on"
            raise Problem(503, "too-many", told, "look again later", headers={"retry-after": "15"}) from None
        return StreamingResponse(
            self.feed.stream(client), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def _refuse(self, request: Request, error: Exception) -> Response:
        """Tell what went wrong, as a page or as JSON, as it was asked for."""
        problem = _problem(request, error)
        page = "text/html" in request.headers.get("accept", "") and not request.url.path.endswith(".json")
        if not page or problem.status == 503:
            return refusal(request.scope, problem)
        candidates = error.ids.get("candidates", ()) if isinstance(error, AmbiguousSaga) else ()
        return self._renderer.page(
            request,
            "problem.html",
            title=str(problem.body()["title"]),
            now=system_clock(),
            status=problem.status,
            live=False,
            headers=dict(problem.headers),
            problem=problem,
            candidates=candidates,
        )


def _problem(request: Request, error: Exception) -> Problem:
    """Say an error as a problem: what, and what to do instead."""
    match error:
        case Problem():
            return error
        case HTTPException():
            status = error.status_code if error.status_code in (404, 405) else 400
            kind = {404: "no-such-path", 405: "method-not-allowed"}.get(status, "refused")
            return Problem(status, kind, f"{request.url.path[:200]}: {error.detail}", "begin at the overview")
        case AmbiguousSaga():
            return Problem(400, "ambiguous", error.message, "name one of them")
        case SagaNotFound():
            return Problem(404, "not-found", error.message, "look for it in the list of sagas")
        case Refused():
            return Problem(409, "refused", error.message, "look at it again: it may have moved on")
        case ConfigurationError():
            return Problem(400, "malformed-question", error.message, "change the address, or use the form")
        case ChoreoError() if error.retryable:
            return Problem(503, "unavailable", error.message, "ask again", headers={"retry-after": "2"})
        case ChoreoError():
            log.error("a page could not be served", error=error.message, kind=type(error).__name__)
            return Problem(500, "misconfigured", error.message, "tell whoever runs this web view")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename}:{frame.lineno}"  # no more of it: an error's text may hold a payload
    log.error("a page could not be served", path=request.url.path, error=type(error).__name__, where=where)
    told = "something went wrong that is not the request's fault"
    return Problem(500, "defect", told, "tell whoever runs this web view; its log says more")


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    path = STATIC / name
    if path.suffix not in _STATIC_TYPES or path.parent != STATIC or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type=_STATIC_TYPES[path.suffix], headers={"cache-control": _KEPT})
