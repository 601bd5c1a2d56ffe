"""How the parts find each other without importing each other: announcements on compacted topics, as JSON.

Services say on `choreo.catalog` what they handle; coordinators say on `choreo.definitions` which sagas they watch.
Neither proves life (ruling R13): that is what the members of a consumer group are for. On `choreo.breakers` a process
says, again and again, which of its handlers rest behind an open circuit breaker.
"""

from __future__ import annotations

from typing import TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from .clock import SECOND
from .envelope import JSON, Delivery, Record
from .transport import TopicSpec, Transport

log = structlog.get_logger("choreo.catalog")

CATALOG_TOPIC = "choreo.catalog"
DEFINITIONS_TOPIC = "choreo.definitions"
BREAKERS_TOPIC = "choreo.breakers"

BREAKER_HOLDS = 30 * SECOND
"""How long what was said of a breaker is believed: whoever holds one open says so again before, and the dead do not."""


class _Wire(BaseModel):
    # Unknown fields are ignored: announcements of newer releases stay readable.
    model_config = ConfigDict(frozen=True, extra="ignore")


class EventRef(_Wire):
    """An event type and the topic that it travels on."""

    type: str
    topic: str


class HandlerAnnouncement(_Wire):
    """What one handler takes and gives.

    Args:
        name: of the handler within its service.
        consumes, produces: event types with their topics.
        undoes: the handler that this one undoes.
        claims: it commits a claim before it touches the outside world (ruling R4).
        blocking: it runs in a thread.
        breaker: it is left alone for a while when too many of its calls fail.
        retry_topics: where what failed waits for a later try, in order.
    """

    name: str
    consumes: list[EventRef] = []
    produces: list[EventRef] = []
    undoes: str | None = None
    claims: bool = False
    blocking: bool = False
    breaker: bool = False
    retry_topics: list[str] = []


class ServiceAnnouncement(_Wire):
    """A service, its consumer group and its handlers; keyed by its name."""

    service: str
    group: str
    handlers: list[HandlerAnnouncement] = []


class StepAnnouncement(_Wire):
    """One step of a saga, its events by type name.

    Args:
        name, index: in the order of declaration.
        after: names of the steps that it waits for, one of several among them.
        follows: event types that a service which does it unasked may follow.
        done, failed, undone: event types that answer it.
        send, undo: command types, or None.
        pivot, optional: as declared.
        each, by: of a step that runs once per element what the elements are called, and the field that names one.
    """

    name: str
    index: int
    after: list[str] = []
    follows: list[str] = []
    done: list[str] = []
    failed: list[str] = []
    send: str | None = None
    undo: str | None = None
    undone: list[str] = []
    pivot: bool = False
    optional: bool = False
    each: str | None = None
    by: str | None = None


class DefinitionAnnouncement(_Wire):
    """A saga's definition as data; keyed `type@version`.

    Args:
        type, version, hash: which definition this is.
        namespace: part of its trace ids.
        start, cancel: event types that start it, and that cancel it.
        completed, compensated: event types that it publishes at its end, or None.
        key: the field that holds the business key.
        correlate: the key's field where an event calls it otherwise, by event type.
        topics: the topic of every event type that it names.
        rerun: a finished key may run again.
        observe_only: it tracks and never sends.
        steps: in the order of declaration.
    """

    type: str
    version: int
    hash: str
    namespace: str = ""
    start: list[str] = []
    cancel: list[str] = []
    completed: str | None = None
    compensated: str | None = None
    key: str = ""
    correlate: dict[str, str] = {}
    topics: dict[str, str] = {}
    rerun: bool = False
    observe_only: bool = False
    steps: list[StepAnnouncement] = []

    @property
    def name(self) -> str:
        """Its key: `type@version`."""
        return f"{self.type}@{self.version}"


