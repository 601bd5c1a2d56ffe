"""Opening a broker by its address, and the prefix that keeps environments apart on one broker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from .database import redacted
from .envelope import Delivery, Record, TopicPartition
from .errors import ConfigurationError
from .settings import Settings, load_settings
from .transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec, Transport

_FORMS = "write kafka://host:port[,host:port], local:PATH or memory:NAME"


def connect(url: str, settings: Settings | None = None) -> Transport:
    """Make the transport for an address; open it with `async with`.

    Args:
        url: `kafka://host:port[,host:port]`, `local:PATH`, or `memory:NAME`. `memory:NAME` is one broker per name for
            the life of the process; bare `memory:` is shared by the connections that are open at the same time.
        settings: security, session and topic prefix; read from the environment when None.

    Raises:
        ConfigurationError: the address is none of these, or the settings do not fit it.
    """
    settings = load_settings() if settings is None else settings
    transport = _open(url, settings)
    return Prefixed(transport, settings.topic_prefix) if settings.topic_prefix else transport


def _open(url: str, settings: Settings) -> Transport:
    scheme, separator, rest = url.partition(":")
    if not separator:
        raise ConfigurationError(f"{redacted(url)!r} is not a broker; {_FORMS}")
    if scheme == "memory":
        from .memory import MemoryBroker

        if rest.startswith("/"):
            raise ConfigurationError(f"{url!r} is not a broker; write memory: or memory:NAME, without slashes")
        return MemoryBroker(rest)
    if scheme == "local":
        from .embedded import SESSION
        from .local import LocalBroker

        if not rest or rest.startswith("//"):
            raise ConfigurationError(f"{url!r} names no file; write local:PATH, e.g. local:.choreo/broker.db")
        return LocalBroker(Path(rest), session=settings.session or SESSION)
    if scheme == "kafka":
        from .kafka import SESSION as KAFKA_SESSION
        from .kafka import KafkaTransport

        return KafkaTransport(url, settings, session=settings.session or KAFKA_SESSION)
    raise ConfigurationError(f"{redacted(url)!r} is not a broker; {_FORMS}")


class Prefixed:
    """A transport on which every topic and group has a prefix that its users never see.

    Args:
        transport: the broker.
        prefix: put before each name, e.g. `staging.`; internal topics included.
    """

    def __init__(self, transport: Transport, prefix: str) -> None:
        self._transport = transport
        self._prefix = prefix

    @property
    def url(self) -> str:
        """The broker's address."""
        return self._transport.url

    async def __aenter__(self) -> Prefixed:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`."""
        prefix = self._prefix
        await self._transport.send(
            [
                Record(
                    prefix + record.topic, record.key, record.value, record.headers, record.timestamp, record.partition
                )
                for record in records
            ]
        )

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """See `Transport.subscribe`."""
        inner = await self._transport.subscribe(
            self._prefix + group,
            [self._prefix + topic for topic in topics],
            listener=None if listener is None else _PrefixedListener(listener, self._prefix),
            begin=begin,
            client=client,
        )
        return _PrefixedConsumer(inner, self._prefix)

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`; only what has the prefix is there."""
        cut = len(self._prefix)
        asked = None if names is None else [self._prefix + name for name in names]
        return {
            name[cut:]: TopicInfo(name[cut:], info.partitions)
            for name, info in (await self._transport.topics(asked)).items()
            if name.startswith(self._prefix)
        }

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`."""
        prefix = self._prefix
        specs = [
            TopicSpec(prefix + spec.name, spec.partitions, spec.compacted, spec.replication, spec.config)
            for spec in topics
        ]
        return [name[len(prefix) :] for name in await self._transport.create_topics(specs)]

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See `Transport.end_offsets`."""
        return _cut_keys(await self._transport.end_offsets([self._prefix + topic for topic in topics]), self._prefix)

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        return [record._replace(topic=topic) for record in await self._transport.snapshot(self._prefix + topic)]

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Transport.delete_records`."""
        await self._transport.delete_records(
            {place._replace(topic=self._prefix + place.topic): offset for place, offset in before.items()}
        )

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        found = await self._transport.group(self._prefix + name)
        committed = {place: offset for place, offset in found.committed.items() if place.topic.startswith(self._prefix)}
        return GroupInfo(name, found.members, _cut_keys(committed, self._prefix))


class _PrefixedListener:
    def __init__(self, listener: Listener, prefix: str) -> None:
        self._listener = listener
        self._prefix = prefix

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        await self._listener.on_revoked(_cut(partitions, self._prefix))

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        await self._listener.on_assigned(_cut(partitions, self._prefix))


class _PrefixedConsumer:
    def __init__(self, consumer: Consumer, prefix: str) -> None:
        self._consumer = consumer
        self._prefix = prefix

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        records = await self._consumer.poll(most=most, timeout=timeout)
        cut = len(self._prefix)
        return [Delivery(topic[cut:], p, o, t, k, v, h) for topic, p, o, t, k, v, h in records]

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._consumer.commit({self._full(place): offset for place, offset in offsets.items()})

    def assignment(self) -> frozenset[TopicPartition]:
        return _cut(self._consumer.assignment(), self._prefix)

    def position(self, partition: TopicPartition) -> int | None:
        return self._consumer.position(self._full(partition))

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return _cut_keys(await self._consumer.committed(self._all(partitions)), self._prefix)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(self._full(partition), offset)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._consumer.pause(self._all(partitions))

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._consumer.resume(self._all(partitions))

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return _cut_keys(await self._consumer.begin_offsets(self._all(partitions)), self._prefix)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return _cut_keys(await self._consumer.end_offsets(self._all(partitions)), self._prefix)

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See `Consumer.stable_offsets`."""
        return _cut_keys(await self._consumer.stable_offsets(self._all(partitions)), self._prefix)

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        return _cut_keys(await self._consumer.offsets_at(self._all(partitions), timestamp), self._prefix)

    async def close(self) -> None:
        await self._consumer.close()

    def _full(self, place: TopicPartition) -> TopicPartition:
        return TopicPartition(self._prefix + place.topic, place.partition)

    def _all(self, places: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [self._full(place) for place in places]


def _cut(places: Iterable[TopicPartition], prefix: str) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(place.topic[len(prefix) :], place.partition) for place in places)


def _cut_keys(offsets: Mapping[TopicPartition, int], prefix: str) -> dict[TopicPartition, int]:
    return {TopicPartition(topic[len(prefix) :], number): offset for (topic, number), offset in offsets.items()}
