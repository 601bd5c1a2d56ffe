"""A small HTTP server that speaks the documented subset of the Confluent Schema Registry API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from choreo.events.compatibility import check_backward

Answer = tuple[int, Any]


class SchemaServer:
    """Listens on a free port of the loopback; `override` may answer a request (method, path) in another way.

    Attributes:
        requests: (method, path) of each request.
        headers: of the last one.
        gate: while it is not set, requests wait for their answers.
        drip: seconds between two bytes of an answer; 0 sends it whole.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.override: Callable[[str, str], Answer | bytes | None] = lambda method, path: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.drip = 0.0
        self.ids: dict[str, int] = {}
        self.subjects: dict[str, list[str]] = {}
        self.url = ""
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> SchemaServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split()
                self.headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    self.headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(self.headers.get("content-length", "0")))
                path = urlsplit(target).path
                self.requests.append((method, path))
                await self.gate.wait()
                answer = self.override(method, path) or self._answer(method, path, json.loads(body) if body else {})
                raw = answer if isinstance(answer, bytes) else _http(*answer)
                for part in (raw[i : i + 1] for i in range(len(raw))) if self.drip else (raw,):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(self.drip)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        match method, [unquote(part) for part in path.strip("/").split("/")]:
            case "POST", ["subjects", subject]:
                if body["schema"] in self.subjects.get(subject, []):
                    return 200, self._version(subject, self.subjects[subject].index(body["schema"]))
                return 404, {"error_code": 40403, "message": "Schema not found"}
            case "POST", ["compatibility", "subjects", subject, "versions", "latest"]:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": "Subject not found"}
                problems = self._problems(subject, body["schema"])
                return 200, {"is_compatible": not problems, "messages": problems}
            case "POST", ["subjects", subject, "versions"]:
                if self._problems(subject, body["schema"]):
                    return 409, {"error_code": 409, "message": "Schema being registered is incompatible"}
                schema_id = self.ids.setdefault(body["schema"], len(self.ids) + 1)
                self.subjects.setdefault(subject, []).append(body["schema"])
                return 200, {"id": schema_id}
            case "GET", ["schemas", "ids", number]:
                found = [text for text, schema_id in self.ids.items() if str(schema_id) == number]
                return (
                    (200, {"schema": found[0]})
                    if found
                    else (404, {"error_code": 40403, "message": "Schema not found"})
                )
            case "GET", ["subjects"]:
                return 200, list(self.subjects)
            case "GET", ["subjects", subject, "versions", *_] if subject not in self.subjects:
                return 404, {"error_code": 40401, "message": "Subject not found"}
            case "GET", ["subjects", subject, "versions"]:
                return 200, [number for number, _ in enumerate(self.subjects[subject], start=1)]
            case "GET", ["subjects", subject, "versions", version]:
                number = len(self.subjects[subject]) if version == "latest" else int(version)
                if number > len(self.subjects[subject]):
                    return 404, {"error_code": 40402, "message": "Version not found"}
                return 200, self._version(subject, number - 1)
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _version(self, subject: str, index: int) -> dict[str, Any]:
        text = self.subjects[subject][index]
        return {"subject": subject, "id": self.ids[text], "version": index + 1, "schema": text}

    def _problems(self, subject: str, text: str) -> list[str]:
        known = self.subjects.get(subject)
        return check_backward(json.loads(text), json.loads(known[-1])) if known else []


def _http(status: int, body: Any) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    extra = "location: http://127.0.0.1:1/\r\n" if 300 <= status < 400 else ""
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{extra}\r\n".encode() + data
