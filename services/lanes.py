"""Order without waiting: one lane per key, and the ledger of what is finished in each partition.

Both are plain bookkeeping, without I/O or time, so that their rules can be tested as rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from ..events.envelope import TopicPartition

T = TypeVar("T")


class Lanes(Generic[T]):
    """Serializes what has the same lane: the first one runs, those behind it wait their turn in order."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T] | None] = {}  # by each lane that is taken: nearly all are by one alone
        self._size = 0

    def __len__(self) -> int:
        """Count those that wait behind another."""
        return self._size

    def enter(self, lane: Hashable, item: T) -> bool:
        """Take a place in a lane; True when it is the item's turn at once, else `leave` gives it later."""
        if lane not in self._waiting:
            self._waiting[lane] = None
            return True
        queue = self._waiting[lane]
        if queue is None:
            queue = self._waiting[lane] = deque()
        queue.append(item)
        self._size += 1
        return False

    def leave(self, lane: Hashable) -> T | None:
        """End the turn of the lane's first; give the next one, whose turn it is now."""
        queue = self._waiting[lane]
        if not queue:
            del self._waiting[lane]
            return None
        self._size -= 1
        return queue.popleft()

    def waiting(self, lane: Hashable) -> Sequence[T]:
        """Give those that wait behind the lane's first, in order."""
        return self._waiting.get(lane) or ()

    def drop(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out the waiting items that `unwanted` says yes to; those whose turn it is stay."""
        dropped: list[T] = []
        for lane, queue in self._waiting.items():
            taken = [item for item in queue or () if unwanted(item)]
            if queue and taken:
                self._waiting[lane] = deque(item for item in queue if not unwanted(item))
                dropped += taken
        self._size -= len(dropped)
        return dropped


class Ledger:
    """Knows for each partition up to where everything is finished: only that may be committed (semantics, row 12)."""

    def __init__(self) -> None:
        self._open: dict[TopicPartition, deque[int]] = {}
        self._finished: dict[TopicPartition, set[int]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._changed: set[TopicPartition] = set()

    def begin(self, place: TopicPartition, *offsets: int) -> None:
        """Note that these offsets were read; those of a partition come in growing order, gaps are allowed."""
        queue = self._open.get(place)
        if queue is None:
            queue = self._open[place] = deque()
            self._finished[place] = set()
        queue.extend(offsets)

    def finish(self, place: TopicPartition, *offsets: int) -> None:
        """Note that their results are durable; a partition that was forgotten stays forgotten."""
        queue = self._open.get(place)
        if not queue:
            return
        finished = self._finished[place]
        finished.update(offsets)
        if queue[0] not in finished:
            return
        while queue and queue[0] in finished:
            offset = queue.popleft()
            finished.discard(offset)
        self._next[place] = offset + 1
        self._changed.add(place)

    def pass_over(self, place: TopicPartition, position: int) -> bool:
        """Note that nothing lies before `position` that is not finished; say whether that is news.

        What no poll returns has offsets too: the ends of transactions, and what an aborted one wrote.
        """
        if self._open.get(place):
            return False
        known = self._next.setdefault(place, position)
        if position <= known:
            return False
        self._next[place] = position
        self._changed.add(place)
        return True

    def committable(self, places: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Give the next offset to read of each partition that moved since this was last asked.

        Args:
            places: only these; None for all.
        """
        chosen = self._changed if places is None else self._changed & set(places)
        offsets = {place: self._next[place] for place in chosen}
        self._changed -= offsets.keys()
        return offsets

    def put_back(self, offsets: dict[TopicPartition, int]) -> None:
        """Give these to the next `committable` too: their commit failed."""
        self._changed.update(place for place in offsets if place in self._next)

    def span(self, place: TopicPartition) -> int:
        """Count how many offsets lie between the oldest unfinished record and the newest read."""
        queue = self._open.get(place)
        return queue[-1] - queue[0] + 1 if queue else 0

    def unfinished(self, places: Iterable[TopicPartition] | None = None) -> int:
        """Count the records that were read and are not finished."""
        chosen = self._open if places is None else [place for place in places if place in self._open]
        return sum(len(self._open[place]) - len(self._finished[place]) for place in chosen)

    def forget(self, places: Iterable[TopicPartition]) -> None:
        """Drop these partitions: they are not ours any more."""
        for place in places:
            self._open.pop(place, None)
            self._finished.pop(place, None)
            self._next.pop(place, None)
            self._changed.discard(place)
