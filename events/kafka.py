"""Apache Kafka: with `kafka_client`, the only module that knows its client library, aiokafka.

Chosen against the client's defaults (docs/guarantees.md names the reasons): acks=all with an idempotent producer, no
automatic commits, no automatic reset of lost positions, read_committed, range assignment, our own partitioner.

Nothing here waits without bound. A producer whose broker is silent is given up and replaced; it ends by itself, and
what it still sends are copies with the same ids.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as Place
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from .embedded import REBALANCE, Offsets
from .envelope import Delivery, Record, TopicPartition
from .errors import BrokerUnreachable, ChoreoError, ConfigurationError, LimitExceeded, TopicMissing
from .kafka_client import FETCH, KafkaClient, Moved, delivery, farewell, ours
from .kafka_log import tame
from .kafka_member import KafkaMember
from .kafka_security import parse_address, security_options
from .partitioner import partition_for
from .sending import Joiner, check_records, check_spec, topic_missing
from .settings import Settings
from .transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec
from .uninstrumented import plain

T = TypeVar("T")
_log = logging.getLogger(__name__)

CONNECT = 10.0
"""Seconds that a broker has to answer the first request."""
_GRACE = 1.0
"""Seconds that a client may still take to start once nobody waits for it."""
PATIENCE = 30.0
"""Seconds that any later request may take, acknowledgement of a send included."""
SESSION = 30.0
"""Seconds after which the broker drops a member without heartbeats."""
_BATCH_BYTES = 512 * 1024
_REFUSED = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)


class KafkaTransport:
    """A connection to a Kafka cluster; open it with `async with`.

    Args:
        url: `kafka://host:port[,host:port]`.
        settings: security.
        patience: seconds that a request may take, acknowledgements included.
        session: seconds after which a member without heartbeats is dropped, and a topic's new partitions are noticed.

    Raises:
        ConfigurationError: the address or a security setting is wrong.
    """

    def __init__(self, url: str, settings: Settings, *, patience: float = PATIENCE, session: float = SESSION) -> None:
        self._hosts = parse_address(url)
        self._patience = patience
        self._session = session
        self._options = {"bootstrap_servers": self._hosts, **security_options(self._hosts, settings)}
        self._log = tame()
        self._depth = 0
        self._counts: dict[str, int] = {}
        self._members: dict[KafkaClient, KafkaMember] = {}
        self._producer: AIOKafkaProducer | None = None
        self._ends: AIOKafkaConsumer | None = None
        self._asking = asyncio.Lock()
        self._joiner = Joiner(self._write)
        self._spread = itertools.count()

    @property
    def url(self) -> str:
        """The address."""
        return f"kafka://{','.join(self._hosts)}"

    async def __aenter__(self) -> KafkaTransport:
        self._depth += 1
        if self._depth == 1:
            admin = AIOKafkaAdminClient(**self._options, request_timeout_ms=round(CONNECT * 1000), client_id="choreo")
            try:
                await self._start(admin.start())
            except BaseException:
                self._depth = 0
                await farewell(admin.close())
                raise
            self._admin = admin
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        await asyncio.gather(*(member.close() for member in tuple(self._members.values())))
        await self._joiner.close()
        self._depth = 0
        await self._drop_producer()
        ends, self._ends = self._ends, None
        if ends is not None:
            await farewell(ends.stop())
        await farewell(self._admin.close())

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`."""
        if not records:
            return
        self._check_open()
        try:
            check_records(records, self._counts)
        except TopicMissing:  # or has more partitions by now
            await self.topics({record.topic for record in records})
            check_records(records, self._counts)
        await self._joiner.send(records)

    async def _write(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            self._producer = await self._new_producer()
        acknowledgements: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._patience):
                await self._submit(self._producer, records, acknowledgements)
                await asyncio.wait(acknowledgements)
            for failure in [each.exception() for each in acknowledgements]:
                if failure is not None:
                    raise failure
        except BaseException as error:
            for each in acknowledgements:
                each.cancel()
            # Its sequence numbers or its queue are past repair (aiokafka #1017); the next send makes a new one.
            self._counts = {}
            await self._drop_producer()
            if isinstance(error, (kafka_errors.KafkaError, TimeoutError)):
                raise self.failed("did not acknowledge the records", error) from error
            raise

    async def _submit(
        self, producer: AIOKafkaProducer, records: Sequence[Record], acknowledgements: list[asyncio.Future[Any]]
    ) -> None:
        """Queue records in whole batches, one future for each: a future per record would cost more than the record."""
        counts = {topic: len(await producer.partitions_for(topic)) for topic in {record.topic for record in records}}
        batches: dict[tuple[str, int], Any] = {}
        keyless = next(self._spread)
        for record in records:
            number = record.partition
            if number is None:
                count = counts[record.topic]
                number = keyless % count if record.key is None else partition_for(record.key, count)
            elif number >= counts[record.topic]:  # so new that this producer has not heard of it
                raise kafka_errors.UnknownTopicOrPartitionError
            place = (record.topic, number)
            batch = batches.get(place)
            while batch is None or not batch.append(
                timestamp=record.timestamp, key=record.key, value=record.value, headers=list(record.headers)
            ):
                if batch is not None:  # full; an empty one takes any record
                    acknowledgements.append(await producer.send_batch(batch, record.topic, partition=number))
                batch = batches[place] = producer.create_batch()
        for (topic, number), batch in batches.items():
            acknowledgements.append(await producer.send_batch(batch, topic, partition=number))

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._options,
            client_id="choreo",
            acks="all",
            enable_idempotence=True,
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=round(self._patience * 1000),
            metadata_max_age_ms=round(self._session * 1000),
        )
        try:
            await self._start(producer.start())
        except BaseException:
            await farewell(producer.stop())
            raise
        return producer

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await farewell(producer.stop())

    async def brokers(self) -> int:
        """Count the brokers of the cluster.

        Raises:
            BrokerUnreachable: none of them answers.
        """
        return len((await self.ask(self._admin_client().describe_cluster))["brokers"])

    # -- topics -------------------------------------------------------------------------------------------------------

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`; only those that are known to exist are asked for by name.

        For a broker with `auto.create.topics.enable`, to be asked for a topic is to make it; the Metadata request can
        forbid that (`allow_auto_topic_creation`), but aiokafka's admin client does not let us.
        """
        asked = None if names is None or not self._counts.keys() >= set(names) else sorted(names)
        found = await self.ask(lambda: self._admin_client().describe_topics(asked))
        counts = {
            topic["topic"]: len(topic["partitions"])
            for topic in found
            if not topic["error_code"] and not topic["is_internal"]
        }
        rest = {} if asked is None else {name: n for name, n in self._counts.items() if name not in asked}
        self._counts = {**rest, **counts}
        return {name: TopicInfo(name, count) for name, count in counts.items() if names is None or name in names}

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`; returns when every partition has a leader."""
        for spec in topics:
            check_spec(spec)
        existing = await self.topics({spec.name for spec in topics})
        wanted = [spec for spec in topics if spec.name not in existing]
        if not wanted:
            return []
        new = [
            NewTopic(
                spec.name,
                spec.partitions,
                spec.replication or -1,
                replica_assignments=None if spec.replication else {},  # -1 is refused without it
                topic_configs={**({"cleanup.policy": "compact"} if spec.compacted else {}), **spec.config},
            )
            for spec in wanted
        ]
        answer = await self.ask(lambda: self._admin_client().create_topics(new))
        created = []
        for name, code, message in ((entry[0], entry[1], entry[2]) for entry in answer.topic_errors):
            if code == 0:
                created.append(name)
            elif code != kafka_errors.TopicAlreadyExistsError.errno:
                raise ConfigurationError(
                    f"Kafka does not create topic {name!r}: {message or kafka_errors.for_code(code)}"
                )
        await self.ask(lambda: self._led({spec.name for spec in wanted}))
        return created

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Transport.delete_records`."""
        wanted = {Place(*place): RecordsToDelete(offset) for place, offset in before.items()}

        async def delete() -> None:
            try:
                await self._admin_client().delete_records(wanted, timeout_ms=round(PATIENCE * 1_000))
            except kafka_errors.PolicyViolationError as error:
                names = ", ".join(sorted({place.topic for place in before}))
                raise ConfigurationError(f"Kafka deletes no records of {names}: is it compacted?") from error

        await self.ask(delete)

    async def _led(self, names: set[str]) -> None:
        for topic in await self._admin_client().describe_topics(sorted(names)):
            if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"]):
                names.discard(topic["topic"])
        if names:
            raise kafka_errors.LeaderNotAvailableError

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See `Transport.end_offsets`."""
        return await self.ends(await self._places(topics))

    async def ends(self, places: Sequence[Place]) -> Offsets:
        """Give the log's ends, also of what an open transaction hides; asked on a connection that nothing blocks."""
        async with self._asking:
            if self._ends is None:
                self._check_open()
                self._ends = await self.start_consumer("choreo", None, isolation="read_uncommitted")
        asked = self._ends
        try:
            return ours(await self.ask(lambda: asked.end_offsets(places)))
        except BrokerUnreachable:
            if self._ends is asked:  # the next one who asks does so on a connection of its own
                self._ends = None
                await farewell(asked.stop())
            raise

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        places = await self._places([topic])
        async with self._reader() as reader:
            begins = await self.ask(lambda: reader.beginning_offsets(places))
            ends = await self.ask(lambda: reader.end_offsets(places))
            left = {place for place in places if begins[place] < ends[place]}
            found: dict[Place, list[Delivery]] = {place: [] for place in places}
            if left:
                reader.assign(list(left))
                for place in left:
                    reader.seek(place, begins[place])
            quiet = 0.0
            while left:
                batch = await self.ask(lambda: plain(reader.getmany)(timeout_ms=round(FETCH * 1000)))
                quiet = 0.0 if batch else quiet + FETCH
                if quiet > self._patience:
                    raise self.failed(f"does not give the records of topic {topic!r}", TimeoutError())
                for place, records in batch.items():
                    found[place] += [delivery(record) for record in records if record.offset < ends[place]]
                for place in tuple(left):
                    if await reader.position(place) >= ends[place]:
                        left.discard(place)
            return [record for place in sorted(found) for record in found[place]]

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        kafka = await self.start_consumer("choreo", None)
        try:
            yield kafka
        finally:
            await farewell(kafka.stop())

    async def _places(self, topics: Sequence[str]) -> list[Place]:
        found = await self.topics(topics)
        missing = sorted(name for name in set(topics) if name not in found)
        if missing:
            raise topic_missing(missing)
        return [Place(name, number) for name in topics for number in range(found[name].partitions)]

    # -- groups -------------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """See `Transport.subscribe`; the group is joined with the first `poll`."""
        await self._places(topics)
        gate = KafkaClient(self, await self.start_consumer(client, group))
        self._members[gate] = member = KafkaMember(gate, group, topics, listener, begin)
        return member

    def forget(self, client: KafkaClient) -> None:
        """Note that a member is closed."""
        self._members.pop(client, None)

    async def start_consumer(
        self, client: str, group: str | None, *, isolation: str = "read_committed"
    ) -> AIOKafkaConsumer:
        """Start Kafka's own consumer, in a group that is yet to be joined or in none."""
        kafka = AIOKafkaConsumer(
            **self._options,
            client_id=client,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation,
            metadata_max_age_ms=round(self._session * 1000),  # until then nobody reads a partition that is new
            fetch_max_wait_ms=100,  # meanwhile the broker answers nothing else here, not even where a topic ends
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=round(self._session * 1000),
            heartbeat_interval_ms=round(min(1.0, self._session / 3) * 1000),
            rebalance_timeout_ms=round(REBALANCE * 1000),
            # A join waits for the drain of the others.
            request_timeout_ms=round((REBALANCE + 10) * 1000),
        )
        try:
            await self._start(kafka.start())
        except BaseException:
            await farewell(kafka.stop())
            raise
        return kafka

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        admin = self._admin_client()
        answers = await self.ask(lambda: admin.describe_consumer_groups([name]))
        offsets = await self.ask(lambda: admin.list_consumer_group_offsets(name))
        clients = sorted(
            member["client_id"]
            for answer in answers
            for group in answer.to_object()["groups"]
            for member in group["members"]
        )
        return GroupInfo(name, tuple(clients), ours({place: found.offset for place, found in offsets.items()}))

    # -- waiting and failing ------------------------------------------------------------------------------------------

    def _admin_client(self) -> AIOKafkaAdminClient:
        self._check_open()
        return self._admin

    def _check_open(self) -> None:
        if not self._depth:
            raise ConfigurationError(f"the broker {self.url!r} is not open; use `async with connect(...)`")

    async def _start(self, start: Coroutine[Any, Any, None]) -> None:
        # Cancelled in its first request, Kafka's client would forget an open connection (aiokafka's `bootstrap`).
        starting = asyncio.create_task(start)
        try:
            async with asyncio.timeout(CONNECT + 1):
                await asyncio.shield(starting)
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            hosts = " or ".join(self._hosts)
            reason = next((self._log.reasons[host] for host in self._hosts if host in self._log.reasons), str(error))
            raise BrokerUnreachable(
                f"no Kafka broker answers at {hosts} ({reason or 'no answer in time'}): is it running, and is the "
                "address in CHOREO_BROKER or --broker right?"
            ) from None
        finally:
            try:
                await asyncio.wait((starting,), timeout=_GRACE)
            finally:
                starting.cancel()

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Send a request, again where the broker says later, within the limit of patience."""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        return await request()
                    except (kafka_errors.CommitFailedError, kafka_errors.IllegalStateError) as error:
                        raise Moved from error
                    except kafka_errors.KafkaError as error:
                        if not error.retriable:
                            raise
                        await asyncio.sleep(0.1)
        except (kafka_errors.KafkaError, TimeoutError) as error:
            raise self.failed("did not answer", error) from error

    def failed(self, what: str, error: BaseException) -> ChoreoError:
        """Make our error of one of the client's."""
        if isinstance(error, _REFUSED):
            return ConfigurationError(f"Kafka at {self._hosts[0]} refuses: {error}; grant it with an ACL")
        if isinstance(error, kafka_errors.MessageSizeTooLargeError):
            return LimitExceeded(f"Kafka at {self._hosts[0]} refuses a batch as too large; raise its max.message.bytes")
        reason = f"not within {self._patience:g} s" if isinstance(error, TimeoutError) else str(error)
        return BrokerUnreachable(f"Kafka at {', '.join(self._hosts)} {what}: {reason}")
