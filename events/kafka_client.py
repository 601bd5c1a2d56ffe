"""Kafka's client for one group member: its types and errors become ours here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Place
from aiokafka import errors as kafka_errors
from aiokafka.abc import ConsumerRebalanceListener

from .embedded import Offsets, commit_refused, position_lost
from .envelope import Delivery, TopicPartition
from .errors import ChoreoError, PositionLost
from .kafka_member import Found, KafkaMember
from .uninstrumented import plain

T = TypeVar("T")
_log = logging.getLogger(__name__)

FETCH = 0.1
"""Seconds that one fetch waits for records."""
_FAREWELL = 5.0
_NOTHING = Place("-", 0)
_LINGERING: set[asyncio.Task[None]] = set()


class Broker(Protocol):
    """What a client asks of the connection that it belongs to."""

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T: ...
    async def ends(self, places: Sequence[Place]) -> Offsets: ...
    def failed(self, what: str, error: BaseException) -> ChoreoError: ...
    def forget(self, client: KafkaClient) -> None: ...


class Moved(Exception):
    """The group has moved on."""


class KafkaClient(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Kafka's client for one group member: its types and errors become ours here."""

    def __init__(self, transport: Broker, kafka: AIOKafkaConsumer) -> None:
        self._transport = transport
        self._kafka = kafka
        self._crowded = True  # the last fetch left records behind, or may have

    def join(self, member: KafkaMember, topics: Sequence[str]) -> None:
        self._member = member
        self._kafka.subscribe(list(topics), listener=self)

    async def on_partitions_revoked(self, revoked: Collection[Place]) -> None:
        await self._member.revoked()

    async def on_partitions_assigned(self, assigned: Collection[Place]) -> None:
        self._member.assigned(frozenset(TopicPartition(*place) for place in assigned))

    async def fetch(
        self, places: Collection[TopicPartition] | None, own: Collection[TopicPartition], timeout: float, most: int
    ) -> Found:
        only = () if places is None else (_NOTHING, *theirs(places))
        try:
            found = await self._take(only, theirs(own), timeout, most)
            nexts = await self._passed(own)
        except kafka_errors.NoOffsetForPartitionError:
            return Found({}, {})  # met before our own positions were set
        except kafka_errors.OffsetOutOfRangeError as error:
            raise await self._lost(error.args[0]) from error
        except kafka_errors.KafkaError as error:
            raise self._transport.failed("does not give records", error) from error
        records = {TopicPartition(*place): [delivery(record) for record in each] for place, each in found.items()}
        return Found(records, nexts)

    async def _take(
        self, only: Collection[Place], own: Sequence[Place], timeout: float, most: int
    ) -> dict[Place, list[Any]]:
        """Take what the client has; where that is more than is wanted, each partition gives its share.

        By itself the client gives all that it has of one partition before it comes to the next.
        """
        found: dict[Place, list[Any]] = {}
        getmany = plain(self._kafka.getmany)
        if self._crowded:
            for left, place in zip(range(len(own), 0, -1), own, strict=True):
                if (only and place not in only) or most <= 0:
                    continue
                try:
                    more = await getmany(place, timeout_ms=0, max_records=-(-most // left))
                except kafka_errors.KafkaError:
                    if found:
                        break  # it is met again, and what was taken is not lost
                    raise
                found.update(more)
                most -= sum(map(len, more.values()))
            if found:
                self._crowded = most <= 0
                return found
        share = -(-most // max(1, len(own))) if self._crowded else most
        found = await getmany(*only, timeout_ms=round(timeout * 1000), max_records=share)
        self._crowded = sum(map(len, found.values())) >= share
        return found

    async def _passed(self, own: Collection[TopicPartition]) -> Offsets:
        """Ask from where the client goes on: it has passed what is no record, such as the end of a transaction."""
        passed: Offsets = {}
        with suppress(kafka_errors.KafkaError):  # not ours any more, or met again by the next fetch
            for place in own:
                passed[place] = await self._kafka.position(Place(*place))
        return passed

    async def _lost(self, offsets: Mapping[Place, int]) -> PositionLost:
        ((topic, number), offset) = next(iter(offsets.items()))
        place = TopicPartition(topic, number)
        first, end = (await self.begin_offsets([place]))[place], (await self.end_offsets([place]))[place]
        return position_lost(place, offset, first, end)

    def seek(self, place: TopicPartition, offset: int) -> None:
        with suppress(kafka_errors.IllegalStateError):  # not ours any more
            self._kafka.seek(Place(*place), offset)

    def pause(self, places: Collection[TopicPartition]) -> None:
        with suppress(kafka_errors.IllegalStateError):
            self._kafka.pause(*theirs(places))

    def resume(self, places: Collection[TopicPartition]) -> None:
        with suppress(kafka_errors.IllegalStateError):
            self._kafka.resume(*theirs(places))

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        wanted = {Place(*place): offset for place, offset in offsets.items()}
        try:
            await self._transport.ask(lambda: self._kafka.commit(wanted))
        except Moved as error:
            raise commit_refused(group, offsets) from error

    async def committed(self, places: Sequence[TopicPartition]) -> Offsets:
        found = await self._transport.ask(
            lambda: asyncio.gather(*(self._kafka.committed(place) for place in theirs(places)))
        )
        return {place: offset for place, offset in zip(places, found, strict=True) if offset is not None}

    async def begin_offsets(self, places: Sequence[TopicPartition]) -> Offsets:
        return ours(await self._transport.ask(lambda: self._kafka.beginning_offsets(theirs(places))))

    async def end_offsets(self, places: Sequence[TopicPartition]) -> Offsets:
        return await self._transport.ends(theirs(places))

    async def stable_offsets(self, places: Sequence[TopicPartition]) -> Offsets:
        return ours(await self._transport.ask(lambda: self._kafka.end_offsets(theirs(places))))

    async def offsets_at(self, places: Sequence[TopicPartition], timestamp: int) -> Offsets:
        wanted = dict.fromkeys(theirs(places), timestamp)
        found = await self._transport.ask(lambda: self._kafka.offsets_for_times(wanted))
        ends = await self.stable_offsets(places)
        return {
            TopicPartition(*place): at.offset if at else ends[TopicPartition(*place)] for place, at in found.items()
        }

    async def close(self) -> None:
        self._transport.forget(self)
        await farewell(self._kafka.stop())


def theirs(places: Iterable[TopicPartition]) -> list[Place]:
    """Name partitions as Kafka's client does."""
    return [Place(*place) for place in places]


def ours(offsets: Mapping[Place, int]) -> Offsets:
    """Name partitions as we do."""
    return {TopicPartition(*place): offset for place, offset in offsets.items()}


def delivery(record: Any) -> Delivery:
    """Make a record of one of the client's."""
    headers = tuple(record.headers)
    return Delivery(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)


async def farewell(stop: Coroutine[Any, Any, None]) -> None:
    """Wait for a client to stop, but not for long: one whose broker is silent ends by itself, in the background."""
    task = asyncio.create_task(stop)
    _LINGERING.add(task)
    task.add_done_callback(_gone)
    await asyncio.wait((task,), timeout=_FAREWELL)


def _gone(task: asyncio.Task[None]) -> None:
    _LINGERING.discard(task)
    if not task.cancelled() and task.exception() is not None:
        _log.debug("a Kafka client did not stop cleanly", exc_info=task.exception())
