"""Publishing events from any program: `Publisher` with asyncio, `BlockingPublisher` without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from opentelemetry.trace import get_current_span

from .clock import Clock, from_datetime, system_clock
from .codec import Codec, open_codec, to_record
from .envelope import Envelope, Record
from .errors import ConfigurationError, DefinitionError, TopicMissing
from .event import Event
from .ids import new_id
from .registry import SchemaRegistry, open_registry
from .settings import Settings, load_settings
from .transport import TopicSpec, Transport
from .transports import connect

T = TypeVar("T")


class Publisher:
    """Publishes events; use it as `async with Publisher(source="shop") as publisher`.

    Concurrent calls of `publish` share writes to the broker: while one is under way the next ones gather.

    Args:
        broker: an address (`kafka://...`, `local:PATH`, `memory:NAME`) or an open transport, which stays open; None
            takes the settings'.
        source: who says it, the `ce_source` of every event.
        settings: read from the environment when None.
        clock: the time of events that are given none.

    Raises:
        ConfigurationError: the source is empty, or the address is none.
    """

    def __init__(
        self,
        broker: str | Transport | None = None,
        *,
        source: str,
        settings: Settings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        if not source or not source.isprintable():
            raise ConfigurationError('a publisher needs a source, e.g. Publisher(source="shop")')
        self.source = source
        self._settings = load_settings() if settings is None else settings
        self._owned = broker is None or isinstance(broker, str)
        self._transport = _transport(broker, self._settings)
        self._clock = clock
        self._registry: SchemaRegistry | None = None
        self._codec: Codec | None = None
        self._prepared: set[type[Event]] = set()
        self._preparing = asyncio.Lock()

    @property
    def target(self) -> str:
        """The broker's address and the topic prefix, without secrets: where "published" holds."""
        return f"{self._transport.url} {self._settings.topic_prefix}".strip()

    async def __aenter__(self) -> Self:
        if self._owned:
            await self._transport.__aenter__()
        self._registry = open_registry(self._settings, self._transport)
        self._codec = open_codec(self._registry, self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._registry is not None:
                await self._registry.close()
        finally:
            self._registry = self._codec = None
            self._prepared.clear()
            if self._owned:
                await self._transport.__aexit__(kind, error, trace)

    async def publish(
        self,
        event: Event,
        *more: Event,
        id: str | None = None,  # noqa: A002 - the word of the envelope
        time: datetime | None = None,
        causation_id: str | None = None,
    ) -> list[str]:
        """Publish events in order; they are on the broker, durably, when this returns.

        Nothing is sent if one of them cannot be encoded. After a TransportError some may have been written: publish
        again with the same `id`, and consumers drop the copy.

        Args:
            event, more: instances of `Event` classes.
            id: of the event, if there is one only; default: a fresh one each.
            time: when it happened in the business, with a zone; default: now.
            causation_id: id of the event that led to these.

        Returns:
            Their ids.

        Raises:
            MissingKey, EncodeError, SchemaRefused: the event is at fault.
            TopicMissing: on Kafka; the embedded brokers get missing topics made.
            BrokerUnreachable, RegistryUnreachable: try again later.
        """
        events = (event, *more)
        if id is not None and more:
            raise ConfigurationError("id= names one event; publish events with ids of their own one by one")
        moment = self._clock() if time is None else microseconds(time)
        await self.prepare({each.__class__ for each in events})
        ids = [id] if id is not None else [new_id() for _ in events]
        records = [
            self.record(each, id=own, time=moment, causation_id=causation_id)
            for each, own in zip(events, ids, strict=True)
        ]
        await self.send(records)
        return ids

    async def prepare(self, classes: Iterable[type[Event]]) -> None:
        """Register the schemas of these classes; `publish` does it by itself.

        Raises:
            SchemaRefused, RegistryUnreachable, DefinitionError
        """
        fresh = [cls for cls in classes if cls not in self._prepared]
        if not fresh:
            return
        for cls in fresh:
            if not issubclass(cls, Event):
                raise DefinitionError(f"{cls.__name__} is not an event; derive the class from choreo.Event")
        async with self._preparing:
            await self._opened().prepare(fresh)
            self._prepared.update(fresh)

    def record(self, event: Event, *, id: str, time: int, causation_id: str | None = None) -> Record:  # noqa: A002
        """Make the record of an event of a prepared class, without sending it.

        Args:
            event: the event.
            id: its id.
            time: microseconds since the epoch.
            causation_id: id of the event that led to it.

        Raises:
            MissingKey, EncodeError
        """
        spec = event.spec()
        key = event.key_text()
        envelope = Envelope(
            id, spec.type, self.source, time, key, causation_id=causation_id, traceparent=current_traceparent()
        )
        return to_record(event, envelope, self._opened())

    def encode(self, event: Event, envelope: Envelope) -> Record:
        """Make the record of an event of a prepared class with an envelope of one's own, without sending it.

        Raises:
            EncodeError
        """
        return to_record(event, envelope, self._opened())

    async def send(self, records: Sequence[Record]) -> None:
        """Send records that `record` made; on the embedded brokers missing topics are made.

        Raises:
            TransportError, LimitExceeded: as `Transport.send`.
        """
        await send_making_topics(self._transport, records)

    def _opened(self) -> Codec:
        if self._codec is None:
            raise ConfigurationError("the publisher is not open; write: async with Publisher(...) as publisher")
        return self._codec


async def send_making_topics(transport: Transport, records: Sequence[Record]) -> None:
    """Send records; on the embedded brokers missing topics are made.

    Raises:
        TransportError, LimitExceeded: as `Transport.send`.
    """
    try:
        await transport.send(records)
    except TopicMissing:
        if transport.url.startswith("kafka:"):
            raise
        topics = sorted({record.topic for record in records})
        await transport.create_topics([TopicSpec(topic) for topic in topics])
        await transport.send(records)


def current_traceparent() -> str | None:
    """Spell the caller's current span, so that its trace and the saga's lead to each other (W3C Trace Context §3.2)."""
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"


class BlockingPublisher:
    """`Publisher` for code without an event loop: `with BlockingPublisher(source="shop") as publisher`.

    It runs a loop in a thread of its own; `publish` may be called from any thread and returns after the broker's
    acknowledgement. Arguments and errors are those of `Publisher`.
    """

    def __init__(self, broker: str | None = None, *, source: str, settings: Settings | None = None) -> None:
        self._publisher = Publisher(broker, source=source, settings=settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="choreo-publisher", daemon=True)
        self._thread.start()
        try:
            self._call(self._publisher.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._publisher.__aexit__(kind, error, trace))
        finally:
            self._stop()

    def publish(
        self,
        event: Event,
        *more: Event,
        id: str | None = None,  # noqa: A002
        time: datetime | None = None,
        causation_id: str | None = None,
    ) -> list[str]:
        """Publish events and wait for the acknowledgement; as `Publisher.publish`."""
        return self._call(self._publisher.publish(event, *more, id=id, time=time, causation_id=causation_id))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ConfigurationError("the publisher is not open; write: with BlockingPublisher(...) as publisher")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _transport(broker: str | Transport | None, settings: Settings) -> Transport:
    if broker is None:
        return connect(settings.broker_url, settings)
    return connect(broker, settings) if isinstance(broker, str) else broker


def microseconds(time: datetime) -> int:
    """Read the `time=` of an event that is published.

    Raises:
        ConfigurationError: it has no zone.
    """
    try:
        return from_datetime(time)
    except ValueError as error:
        raise ConfigurationError(f"time=: {error}") from None
