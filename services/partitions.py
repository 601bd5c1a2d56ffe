"""The partitions that a worker reads: how far each is finished, and how far ahead of that it may be read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from ..events.envelope import Delivery, TopicPartition
from ..events.errors import ChoreoError
from ..events.transport import Consumer
from .job import Receipt
from .lanes import Ledger

LINGER = 0.02
"""Seconds that a commit of offsets waits for what is under way, whose offsets then come along."""
MOST_SPAN = 50_000
"""Offsets that may lie between a partition's oldest unfinished record and its newest read; then it pauses."""

_place = attrgetter("topic", "partition")


class Partitions:
    """Keeps the ledger of the partitions through rebalances: what was read before one says nothing after it.

    Args:
        linger: seconds that a commit waits for further ones.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self._linger = linger
        self._ledger = Ledger()
        self._epochs: dict[TopicPartition, int] = {}  # how often each was taken away
        self._leaving: frozenset[TopicPartition] = frozenset()
        self._paused: frozenset[TopicPartition] = frozenset()
        self._lock = asyncio.Lock()
        self.moved = asyncio.Event()
        """Set when there is something to commit."""

    @property
    def throttled(self) -> bool:
        """Whether any of them is paused."""
        return bool(self._paused)

    @property
    def settled(self) -> bool:
        """Whether everything that was read is finished and committed."""
        return not (self._ledger.unfinished() or self.moved.is_set() or self._lock.locked())

    def read(self, records: Sequence[Delivery]) -> list[Receipt]:
        """Note records that were just read, before anything is awaited; give a receipt for each."""
        receipts: list[Receipt] = []
        for (topic, partition), run in groupby(records, _place):
            place = TopicPartition(topic, partition)
            epoch = self._epochs.get(place, 0)
            found = [Receipt(record, place, 0, epoch) for record in run]
            self._ledger.begin(place, *[receipt.delivery.offset for receipt in found])
            receipts += found
        return receipts

    def ours(self, receipt: Receipt) -> bool:
        """Say whether its partition is still ours, and was all the time."""
        place = receipt.place
        return place not in self._leaving and self._epochs.get(place, 0) == receipt.epoch

    def finish(self, *receipts: Receipt) -> None:
        """Note that one job of each of these records is finished; with the last one its offset is."""
        ended: dict[tuple[TopicPartition, int], list[int]] = {}
        for receipt in receipts:
            receipt.left -= 1
            if receipt.left <= 0:
                ended.setdefault((receipt.place, receipt.epoch), []).append(receipt.delivery.offset)
        for (place, epoch), offsets in ended.items():
            if self._epochs.get(place, 0) == epoch:
                self._ledger.finish(place, *offsets)
                self.moved.set()

    def pass_over(self, consumer: Consumer) -> None:
        """Note how far the broker has been read where everything is finished; call it right after a poll."""
        for place in consumer.assignment() - self._leaving:
            position = consumer.position(place)
            if position is not None and self._ledger.pass_over(place, position):
                self.moved.set()

    async def until_moved(self) -> None:
        """Wait until there is something to commit, and a moment longer for what is under way."""
        await self.moved.wait()
        if self._linger:
            await asyncio.sleep(self._linger)

    async def commit(self, consumer: Consumer, places: frozenset[TopicPartition] | None = None) -> None:
        """Commit up to the first record of each partition that is not finished.

        Raises:
            CommitRefused, BrokerUnreachable: nothing was committed, the next call tries again.
        """
        async with self._lock:
            if places is None:
                self.moved.clear()
            offsets = self._ledger.committable(places)
            if not offsets:
                return
            try:
                await consumer.commit(offsets)
            except (ChoreoError, asyncio.CancelledError):  # a stop cancels what is under way, and then commits all
                self._ledger.put_back(offsets)
                raise

    def leave(self, places: frozenset[TopicPartition]) -> None:
        """Note that these are about to be taken away: what is read of them from now on is void."""
        self._leaving |= places

    def forget(self, places: frozenset[TopicPartition]) -> None:
        """Note that these are gone."""
        self._ledger.forget(places)
        for place in places:
            self._epochs[place] = self._epochs.get(place, 0) + 1
        self._leaving -= places

    def assigned(self) -> None:
        """Begin with nothing paused."""
        self._paused = frozenset()

    def throttle(self, consumer: Consumer, full: bool, held: frozenset[str] = frozenset()) -> None:
        """Pause what is read too far ahead of what is finished: all of it when `full`, and the topics `held`."""
        assignment = consumer.assignment()
        spans = self._ledger.span
        wanted = assignment
        if not full:
            wanted = frozenset(place for place in assignment if place.topic in held or spans(place) >= MOST_SPAN)
        if wanted == self._paused:
            return
        if back := sorted((self._paused - wanted) & assignment):
            consumer.resume(back)
        if more := sorted(wanted - self._paused):
            consumer.pause(more)
        self._paused = wanted
