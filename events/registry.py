"""Where schemas are kept: the embedded registry (a compacted topic on the broker) or a Confluent-compatible server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import structlog

from .avro import Schema, canonical
from .compatibility import Level, check
from .envelope import Record
from .errors import ChoreoError, DecodeError, RegistryUnreachable, SchemaRefused
from .settings import Settings
from .transport import TopicSpec, Transport

log = structlog.get_logger("choreo.registry")

SCHEMAS_TOPIC = "choreo.schemas"
_LARGEST_ID = 0x7FFF_FFFF

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema of a subject; `version` counts from 1 within it."""

    id: int
    schema: Schema
    version: int


class SchemaRegistry(Protocol):
    """What choreo asks of a schema registry. Every call may raise RegistryUnreachable: ask again later."""

    async def register(self, subject: str, schema: Schema) -> int:
        """Register a schema and give its id; one that the subject has already gives the same id and changes nothing.

        Raises:
            SchemaRefused: it breaks the rule of compatibility; the text names field and rule.
        """

    async def fetch(self, schema_id: int) -> Schema:
        """Give the schema of an id.

        Raises:
            DecodeError: there is none.
        """

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the subject's newest schema, or None."""

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """Give all schemas of a subject, the oldest first; none where there is no such subject."""

    async def subjects(self) -> list[str]:
        """Name all subjects, sorted."""

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """Say why `register` would refuse a schema; an empty list means that it would not."""

    async def close(self) -> None:
        """Let go of connections."""


def open_registry(settings: Settings, transport: Transport) -> SchemaRegistry:
    """Open the registry that the settings name: a server's when `registry` is set, else the embedded one."""
    if not settings.registry:
        return EmbeddedRegistry(transport, settings.compatibility)
    from .confluent import open_server

    return open_server(settings)


def refused(subject: str, level: Level, problems: Sequence[str]) -> SchemaRefused:
    """Make the error that tells which fields of a schema break which rule."""
    return SchemaRefused(
        f"the schema of {subject} is not {level} compatible with what is already there: {'; '.join(problems)}",
        subject=subject,
    )


def objections(level: Level, schema: Schema, there: Sequence[RegisteredSchema]) -> list[str]:
    """Say why a subject with the schemas `there` may not get another one; it may have each of those again."""
    text = canonical(schema)
    if any(canonical(each.schema) == text for each in there):
        return []
    return check(level, schema, [each.schema for each in there])


