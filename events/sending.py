"""What every transport does around a send: check the records first, and join concurrent sends into one write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from .envelope import Record
from .errors import ChoreoError, ConfigurationError, EncodeError, LimitExceeded, TopicMissing, TransportError
from .transport import TopicSpec, Transport

MOST_RECORD_BYTES = 1_000_000
"""Largest record; a little below Kafka's default `max.message.bytes` (1,048,588), which counts its own framing too."""

_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def check_records(records: Sequence[Record], topics: Mapping[str, int]) -> None:
    """Refuse what Kafka would refuse, before anything is written.

    Args:
        records: about to be sent.
        topics: the number of partitions of each topic that exists.

    Raises:
        TopicMissing, LimitExceeded, EncodeError
    """
    missing = sorted({record.topic for record in records if record.topic not in topics})
    if missing:
        raise topic_missing(missing)
    for record in records:
        size = 0
        for part in (record.key, record.value):
            if part is None:
                continue
            if not isinstance(part, bytes):
                raise EncodeError(f"a record for topic {record.topic!r} holds {type(part).__name__} where bytes belong")
            size += len(part)
        if not size and record.key is None and record.value is None:
            raise EncodeError(f"a record for topic {record.topic!r} has neither key nor value")
        for name, value in record.headers:
            if not isinstance(value, bytes):
                raise EncodeError(f"header {name!r} is {type(value).__name__}, it must be bytes")
            size += len(name) + len(value)
        if size > MOST_RECORD_BYTES:
            raise LimitExceeded(
                f"a record for topic {record.topic!r} has {size:,} bytes, at most {MOST_RECORD_BYTES:,} are sent: "
                "store the payload elsewhere and send a reference",
                topic=record.topic,
            )
        if record.partition is not None and not 0 <= record.partition < topics[record.topic]:
            raise TopicMissing(
                f"topic {record.topic!r} has {topics[record.topic]} partitions, there is no partition "
                f"{record.partition}",
                topic=record.topic,
            )


def check_spec(spec: TopicSpec) -> None:
    """Refuse a topic that Kafka could not hold.

    Raises:
        ConfigurationError: the name or the number of partitions is not possible.
    """
    if not _TOPIC_NAME.fullmatch(spec.name):
        raise ConfigurationError(
            f"{spec.name[:80]!r} is not a topic name; use up to 249 letters, digits, '.', '_' and '-'"
        )
    if spec.partitions < 1:
        raise ConfigurationError(f"topic {spec.name!r} needs at least one partition, not {spec.partitions}")


async def require_topics(transport: Transport, names: Iterable[str]) -> None:
    """Make sure that topics exist, those that are only written to as well: silence would be found out much too late.

    Raises:
        TopicMissing: naming every topic that is missing.
    """
    wanted = set(names)
    missing = wanted - (await transport.topics(wanted)).keys()
    if missing:
        raise topic_missing(sorted(missing))


def topic_missing(missing: Sequence[str]) -> TopicMissing:
    """Make the error that names every topic that is missing."""
    names = ", ".join(repr(name) for name in missing)
    plural = "s" if len(missing) > 1 else ""
    verb = "do" if plural else "does"
    return TopicMissing(
        f"topic{plural} {names} {verb} not exist; create with `saga topics apply`", topics=tuple(missing)
    )


_Call = tuple[Sequence[Record], "asyncio.Future[None]"]


class Joiner:
    """Joins sends that wait for one another: while one write is under way, the next ones gather into the following.

    Order is kept: records go out in the order of the calls. A failed write fails every call that took part in it, and
    each may be sent again with the same ids; but where the broker refuses something for good, the calls are tried one
    by one, so that only the one at fault fails.

    Args:
        write: writes records durably, in order.
    """

    def __init__(self, write: Callable[[Sequence[Record]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[_Call] = []
        self._alone = 0  # how many of the next calls are tried one by one
        self._task: asyncio.Task[None] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Write these records, with others if there are; return when they are durable."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._waiting:
                count = 1 if self._alone else len(self._waiting)
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                self._alone = max(0, self._alone - 1)
                await self._write_joined(batch)
        finally:
            self._task = None
            _end(self._waiting, TransportError("the transport was closed before the records were sent"))
            self._waiting = []

    async def _write_joined(self, batch: list[_Call]) -> None:
        records = batch[0][0] if len(batch) == 1 else [record for part, _ in batch for record in part]
        try:
            await self._write(records)
        except Exception as error:
            if len(batch) > 1 and isinstance(error, ChoreoError) and not error.retryable:
                self._waiting, self._alone = [*batch, *self._waiting], len(batch)
                return
            _end(batch, error)
        except BaseException:
            _end(batch, TransportError("the send was cancelled; whether it was written is unknown"))
            raise
        else:
            _end(batch, None)


def _end(calls: Iterable[_Call], failure: Exception | None) -> None:
    for _, done in calls:
        if done.done():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)
