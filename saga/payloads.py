"""What events said, for people: values decoded without the user's code, by the schema that they were written with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from sqlalchemy import Connection, select

from ..events.codec import SECRET_FIELDS, Codec, UnknownSchema
from ..events.errors import BrokerUnreachable, ChoreoError, RegistryUnreachable, TransportError
from ..events.keys import open_keys
from ..events.registry import SchemaRegistry, open_registry
from ..events.secret import masked
from ..events.settings import Settings
from ..events.transport import Transport
from ..events.transports import connect
from .tables import history

_AVRO = b"\0"
"""First byte of a value whose schema says what is secret."""


class Payload(NamedTuple):
    """What an event in a saga's history said, as it came."""

    type: str
    event_id: str
    content_type: str
    value: bytes


def read_payloads(connection: Connection, id_: str, seq: int | None = None) -> dict[int, Payload]:
    """Read the values of the events in a saga's history, by their place in it; those that are not kept are left out.

    Args:
        connection: within a read.
        id_: of the saga.
        seq: of one event only.
    """
    columns = (history.c.seq, history.c.type, history.c.event_id, history.c.content_type, history.c.value)
    told = (history.c.saga_id == id_, history.c.kind.in_(("event", "failure")), history.c.value.isnot(None))
    query = select(*columns).where(*told).order_by(history.c.seq)
    rows = connection.execute(query if seq is None else query.where(history.c.seq == seq))
    return {row.seq: Payload(row.type, row.event_id, row.content_type or "", bytes(row.value)) for row in rows}


class Payloads:
    """Reads values; use it as an async context manager. Secrets are masked unless they are asked for.

    The schema registry is only asked for schemas that were not seen before, and where it does not answer that is told
    instead of the value.

    Args:
        settings: where the registry is, and the keys.
        transport: an open broker, where an embedded registry lives; None opens one when it is needed.
        reveal: show secrets, and decrypt what is encrypted.
    """

    def __init__(self, settings: Settings, transport: Transport | None = None, *, reveal: bool = False) -> None:
        self._reveal = reveal
        self._registry = _Lately(settings, transport)
        self._codec = Codec(cast(SchemaRegistry, self._registry), open_keys(settings) if reveal else None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._registry.close()

    async def read(
        self, value: bytes, content_type: str, type_: str, id_: str, secrets: Sequence[str] | None = None
    ) -> tuple[Any, str | None]:
        """Decode a value; give it, or None and why it cannot be read.

        Args:
            value, content_type: of the record, or of the history.
            type_, id_: of the event, to which what is encrypted is bound.
            secrets: where it holds secrets, as its headers tell; None: as the history tells it.
        """
        hidden = secrets if secrets is not None else _hidden(content_type)
        if hidden is None and not self._reveal and value[:1] != _AVRO:
            return None, "it is older than the note where it holds secrets, which no schema tells; --reveal shows it"
        try:
            while True:
                try:
                    found = self._codec.decode_any(value, content_type, type_, id_, mask=not self._reveal)
                    return found if self._reveal else masked(found, hidden or ()), None
                except UnknownSchema as unknown:
                    await self._codec.learn(unknown.schema_id)
        except ChoreoError as error:
            return None, f"it cannot be read: {error.message}"


class _Lately:
    """A registry that is opened when a schema is asked for."""

    def __init__(self, settings: Settings, transport: Transport | None) -> None:
        self._settings = settings
        self._transport = transport
        self._stack = AsyncExitStack()
        self._opened: SchemaRegistry | None = None
        self._trouble: ChoreoError | None = None

    async def fetch(self, schema_id: int) -> Any:
        if self._trouble is not None:
            raise self._trouble  # it was away a moment ago: not once more for each event
        try:
            if self._opened is None:
                transport = self._transport
                if transport is None:
                    transport = await self._connected()
                self._opened = open_registry(self._settings, transport)
            return await self._opened.fetch(schema_id)
        except (TransportError, RegistryUnreachable) as error:
            self._trouble = error
            raise

    async def _connected(self) -> Transport:
        url = self._settings.broker_url
        if url.startswith("local:") and not _exists(url.removeprefix("local:")):
            raise BrokerUnreachable(f"there is no broker at {url.removeprefix('local:')}")
        return await self._stack.enter_async_context(connect(url, self._settings))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
        await self._stack.aclose()


def _exists(path: str) -> bool:
    return Path(path).exists()


def told_secrets(headers: Sequence[tuple[str, bytes]]) -> list[str]:
    """List where a record's headers say that it holds secrets."""
    told = next((value for name, value in headers if name == SECRET_FIELDS), None) or b""
    return [path for path in told.decode(errors="replace").split(",") if path]


def _hidden(content_type: str) -> list[str] | None:
    """Read what the history says with a content type (`past.history_row`); None where it says nothing."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name == SECRET_FIELDS:
            return [path for path in value.strip('"').split(",") if path]
    return None
