"""How far the coordinator has read: saved with what it led to, never beyond it, and checked at each assignment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

import structlog
from sqlalchemy import Connection, and_, update

from ..events.clock import SECOND
from ..events.database import Database
from ..events.envelope import TopicPartition
from ..events.errors import ChoreoError, CommitRefused, PositionLost, TransportError
from ..events.failpoints import failpoint
from ..events.transport import Consumer
from . import store
from .barrier import ReadBarrier
from .merging import Merge
from .tables import position

log = structlog.get_logger("choreo.coordinator")

HIDDEN_AFTER = 10 * SECOND
"""How long a partition may not be readable to its end before that is told."""

Gap = Literal["stop", "continue"]
"""What to do when records were deleted before they were read: stop for a person, or go on at what is left."""


class Positions:
    """The partitions of one coordinator, and how far each was read. It listens to the group's rebalances.

    Args:
        database: the store that holds the saved positions; they decide, the broker's are for its display only.
        group: the consumer group.
        since: gives for a topic where its history begins, microseconds; 0 is the beginning of the log (ruling R2).
        gap: what to do about a gap.
        room: records of one partition that may wait for those of others.

    Attributes:
        round: grows whenever the positions were set anew: what was read before is read again.
        merge: holds back what runs ahead of other partitions.
    """

    def __init__(self, database: Database, group: str, since: Callable[[str], int], gap: Gap, room: int) -> None:
        self._database = database
        self._group = group
        self._since = since
        self._gap = gap
        self._uncommitted: dict[TopicPartition, int] = {}
        self._failure: ChoreoError | None = None
        self._assigned = False
        self._hidden_at = 0
        self.busy = asyncio.Lock()
        self.processed: dict[TopicPartition, int] = {}
        self.round = 0
        self.merge = Merge(room)
        self.barrier = ReadBarrier()

    def bind(self, consumer: Consumer) -> None:
        """Say whose partitions these are; before the first poll."""
        self._consumer = consumer

    @property
    def member(self) -> Consumer | None:
        """The membership, once it has its partitions."""
        return self._consumer if self._assigned else None

    @property
    def settled(self) -> bool:
        """Whether every partition that is ours was found and its position set."""
        return self._failure is None

    async def settle(self) -> None:
        """Set the positions again where an assignment failed, or raise what it found.

        Raises:
            PositionLost: a saved position is not in the log any more, and nobody said to go on behind the gap.
            StoreUnreachable, BrokerUnreachable: ask again later.
        """
        if self._failure is None:
            return
        if not self._failure.retryable:
            raise self._failure
        async with self.busy:
            await self._assign(sorted(self._consumer.assignment()))
            self._failure = None

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Wait for the batch under way, commit, and forget these partitions."""
        async with self.busy:
            failpoint("coordinator.in_revoke")
            await self.commit()
            for place in partitions:
                self.processed.pop(place, None)
            self.round += 1
            self.merge.drop()
            self.merge.aim({}, {})

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Read each partition from where the store says, or from where the definitions begin."""
        async with self.busy:
            self._assigned = True
            try:
                await self._assign(sorted(partitions))
            except ChoreoError as error:
                # A broker's client swallows what a listener raises: the loop asks with `settle` instead.
                self._failure = error

    def doubt(self) -> None:
        """Have every partition looked at again: the broker said that a position is not in its log."""
        if self._failure is None:
            self._failure = TransportError("a position is not in the log")

    def advance(self, read: Mapping[TopicPartition, int]) -> None:
        """Note up to where the partitions were read, and that what this has led to is stored."""
        self.processed.update(read)
        self._uncommitted.update(read)
        self.barrier.advance(self.processed)

    def reach(self) -> None:
        """Note how far the partitions were polled."""
        if self.merge.behind:
            for place in self.processed:
                self.merge.reach(place, self._consumer.position(place) or 0)

    def aim(self, ends: Mapping[TopicPartition, int]) -> None:
        """Read the partitions up to these ends in the order of their records' times."""
        polled = {place: self._consumer.position(place) for place in self.processed}
        self.merge.aim(ends, {place: offset for place, offset in polled.items() if offset is not None})

    def pass_over(self) -> None:
        """Take note of what no poll returns: the end of a transaction has an offset, but is no record.

        Call it when everything that was polled is stored or waits in `merge`.
        """
        for place, offset in self.processed.items():
            position = self._consumer.position(place)
            if position is not None and position > offset and not self.merge.holds(place):
                self.processed[place] = self._uncommitted[place] = position

    async def raise_barrier(self, now: int) -> None:
        """Note where the partitions end now, once all that was noted before has been read.

        Args:
            now: the store's clock, read before this call.
        """
        if self.processed and self.barrier.wants_ends():
            self.barrier.mark(await self._consumer.end_offsets(sorted(self.processed)), now)
        self.barrier.advance(self.processed)
        if now >= self._hidden_at and any(now - at >= HIDDEN_AFTER for _, at in self.barrier.unread().values()):
            self._hidden_at = now + 6 * HIDDEN_AFTER
            await self._tell_hidden()

    async def _tell_hidden(self) -> None:
        """Say which partitions cannot be read to their end because a transaction of some producer is open."""
        unread = self.barrier.unread()
        for place, stable in (await self._consumer.stable_offsets(sorted(unread))).items():
            end, _ = unread[place]
            if stable < end and self.processed.get(place, 0) >= stable:
                log.warning(
                    "an open transaction of another producer hides records: timers wait until it is ended or the "
                    "broker aborts it (transaction.timeout.ms)",
                    topic=place.topic,
                    partition=place.partition,
                    offset=stable,
                    records=end - stable,
                )

    async def lag(self) -> int:
        """Count what is still to be read; before the first assignment, more than nothing.

        A member that the group has no partition for has nothing to read.
        """
        if not self._assigned or self._consumer.assignment() != frozenset(self.processed):
            return 1
        ends = await self._consumer.end_offsets(sorted(self.processed))
        return sum(max(0, end - self.processed.get(place, 0)) for place, end in ends.items())

    async def commit(self) -> None:
        """Tell the broker how far we are, for its lag display."""
        if not self._uncommitted:
            return
        offsets, self._uncommitted = self._uncommitted, {}
        failpoint("coordinator.before_offsets")
        try:
            await self._consumer.commit(offsets)
        except CommitRefused:
            pass  # another member has them now
        except ChoreoError as error:
            log.warning("offsets were not committed; the store has them", error=error.message)

    def rewind(self) -> None:
        """Read again what was polled and not stored."""
        self.merge.drop()
        self.round += 1
        assigned = self._consumer.assignment()
        for place, offset in self.processed.items():
            if place in assigned:
                self._consumer.seek(place, offset)

    async def _assign(self, partitions: list[TopicPartition]) -> None:
        saved = await self._database.read(lambda connection: store.load_positions(connection, self._group))
        begins = await self._consumer.begin_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        fresh: dict[TopicPartition, int] = {}
        told: dict[TopicPartition, int] = {}
        for place in partitions:
            if place in saved:
                offset = self._checked(place, saved[place][0], begins.get(place, 0), ends.get(place, 0))
                if offset != saved[place][0]:
                    told[place] = offset
                # Who stored this may have died before it told the broker.
                self._uncommitted[place] = offset
            else:
                offset = fresh[place] = await self._first_offset(place, begins.get(place, 0))
            self._consumer.seek(place, offset)
            self.processed[place] = offset
        until = {place: read_until for place, (_, read_until) in saved.items()}
        self.barrier.assign(sorted(self.processed), until)
        self.round += 1
        self.merge.drop()
        self.merge.aim(await self._consumer.stable_offsets(partitions), self.processed)
        if fresh or told:
            await self._database.write(lambda connection: self._save(connection, fresh, told))

    def _save(
        self, connection: Connection, fresh: Mapping[TopicPartition, int], told: Mapping[TopicPartition, int]
    ) -> None:
        store.save_positions(connection, self._group, fresh, {})
        for place, offset in sorted(told.items()):  # a topic that was made anew begins before what was saved
            same = and_(position.c.group == self._group, position.c.topic == place.topic)
            where = and_(same, position.c.partition == place.partition)
            connection.execute(update(position).where(where).values(next_offset=offset))

    async def _first_offset(self, place: TopicPartition, begin: int) -> int:
        since = self._since(place.topic)
        return begin if since == 0 else (await self._consumer.offsets_at([place], since // 1_000))[place]

    def _checked(self, place: TopicPartition, saved: int, begin: int, end: int) -> int:
        if begin <= saved <= end:
            return saved
        problem = (
            f"records {saved} to {begin - 1} were deleted before they were read"
            if saved < begin
            else f"it ends at {end}, but {saved} were read: the topic was made anew"
        )
        if self._gap == "continue":
            log.error("going on behind a gap, as told", topic=place.topic, partition=place.partition, problem=problem)
            return begin
        raise PositionLost(
            f"topic {place.topic}, partition {place.partition}: {problem}; find out what is missing, "
            "then start with --on-gap continue",
            topic=place.topic,
            partition=place.partition,
        )
