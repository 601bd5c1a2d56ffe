"""A service whose events are brought by somebody else, one after another: a stream framework that has its own consumer.

The rest is as with a worker: what the inbox knows is dropped, results commit many at once with the outgoing events, and
failures become dead letters and `HandlerFailed`. Whoever brings an event waits until it is finished for good.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from ..events.clock import SECOND, system_clock
from ..events.codec import UnknownSchema, open_codec
from ..events.database import Database
from ..events.envelope import Delivery, TopicPartition
from ..events.errors import ChoreoError, ConfigurationError, EventError, RegistryUnreachable, StoreError
from ..events.failures import HandlerFailed
from ..events.outbox import Relay
from ..events.registry import open_registry
from ..events.sending import require_topics
from ..events.settings import Settings
from ..events.transport import Transport
from ..events.transports import connect
from ..tracing.export import open_tracing
from . import inbox
from .announce import Definitions, announce
from .commit import StoreCommit
from .dead_letters import REPLAY
from .execution import Execution
from .following import Following
from .guard import judge_event
from .health import Health, health_of
from .inbox import Key, Row
from .job import Job, Later, Result, Route, Stage
from .provided import Provided
from .reading import Reader, Reading
from .service import Default, Service

log = structlog.get_logger("choreo.services")

_MOST_COMMITTED = 500
_LOOK = 2.0
_SWEEP = 500


class Driven:
    """Handles events that are brought to it: `open`, `handle` one by one, `close`.

    Args:
        service: with all its handlers declared, and a store.
        settings: broker, registry, store.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        if service.store is None:
            raise ConfigurationError(f"{service.name} needs a store, by which it knows what it has seen")
        self.service = service
        self._settings = settings
        self._stack = AsyncExitStack()
        self._waiting: asyncio.Queue[tuple[Job, asyncio.Future[None]]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._transport: Transport | None = None
        self._database: Database | None = None
        self._following = Following()

    async def open(self) -> None:
        """Connect, open the store, register the schemas and announce the service.

        Raises:
            TopicMissing: naming every topic that is missing.
            SchemaRefused, StoreUnreachable, ConfigurationError, BrokerUnreachable, RegistryUnreachable
        """
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open(self) -> None:
        service, settings, stack = self.service, self._settings, self._stack
        self._transport = transport = await stack.enter_async_context(connect(settings.broker_url, settings))
        await require_topics(transport, (each.name for each in service.topics()))
        given = service.store
        url = given if isinstance(given, str) else settings.service_store_url(service.name)
        assert not isinstance(given, Default) or url
        self._database = database = await Database.open(url, by_index=True)
        stack.push_async_callback(database.close)
        await database.ensure_schema("services", inbox.metadata, inbox.HEAD)
        registry = open_registry(settings, transport)
        stack.push_async_callback(registry.close)
        tracing = open_tracing(settings, service.name, install=True)
        stack.push_async_callback(tracing.aclose)
        relay = Relay(database, transport, acknowledged=tracing.acknowledged)
        await relay.start()
        stack.push_async_callback(relay.close)
        codec = open_codec(registry, settings)
        await codec.prepare((*service.produces, HandlerFailed))
        self._reader = Reader(service, codec)
        provided = Provided(service, settings)
        self._execution = Execution(service, codec, tracing, system_clock, random.random, provided)
        await provided.open()
        stack.push_async_callback(provided.close, service.drain / SECOND)
        self._commit = StoreCommit(database, relay, self._execution, service.claim, lambda _: ())
        await announce(service, transport)
        self._definitions = Definitions(transport)
        await self._learn_definitions()
        for handler in service.handlers:
            self._following.reads(handler.full_name, {event.spec().topic for event in handler.events})
        self._tasks = [asyncio.create_task(work()) for work in (self._commit_forever, self._keep_house)]
        log.info("service runs", service=service.name, topics=list(service.consumes), store=database.url)

    async def close(self) -> None:
        """Commit what has run, at most as long as the service's `drain`, and let go of everything."""
        try:
            async with asyncio.timeout(self.service.drain / SECOND):
                await self._waiting.join()
        except TimeoutError:
            log.warning("results not committed in time; their events will come again", service=self.service.name)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        log.info("service stopped", service=self.service.name)

    async def handle(self, delivery: Delivery, handler: str) -> bool:
        """Run one handler on a record, tries included, and return when the result is durable: whether it was so before.

        What no handler takes, or was met before, is passed over.

        Args:
            delivery: the record, its topic without the prefix.
            handler: the handler's full name; it is not called for another record meanwhile.
        """
        [reading] = await self._reader.read_all([delivery])
        for route in reading.routes:
            if route.name == handler or reading.error is not None:
                job = await self._run(route, delivery, reading)
                durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.put_nowait((job, durable))
                await asyncio.wait({durable, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
                for task in self._tasks:
                    if task.done():
                        task.result()  # it cannot go on: neither can this
        return self._following.handled(handler, delivery.place, delivery.offset)

    async def health(self, places: Sequence[TopicPartition] | None) -> Health:
        """Say how it is.

        Args:
            places: the partitions that whoever brings the events reads now; None while it is in no group.
        """
        member = None
        if self._transport is not None and places is not None:
            member = _Member(self._transport, self.service.name, frozenset(places))
        if self._transport is None:
            why = ("it has not started, or has ended",)
            return Health("service", self.service.name, None, None, False, False, why)
        return await health_of("service", self.service.name, self._transport, member, self._database)

    async def forgotten(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Give what was handled to its end and is not committed for long; from where each is to be read again.

        Args:
            places: the partitions that whoever brings the events reads now.

        Raises:
            TransportError: the broker does not answer.
        """
        if self._transport is None or not places:
            return {}
        member = _Member(self._transport, self.service.name, frozenset(places))
        ends, committed = await member.end_offsets(places), await member.committed(places)
        return self._following.stalled(committed, ends, asyncio.get_running_loop().time())

    async def _run(self, route: Route, delivery: Delivery, reading: Reading) -> Job:
        job = Job(route, reading.envelope, delivery, None, Stage.RECORD)
        row = await self._look_up(job)
        if row is not None:
            job.replayed = row.state == "failed" and any(name == REPLAY for name, _ in job.envelope.extra)
            verdict = judge_event(row, None, replayed=job.replayed)
            if verdict != "run":
                again = inbox.unpack(row.answer) if row.answer is not None and verdict == "duplicate" else ()
                job.result = Result("duplicates" if verdict == "duplicate" else "refused", None, again)
                return job
        job.result = self._execution.dead(job, reading.error) if reading.error is not None else await self._try(job)
        return job

    async def _try(self, job: Job) -> Result:
        while True:
            try:
                self._execution.decode(job)
            except UnknownSchema as unknown:
                error = await self._learn(unknown.schema_id)
                if error is not None:
                    return self._execution.dead(job, error)
                continue
            except EventError as error:
                return self._execution.dead(job, error)
            result = await self._execution.run(job)
            if not isinstance(result, Later):
                return result
            await asyncio.sleep(result.delay / SECOND)

    async def _learn(self, schema_id: int) -> EventError | None:
        pause = 0.1
        while True:
            try:
                await self._execution.learn(schema_id)
            except RegistryUnreachable as error:
                log.warning("the registry does not answer, reading waits", service=self.service.name, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            except EventError as error:
                return error
            else:
                return None

    async def _look_up(self, job: Job) -> Row | None:
        pause, database = 0.1, self._database
        assert database is not None
        while True:
            try:
                rows = await database.read(lambda connection: inbox.look_up(connection, [job.envelope.id]))
            except StoreError as error:
                log.warning("the store does not answer, reading waits", service=self.service.name, error=error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            else:
                return rows.get(job.key)

    async def _commit_forever(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _MOST_COMMITTED and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._commit.commit([job for job, _ in batch])
            for _, durable in batch:
                if not durable.done():  # whoever waited for it may be gone
                    durable.set_result(None)
                self._waiting.task_done()

    async def _keep_house(self) -> None:
        """Take note of new sagas, and forget what was met long ago, a page of the inbox at a time."""
        kept, after = self._settings.kept, None
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self._learn_definitions()
                if kept is not None:
                    after = await self._sweep(after, kept)
            except ChoreoError as error:
                log.warning("housekeeping waits", service=self.service.name, error=error.message)

    async def _sweep(self, after: Key | None, kept: int) -> Key | None:
        database = self._database
        assert database is not None
        following, _ = await database.write(
            lambda connection: inbox.sweep(connection, after, _SWEEP, database.now(connection) - kept)
        )
        return following

    async def _learn_definitions(self) -> None:
        found = await self._definitions.changed()
        if found is not None:
            self._execution.learn_definitions(found)


class _Member:
    """A membership of somebody else in the service's group, as the broker tells it.

    Args:
        transport: an open broker.
        group: the service's.
        places: the partitions that it reads now.
    """

    def __init__(self, transport: Transport, group: str, places: frozenset[TopicPartition]) -> None:
        self._transport = transport
        self._group = group
        self._places = places

    def assignment(self) -> frozenset[TopicPartition]:
        return self._places

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        found = (await self._transport.group(self._group)).committed
        return {place: found[place] for place in partitions if place in found}

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)  # who has committed nothing has everything before it

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        ends = await self._transport.end_offsets(sorted({place.topic for place in partitions}))
        return {place: ends[place] for place in partitions}
