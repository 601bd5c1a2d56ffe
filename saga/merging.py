"""Catching up (ruling R8): what several partitions hold, in the order of their records' times.

After an outage a broker gives thousands of records of one partition before it gives any of the next, so effects would
be applied before their causes. Until each partition has been read up to where it ended, what runs ahead of the others
waits here. Plain bookkeeping, without I/O and without a clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import groupby, islice
from operator import itemgetter

from ..events.envelope import Delivery, TopicPartition

_Timed = tuple[int, TopicPartition, int, Delivery]
_WHERE = itemgetter(0, 1)
"""Topic and partition of a delivery."""


class Merge:
    """Holds back what runs ahead while partitions are caught up.

    Args:
        room: how many records of one partition may wait; with that many it is paused.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._targets: dict[TopicPartition, int] = {}
        self._heads: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, deque[_Timed]] = {}

    @property
    def behind(self) -> bool:
        """Whether a partition has not been read up to where it ended."""
        return bool(self._targets)

    def aim(self, ends: Mapping[TopicPartition, int], positions: Mapping[TopicPartition, int]) -> None:
        """Say up to where each partition is to be read before the order of times is given up."""
        self._targets = {place: end for place, end in ends.items() if positions.get(place, end) < end}

    def reach(self, place: TopicPartition, position: int) -> None:
        """Note that a partition was read up to `position`."""
        target = self._targets.get(place)
        if target is not None and position >= target:
            del self._targets[place]

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Take in what was just read."""
        for where, together in groupby(deliveries, _WHERE):
            place = TopicPartition(*where)
            head, held = self._heads.get(place, 0), self._held.setdefault(place, deque())
            for delivery in together:
                # A record that is earlier than the one before it in its partition cannot overtake that one.
                head = max(head, delivery.timestamp)
                held.append((head, place, delivery.offset, delivery))
            self._heads[place] = head

    def take(self, most: int) -> list[Delivery]:
        """Give what may be applied: the earliest first, nothing later than what a partition may still bring."""
        until = min((self._heads.get(place, -1) for place in self._targets), default=None)
        if until is None and sum(map(len, self._held.values())) <= most:
            taken = [timed[3] for queue in self._held.values() for timed in queue]
            self._held.clear()
            return taken
        ripe = [_until(queue, until) for queue in self._held.values()]
        earliest = list(islice(heapq.merge(*ripe), most))  # no two have the same place and offset
        for _, place, _, _ in earliest:
            self._held[place].popleft()
        self._held = {place: queue for place, queue in self._held.items() if queue}
        return [timed[3] for timed in earliest]

    def holds(self, place: TopicPartition) -> bool:
        """Say whether records of this partition wait here."""
        return place in self._held

    def full(self) -> set[TopicPartition]:
        """Name the partitions of which enough waits."""
        return {place for place, queue in self._held.items() if len(queue) >= self._room}

    def give_up(self) -> list[TopicPartition]:
        """Go on without the partitions that hold up all others; name them."""
        heads = {place: self._heads.get(place, -1) for place in self._targets}
        slowest = min(heads.values(), default=-1)
        gone = sorted(place for place, head in heads.items() if head == slowest)
        for place in gone:
            del self._targets[place]
        return gone

    def drop(self) -> None:
        """Forget what waits: it is read again."""
        self._held.clear()
        self._heads.clear()


def _until(queue: deque[_Timed], until: int | None) -> Iterable[_Timed]:
    for timed in queue:
        if until is not None and timed[0] > until:
            return
        yield timed
