"""From a record to the jobs that it makes: its envelope, and the handlers that take its type."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..events.codec import read_structured
from ..events.envelope import CLOUDEVENTS_JSON, JSON, Delivery, Envelope, read_envelope
from ..events.errors import DecodeError, EventError
from ..events.event import Event
from ..events.ids import derived_id
from .inbox import LONGEST_ID
from .job import Route
from .retry import Retry
from .service import Handler, Service
from .signature import Signature


class Reading(NamedTuple):
    """What was read of a record.

    Args:
        envelope: of the event; for what cannot be read, what could be told of it.
        routes: the handlers that take it, none for a type that the service does not know.
        error: why it cannot be read.
    """

    envelope: Envelope
    routes: tuple[Route, ...]
    error: EventError | None = None


class Reader:
    """Reads records for one service.

    Args:
        service: with all its handlers declared.
    """

    def __init__(self, service: Service) -> None:
        self.routes = tuple(Route(service, handler) for handler in service.handlers)
        self._takers: dict[tuple[str, str], tuple[Route, ...]] = {}
        self._plain: dict[str, str] = {}
        classes: dict[str, set[type[Event]]] = {}
        for route in self.routes:
            for event in route.handler.events:
                spec = event.spec()
                self._takers[spec.topic, spec.type] = (*self._takers.get((spec.topic, spec.type), ()), route)
                classes.setdefault(spec.topic, set()).add(event)
        for topic, found in classes.items():
            # A foreign producer's plain JSON carries no type: where only one can be meant, it is that.
            if len(found) == 1 and (spec := next(iter(found)).spec()).format == "json":
                self._plain[topic] = spec.type
        self._unreadable = (Route(service, _nobody(service)),)

    def read(self, delivery: Delivery) -> Reading:
        """Read a record's envelope and say who takes it; the payload stays as it is."""
        try:
            envelope = read_envelope(delivery)
            if envelope.content_type.startswith(CLOUDEVENTS_JSON) and delivery.value is not None:
                envelope = read_structured(envelope, delivery.value)
            for event_id in (envelope.id, *envelope.undoes):
                if len(event_id) > LONGEST_ID or "\0" in event_id:
                    raise DecodeError(f"an event id must be text of at most {LONGEST_ID} characters without NUL")
        except EventError as error:
            return Reading(_told(delivery), self._unreadable, error)
        if not envelope.type and delivery.topic in self._plain and envelope.content_type in ("", JSON):
            envelope.type = self._plain[delivery.topic]
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
    return Handler(service.name, "", never, (), signature, Retry(attempts=1), "dead")
