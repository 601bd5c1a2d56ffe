"""The gateway's other door: how a saga stands, at once or at its end (long poll), for schedulers and pipelines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..events.catalog import read_catalog
from ..events.database import Database
from ..events.errors import AmbiguousSaga, ChoreoError, SagaNotFound, StoreError
from ..events.event import Event
from ..events.openapi import problem
from ..events.problems import Fault, Problem
from ..events.settings import Settings, load_settings
from ..events.transport import Transport
from ..events.waiting import happens
from . import queries
from .attaching import run_of
from .definition import Definition
from .looking import look, opened, producers
from .names import is_saga_type, saga_id
from .report import Observed
from .tables import saga
from .words import Condition

MOST_WAIT = 60.0
"""Seconds that one request waits at most, unless told otherwise: many proxies lose patience then."""

MOST_WAITING = 500
"""Requests that may wait at once; each looks at the store now and then."""

_POLL = 0.1
_SLOW_POLL = 0.5
_SLOW_AFTER = 20
_OBSERVED_FOR = 5.0
_ASK = 3.0
_DEFINITIONS_FOR = 5.0


class _Asked(NamedTuple):
    """Which saga is asked for, by name or as the run that an event belongs to, and how long to wait for its end."""

    type: str
    key: str
    name: str
    event: str | None
    wait: float


class SagaDoor:
    """Answers `GET /sagas/{type}/{key}` within a `Gateway`.

    Args:
        settings: where the store is; read from the environment when None.
        most_wait: seconds that one request may wait; less than proxies on the way to the caller have patience for.
    """

    def __init__(self, settings: Settings | None = None, *, most_wait: float = MOST_WAIT) -> None:
        self._most_wait = most_wait
        self._settings = load_settings() if settings is None else settings
        self._transport: Transport | None = None
        self._stack = AsyncExitStack()
        self._database: Database | None = None
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()
        self._waiting = 0
        self._observed = Observed(0)
        self._observed_until = 0.0
        self._definitions: list[Definition] = []
        self._definitions_until = 0.0

    def routes(self) -> Sequence[BaseRoute]:
        """Give its routes."""
        return [Route("/sagas/{type}/{key:path}", self._status, methods=["GET"])]

    def paths(self) -> Mapping[str, Any]:
        """Describe them, as the `paths` of an OpenAPI document."""
        return {"/sagas/{type}/{key}": _path(self._most_wait)}

    async def open(self, transport: Transport) -> None:
        """Begin; the store is opened when it is asked for, for it may come later than we do."""
        self._transport = transport
        self._closing.clear()

    async def close(self) -> None:
        """Answer those who wait with what there is, and close the store."""
        self.end_waiting()
        await self._stack.aclose()
        self._database = None

    def end_waiting(self) -> None:
        """Let nobody wait any longer: the process is to end."""
        self._closing.set()

    async def attached(self, event: Event, id: str, root: str) -> list[dict[str, str]]:  # noqa: A002
        """Say which sagas an accepted event starts, and where to ask for the run that it has started."""
        spec = event.spec()
        found = []
        for definition in await self._known():
            if spec.type not in definition.start:
                continue
            field = definition.correlate.get(spec.type)
            key = event.key_text() if field is None else str(getattr(event, field, ""))
            if key:
                path = f"{root}/sagas/{definition.type}/{quote(key, safe='')}"
                found.append({"type": definition.type, "key": key, "url": f"{path}?event={quote(id, safe='')}"})
        return found

    # ---- asking ------------------------------------------------------------------------------------------------

    async def _status(self, request: Request) -> Response:
        asked = _read(request, self._most_wait)
        database = await self._store()
        id_ = await self._wait(database, asked)
        view = await look(database, self._settings, id_, await self._observe(database))
        return JSONResponse(view.told, headers={"cache-control": "no-store"})

    async def _wait(self, database: Database, asked: _Asked) -> str:
        """Wait until the saga has begun and ended, or waits for a person; give its name.

        Raises:
            Problem: it has not begun, or was not begun by that event.
        """
        until = time.monotonic() + asked.wait
        if asked.wait and self._waiting >= MOST_WAITING:
            told = f"{MOST_WAITING} requests wait here already"
            raise Problem(503, "too-many-waiting", told, "ask again, without wait", headers={"retry-after": "1"})
        self._waiting += 1
        try:
            looks = 0
            while True:
                id_, over = await database.read(lambda connection: _find(connection, asked))
                if id_ is not None and over:
                    return id_
                left = until - time.monotonic()
                if left <= 0 or self._closing.is_set():
                    break
                looks += 1
                await happens(self._closing, min(left, _POLL if looks < _SLOW_AFTER else _SLOW_POLL))
        finally:
            self._waiting -= 1
        if id_ is None:
            raise _not_begun(asked)
        return id_

    # ---- what is beside the saga -------------------------------------------------------------------------------

    async def _store(self) -> Database:
        async with self._opening:
            if self._database is None:
                try:
                    self._database = await self._stack.enter_async_context(opened(self._settings.store_url, aside=True))
                except StoreError as error:
                    raise Problem(
                        503,
                        "no-store",
                        error.message,
                        "start the coordinator (`saga run`), and ask again",
                        headers={"retry-after": "2"},
                    ) from None
            return self._database

    async def _known(self) -> list[Definition]:
        """Give the newest definitions, as they were a few seconds ago at most; none while there is no store."""
        if time.monotonic() >= self._definitions_until:
            try:
                database = await self._store()
                self._definitions = await database.read(queries.newest_definitions)
            except (Problem, ChoreoError):
                return self._definitions
            self._definitions_until = time.monotonic() + _DEFINITIONS_FOR
        return self._definitions

    async def _observe(self, database: Database) -> Observed:
        """Say what is seen beside the store, as it was a few seconds ago at most."""
        if time.monotonic() >= self._observed_until and self._transport is not None:
            self._observed_until = time.monotonic() + _OBSERVED_FOR
            now = await database.read(database.now)
            try:
                async with asyncio.timeout(_ASK):
                    group = await self._transport.group(self._settings.group)
                    catalog = await read_catalog(self._transport)
                self._observed = Observed(now, "ok", None, len(group.members), producers(catalog))
            except TimeoutError:
                self._observed = Observed(now, "down", f"it did not answer within {_ASK:.0f}s")
            except ChoreoError as error:
                self._observed = Observed(now, "down", error.message)
        return self._observed


def _read(request: Request, most_wait: float) -> _Asked:
    """Read what is asked for.

    Raises:
        Problem: it is no name, or a parameter is none.
    """
    type_, key = request.path_params["type"], request.path_params["key"]
    faults = []
    if not is_saga_type(type_):
        faults.append(Fault("type", 'is no saga type; one is in lower case with "-", e.g. order-fulfilment'))
    if not key or "\x00" in key:
        faults.append(Fault("key", "is no key"))
    unknown = sorted(set(request.query_params) - {"wait", "event"})
    faults += [Fault(name[:60], "is no parameter; there are wait and event") for name in unknown]
    wait = 0.0
    if (text := request.query_params.get("wait")) is not None:
        try:
            wait = float(text)
        except ValueError:
            wait = -1.0
        if not 0 <= wait <= most_wait:
            faults.append(Fault("wait", f"is no number of seconds from 0 to {most_wait:g}"))
    event = request.query_params.get("event")
    if event is not None and (not event or "\x00" in event):
        faults.append(Fault("event", "is no event's id"))
    if faults:
        told = f"{faults[0].field} {faults[0].problem}"
        raise Problem(400, "malformed-question", told, "ask GET /sagas/fulfilment/4711?wait=30", faults)
    return _Asked(type_, key, _name(request, type_, key), event, wait)


def _name(request: Request, type_: str, key: str) -> str:
    """Give the name as it was written, where the server tells: `%7E` in a key is no run's `~`."""
    raw: bytes = request.scope.get("raw_path") or b""
    _, found, rest = raw.partition(b"?")[0].decode("latin-1").rpartition(f"/sagas/{type_}/")
    return f"{type_}/{rest}" if found and unquote(rest) == key else f"{type_}/{key}"