class EmbeddedRegistry:
    """Keeps schemas in the compacted topic `choreo.schemas`, with the same code on every transport.

    An id is derived from the schema's content, so every process gives a schema the same id without asking another. The
    log decides who was first: a record says which schema it comes `after`, the subject's newest when it was checked,
    and of two that come after the same one only the first counts. Who loses reads again, and is refused where its
    schema does not fit the winner's.

    Args:
        transport: an open broker.
        compatibility: what must hold between a new schema and older ones.
    """

    def __init__(self, transport: Transport, compatibility: Level = "BACKWARD") -> None:
        self._transport = transport
        self._compatibility = compatibility
        self._by_id: dict[int, Schema] = {}
        self._subjects: dict[str, list[int]] = {}
        self._read_to: object = None
        self._strange: set[int] = set()
        self._reading = asyncio.Lock()

    async def register(self, subject: str, schema: Schema) -> int:
        """Check compatibility, then keep the schema; as `SchemaRegistry.register`."""
        await self._refresh(create=True)
        while True:  # each turn somebody else was first, and the subject has one schema more
            schema_id = self._id_of(schema)
            known = self._subjects.get(subject, [])
            if schema_id in known:
                return schema_id
            problems = check(self._compatibility, schema, [self._by_id[each] for each in known])
            if problems:
                raise refused(subject, self._compatibility, problems)
            after = known[-1] if known else None
            value = json.dumps({"subject": subject, "id": schema_id, "schema": schema, "after": after}).encode()
            await _reached(self._transport.send([Record(SCHEMAS_TOPIC, f"{subject}:{schema_id}".encode(), value)]))
            await self._refresh()

    async def fetch(self, schema_id: int) -> Schema:
        """Give the schema of an id; the topic is read again only when it has grown."""
        if schema_id not in self._by_id:
            await self._refresh()
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise DecodeError(f"no schema has the id {schema_id}", schema_id=schema_id) from None

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the subject's newest schema, or None."""
        return next(reversed(await self.history(subject)), None)

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """Give all schemas of a subject; as `SchemaRegistry.history`."""
        await self._refresh()
        ids = self._subjects.get(subject, [])
        return [RegisteredSchema(each, self._by_id[each], number) for number, each in enumerate(ids, start=1)]

    async def subjects(self) -> list[str]:
        """Name all subjects, sorted."""
        await self._refresh()
        return sorted(self._subjects)

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """Say why a schema would be refused; as `SchemaRegistry.objections`."""
        return objections(self._compatibility, schema, await self.history(subject))

    async def close(self) -> None:
        """Nothing is held: the transport belongs to the caller."""

    async def _refresh(self, *, create: bool = False) -> None:
        async with self._reading:
            topics = await _reached(self._transport.topics([SCHEMAS_TOPIC]))
            if SCHEMAS_TOPIC not in topics:
                if create:
                    # One partition, so that "newest" means something.
                    topic = TopicSpec(SCHEMAS_TOPIC, partitions=1, compacted=True)
                    await _reached(self._transport.create_topics([topic]))
                return
            ends = await _reached(self._transport.end_offsets([SCHEMAS_TOPIC]))
            if ends == self._read_to:
                return
            deliveries = await _reached(self._transport.snapshot(SCHEMAS_TOPIC))
            lines: dict[str, _Line] = {}
            for delivery in sorted(deliveries, key=lambda each: (each.partition, each.offset)):
                if delivery.value is None:
                    continue
                try:
                    found = json.loads(delivery.value)
                    subject, schema_id, schema = str(found["subject"]), int(found["id"]), dict(found["schema"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    if delivery.offset not in self._strange:
                        log.warning("a record is no schema; skipped", topic=SCHEMAS_TOPIC, offset=delivery.offset)
                    self._strange.add(delivery.offset)
                    continue
                self._by_id.setdefault(schema_id, schema)  # also what does not count: events may have its id
                lines.setdefault(subject, _Line()).add(schema_id, found)
            self._subjects = {subject: line.ids for subject, line in lines.items()}
            self._read_to = ends

    def _id_of(self, schema: Schema) -> int:
        text = canonical(schema)
        for salt in range(256):
            schema_id = content_id(text, salt)
            if schema_id not in self._by_id or canonical(self._by_id[schema_id]) == text:
                return schema_id
        raise AssertionError("256 collisions of a 31-bit hash")


class _Line:
    """The schemas of one subject in their order, as the records of the log say it; every reader finds the same."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._followed: set[int | None] = set()

    def add(self, schema_id: int, record: dict[str, Any]) -> None:
        """Put a schema into its place, unless it is there, or another one has come first after the same one."""
        if schema_id in self.ids:
            return
        after = record.get("after", "")
        if not (after is None or isinstance(after, int)):  # of an older release, or of somebody who does not say
            self.ids.append(schema_id)
            return
        if after in self._followed:
            return
        self._followed.add(after)
        # A copy of a record that compaction has kept may lie behind what came after it.
        place = 0 if after is None else self.ids.index(after) + 1 if after in self.ids else len(self.ids)
        self.ids.insert(place, schema_id)


def content_id(text: str, salt: int = 0) -> int:
    """Derive a positive 31-bit id from a canonical schema; `salt` tells apart two schemas that collide."""
    digest = blake2b(text.encode(), digest_size=4, salt=salt.to_bytes(16, "big"), person=b"choreo-schema").digest()
    return int.from_bytes(digest, "big") & _LARGEST_ID or 1


async def _reached(call: Awaitable[T]) -> T:
    try:
        return await call
    except ChoreoError as error:
        if error.retryable:
            raise RegistryUnreachable(f"the topic {SCHEMAS_TOPIC} cannot be read: {error.message}") from error
        raise


class SingleFlight:
    """Answers by key, asked once however many wait, kept for ever; "there is none" is kept for a while.

    Args:
        forget_after: seconds that a DecodeError is remembered.
        now: a monotonic clock in seconds.
    """

    def __init__(self, forget_after: float, now: Callable[[], float] = time.monotonic) -> None:
        self._forget_after = forget_after
        self._now = now
        self._answers: dict[object, Any] = {}
        self._missing: dict[object, tuple[float, DecodeError]] = {}
        self._flights: dict[object, asyncio.Task[Any]] = {}

    async def get(self, key: object, ask: Callable[[], Awaitable[T]]) -> T:
        """Give the answer to `key`, asking if nobody did; whoever is cancelled does not cancel the others."""
        if key in self._answers:
            answer: T = self._answers[key]
            return answer
        missing = self._missing.get(key)
        if missing is not None:
            if self._now() < missing[0]:
                raise DecodeError(missing[1].message, **missing[1].ids)
            del self._missing[key]
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(self._ask(key, ask))
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    async def _ask(self, key: object, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await ask()
        except DecodeError as error:
            if len(self._missing) >= _MOST_MISSING:
                self._missing.clear()
            self._missing[key] = (self._now() + self._forget_after, error)
            raise
        self._answers[key] = answer
        return answer

    async def close(self) -> None:
        """Stop what is being asked."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


_MOST_MISSING = 10_000
