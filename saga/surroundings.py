"""What surrounds a saga beside its store: the broker's topics, groups and offsets, and what services announce."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..events.catalog import (
    BreakerAnnouncement,
    HandlerAnnouncement,
    ServiceAnnouncement,
    read_breakers,
    read_catalog,
)
from ..events.clock import system_clock
from ..events.envelope import TopicPartition
from ..events.partitioner import partition_for
from ..events.transport import GroupInfo, TopicInfo, Transport


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was seen around a saga at one moment.

    Args:
        trouble: why the broker could not be asked; then all the rest is empty.
        coordinators: name of the coordinators' consumer group.
        services: what services say of themselves, by name.
        groups: consumer groups by name.
        topics: the broker's topics by name.
        ends: where each partition of the topics asked for ends.
        breakers: circuit breakers that are open, one for each handler and process.
    """

    trouble: str | None = None
    coordinators: str = ""
    services: Mapping[str, ServiceAnnouncement] = field(default_factory=dict)
    groups: Mapping[str, GroupInfo] = field(default_factory=dict)
    topics: Mapping[str, TopicInfo] = field(default_factory=dict)
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    breakers: Sequence[BreakerAnnouncement] = ()

    def answering(self, types: Iterable[str]) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        """List the handlers that say they publish one of these event types."""
        wanted = set(types)
        return [
            (service, handler)
            for service in self.services.values()
            for handler in service.handlers
            if wanted & {made.type for made in handler.produces}
        ]

    def taking(self, type_: str) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        """List the handlers that say they consume an event type."""
        return [
            (service, handler)
            for service in self.services.values()
            for handler in service.handlers
            if type_ in {taken.type for taken in handler.consumes}
        ]

    def place_of(self, topic: str, key: str) -> TopicPartition | None:
        """Give the partition in which a key's records of a topic stand; None where the topic is not there."""
        info = self.topics.get(topic)
        return None if info is None else TopicPartition(topic, partition_for(key.encode(), info.partitions))

    def unread(self, group: str, place: TopicPartition) -> int:
        """Count the records of a partition that a group has not finished."""
        found = self.groups.get(group)
        committed = 0 if found is None else found.committed.get(place, 0)
        return max(0, self.ends.get(place, 0) - committed)

    def members(self, group: str) -> int:
        """Count a group's live members: the only proof of life there is (ruling R13)."""
        found = self.groups.get(group)
        return 0 if found is None else len(found.members)

    def resting(self, service: str, handler: str) -> BreakerAnnouncement | None:
        """Give the open breaker of a handler; of several processes' the one that opened first."""
        found = [each for each in self.breakers if (each.service, each.handler) == (service, handler)]
        return min(found, key=lambda each: each.since, default=None)


async def look_around(transport: Transport, coordinators: str, topics: Iterable[str]) -> Surroundings:
    """Ask a broker for everything that may explain why a saga waits.

    Args:
        transport: an open broker.
        coordinators: name of the coordinators' consumer group.
        topics: those that the saga's definition names; what services consume is added.

    Raises:
        TransportError: the broker does not answer.
    """
    there = await transport.topics()
    services = await read_catalog(transport)
    breakers = await read_breakers(transport, system_clock())
    consumed = {taken.topic for each in services.values() for handler in each.handlers for taken in handler.consumes}
    names = [coordinators, *sorted({service.group for service in services.values()})]
    asked = sorted((consumed | set(topics)) & there.keys())
    ends = await transport.end_offsets(asked)
    groups = await asyncio.gather(*(transport.group(name) for name in names))
    return Surroundings(
        coordinators=coordinators,
        services=services,
        groups={group.name: group for group in groups},
        topics=there,
        ends=ends,
        breakers=breakers,
    )
