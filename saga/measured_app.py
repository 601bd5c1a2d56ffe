"""An ASGI app whose requests are measured: how long each route takes, by method and status.

It stands around the web view or the gateway where metrics are on, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from starlette.types import Message, Receive, Scope, Send

from ..tracing.instruments import METHOD, ROUTE, STATUS_CODE
from ..tracing.meters import Meters, Recorder
from .serving import App

_METHODS = frozenset(("GET", "HEAD", "POST"))
_UNTIMED = frozenset(("/live",))
"""Streams, which last as long as somebody looks on."""


class MeasuredApp:
    """Measures an app's requests.

    Args:
        app: a Starlette app, or one around it.
        meters: where the durations go.
        clock: seconds.
    """

    def __init__(self, app: App, meters: Meters, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._meters = meters
        self._clock = clock
        self._paths: dict[Any, str] = {}
        self._recorders: dict[tuple[str, str, int], Recorder] = {}

    async def __aenter__(self) -> Self:
        await self._app.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.__aexit__(kind, error, trace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI), and note how long that took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            path = self._path(scope)
            if path not in _UNTIMED:
                method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
                self._recorder(method, path, status).record(self._clock() - began)

    def _path(self, scope: Mapping[str, Any]) -> str:
        """Give the pattern of a route, `/sagas/{id:path}`: never what a user wrote; "" where none was reached."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return ""
        if endpoint not in self._paths:
            routes = scope["app"].routes
            self._paths |= {each.endpoint: each.path for each in routes if hasattr(each, "endpoint")}
        return self._paths.get(endpoint, "")

    def _recorder(self, method: str, path: str, status: int) -> Recorder:
        key = (method, path, status)
        found = self._recorders.get(key)
        if found is None:
            attributes = {METHOD: method, ROUTE: path, STATUS_CODE: str(status)}
            found = self._recorders[key] = self._meters.recorder("http.server.request.duration", attributes)
        return found
