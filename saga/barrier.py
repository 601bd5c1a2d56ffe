"""The read barrier of ruling R1: until when everything was read, partition by partition.

A coordinator that was down must not time out sagas whose answers lie unread. So the end of each partition is noted
together with the time at which it was asked for; once the position has passed that end, everything written before that
time has been read, and timers due before it may fire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..events.envelope import TopicPartition
from .definition import Definition
from .instance import Instance
from .routing import FAILURES


class ReadBarrier:
    """Knows until when each of our partitions was read; times are microseconds."""

    def __init__(self) -> None:
        self._until: dict[TopicPartition, int] = {}
        self._mark: dict[TopicPartition, tuple[int, int]] = {}

    def assign(self, partitions: Iterable[TopicPartition], until: Mapping[TopicPartition, int]) -> None:
        """Start over with these partitions and what the store says of them."""
        self._mark = {}
        self._until = {partition: until.get(partition, 0) for partition in partitions}

    def wants_ends(self) -> bool:
        """Tell whether new end offsets should be asked for: every earlier mark was passed."""
        return not self._mark

    def mark(self, ends: Mapping[TopicPartition, int], at: int) -> None:
        """Note the end offsets, asked for after `at`."""
        self._mark = {partition: (end, at) for partition, end in ends.items() if partition in self._until}

    def unread(self) -> Mapping[TopicPartition, tuple[int, int]]:
        """Give the marks that were not passed yet: the end offset, and when it was asked for."""
        return self._mark

    def advance(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note how far each partition was read: the next offset of each."""
        for partition, position in positions.items():
            mark = self._mark.get(partition)
            if mark is not None and position >= mark[0]:
                self._until[partition] = max(self._until.get(partition, 0), mark[1])
                del self._mark[partition]

    def until(self) -> Mapping[TopicPartition, int]:
        """Give until when each partition was read, 0 where that is not known yet."""
        return self._until


def read_until(
    topics: Iterable[str],
    partitions: Mapping[str, int],
    saved: Mapping[TopicPartition, int],
    own: Mapping[TopicPartition, int],
    as_of: int,
) -> dict[TopicPartition, int]:
    """Tell until when each partition of these topics was read, by us or by another coordinator, microseconds.

    Args:
        topics: that can carry an answer.
        partitions: how many each topic has.
        saved: what all coordinators have saved.
        own: what we have read since.
        as_of: until when there were no more partitions than these.
    """
    places = (TopicPartition(topic, number) for topic in topics for number in range(partitions.get(topic, 0)))
    return {place: min(as_of, max(saved.get(place, 0), own.get(place, 0))) for place in places}


class Places(Protocol):
    """Where keys stand, and may have stood before a topic had more partitions."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many partitions each topic has."""
        ...

    def places(self, topic: str, key: str) -> Iterable[int]:
        """Give the partitions of a topic that may hold records of a key."""
        ...


def answered_until(
    definition: Definition, instance: Instance, until: Mapping[TopicPartition, int], partitions: Places
) -> int:
    """Tell until when every partition was read that can carry an answer for a saga, microseconds.

    Args:
        definition, instance: of the saga.
        until: until when each partition was read.
        partitions: where its key may stand.
    """
    least = min(until[TopicPartition(FAILURES, number)] for number in partitions.places(FAILURES, instance.key))
    foreign = {definition.topics[type_] for type_ in definition.correlate}
    for topic in definition.consumed_topics:
        numbers = range(partitions.counts.get(topic, 0)) if topic in foreign else partitions.places(topic, instance.key)
        least = min([least, *(until.get(TopicPartition(topic, number), 0) for number in numbers)])
    return least
