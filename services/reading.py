"""From a record to the jobs that it makes: its envelope, and the handlers that take its type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog

from ..events.codec import Codec
from ..events.envelope import Delivery, Envelope
from ..events.errors import DecodeError, EventError, RegistryUnreachable
from ..events.ids import derived_id
from ..events.intake import Intake
from .inbox import LONGEST_ID
from .job import Route
from .ladder import RetryTopic, Rung, descend, rungs_of
from .retry import Retry
from .service import Handler, Service
from .signature import Signature

log = structlog.get_logger("choreo.services")


class Reading(NamedTuple):
    """What was read of a record.

    Args:
        envelope: of the event; for what cannot be read, what could be told of it.
        routes: the handlers that take it, none for a type that the service does not know.
        error: why it cannot be read.
        delivery: as it lay on its own topic, for what comes from a retry topic.
        rung: how many retry topics it has been on.
    """

    envelope: Envelope
    routes: tuple[Route, ...]
    error: EventError | None = None
    delivery: Delivery | None = None
    rung: int = 0


class Reader:
    """Reads records for one service.

    Args:
        service: with all its handlers declared.
        codec: opens values where headers and key do not say enough.
    """

    def __init__(self, service: Service, codec: Codec) -> None:
        self.routes = tuple(Route(service, handler) for handler in service.handlers)
        self._service = service.name
        self._intake = Intake((event for route in self.routes for event in route.handler.events), codec)
        self._takers: dict[tuple[str, str], tuple[Route, ...]] = {}
        for route in self.routes:
            for event in route.handler.events:
                spec = event.spec()
                self._takers[spec.topic, spec.type] = (*self._takers.get((spec.topic, spec.type), ()), route)
        self.rungs = {rung.topic: rung for route in self.routes for rung in rungs_of(route.handler)}
        """The retry topics, by name."""
        self._unreadable = (Route(service, _nobody(service)),)

    async def read_all(
        self, deliveries: Sequence[Delivery], stopping: Callable[[], bool] = lambda: False
    ) -> list[Reading]:
        """Read the records' envelopes and say who takes them; the payloads stay as they are.

        A registry that does not answer is waited for, until `stopping` says so; then nothing is given.
        """
        if self.rungs and any(each.topic in self.rungs for each in deliveries):
            return await self._read_again(deliveries, stopping)
        pause = 0.1
        while not stopping():
            try:
                return [self._reading(*taken) for taken in await self._intake.read_all(deliveries)]
            except RegistryUnreachable as error:
                log.warning("the registry does not answer, reading waits", service=self._service, error=error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
        return []

    async def _read_again(self, deliveries: Sequence[Delivery], stopping: Callable[[], bool]) -> list[Reading]:
        """Read records among which some come from retry topics: each is for the one handler that gave up."""
        found = [
            (rung, *descend(each, rung)) if (rung := self.rungs.get(each.topic)) is not None else (None, each, "")
            for each in deliveries
        ]
        readings = await self.read_all([original for _, original, _ in found], stopping)
        return [
            reading if rung is None else self._for_one(reading, rung, original, name)
            for reading, (rung, original, name) in zip(readings, found, strict=bool(readings))
        ]

    def _for_one(self, reading: Reading, rung: Rung, original: Delivery, name: str) -> Reading:
        for route in reading.routes if reading.error is None else ():
            ladder = route.handler.exhausted
            if route.handler.name == name and isinstance(ladder, RetryTopic) and rung.pause in ladder.pauses:
                index = ladder.pauses.index(rung.pause)
                return reading._replace(routes=(route,), delivery=original, rung=index + 1)
        error = reading.error or DecodeError(f"no handler {name!r} tries {reading.envelope.type!r} again")
        return Reading(reading.envelope, self._unreadable, error, original)

    def _reading(self, delivery: Delivery, envelope: Envelope | EventError) -> Reading:
        if isinstance(envelope, EventError):
            return Reading(_told(delivery), self._unreadable, envelope)
        for event_id in (envelope.id, *envelope.undoes) if envelope.undoes else (envelope.id,):
            if len(event_id) > LONGEST_ID or "\0" in event_id:
                error = DecodeError(f"an event id must be text of at most {LONGEST_ID} characters without NUL")
                return Reading(_told(delivery), self._unreadable, error)
        return Reading(envelope, self._takers.get((delivery.topic, envelope.type), ()))


def _told(delivery: Delivery) -> Envelope:
    place = derived_id("record", delivery.topic, str(delivery.partition), str(delivery.offset))
    key = (delivery.key or b"").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return Envelope(place, "", delivery.topic, delivery.timestamp * 1_000, key)


def _nobody(service: Service) -> Handler:
    """Stand in for the handler of a record that cannot be read, so that it is dead-lettered like any other."""

    async def never(**_: Any) -> None:
        raise AssertionError("a record that cannot be read has no handler")

    signature = Signature("event", None, None, (), True, False)
    return Handler(service.name, "", never, never, (), signature, Retry(attempts=1), "dead")
