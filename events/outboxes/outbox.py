"""`Outbox`: an event that is written by the same transaction as the state that it tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from typing import Any, overload

from ..clock import Clock, system_clock
from ..codec import Codec, open_codec, to_record
from ..envelope import Envelope
from ..errors import ChoreoError, ConfigurationError, DefinitionError
from ..event import Event
from ..ids import new_id
from ..publisher import current_traceparent, microseconds
from ..registry import open_registry
from ..settings import Settings, load_settings
from ..transports import connect
from .insertion import AsyncpgConnection, AwaitedConnection, BlockingConnection, awaited, insert_rows
from .table import TABLE, Row, outbox_tables, to_row


class Outbox:
    """Writes events into a table of the system's own database; `saga relay` publishes what was committed.

    Making one does no I/O; one per program is enough, and it may be used from any thread. An event of a committed
    transaction is published at least once, with the same id and the same bytes each time; one of a transaction that was
    rolled back never is. Events of one key are published in the order in which they were added, if the transactions
    that add them do not overlap or have first written the same row: then they wait for each other.

    Args:
        source: who says it, the `ce_source` of every event.
        table: name of the table, with its schema if it has one.
        broker: the broker's address, where the embedded schema registry lives; None takes the settings'. With a
            registry server (`CHOREO_REGISTRY`) or events with `format="json"` it is never connected to.
        settings: read from the environment when first needed, if None.
        clock: the time of events that are given none.

    Raises:
        ConfigurationError: the source is empty, or the table's name cannot be one.
    """

    def __init__(
        self,
        *,
        source: str,
        table: str = TABLE,
        broker: str | None = None,
        settings: Settings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        if not source or not source.isprintable():
            raise ConfigurationError('an outbox needs a source, e.g. Outbox(source="shop")')
        self.source = source
        self._tables = outbox_tables(table)
        self._broker = broker
        self._settings = settings
        self._clock = clock
        self._codecs: dict[type[Event], Codec] = {}

    @overload
    def add(
        self,
        connection: BlockingConnection,
        event: Event,
        *more: Event,
        id: str | None = None,
        time: datetime | None = None,
        causation_id: str | None = None,
    ) -> list[str]: ...

    @overload
    def add(
        self,
        connection: AwaitedConnection | AsyncpgConnection,
        event: Event,
        *more: Event,
        id: str | None = None,
        time: datetime | None = None,
        causation_id: str | None = None,
    ) -> Awaitable[list[str]]: ...

    def add(
        self,
        connection: Any,
        event: Event,
        *more: Event,
        id: str | None = None,  # noqa: A002
        time: datetime | None = None,
        causation_id: str | None = None,
    ) -> list[str] | Awaitable[list[str]]:
        """Write events inside the transaction that is open on `connection`; it is neither committed nor rolled back.

        On a connection that is awaited (`AsyncSession`, `AsyncConnection`, asyncpg) await the call. What could never be
        sent is refused here, before anything is written. The first event of a class that was not prepared asks the
        schema registry; `prepare` does so beforehand.

        Args:
            connection: a SQLAlchemy session or connection, a `sqlite3`, psycopg or asyncpg connection, or Django's.
            event, more: instances of `Event` classes, in the order in which they shall be published.
            id: of the event, if there is one only; default: a fresh one each.
            time: when it happened in the business, with a zone; default: now.
            causation_id: id of the event that led to these.

        Returns:
            Their ids.

        Raises:
            MissingKey, EncodeError, SchemaRefused: the event is at fault.
            LimitExceeded: it is too large ever to be sent.
            ConfigurationError: no transaction is open on the connection, or it is none of these.
            RegistryUnreachable, BrokerUnreachable: of a class that was not prepared; try again later.
        """
        events = (event, *more)
        if id is not None and more:
            raise ConfigurationError("id= names one event; add events with ids of their own one by one")
        if awaited(connection):
            return self._add_awaited(connection, events, id, time, causation_id)
        self.prepare(*(each.__class__ for each in events))
        rows = self._rows(events, id, time, causation_id)
        with self._explaining():
            insert_rows(connection, self._tables, rows)
        return [row.id for row in rows]

    async def _add_awaited(
        self,
        connection: Any,
        events: tuple[Event, ...],
        id_: str | None,
        time: datetime | None,
        causation_id: str | None,
    ) -> list[str]:
        await self.prepare_async(*(each.__class__ for each in events))
        rows = self._rows(events, id_, time, causation_id)
        with self._explaining():
            done = insert_rows(connection, self._tables, rows)
            assert done is not None
            await done
        return [row.id for row in rows]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Leave the database's own errors as they are, for the system knows them, and say which table was meant."""
        try:
            yield
        except ChoreoError:
            raise
        except Exception as error:
            error.add_note(
                f"choreo's outbox is the table {self._tables.outbox.fullname} of this database; if that is missing: "
                "saga relay --create-table, or put what saga relay --ddl prints into your migrations"
            )
            raise

    def prepare(self, *classes: type[Event]) -> None:
        """Register the schemas of these classes, at the program's start say; blocks until the registry has answered.

        Classes that are prepared already, and those with `format="json"`, cost nothing.

        Raises:
            SchemaRefused: a schema would break readers; the text names field and rule.
            RegistryUnreachable, BrokerUnreachable: try again later.
            DefinitionError: a class is no event.
        """
        fresh = self._fresh(classes)
        if fresh:
            # A thread of its own, since this one may have a loop that runs: Django under ASGI, a notebook.
            with ThreadPoolExecutor(1, thread_name_prefix="choreo-outbox") as thread:
                thread.submit(lambda: asyncio.run(self._prepare(fresh))).result()

    async def prepare_async(self, *classes: type[Event]) -> None:
        """As `prepare`, without blocking the loop."""
        fresh = self._fresh(classes)
        if fresh:
            await self._prepare(fresh)

    def _fresh(self, classes: tuple[type[Event], ...]) -> list[type[Event]]:
        fresh = [cls for cls in classes if cls not in self._codecs]
        for cls in fresh:
            if not issubclass(cls, Event):
                raise DefinitionError(f"{cls.__name__} is not an event; derive the class from choreo.Event")
        return fresh

    async def _prepare(self, classes: list[type[Event]]) -> None:
        settings = self._settings = load_settings() if self._settings is None else self._settings
        async with AsyncExitStack() as stack:
            # Made, not opened: a registry server needs no broker, and JSON needs neither.
            transport = connect(self._broker or settings.broker_url, settings)
            if not settings.registry and any(cls.spec().schema is not None for cls in classes):
                await stack.enter_async_context(transport)
            registry = open_registry(settings, transport)
            stack.push_async_callback(registry.close)
            codec = open_codec(registry, settings)
            await codec.prepare(classes)
        self._codecs.update(dict.fromkeys(classes, codec))

    def _rows(
        self, events: tuple[Event, ...], id_: str | None, time: datetime | None, causation_id: str | None
    ) -> list[Row]:
        now = self._clock()
        moment = now if time is None else microseconds(time)
        traceparent = current_traceparent()
        rows = []
        for event in events:
            envelope = Envelope(
                new_id() if id_ is None else id_,
                event.spec().type,
                self.source,
                moment,
                event.key_text(),
                causation_id=causation_id,
                traceparent=traceparent,
            )
            rows.append(to_row(envelope, to_record(event, envelope, self._codecs[event.__class__]), now))
        return rows
