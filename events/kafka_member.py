"""One member of a Kafka consumer group, as `Consumer` wants it: gates, positions, and hand-over at a rebalance.

Kafka's client rejoins in the background while the last batch is still being worked on, returns prefetched records of
paused partitions, and blocks a fetch for as long as a rebalance takes. So fetches run as tasks that are not cancelled
before `close`, what they bring is checked against our own positions, and what is void by then is sought back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from .embedded import Offsets, commit_refused
from .envelope import Delivery, TopicPartition
from .errors import ConfigurationError
from .transport import Begin, Listener

_FETCH = 0.1
_RETRY = 1.0


class Found(NamedTuple):
    """What a fetch brought.

    Args:
        records: of each partition, in order.
        positions: from where the client goes on; it has passed control records and what an aborted transaction wrote.
    """

    records: dict[TopicPartition, list[Delivery]]
    positions: Offsets


class Client(Protocol):
    """What a member asks of Kafka's client; errors are ours already."""

    def join(self, member: KafkaMember, topics: Sequence[str]) -> None: ...
    async def fetch(
        self, places: Collection[TopicPartition] | None, own: Collection[TopicPartition], timeout: float, most: int
    ) -> Found: ...
    def seek(self, place: TopicPartition, offset: int) -> None: ...
    def pause(self, places: Collection[TopicPartition]) -> None: ...
    def resume(self, places: Collection[TopicPartition]) -> None: ...
    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None: ...
    async def committed(self, places: Sequence[TopicPartition]) -> Offsets: ...
    async def begin_offsets(self, places: Sequence[TopicPartition]) -> Offsets: ...
    async def end_offsets(self, places: Sequence[TopicPartition]) -> Offsets: ...
    async def stable_offsets(self, places: Sequence[TopicPartition]) -> Offsets: ...
    async def offsets_at(self, places: Sequence[TopicPartition], timestamp: int) -> Offsets: ...
    async def close(self) -> None: ...