def _find(connection: Connection, asked: _Asked) -> tuple[str | None, bool]:
    """Find the saga that is meant, None where it has not begun, and whether nothing of it comes by itself any more.

    Raises:
        Problem: the event has begun nothing.
    """
    id_ = (
        _named(connection, asked) if asked.event is None else _attached(connection, asked.type, asked.key, asked.event)
    )
    if id_ is None:
        return None, False
    row = connection.execute(select(saga.c.ended_at, saga.c.conditions).where(saga.c.id == id_)).one()
    return id_, row.ended_at is not None or Condition.WAITING_FOR_PERSON in row.conditions.split(",")


def _named(connection: Connection, asked: _Asked) -> str | None:
    try:
        found = queries.resolve(connection, asked.name)
    except (SagaNotFound, AmbiguousSaga):
        return None
    return found if found.startswith(f"{asked.type}/") else None


def _attached(connection: Connection, type_: str, key: str, event: str) -> str | None:
    """Find the run that an event belongs to.

    Raises:
        Problem: it came to a saga, and changed nothing.
    """
    found = run_of(connection, type_, key, event)
    if found.refused is None:
        return found.id
    raise Problem(
        409,
        "not-attached",
        found.refused,
        "give the new run another business key, or declare the saga with rerun=True; a retry sends the same id",
        [Fault("event", "began no saga")],
    )


def _not_begun(asked: _Asked) -> Problem:
    name = asked.name if asked.event is None else f"a run of {saga_id(asked.type, asked.key)} with that event"
    waited = f" within {asked.wait:g}s" if asked.wait else ""
    return Problem(
        404,
        "not-begun",
        f"{name} has not begun{waited}",
        "ask again with a longer wait; `saga why` says what it waits for",
        [Fault("event" if asked.event is not None else "key", "has begun nothing so far")],
    )


def _path(most_wait: float) -> dict[str, Any]:
    return {
        "get": {
            "operationId": "status",
            "summary": "How a saga stands; with `wait`, once it has ended or needs a person.",
            "description": "The JSON of `saga status -o json`: `phase` and `ended_at` say whether it is over.",
            "parameters": [
                {
                    "name": "type",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"},
                },
                {
                    "name": "key",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                    "description": "The business key; `~2` behind it means the second run.",
                },
                {
                    "name": "wait",
                    "in": "query",
                    "required": False,
                    "schema": {"type": "number", "minimum": 0, "maximum": most_wait},
                    "description": "Seconds to wait for its end.",
                },
                {
                    "name": "event",
                    "in": "query",
                    "required": False,
                    "schema": {"type": "string", "minLength": 1},
                    "description": "An event's id: the run that it belongs to is meant.",
                },
            ],
            "responses": {
                "200": {
                    "description": "How it stands (saga.status/v1).",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "schema": {"const": "saga.status/v1"},
                                    "id": {"type": "string"},
                                    "phase": {"type": "string"},
                                    "ended_at": {"type": ["string", "null"]},
                                },
                                "required": ["schema", "id", "phase", "ended_at", "steps"],
                            }
                        }
                    },
                },
                "400": problem("No name of a saga, or a parameter that there is not."),
                "404": problem("It has not begun."),
                "409": problem("The event came to a saga that it did not begin."),
                "500": problem("Something is set up wrongly."),
                "503": problem("The store does not answer, or too many wait.", ["Retry-After"]),
            },
        }
    }
