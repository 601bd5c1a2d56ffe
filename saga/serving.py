"""The process that serves the gateway or the web view: uvicorn, open as long as the context, and drained at its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import uvicorn
from starlette.types import Receive, Scope, Send

_DRAIN = 10
"""Seconds that what was asked has to be answered in, at the end."""

_MOST_CONNECTIONS = 1_000


class App(Protocol):
    """An ASGI app that is opened before it is served, and closed after it."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Serving:
    """Serves an app at a socket: `async with Serving(gateway, door.end_waiting, listening)`.

    Args:
        app: not open yet.
        end_waiting: lets go who waits or looks on, at the end.
        listening: a socket that is bound.
        certificate, key: PEM files, for https.
    """

    def __init__(
        self,
        app: App,
        end_waiting: Callable[[], None],
        listening: socket.socket,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._app = app
        self._end_waiting = end_waiting
        self._listening = listening
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who may say where a request comes from is the app's to know
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_DRAIN,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._app)
        self._task = asyncio.create_task(self._server.serve([self._listening]), name="choreo-serving")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_waiting()
        self._server.should_exit = True
        try:
            if self._task is not None:
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self._stack.aclose()

    async def wait(self) -> None:
        """Wait until it ends by itself, which is a failure.

        Raises:
            Exception: why.
        """
        assert self._task is not None
        await asyncio.shield(self._task)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs this process."""
        yield