class KafkaMember:
    """A `Consumer` on Kafka.

    `close` leaves the group without calling the listener: drain and commit before. A seek, pause or resume of a
    partition that is not ours (any more) does nothing.
    """

    def __init__(
        self, client: Client, group: str, topics: Sequence[str], listener: Listener | None, begin: Begin
    ) -> None:
        self._client = client
        self._group = group
        self._topics = tuple(topics)
        self._listener = listener
        self._begin = begin
        self._joined = False
        self._open = asyncio.Event()  # records flow: assigned, and positions known
        self._closing = asyncio.Event()
        self._assignment: frozenset[TopicPartition] = frozenset()
        self._positions: Offsets = {}
        self._paused: set[TopicPartition] = set()
        self._fetching: asyncio.Task[Found] | None = None
        self._stale = False  # the fetch under way began before the present assignment
        self._void: set[TopicPartition] = set()  # sought or paused since the fetch under way began
        self._assigning: asyncio.Task[None] | None = None
        self._yielding = False
        self._failure: Exception | None = None

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        """See `Consumer.poll`."""
        if self._closing.is_set():
            raise ConfigurationError(f"this consumer of group {self._group!r} is closed")
        if not self._joined:
            self._joined = True
            self._client.join(self, self._topics)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        await asyncio.sleep(0)  # a busy reader must let heartbeats and rebalances run
        while True:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            remaining = end - loop.time()
            records = await self._fetch(most, max(remaining, 0.001))
            if records or remaining <= 0 or self._closing.is_set():
                return records

    async def _fetch(self, most: int, wait: float) -> list[Delivery]:
        if self._fetching is None:
            # None paused: whatever the client has. The client must be asked even if all are paused, or it thinks that
            # its user is gone.
            places = self._assignment - self._paused if self._paused else None
            self._stale = False
            self._void.clear()
            # What is resumed while nothing is fetched would wait for the end of that.
            timeout = _FETCH if places is None or places else min(_FETCH, wait)
            self._fetching = asyncio.create_task(self._client.fetch(places, self._ready(), timeout, most))
        done, _ = await asyncio.wait((self._fetching,), timeout=wait)
        if not done:
            return []
        found, self._fetching = self._fetching.result, None
        return self._accept(found(), most) if self._open.is_set() else await self._decline(found())

    def _ready(self) -> Collection[TopicPartition]:
        return tuple(self._positions) if self._open.is_set() else ()

    async def _decline(self, found: Found) -> list[Delivery]:
        # Every position is set anew when the gate opens, so these records are not lost.
        if found.records:
            await asyncio.sleep(0.02)
        return []

    def _accept(self, found: Found, most: int) -> list[Delivery]:
        accepted: list[Delivery] = []
        passed = {} if self._stale else found.positions
        for place, records in found.records.items():
            position = self._positions.get(place)
            if position is None:
                continue
            if self._stale or place in self._void or len(accepted) >= most:
                self._client.seek(place, position)
                passed.pop(place, None)
                continue
            taken = records[: most - len(accepted)]
            self._positions[place] = taken[-1].offset + 1
            if len(taken) < len(records):
                self._client.seek(place, self._positions[place])
                passed.pop(place, None)
            accepted += taken
        for place, position in passed.items():
            if place not in self._void and position > self._positions.get(place, position):
                self._positions[place] = position
        return accepted

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        if not offsets:
            return
        if not self._assignment.issuperset(offsets):
            raise commit_refused(self._group, offsets)
        await self._client.commit(self._group, offsets)

    def assignment(self) -> frozenset[TopicPartition]:
        """See `Consumer.assignment`."""
        return self._assignment

    def position(self, partition: TopicPartition) -> int | None:
        """See `Consumer.position`."""
        return self._positions.get(partition)

    async def committed(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.committed`."""
        return await self._client.committed(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Consumer.seek`."""
        if offset < 0:
            raise ConfigurationError(f"{offset} is no offset: offsets begin at 0")
        if partition in self._assignment:
            self._positions[partition] = offset
            self._void.add(partition)
            if self._open.is_set():  # before, all positions are yet to be set
                self._client.seek(partition, offset)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        ours = self._assignment.intersection(partitions)
        self._paused |= ours
        self._void |= ours
        self._client.pause(ours)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        ours = self._paused.intersection(partitions)
        self._paused -= ours
        self._client.resume(ours)

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.begin_offsets`."""
        return await self._client.begin_offsets(partitions)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.end_offsets`."""
        return await self._client.end_offsets(partitions)

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.stable_offsets`."""
        return await self._client.stable_offsets(partitions)

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets:
        """See `Consumer.offsets_at`."""
        return await self._client.offsets_at(partitions, timestamp)

    async def close(self) -> None:
        """See `Consumer.close`."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._open.clear()
        tasks = [task for task in (self._fetching, self._assigning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    # -- called by the client -----------------------------------------------------------------------------------------

    async def revoked(self) -> None:
        """Hand over: wait until the listener has drained."""
        self._open.clear()
        self._stale = True
        self._yielding = True
        if self._assigning is not None:
            await asyncio.wait((self._assigning,))
        if self._assignment and self._listener is not None and not self._closing.is_set():
            drain = asyncio.ensure_future(self._listener.on_revoked(self._assignment))
            closing = asyncio.create_task(self._closing.wait())
            await asyncio.wait((drain, closing), return_when=asyncio.FIRST_COMPLETED)
            for task in (drain, closing):
                task.cancel()
            (failure, _) = await asyncio.gather(drain, closing, return_exceptions=True)
            if isinstance(failure, Exception):  # a listener that fails does not hold up the group; `poll` tells of it
                self._failure = failure
        self._assignment = frozenset()
        self._positions = {}
        self._paused.clear()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Take over, in a task of its own: the client sends no heartbeats until this returns."""
        self._assignment = partitions
        self._yielding = False
        self._assigning = asyncio.create_task(self._assign(partitions))

    async def _assign(self, partitions: frozenset[TopicPartition]) -> None:
        while not self._yielding:
            self._positions = {}
            self.resume(tuple(self._paused))  # who paused since the assignment thinks of the one before
            try:
                if self._listener is not None:
                    await self._listener.on_assigned(partitions)
                await self._place(partitions)
            except Exception as error:  # told to the one who polls, who decides
                self._failure = error
                await asyncio.sleep(_RETRY)
                continue
            self._stale = True
            if not self._yielding:  # else what was just taken over is about to go again: nothing of it is read
                self._open.set()
            return

    async def _place(self, partitions: frozenset[TopicPartition]) -> None:
        unknown = sorted(partitions - self._positions.keys())
        committed = await self.committed(unknown) if unknown else {}
        missing = [place for place in unknown if place not in committed]
        if missing:
            find = self.begin_offsets if self._begin == "earliest" else self.stable_offsets
            committed |= await find(missing)
        for place in unknown:
            self._positions.setdefault(place, committed[place])
        for place, position in self._positions.items():
            self._client.seek(place, position)
