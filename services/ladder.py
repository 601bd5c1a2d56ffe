"""Retry topics: an event whose handler gave up for now is tried again later; others of its key and partition pass.

A rung is one such topic, `<topic>.retry.<service>.<pause>`. What lies on it waits in the broker, not in this process:
its partition is paused until the first record's time has come. Which rung a record stands on is told by its topic, and
when its time comes by the broker's timestamp; no header of it grants more tries, or fewer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..events.clock import SECOND, Clock, duration
from ..events.envelope import Delivery, Record, TopicPartition
from ..events.errors import DefinitionError
from ..events.transport import Consumer

if TYPE_CHECKING:
    from .service import Handler

HANDLER = "retry-handler"
PARTITION = "retry-partition"
OFFSET = "retry-offset"
HEADERS = (HANDLER, PARTITION, OFFSET)
"""Headers of a record on a retry topic: for whom it is, and where it lay at first."""

_PAUSE = re.compile(r"[0-9]+[a-z]+(?:[0-9]+[a-z]+)*")
_MOST = 10
_LEAST_SLEEP = 0.1
"""Seconds between two looks at one partition: what comes due meanwhile is read in one go."""


@dataclass(frozen=True, slots=True)
class RetryTopic:
    """The rungs that an event climbs when its handler gives up: made by `retry_topic`.

    Args:
        pauses: as they were written; they name the topics.
        delays: the same in microseconds.
    """

    pauses: tuple[str, ...]
    delays: tuple[int, ...]


def retry_topic(*pauses: str) -> RetryTopic:
    """Say that an event whose handler gave up is tried again after each of these pauses, once each, and then is dead.

    Args:
        pauses: e.g. `"1m", "10m", "1h"`; each is a topic `<topic>.retry.<service>.<pause>`.

    Raises:
        DefinitionError: none, one twice, more than ten, or something that is no duration.
    """
    if not 1 <= len(pauses) <= _MOST or len(set(pauses)) != len(pauses):
        raise DefinitionError(
            f'retry_topic{pauses!r}: give 1 to {_MOST} different pauses, like retry_topic("1m", "1h")'
        )
    for pause in pauses:
        if not isinstance(pause, str) or not _PAUSE.fullmatch(pause):
            raise DefinitionError(f'retry_topic: {pause!r} names no topic; write it like "30s", "10m", "1h" or "1h30m"')
    return RetryTopic(pauses, tuple(duration(pause) for pause in pauses))


class Rung(NamedTuple):
    """One retry topic.

    Args:
        topic: its name.
        origin: the topic whose events it holds.
        pause: as it was written.
        delay: microseconds.
    """

    topic: str
    origin: str
    pause: str
    delay: int


def rungs_of(handler: Handler) -> tuple[Rung, ...]:
    """List the retry topics of a handler."""
    ladder = handler.exhausted
    if not isinstance(ladder, RetryTopic):
        return ()
    topics = dict.fromkeys(event.spec().topic for event in handler.events)
    return tuple(
        Rung(f"{topic}.retry.{handler.service}.{pause}", topic, pause, delay)
        for topic in topics
        for pause, delay in zip(ladder.pauses, ladder.delays, strict=True)
    )


def climb(delivery: Delivery, handler: Handler, index: int) -> Record:
    """Build the record for a handler's rung number `index`: key, value and headers as they came, and where from.

    Args:
        delivery: as it lay on its own topic.
        handler: who tries again.
        index: from 0.
    """
    ladder = handler.exhausted
    assert isinstance(ladder, RetryTopic)
    told = ((HANDLER, handler.name), (PARTITION, str(delivery.partition)), (OFFSET, str(delivery.offset)))
    kept = tuple(header for header in delivery.headers if header[0] not in HEADERS)
    return Record(
        f"{delivery.topic}.retry.{handler.service}.{ladder.pauses[index]}",
        delivery.key,
        delivery.value,
        (*kept, *((name, text.encode()) for name, text in told)),
    )


def descend(delivery: Delivery, rung: Rung) -> tuple[Delivery, str]:
    """Give a record as it lay on its own topic, and the name of the handler that it is for."""
    found = {name: value.decode(errors="replace") for name, value in delivery.headers if name in HEADERS}
    headers = tuple(header for header in delivery.headers if header[0] not in HEADERS)
    partition, offset = (_number(found.get(name)) for name in (PARTITION, OFFSET))
    if partition is None or offset is None:
        partition, offset = delivery.partition, delivery.offset
    return (
        delivery._replace(topic=rung.origin, partition=partition, offset=offset, headers=headers),
        found.get(HANDLER, ""),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


class Delays:
    """Leaves what lies on retry topics with the broker until its time has come.

    Args:
        rungs: the retry topics.
        clock: this process's clock.
    """

    def __init__(self, rungs: Iterable[Rung], clock: Clock) -> None:
        self._delays: Mapping[str, int] = {rung.topic: rung.delay for rung in rungs}
        self._clock = clock
        self._first: dict[TopicPartition, tuple[int, int]] = {}  # the offset that is waited for, and until when
        self._sleepers: dict[TopicPartition, asyncio.Task[None]] = {}

    def sift(self, consumer: Consumer, records: list[Delivery]) -> list[Delivery]:
        """Take out of a poll what is not due yet, and pause its partition at the first of it."""
        if not self._delays:
            return records
        kept: list[Delivery] = []
        stopped: set[TopicPartition] = set()
        for record in records:
            delay = self._delays.get(record.topic)
            if delay is None:
                kept.append(record)
                continue
            place = record.place
            if place in stopped:
                continue
            due = self._due(record, delay)
            if due <= self._clock():
                self._first.pop(place, None)
                kept.append(record)
                continue
            stopped.add(place)
            self._wait(consumer, place, record.offset, due)
        return kept

    def later(self, place: TopicPartition, position: int | None, time: int) -> bool:
        """Say whether what comes next in a partition waits until after `time`."""
        first = self._first.get(place)
        return first is not None and first[0] == position and first[1] > time

    def forget(self) -> list[asyncio.Task[None]]:
        """Wait for nothing any more: the partitions are not ours; give the tasks that slept, cancelled."""
        sleepers = list(self._sleepers.values())
        for sleeper in sleepers:
            sleeper.cancel()
        self._sleepers.clear()
        self._first.clear()
        return sleepers

    def _due(self, record: Delivery, delay: int) -> int:
        first = self._first.get(record.place)
        if first is not None and first[0] == record.offset:
            return first[1]
        # Never longer than its pause, whatever the clock was that stamped it.
        return min(record.timestamp * 1_000, self._clock()) + delay

    def _wait(self, consumer: Consumer, place: TopicPartition, offset: int, due: int) -> None:
        self._first[place] = (offset, due)
        consumer.seek(place, offset)
        consumer.pause([place])
        before = self._sleepers.pop(place, None)
        if before is not None:
            before.cancel()
        seconds = max((due - self._clock()) / SECOND, _LEAST_SLEEP)
        # A task of its own: whoever waits for time to pass must be seen to wait (`saga/testing/loop.py`).
        task = asyncio.create_task(self._sleep(consumer, place, offset, seconds), name="choreo-delay")
        self._sleepers[place] = task

    async def _sleep(self, consumer: Consumer, place: TopicPartition, offset: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._first.get(place, (None, 0))[0] == offset:
            self._first[place] = (offset, 0)  # its time has come, whatever the clock says by now
        del self._sleepers[place]
        consumer.resume([place])