class BreakerAnnouncement(_Wire):
    """A handler that rests behind an open circuit breaker in one process; keyed by service, handler and process.

    Args:
        service, handler, process: who; the process by a name of its own.
        at: when this was said; times are microseconds.
        since: when the breaker opened.
        until: when a call is let through again, to see.
        waiting: events that wait for it in this process.
        error: class of the last failure; its text may quote payloads.
    """

    service: str
    handler: str
    process: str
    at: int
    since: int
    until: int
    waiting: int = 0
    error: str = ""

    @property
    def key(self) -> str:
        """Its key."""
        return f"{self.service}/{self.handler}/{self.process}"


W = TypeVar("W", bound=_Wire)


def catalog_topics() -> list[TopicSpec]:
    """Give both topics as they should be."""
    return [TopicSpec(name, partitions=1, compacted=True) for name in (CATALOG_TOPIC, DEFINITIONS_TOPIC)]


async def announce(transport: Transport, *announcements: ServiceAnnouncement | DefinitionAnnouncement) -> None:
    """Publish announcements, each in place of an older one with its key; missing topics are created.

    Raises:
        TransportError: the broker did not take them.
    """
    await transport.create_topics(catalog_topics())
    await transport.send([_record(each) for each in announcements])


async def read_catalog(transport: Transport) -> dict[str, ServiceAnnouncement]:
    """Read what services have announced, by name; without the topic nobody has."""
    return await _read(transport, CATALOG_TOPIC, ServiceAnnouncement)


async def read_definitions(transport: Transport) -> dict[str, DefinitionAnnouncement]:
    """Read what coordinators have announced, by `type@version`; without the topic nobody has."""
    return await _read(transport, DEFINITIONS_TOPIC, DefinitionAnnouncement)


def breakers_topic() -> TopicSpec:
    """Give the topic of open breakers as it should be."""
    return TopicSpec(BREAKERS_TOPIC, partitions=1, compacted=True)


async def announce_breakers(transport: Transport, opened: list[BreakerAnnouncement], closed: list[str]) -> None:
    """Say which breakers are open, and by their keys which are not any more; a missing topic is created.

    Raises:
        TransportError: the broker did not take it.
    """
    await transport.create_topics([breakers_topic()])
    headers = (("content-type", JSON.encode()),)
    said = [Record(BREAKERS_TOPIC, each.key.encode(), each.model_dump_json().encode(), headers) for each in opened]
    await transport.send([*said, *(Record(BREAKERS_TOPIC, key.encode(), None) for key in closed)])


async def read_breakers(transport: Transport, now: int) -> list[BreakerAnnouncement]:
    """Read which breakers are open: what nobody has said again for a while is not believed.

    Args:
        transport: an open broker.
        now: microseconds.
    """
    found = await _read(transport, BREAKERS_TOPIC, BreakerAnnouncement)
    return [each for _, each in sorted(found.items()) if each.at + BREAKER_HOLDS > now]


def _record(announcement: ServiceAnnouncement | DefinitionAnnouncement) -> Record:
    service = isinstance(announcement, ServiceAnnouncement)
    key = announcement.service if isinstance(announcement, ServiceAnnouncement) else announcement.name
    return Record(
        CATALOG_TOPIC if service else DEFINITIONS_TOPIC,
        key.encode(),
        announcement.model_dump_json().encode(),
        (("content-type", JSON.encode()),),
    )


async def _read(transport: Transport, topic: str, model: type[W]) -> dict[str, W]:
    if topic not in await transport.topics([topic]):
        return {}
    return newest(await transport.snapshot(topic), model)


def newest(deliveries: list[Delivery], model: type[W]) -> dict[str, W]:
    """Keep the newest announcement of each key; a tombstone takes it away, a malformed one is skipped and logged."""
    found: dict[str, W] = {}
    for delivery in sorted(deliveries, key=lambda each: (each.partition, each.offset)):
        key = (delivery.key or b"").decode(errors="replace")
        if not delivery.value:
            found.pop(key, None)
            continue
        try:
            found[key] = model.model_validate_json(delivery.value)
        except ValidationError as error:
            log.warning(
                "an announcement is malformed; skipped",
                topic=delivery.topic,
                key=key[:100],
                offset=delivery.offset,
                problems=error.error_count(),
            )
    return found
