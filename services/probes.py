"""`/healthz`, `/readyz` and `/metrics` over HTTP, for whoever starts, restarts and watches processes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Self

import h11
import structlog

from ..events.errors import ConfigurationError
from ..tracing.metrics import Metrics
from .health import Health

log = structlog.get_logger("choreo.run")

KEPT = 1.0
"""Seconds for which an answer about readiness is kept: whoever asks often asks the broker and the store no oftener."""

_PATIENCE = 5.0
_MOST_CONNECTIONS = 64
_READ = 4096
Text = Callable[[], Awaitable[tuple[bytes, str]]]
"""Writes metrics, with their content type."""

_ADDRESS = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):)?(?P<port>\d{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `:PORT` or `PORT`; without a host it is loopback.

    Raises:
        ConfigurationError: it is none.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:
        raise ConfigurationError(
            f"health address {text!r}: write HOST:PORT, or PORT for 127.0.0.1, e.g. --health 8086; in a container "
            "that is probed from outside, 0.0.0.0:8086"
        )
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


def scraping(measure: Callable[[], Awaitable[None]], metrics: Metrics) -> Text | None:
    """Give what answers a scrape: a look at stores and lags, and then all metrics; None where nobody can scrape.

    Args:
        measure: looks, if that was not done just now.
        metrics: of this process.
    """
    write = metrics.text
    if write is None:
        return None

    async def text() -> tuple[bytes, str]:
        await measure()
        return await asyncio.to_thread(write)

    return text


class Probes:
    """Answers health probes: `async with Probes(address, look, parts)`.

    `/healthz` says that the process and its event loop live, `/readyz` that every part can do its work: 200 or 503 with
    `saga.health/v1` as JSON; `/metrics` gives metrics as Prometheus reads them. It answers GET and HEAD, one request
    for each connection, and says nothing secret.

    Args:
        address: where to listen, `HOST:PORT`.
        look: gives how each part is.
        parts: how many there are when all of them run.
        metrics: writes them; None where there are none.
    """

    def __init__(
        self, address: str, look: Callable[[], Awaitable[Sequence[Health]]], parts: int, metrics: Text | None = None
    ) -> None:
        self.host, self.port = parse_address(address)
        self._look = look
        self._parts = parts
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()
        self._asked: asyncio.Task[tuple[bool, dict[str, Any]]] | None = None
        self._asked_at = 0.0
        self.stopping = False
        """Whether the process is about to end: then it is not ready."""

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=_READ)
        except (OSError, UnicodeError) as error:
            told = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"health: cannot listen on {self.host}:{self.port}: {told}") from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [*self._open, *([self._asked] if self._asked is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    # ---- what is said ----------------------------------------------------------------------------------------------

    async def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Give the status and the body for a path."""
        if path == "/healthz":
            return 200, _body("live", True, [])
        if path == "/readyz":
            ready, body = await self._ready()
            return (200 if ready else 503), body
        if path == "/metrics":
            return 404, {"error": "no metrics: pip install 'choreo[prometheus]'; OTEL_SDK_DISABLED turns them off"}
        return 404, {"error": "there is /healthz, /readyz and /metrics"}

    async def _ready(self) -> tuple[bool, dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        if self._asked is None or (self._asked.done() and now - self._asked_at > KEPT):
            self._asked_at = now
            self._asked = asyncio.create_task(self._judge(), name="choreo-health")
        ready, body = await asyncio.shield(self._asked)
        return (False, {**body, "ok": False}) if self.stopping else (ready, body)

    async def _judge(self) -> tuple[bool, dict[str, Any]]:
        try:
            found = await self._look()
        except Exception as error:  # a part that begins or ends just now
            log.warning("health cannot be told", error=type(error).__name__)
            return False, _body("ready", False, [])
        ready = len(found) == self._parts and all(each.ready for each in found)
        return ready, _body("ready", ready, [each.as_json() for each in found])

    # ---- HTTP ------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= _MOST_CONNECTIONS:
                async with asyncio.timeout(_PATIENCE):
                    await self._talk(reader, writer)
        except (OSError, TimeoutError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # who asked is gone, or never came to the point
        finally:
            self._open.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ)
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ))
            if not isinstance(event, h11.Request):
                return
            path = event.target.split(b"?")[0].decode("latin-1")
            if event.method not in (b"GET", b"HEAD"):
                status, (data, type_) = 405, _json({"error": "use GET or HEAD"})
            elif path == "/metrics" and self._metrics is not None:
                status, (data, type_) = 200, await self._metrics()
            else:
                status, body = await self.answer(path)
                data, type_ = _json(body)
        except h11.RemoteProtocolError as error:
            status, (data, type_) = error.error_status_hint, _json({"error": "this is no HTTP request"})
        headers = [
            ("content-type", type_),
            ("content-length", str(len(data))),
            ("cache-control", "no-store"),
            ("connection", "close"),
            *([("allow", "GET, HEAD")] if status == 405 else []),
        ]
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        writer.write(connection.send(h11.Data(data=data)) or b"")
        await writer.drain()


def _json(body: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(body, separators=(",", ":")).encode(), "application/json"


def _body(probe: Literal["live", "ready"], ok: bool, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "saga.health/v1", "probe": probe, "ok": ok, "parts": parts}
