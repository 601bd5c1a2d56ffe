"""The HTTP gateway: events for systems that speak HTTP and nothing else. An ASGI app, to serve or to mount.

`POST /events` takes CloudEvents (binary, structured, batch), checks them against their classes and answers 202 once the
broker has them. An event's id, or the id that is derived from the header `Idempotency-Key`, is the same when a request
comes again, so whoever reads the event drops the copy: a caller that got no answer sends the same request again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .bearer import Bearer
from .clock import SECOND, Clock, system_clock
from .cloudevents import Said, read_events
from .envelope import Envelope, Record
from .errors import (
    ConfigurationError,
    EncodeError,
    MissingKey,
)
from .event import Event
from .failpoints import failpoint
from .openapi import document
from .outbox import MOST_RECORD_BYTES
from .problems import Fault, Problem
from .publisher import Publisher
from .receiving import check_distinct, digest, event_id, idempotency_key, invalid, read_body, reused
from .refusing import HANDLERS, answer
from .settings import Settings, load_settings
from .transport import Transport
from .transports import connect

PUBLISHED = "saga.published/v1"

_REMEMBERED = 20_000
_JUST_NOW = 10 * SECOND


class Door(Protocol):
    """What else a gateway answers, beside `POST /events`."""

    def routes(self) -> Sequence[BaseRoute]:
        """Give its routes."""

    def paths(self) -> Mapping[str, Any]:
        """Describe them, as the `paths` of an OpenAPI document."""

    async def open(self, transport: Transport) -> None:
        """Begin; the broker is open until `close`."""

    async def close(self) -> None:
        """Let go what is held."""

    async def attached(self, event: Event, id: str, root: str) -> list[dict[str, str]]:  # noqa: A002
        """Say which sagas an accepted event belongs to, and where to ask for them.

        Args:
            event: as it was accepted.
            id: its id.
            root: path under which the gateway is mounted.
        """


class Gateway:
    """An ASGI app that publishes events; `async with gateway` opens it, as does the lifespan of a server.

    ```python
    gateway = Gateway([OrderPlaced])
    app = Starlette(routes=[Mount("/choreo", gateway)], lifespan=lifespan)  # which says `async with gateway`
    ```

    Args:
        events: the classes that callers may publish; no other type is taken.
        broker: an address or an open transport, which stays open; None takes the settings'.
        settings: read from the environment when None.
        tokens: one of these must come as `Authorization: Bearer`; None takes the settings' (`CHOREO_GATEWAY_TOKENS`),
            and where there are none everybody is let in.
        doors: what else it answers, e.g. `SagaDoor()`.
        hosts: names under which it may be called (the header `Host`); None takes any.
        clock: the time of events that say none.

    Raises:
        ConfigurationError: a token is too short, or two classes have one type.
    """

    def __init__(
        self,
        events: Iterable[type[Event]],
        *,
        broker: str | Transport | None = None,
        settings: Settings | None = None,
        tokens: Iterable[str] | None = None,
        doors: Sequence[Door] = (),
        hosts: Iterable[str] | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._settings = load_settings() if settings is None else settings
        self._broker = broker
        self._classes = _by_type(events)
        self._bearer = Bearer(self._settings.gateway_token_list if tokens is None else tokens)
        self._doors = tuple(doors)
        self._hosts = None if hosts is None else frozenset(hosts)
        self._clock = clock
        self._stack: AsyncExitStack | None = None
        self._publisher: Publisher | None = None
        self._accepted: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self._app = self._make()

    # ---- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        try:
            transport = self._broker
            if transport is None or isinstance(transport, str):
                transport = connect(transport or self._settings.broker_url, self._settings)
                await stack.enter_async_context(transport)
            publisher = Publisher(transport, source="gateway", settings=self._settings, clock=self._clock)
            self._publisher = await stack.enter_async_context(publisher)
            for door in self._doors:
                await door.open(transport)
                stack.push_async_callback(door.close)
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._publisher = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        if self._stack is not None:
            yield
            return
        async with self:
            yield

    def _make(self) -> ASGIApp:
        routes: list[BaseRoute] = [
            Route("/events", self._events, methods=["POST"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            *(route for door in self._doors for route in door.routes()),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers=HANDLERS,
        )
        return _Guard(app, self._bearer, self._hosts)

    # ---- publishing --------------------------------------------------------------------------------------------

    async def _events(self, request: Request) -> Response:
        publisher = self._opened()
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.headers.raw]
        key = idempotency_key(headers)
        body = await read_body(request, self._settings.gateway_body)
        said = read_events(headers, body, keyed=key is not None)
        events = self._validated(said)
        ids = [event_id(each, event, key, place) for place, (each, event) in enumerate(zip(said, events, strict=True))]
        check_distinct(said, ids)
        await publisher.prepare({type(event) for event in events})
        records = self._records(publisher, said, events, ids)
        await self._publish(publisher, said, ids, records)
        root = request.scope.get("root_path", "")
        told = [await self._told(event, id_, root) for event, id_ in zip(events, ids, strict=True)]
        batch = len(said) != 1 or bool(said[0].where)
        urls = {saga["url"] for each in told for saga in each["sagas"]}
        found = {"location": urls.pop()} if len(urls) == 1 else {}
        return JSONResponse(told if batch else told[0], HTTPStatus.ACCEPTED, found)

    def _validated(self, said: Sequence[Said]) -> list[Event]:
        """Make the events; all faults are told at once."""
        events: list[Event] = []
        faults: list[Fault] = []
        wrong: set[str] = set()
        for each in said:
            cls = self._classes.get(each.type)
            if cls is None:
                where = f"{each.where}type" if each.where else "type"
                faults.append(Fault(where, f"this gateway takes {', '.join(sorted(self._classes)) or 'no events'}"))
                continue
            try:
                event = cls.model_validate_json(each.data)
                if "\x00" in event.key_text():
                    faults.append(Fault(f"{each.where}data.{cls.spec().key}", "holds a NUL character"))
                    continue
                events.append(event)
            except ValidationError as error:
                wrong.add(each.type)
                for found in error.errors(include_url=False, include_input=False, include_context=False):
                    path = ".".join(str(part) for part in ("data", *found["loc"]))
                    faults.append(Fault(f"{each.where}{path}", found["msg"]))
            except MissingKey as error:
                faults.append(Fault(f"{each.where}data.{cls.spec().key}", error.message))
        if faults:
            schemas = ", ".join(f"#/components/schemas/{type_}" for type_ in sorted(wrong))
            raise invalid(faults, f"see {schemas} in /openapi.json" if schemas else "send another type")
        return events

    def _records(
        self, publisher: Publisher, said: Sequence[Said], events: Sequence[Event], ids: Sequence[str]
    ) -> list[Record]:
        now = self._clock()
        records = []
        for each, event, id_ in zip(said, events, ids, strict=True):
            envelope = Envelope(
                id=id_,
                type=each.type,
                source=each.source,
                time=now if each.time is None else each.time,
                key=event.key_text(),
                traceparent=each.traceparent,
                tracestate=each.tracestate,
                extra=each.extra,
            )
            try:
                record = publisher.encode(event, envelope)
            except EncodeError as error:
                named = error.ids.get("field")
                where = f"{each.where}data" + (f".{named}" if named else "")
                raise invalid([Fault(where, error.message)], "send a value that fits the schema") from None
            if record.size() > MOST_RECORD_BYTES:
                told = f"the event has {record.size()} bytes, at most {MOST_RECORD_BYTES} can be published"
                raise Problem(413, "too-large", told, "send less", [Fault(f"{each.where}data", "too large")])
            records.append(record)
        return records

    async def _publish(
        self, publisher: Publisher, said: Sequence[Said], ids: Sequence[str], records: Sequence[Record]
    ) -> None:
        """Publish what was not acknowledged before; an id that stands for something else is refused."""
        digests = [digest(record) for record in records]
        faults = [
            Fault(f"{each.where}id", "was used for another event")
            for each, id_, own in zip(said, ids, digests, strict=True)
            if id_ in self._accepted and self._accepted[id_][0] != own
        ]
        if faults:
            raise reused(faults)
        now = self._clock()
        # A later retry is sent again: whoever has not taken the first copy, in a topic made anew say, takes this one.
        just = {id_ for id_ in ids if id_ in self._accepted and now - self._accepted[id_][1] < _JUST_NOW}
        fresh = [record for record, id_ in zip(records, ids, strict=True) if id_ not in just]
        if fresh:
            await publisher.send(fresh)
            failpoint("gateway.after_send")
        for id_, own in zip(ids, digests, strict=True):
            self._accepted[id_] = (own, self._accepted[id_][1] if id_ in just else now)
            self._accepted.move_to_end(id_)
        while len(self._accepted) > _REMEMBERED:
            self._accepted.popitem(last=False)

    async def _told(self, event: Event, id_: str, root: str) -> dict[str, Any]:
        spec = event.spec()
        sagas = [each for door in self._doors for each in await door.attached(event, id_, root)]
        told = {"schema": PUBLISHED, "id": id_, "type": spec.type, "topic": spec.topic, "key": event.key_text()}
        return {**told, "sagas": sagas}

    async def _openapi(self, request: Request) -> Response:
        paths = [door.paths() for door in self._doors]
        bearer = self._bearer.required
        return JSONResponse(document(self._classes.values(), paths, request.scope.get("root_path", ""), bearer))

    def _opened(self) -> Publisher:
        if self._publisher is None:
            raise ConfigurationError("the gateway is not open; say `async with gateway` in the app's lifespan")
        return self._publisher


class _Guard:
    """Asks who it is before anything else is looked at; whether it lives may be asked by everybody."""

    def __init__(self, app: ASGIApp, bearer: Bearer, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._bearer = bearer
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _path(scope).endswith("/health"):
            request = Request(scope)
            try:
                self._bearer.check(request.headers.getlist("authorization"))
                self._check_host(request.headers.get("host", ""))
            except Problem as problem:
                await answer(problem)(scope, receive, send)
                return
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise
            # It was answered and logged (`refusing`); Starlette raises it again for servers, which log the whole of it.

    def _check_host(self, host: str) -> None:
        """Refuse what a web page's script sends to a name that was made to lead here (DNS rebinding)."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            told = f"this gateway is called {' or '.join(sorted(self._hosts))}"
            raise Problem(
                403, "wrong-host", told, "call it so, or set CHOREO_GATEWAY_TOKENS", [Fault("host", "is another")]
            )


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path


# ---- pieces ------------------------------------------------------------------------------------------------------


def _by_type(events: Iterable[type[Event]]) -> dict[str, type[Event]]:
    found: dict[str, type[Event]] = {}
    for cls in events:
        type_ = cls.spec().type
        if found.setdefault(type_, cls) is not cls:
            raise ConfigurationError(
                f"a gateway for two classes of type {type_!r}, {found[type_].__qualname__} and {cls.__qualname__}: "
                'a request could mean either; give one of them another type="..."'
            )
    return found


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
