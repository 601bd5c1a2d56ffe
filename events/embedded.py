"""The consumer that both embedded brokers share: one member's life in its group, its positions, its reads.

Membership lives in a task of its own, as in Kafka's clients: a rebalance may ask for a drain while the last batch is
still being worked on. The group is joined with the first `poll`, so a listener can hold the consumer before it is
called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Protocol

from .envelope import Delivery, TopicPartition
from .errors import CommitRefused, ConfigurationError, PositionLost
from .groups import View
from .transport import Begin, Listener

Offsets = dict[TopicPartition, int]

SESSION = 10.0
"""Seconds after which a member that shows no life is dropped."""
REBALANCE = 60.0
"""Seconds that a member has for its drain before the group goes on without it."""


class Bell:
    """Wakes everyone who waits for news; may be rung from any thread.

    Take `count` before looking, and give it to `wait`: news that come in between are not missed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: dict[asyncio.Future[None], Collection[str]] = {}  # in order, so that a run can be repeated

    def ring(self, topics: Set[str] = frozenset()) -> None:
        """Wake all.

        Args:
            topics: those that have news; who waits for others only may sleep on. Empty: whoever waits may be meant.
        """
        self.count += 1
        if not self._waiting:
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for waiter, wanted in tuple(self._waiting.items()):
            if topics and wanted and topics.isdisjoint(wanted):
                continue
            loop = waiter.get_loop()
            if loop is here:
                _release(waiter)
                continue
            try:
                loop.call_soon_threadsafe(_release, waiter)
            except RuntimeError:  # that loop is closed; its waiter will never look again
                self._waiting.pop(waiter, None)

    async def wait(self, seen: int, timeout: float | None, topics: Collection[str] = ()) -> None:
        """Wait until it has rung since `count` was `seen`, at most `timeout` seconds.

        Args:
            seen: the count.
            timeout: seconds.
            topics: whose news are waited for; empty: any.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting[waiter] = topics
        timer = None if timeout is None else loop.call_later(timeout, _release, waiter)
        try:
            if self.count == seen:
                await waiter
        finally:
            self._waiting.pop(waiter, None)
            if timer is not None:
                timer.cancel()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Log(Protocol):
    """What the consumer asks of an embedded broker."""

    @property
    def bell(self) -> Bell:
        """Rung for new records."""

    @property
    def moves(self) -> Bell:
        """Rung when a group may have changed."""

    @property
    def beat(self) -> float | None:
        """Seconds between signs of life; None where the broker sees by itself who lives."""

    async def join(self, group: str, member: str, client: str, topics: Sequence[str]) -> None: ...
    async def look(self, group: str, member: str) -> View | None: ...
    async def rejoin(self, group: str, member: str) -> None: ...
    async def leave(self, group: str, member: str) -> None: ...
    def attend(self, group: str) -> float | None:
        """Notice the dead; called with every poll. Give the seconds until the next one may be due."""

    async def fetch(self, positions: Mapping[TopicPartition, int], most: int) -> list[Delivery]: ...
    async def commit(self, group: str, member: str, offsets: Mapping[TopicPartition, int]) -> None: ...
    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> Offsets: ...
    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]: ...
    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets: ...


class EmbeddedConsumer:
    """One member of one consumer group of an embedded broker.

    `close` leaves the group without calling the listener: drain and commit before. A seek, pause or resume of a
    partition that is not ours (any more) does nothing.
    """

    def __init__(
        self,
        log: Log,
        member: str,
        group: str,
        topics: Sequence[str],
        listener: Listener | None,
        begin: Begin,
        client: str,
    ) -> None:
        self.member = member
        self._log = log
        self._group = group
        self._topics = tuple(topics)
        self._listener = listener
        self._begin = begin
        self._client = client
        self._round = -1  # the rebalance whose assignment we hold
        self._open = False  # records flow: assigned, and positions known
        self._epoch = 0  # grows whenever a fetch under way has become void
        self._assignment: frozenset[TopicPartition] = frozenset()
        self._positions: Offsets = {}
        self._paused: set[TopicPartition] = set()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        """See `Consumer.poll`."""
        if self._closed:
            raise ConfigurationError(f"this consumer of group {self._group!r} is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name=f"member {self.member}")
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        # A busy reader must let the membership task run, or a rebalance would starve.
        await asyncio.sleep(0)
        while True:
            seen = self._log.bell.count
            due = self._log.attend(self._group)
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            records = await self._read(most)
            remaining = end - loop.time()
            # What is left may be the dust of a sum of floats; where a clock stands still it would never pass.
            if records or remaining < 1e-6 or self._closed:
                return records
            await self._log.bell.wait(seen, remaining if due is None else min(due, remaining), self._topics)

    async def _read(self, most: int) -> list[Delivery]:
        if not self._open:
            return []
        wanted = {place: offset for place, offset in self._positions.items() if place not in self._paused}
        if not wanted:
            return []
        epoch = self._epoch
        records = await self._log.fetch(wanted, most)
        if epoch != self._epoch:
            return []  # revoked, sought or paused meanwhile
        positions = self._positions
        for record in records:
            positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
        if records:
            # Fair turns: what was just read goes to the end of the line.
            for place in dict.fromkeys(TopicPartition(record.topic, record.partition) for record in records):
                positions[place] = positions.pop(place)
        return records

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        if offsets:
            await self._log.commit(self._group, self.member, offsets)

    def assignment(self) -> frozenset[TopicPartition]:
        """See `Consumer.assignment`."""
        return self._assignment

    def position(self, partition: TopicPartition) -> int | None:
        """See `Consumer.position`."""
        return self._positions.get(partition)

    async def committed(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.committed`."""
        return await self._log.committed(self._group, partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Consumer.seek`."""
        if offset < 0:
            raise ConfigurationError(f"{offset} is no offset: offsets begin at 0")
        if partition in self._assignment:
            self._positions[partition] = offset
            self._changed()

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        self._paused.update(self._assignment.intersection(partitions))
        self._epoch += 1

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """The partitions that are paused."""
        return frozenset(self._paused)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        self._paused.difference_update(partitions)
        self._changed()

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.begin_offsets`."""
        return {place: begin for place, (begin, _) in (await self._log.bounds(partitions)).items()}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.end_offsets`."""
        return {place: end for place, (_, end) in (await self._log.bounds(partitions)).items()}

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.stable_offsets`; there are no transactions here."""
        return await self.end_offsets(partitions)

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets:
        """See `Consumer.offsets_at`."""
        return await self._log.offsets_at(partitions, timestamp)

    async def close(self) -> None:
        """See `Consumer.close`."""
        if not self._closed:
            await self._stop()
            await self._log.leave(self._group, self.member)

    async def kill(self) -> None:
        """Die without a word, as a process under SIGKILL does: others take over when the session has expired."""
        await self._stop()

    async def _stop(self) -> None:
        self._closed = True
        self._open = False
        self._epoch += 1
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._log.bell.ring()

    def _changed(self) -> None:
        self._epoch += 1
        self._log.bell.ring()

    async def _live(self) -> None:
        """Be a member: join, show life, hand over what is revoked, take what is assigned."""
        log, group = self._log, self._group
        joined = False
        while True:
            seen = log.moves.count
            try:
                view = await log.look(group, self.member) if joined else None
                if view is None:
                    if joined:  # expired or evicted: what we hold may be another's by now
                        await self._revoke()
                    await log.join(group, self.member, self._client, self._topics)
                    joined = True
                    continue
                if not view.joined:
                    await self._revoke()
                    await log.rejoin(group, self.member)
                    continue
                if view.partitions is not None and view.round != self._round:
                    await self._assign(view.round, view.partitions)
                    continue
            except Exception as error:  # told to the one who polls, who decides
                self._failure = error
                log.bell.ring()
                await asyncio.sleep(1)
                continue
            await log.moves.wait(seen, log.beat)

    async def _revoke(self) -> None:
        self._open = False
        self._epoch += 1
        try:
            if self._assignment and self._listener is not None:
                await self._listener.on_revoked(self._assignment)
        finally:  # a listener that fails does not hold up the group; `poll` tells of it
            self._assignment = frozenset()
            self._positions = {}

    async def _assign(self, round_: int, partitions: frozenset[TopicPartition]) -> None:
        self._assignment = partitions
        self._positions = {}
        self._paused.clear()
        if self._listener is not None:
            await self._listener.on_assigned(partitions)
        unknown = sorted(partitions - self._positions.keys())
        if unknown:
            committed = await self._log.committed(self._group, unknown)
            bounds = await self._log.bounds(unknown)
            for place in unknown:
                begin, end = bounds[place]
                start = begin if self._begin == "earliest" else end
                self._positions.setdefault(place, committed.get(place, start))
        self._round = round_
        self._open = True
        self._changed()


def in_turns(
    positions: Mapping[TopicPartition, int], most: int, read: Callable[[TopicPartition, int, int], list[Delivery]]
) -> list[Delivery]:
    """Read partitions in fair turns: each gives its share, and what one does not need goes to the others in the next.

    Args:
        positions: where to begin, in the order in which they are read.
        most: how many records in all.
        read: gives the records of a partition from an offset on, so many at most.
    """
    found: list[Delivery] = []
    left = dict(positions)
    while left and (room := most - len(found)):
        share = max(1, room // len(left))
        for place, offset in tuple(left.items())[:room]:
            records = read(place, offset, share)
            found += records
            if len(records) < share:
                del left[place]
            else:
                left[place] = records[-1].offset + 1
    return found


def position_lost(place: TopicPartition, offset: int, begin: int, end: int) -> PositionLost:
    """Make the error for a position outside the log."""
    return PositionLost(
        f"offset {offset} of topic {place.topic!r}, partition {place.partition}, is not in the log any more (it holds "
        f"{begin} to {end}): records were deleted or the topic was made anew; decide where to go on, nothing is "
        "skipped by itself",
        topic=place.topic,
        partition=place.partition,
        offset=offset,
    )


def commit_refused(group: str, offsets: Mapping[TopicPartition, int]) -> CommitRefused:
    """Make the error for a commit of partitions that are another member's by now."""
    places = ", ".join(f"{place.topic}[{place.partition}]" for place in sorted(offsets))
    return CommitRefused(
        f"group {group!r} has moved on, {places} not ours any more; nothing was committed", group=group
    )
