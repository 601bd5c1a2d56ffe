"""A front before a server: TLS, a login, a certificate asked of the client. What passes is handed on as it is."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Any


class Front:
    """Listens on a free port of the loopback and hands on what it lets pass.

    Args:
        port: of the server behind it, on 127.0.0.1.
        authorization: the header that every request must carry; None lets all pass.
        context: of TLS; None speaks plain HTTP.

    Attributes:
        passed, refused: requests.
        away: every request is answered 503.
    """

    def __init__(self, port: int, *, authorization: str | None = None, context: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._authorization = authorization
        self._context = context
        self._tasks: list[asyncio.Task[Any]] = []
        self.passed = self.refused = 0
        self.away = False
        self.port = 0

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        behind: asyncio.StreamWriter | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
                }
                body = await reader.readexactly(int(found.get("content-length", "0")))
                if self.away:
                    self.refused += 1
                    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}")
                    await writer.drain()
                    continue
                if self._authorization is not None and found.get("authorization") != self._authorization:
                    self.refused += 1
                    writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")
                    await writer.drain()
                    continue
                self.passed += 1
                answers, behind = await asyncio.open_connection("127.0.0.1", self._port)
                kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                behind.write(b"\r\n".join([kept[0], b"connection: close", *kept[1:]]) + body)
                await behind.drain()
                writer.write(await answers.read())
                await writer.drain()
                return  # the answer says `connection: close`
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            for each in (behind, writer):
                if each is not None:
                    each.close()
