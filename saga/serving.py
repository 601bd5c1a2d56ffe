"""The process that serves the gateway: uvicorn, open as long as the context, and drained at its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from ..events.gateway import Gateway
from .door import SagaDoor

_DRAIN = 10
"""Seconds that what was asked has to be answered in, at the end."""

_MOST_CONNECTIONS = 1_000


class Serving:
    """Serves a gateway at a socket: `async with Serving(gateway, door, listening)`.

    Args:
        gateway: not open yet.
        door: of it; who waits there is answered at the end.
        listening: a socket that is bound.
        certificate, key: PEM files, for https.
    """

    def __init__(
        self,
        gateway: Gateway,
        door: SagaDoor,
        listening: socket.socket,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._gateway = gateway
        self._door = door
        self._listening = listening
        self._server = _Server(
            uvicorn.Config(
                gateway,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_DRAIN,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._gateway)
        self._task = asyncio.create_task(self._server.serve([self._listening]), name="choreo-gateway")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._door.end_waiting()
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
