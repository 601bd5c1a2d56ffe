"""The read barrier of ruling R1: until when everything was read, partition by partition.

A coordinator that was down must not time out sagas whose answers lie unread. So the end of each partition is noted
together with the time at which it was asked for; once the position has passed that end, everything written before that
time has been read, and timers due before it may fire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..events.envelope import TopicPartition


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
