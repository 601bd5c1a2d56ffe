"""What is measured of a service: how long its handlers take, what became of its events, and what waits.

Nothing of this is in the way of a service without metrics: counts are read from its counters when somebody asks, and
`MeasuredCalls` stands around the calls of handlers only where metrics are on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from ..events.database import Database
from ..events.event import Event
from ..events.outbox import waiting
from ..tracing.instruments import ERROR, GROUP, HANDLER, OPERATION, OUTBOX, OUTCOME, PART, PIPELINE, SYSTEM, TOPIC
from ..tracing.meters import Attributes, Meters, Recorder
from ..tracing.sends import SYSTEM as KAFKA
from ..tracing.spans import Tracing
from . import parking
from .breaker import Position
from .context import Context, Transaction
from .counters import Counters
from .middleware import Answer
from .service import Handler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .worker import Worker

_OUTCOMES = ("handled", "duplicates", "refused", "dead", "parked", "delayed", "skipped")

Observed = Iterator[tuple[float, Attributes]]


class Calls(Protocol):
    """Calls handlers; `Provided` does."""

    def call(self, handler: Handler, event: Event, context: Context, tx: Transaction | None) -> Awaitable[Answer]:
        """Call a handler."""

    def call_batch(
        self, handler: Handler, events: list[Event], context: Context, tx: Transaction | None
    ) -> Awaitable[Any]:
        """Call a batch handler."""


class MeasuredCalls:
    """Measures how long each try of a handler takes.

    Args:
        calls: calls them.
        group: of the service.
        meters: where the durations go.
    """

    def __init__(self, calls: Calls, group: str, meters: Meters) -> None:
        self._calls = calls
        self._group = group
        self._meters = meters
        self._recorders: dict[tuple[str, type[Event], type[BaseException] | None], Recorder] = {}

    async def call(self, handler: Handler, event: Event, context: Context, tx: Transaction | None) -> Answer:
        """See `Provided.call`."""
        began = time.perf_counter()
        try:
            answer = await self._calls.call(handler, event, context, tx)
        except BaseException as error:
            self._record(handler, type(event), type(error), time.perf_counter() - began)
            raise
        self._record(handler, type(event), None, time.perf_counter() - began)
        return answer

    async def call_batch(self, handler: Handler, events: list[Event], context: Context, tx: Transaction | None) -> Any:
        """See `Provided.call_batch`."""
        began = time.perf_counter()
        try:
            answer = await self._calls.call_batch(handler, events, context, tx)
        except BaseException as error:
            self._record(handler, type(events[0]), type(error), time.perf_counter() - began)
            raise
        self._record(handler, type(events[0]), None, time.perf_counter() - began)
        return answer

    def _record(self, handler: Handler, event: type[Event], error: type[BaseException] | None, seconds: float) -> None:
        key = (handler.name, event, error)
        recorder = self._recorders.get(key)
        if recorder is None:
            attributes = {
                SYSTEM: KAFKA,
                OPERATION: "process",
                TOPIC: event.spec().topic,
                GROUP: self._group,
                HANDLER: handler.name,
            }
            if error is not None:
                attributes[ERROR] = error.__name__
            recorder = self._recorders[key] = self._meters.recorder("messaging.process.duration", attributes)
        recorder.record(seconds)


class ServiceMeter:
    """Observes one worker.

    Args:
        worker: a service that runs.
        tracing: its own.
        meters: where it goes.
    """

    def __init__(self, worker: Worker, tracing: Tracing, meters: Meters) -> None:
        self._worker = worker
        self._group = {GROUP: worker.service.name}
        self._store = StoreMeter(worker.service.name, meters)
        self._parked: float | None = None
        self._ends: list[Callable[[], None]] = [
            meters.observe("choreo.handled.messages", self._outcomes),
            meters.observe("choreo.handler.retries", lambda: iter([(self._counters.retries, self._group)])),
            meters.observe("choreo.dead.letters", lambda: iter([(self._counters.dead, self._group)])),
            meters.observe("choreo.handler.breaker.open", self._breakers),
            meters.observe("choreo.parked.messages", self._waiting),
            observe_spans(worker.service.name, tracing, meters),
        ]

    @property
    def _counters(self) -> Counters:
        return self._worker.counters

    async def measure(self) -> None:
        """Look into the store.

        Raises:
            StoreError: it does not answer; what was seen last stays.
        """
        database = self._worker.store
        if database is not None:
            await self._store.measure(database)
            names = self._worker.parking
            self._parked = await database.read(lambda connection: parking.count(connection, names)) if names else 0.0

    def forget(self) -> None:
        """Observe nothing any more."""
        for end in (*self._ends, self._store.forget):
            end()

    def _outcomes(self) -> Observed:
        counters = self._counters
        for field in fields(counters):
            if field.name in _OUTCOMES:
                yield getattr(counters, field.name), {**self._group, OUTCOME: field.name}

    def _breakers(self) -> Observed:
        for handler, position in self._worker.breakers.items():
            yield float(position is not Position.CLOSED), {**self._group, HANDLER: handler}

    def _waiting(self) -> Observed:
        if self._parked is not None:
            yield self._parked, self._group


class StoreMeter:
    """Observes the outbox of one store.

    Args:
        name: of the service or the coordinators' group.
        meters: where it goes.
    """

    def __init__(self, name: str, meters: Meters) -> None:
        self._attributes = {OUTBOX: name}
        self._waiting: tuple[float, float] | None = None
        self._ends = [
            meters.observe("choreo.outbox.waiting", lambda: self._observed(0)),
            meters.observe("choreo.outbox.lag", lambda: self._observed(1)),
        ]

    async def measure(self, database: Database) -> None:
        """Look into the outbox.

        Raises:
            StoreError: the store does not answer.
        """
        count, oldest, now = await database.read(lambda connection: (*waiting(connection), database.now(connection)))
        self._waiting = count, max(0, now - oldest) / 1_000_000 if oldest is not None else 0.0

    def forget(self) -> None:
        """Observe nothing any more."""
        for end in self._ends:
            end()

    def _observed(self, which: int) -> Observed:
        if self._waiting is not None:
            yield self._waiting[which], self._attributes


def observe_spans(part: str, tracing: Tracing, meters: Meters) -> Callable[[], None]:
    """Count the spans that a service or the coordinator has lost; give what ends that."""

    def lost() -> Observed:
        for each in tracing.losses:
            yield each.dropped + each.failed, {PART: part, PIPELINE: each.name}

    return meters.observe("choreo.spans.dropped", lost)
