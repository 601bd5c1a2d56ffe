"""Past events: from the rows of a file, or from the topics as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..events.avro import Schema
from ..events.envelope import Delivery, Envelope, write_headers
from ..events.errors import ConfigurationError, DecodeError
from ..events.event import Event
from ..events.intake import Intake
from ..events.registry import RegisteredSchema
from ..events.secret import Showing
from ..events.source import MOST_SORTED
from ..events.transport import Transport
from .definition import Definition
from .ordering import causes_first

JSON = "application/json"


class PastEvent(NamedTuple):
    """An event of the past as it was, or would have been, on its topic."""

    delivery: Delivery
    envelope: Envelope


class NoRegistry:
    """The registry of events from a file, which are JSON: there are no schemas."""

    async def register(self, subject: str, schema: Schema) -> int:
        """Nothing of the past is sent."""
        raise ConfigurationError("what is tracked sends nothing")

    async def fetch(self, schema_id: int) -> Schema:
        """There is none."""
        raise DecodeError(f"no schema has the id {schema_id}", schema_id=schema_id)

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """There is none."""
        return None

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """There are none."""
        return []

    async def subjects(self) -> list[str]:
        """There are none."""
        return []

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """There are none."""
        return []

    async def close(self) -> None:
        """Nothing is held."""


def from_rows(events: Iterable[tuple[str, int, Event]], source: str) -> Iterator[PastEvent]:
    """Make past events of what a file's rows become (`PastEvents`): id, time, event."""
    for place, (id_, time, event) in enumerate(events):
        spec, key = event.spec(), event.key_text()
        envelope = Envelope(id_, spec.type, source, time, key, JSON)
        value = event.model_dump_json(context=Showing.VALUE).encode()
        delivery = Delivery(spec.topic, 0, place, time // 1_000, key.encode(), value, write_headers(envelope))
        yield PastEvent(delivery, envelope)


async def from_topics(transport: Transport, definition: Definition, intake: Intake) -> list[PastEvent]:
    """Read everything that is in a saga's topics, merged by time, causes before what they led to (ruling R8).

    Args:
        transport: an open broker.
        definition: whose topics.
        intake: reads what lies there.

    Raises:
        ConfigurationError: there is more than can be sorted in memory.
        TopicMissing: naming every topic that does not exist.
    """
    topics = list(definition.consumed_topics)
    number = sum((await transport.end_offsets(topics)).values())
    if number > MOST_SORTED:
        raise ConfigurationError(
            f"{number:,} events to sort by time, at most {MOST_SORTED:,} are: run the saga instead"
        )
    found = []
    for topic in topics:
        for delivery, envelope in await intake.read_all(await transport.snapshot(topic)):
            if isinstance(envelope, Envelope):  # of others nobody can tell what they are: dead letters, once it runs
                found.append((delivery, envelope))
    # By their own times alone: that is what the past is judged by, whatever the order in which it was published.
    found.sort(key=lambda each: (each[1].time, each[0].place, each[0].offset))
    return [PastEvent(*each) for each in causes_first(found)]
