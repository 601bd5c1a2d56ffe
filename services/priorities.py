"""What is served first when much waits: the more important, and now and then the oldest, so that nothing starves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

SHARE = 8
"""Of so many turns one goes to what has waited longest, however little important it is."""


class Ranked(Generic[T]):
    """A queue that gives the most important first, in order of arrival within one rank.

    Args:
        rank: how important an item is; higher comes first.
    """

    def __init__(self, rank: Callable[[T], int]) -> None:
        self._rank = rank
        self._queues: dict[int, deque[tuple[int, T]]] = {}
        self._arrivals = 0
        self._turns = 0

    def __len__(self) -> int:
        """Count what waits."""
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        """Give what waits, by rank."""
        for rank in sorted(self._queues, reverse=True):
            yield from (item for _, item in self._queues[rank])

    def append(self, item: T) -> None:
        """Put in an item."""
        self._arrivals += 1
        self._queues.setdefault(self._rank(item), deque()).append((self._arrivals, item))

    def popleft(self) -> T:
        """Take out the next one."""
        self._turns += 1
        if self._turns % SHARE:
            rank = max(self._queues)
        else:
            rank = min(self._queues, key=lambda each: self._queues[each][0][0])
        queue = self._queues[rank]
        _, item = queue.popleft()
        if not queue:
            del self._queues[rank]
        return item

    def remove(self, item: T) -> None:
        """Take out this one."""
        rank = self._rank(item)
        left = deque(each for each in self._queues[rank] if each[1] is not item)
        if left:
            self._queues[rank] = left
        else:
            del self._queues[rank]


def ranks_of(topics: Sequence[str], priority: int | None, priorities: Mapping[str, int]) -> dict[str, int]:
    """Give the rank of each topic of a handler: what the handler says, else what the service says, else 0."""
    return {topic: priorities.get(topic, 0) if priority is None else priority for topic in topics}
