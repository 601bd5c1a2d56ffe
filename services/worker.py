"""The worker: reads what a service consumes, has its handlers run, and commits what is finished.

Records come in batches; each becomes a job per handler (`reading`), jobs run in lanes per key (`dispatcher`), their
results become durable many at once (`commit`), and then offsets are committed up to the first record that is not
finished. A key that waits, for a retry or for a claim, holds up nothing but its own lane.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from ..events.clock import SECOND, Clock, system_clock
from ..events.codec import open_codec
from ..events.database import Database
from ..events.envelope import Delivery, TopicPartition
from ..events.errors import ChoreoError, CommitRefused, TransportError
from ..events.failpoints import failpoint
from ..events.failures import HandlerFailed
from ..events.outbox import Relay
from ..events.registry import SchemaRegistry, open_registry
from ..events.sending import require_topics
from ..events.settings import Settings, load_settings
from ..events.transport import Consumer, Transport
from ..events.trouble import first_line
from ..events.waiting import happens
from ..tracing.meters import Meters
from ..tracing.spans import Tracing
from . import inbox, parking
from .announce import Definitions, announce
from .breaker import Position
from .commit import StatelessCommit, StoreCommit
from .counters import Counters
from .dead_letters import REPLAY
from .dispatcher import Dispatcher, farewell, of_places
from .execution import Execution
from .guard import judge_event
from .health import Health, health_of
from .housekeeping import Housekeeping
from .inbox import Key, Row
from .job import Job, Kind, Result, Stage
from .known import look_up
from .ladder import Delays
from .logged import LoggedCalls, as_json, ids_of
from .measuring import Calls, MeasuredCalls
from .partitions import LINGER, Partitions
from .provided import Overrides, Provided
from .reading import Reader, Reading
from .resting import Resting
from .service import Default, Service
from .watchdog import Watchdog, watch

log = structlog.get_logger("choreo.services")

MOST_IN_FLIGHT = 2_000
"""Records that may be read and not finished; beyond it reading pauses."""

_BATCH = 500
_POLL = 0.25
_BUSY_POLL = 0.02
_TICK = 0.25
_DEFINITIONS_EVERY = 2 * SECOND


class Worker:
    """Runs one service: `async with Worker(service, transport)`, or `start` and `stop`.

    Args:
        service: with all its handlers declared.
        transport: an open broker.
        settings: default: from the environment.
        registry: of schemas; by default the settings', opened and closed here.
        database: an open store in place of the service's own, not closed here.
        tracing: default: none.
        meters: measure how long handlers take; default: nothing is measured.
        clock: gives event times, and due times on SQLite.
        randomness: gives numbers from 0 to 1, for jitter.
        owner: names this process in the ids of what it writes, at most 12 characters; by default at random.
        overrides: what stands in for settings and for what lifespans yield (by class), for lifespans and dependencies
            (by function).

    Raises:
        ConfigurationError: a setting that a handler asks for is missing or wrong, or nobody asks for an override.
    """

    def __init__(
        self,
        service: Service,
        transport: Transport,
        *,
        settings: Settings | None = None,
        registry: SchemaRegistry | None = None,
        database: Database | None = None,
        tracing: Tracing | None = None,
        meters: Meters | None = None,
        clock: Clock = system_clock,
        randomness: Callable[[], float] = random.random,
        owner: str | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        self._owner = owner
        self.service = service
        self._counters = Counters()
        self._transport = transport
        self._settings = settings or load_settings()
        self._provided = Provided(service, self._settings, overrides)
        self._own_registry = registry is None
        self._registry = registry or open_registry(self._settings, transport)
        self._tracing = tracing or Tracing(namespace=self._settings.namespace)
        self._clock = clock
        self._codec = open_codec(self._registry, self._settings)
        calls: Calls = self._provided
        if meters is not None:
            calls = MeasuredCalls(calls, service.name, meters)
        if as_json():
            calls = LoggedCalls(calls)
        self._execution = Execution(service, self._codec, self._tracing, clock, randomness, calls)
        self._reader = Reader(service, self._codec)
        self.parking = [route.name for route in self._reader.routes if route.parks]
        """Handlers for which something may be parked."""
        self._dispatcher = Dispatcher(self._execution, service.concurrency, self._finished, self._reader.routes)
        self._definitions = Definitions(transport)
        # Virtual time does not pass while somebody works.
        self._partitions = Partitions(LINGER if clock is system_clock else 0.0)
        self._delays = Delays(self._reader.rungs.values(), clock)
        self._resting = Resting(service.name, transport, clock, owner)
        self._own_database = database is None
        self._database = database
        self._relay: Relay | None = None
        self._house: Housekeeping | None = None
        self._commit: StoreCommit | StatelessCommit | None = None
        self._consumer: Consumer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._polling: asyncio.Task[None] | None = None
        self._watchdog: Watchdog | None = None
        self._stopping = False
        self._assigned = False
        self._admitting = False
        self._tick = asyncio.Event()
        self._ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def counters(self) -> Counters:
        """What became of the records so far."""
        self._counters.retries = self._dispatcher.retries
        self._counters.transactions = self._commit.transactions if self._commit is not None else 0
        return self._counters

    @property
    def store(self) -> Database | None:
        """Its store, once that is open; None for a service without one."""
        return self._database if self._commit is not None else None

    @property
    def breakers(self) -> dict[str, Position]:
        """Where the breakers of its handlers stand, by handler."""
        gates = {route.handler.name: route.gate for route in self._reader.routes if route.gate is not None}
        return {name: gate.position for name, gate in gates.items() if gate.position is not None}

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, announce the service, begin its lifespans, join its group and begin.

        Raises:
            TopicMissing: naming every topic that is missing.
            SchemaRefused: an event class would break readers.
            StoreUnreachable, StoreMismatch, ConfigurationError, BrokerUnreachable, RegistryUnreachable
        """
        service = self.service
        try:
            await require_topics(self._transport, (each.name for each in service.topics()))
            self._commit = await self._open_store()
            self._dispatcher.use(self._commit.commit)
            await self._codec.prepare((*service.produces, HandlerFailed))
            await announce(service, self._transport)
            await self._learn_definitions()
            if (lifespans := await self._provided.open()) is not None:
                lifespans.add_done_callback(self._task_ended)
            self._consumer = await self._subscribe()
        except BaseException:
            await self._close_parts()
            raise
        self._ended = asyncio.get_running_loop().create_future()
        loops = {"commit": self._dispatcher.commit_forever, "offsets": self._commit_offsets, "tick": self._keep_house}
        self._tasks = [self._watch(run(), f"{service.name} {name}") for name, run in loops.items()]
        self._polling = self._watch(self._poll(), f"{service.name} poll")
        self._watchdog = watch(service) if self._clock is system_clock else None  # virtual time is never blocked
        store = "none" if self._database is None else self._database.url
        log.info("service runs", service=service.name, topics=list(service.consumes), store=store)
        blocking = [handler.name for handler in service.handlers if handler.signature.blocking]
        if blocking:
            told = {"service": service.name, "handlers": blocking, "threads": service.threads.most}
            log.info("blocking handlers run in threads", **told)

    async def stop(self) -> None:
        """Stop reading, let running handlers end (at most the service's `drain`), commit, and leave the group."""
        if self._polling is None:
            return
        self._stopping = True
        self._tick.set()
        self._dispatcher.drop(lambda _: True)  # at once: what has not begun shall not begin while the last poll ends
        await asyncio.gather(self._polling, return_exceptions=True)
        self._polling = None
        if self._watchdog is not None:
            self._watchdog.remove(self.service)
        if not await self._dispatcher.drain(lambda _: True, self.service.drain / SECOND):
            log.warning(
                "handlers did not end in time; their events will come again",
                service=self.service.name,
                handlers=sorted({job.route.name for job in self._dispatcher.jobs}),
            )
        await self._dispatcher.close()
        await farewell([*self._tasks, *self._delays.forget()])
        await self._resting.tell({})
        try:
            if self._consumer is not None:
                await self._partitions.commit(self._consumer)
        except ChoreoError as error:
            log.warning("offsets not committed at the end; their events will come again", error=error.message)
        await self._close_parts()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        log.info("service stopped", service=self.service.name, handled=self.counters.handled)

    async def wait(self) -> None:
        """Wait until the worker is stopped.

        Raises:
            ChoreoError: what it cannot go on without a person: a lost position, a missing topic.
        """
        assert self._ended is not None, "start the worker first"
        await asyncio.shield(self._ended)

    async def idle(self) -> bool:
        """Say whether nothing is left to do (ruling R18).

        No record waits, nothing is in flight, nothing parked is due within a second, and the outbox is empty.
        """
        consumer = self._consumer
        if consumer is None or not self._assigned or self._admitting or self._dispatcher.jobs:
            return False
        if not self._partitions.settled:
            return False
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        soon = self._clock() + SECOND
        for place in places:
            position = consumer.position(place)
            if position != ends[place] and not self._delays.later(place, position, soon):
                return False
        database, relay = self._database, self._relay
        if database is not None and relay is not None:
            if await database.read(lambda connection: parking.any_due(connection, self.parking, soon)):
                return False
            if await relay.depth():
                return False
        taking = self._house is not None and self._house.taking
        return not (self._dispatcher.jobs or self._admitting or taking) and self._partitions.settled

    async def health(self) -> Health:
        """Say whether it has joined its group, what it reaches, and how far it is behind."""
        consumer = self._consumer if self._assigned and not self._stopping else None
        stateless = self.service.store is None
        return await health_of("service", self.service.name, self._transport, consumer, self.store, stateless=stateless)

    async def _open_store(self) -> StoreCommit | StatelessCommit:
        service = self.service
        if service.store is None:
            return StatelessCommit(self._transport, self._tracing.acknowledged)
        database = self._database
        if database is None:
            given = service.store
            url = self._settings.service_store_url(service.name) if isinstance(given, Default) else given
            database = self._database = await Database.open(url, clock=self._clock, by_index=True)
        await database.ensure_schema("services", inbox.metadata, inbox.HEAD)
        left = await database.read(parking.handlers)  # it may not park any more: what it parked is not forgotten
        self.parking = [route.name for route in self._reader.routes if route.parks or route.name in left]
        tables = service.tables
        if tables is not None:
            await database.write(lambda connection: inbox.create_own(connection, tables))
        told, owner = self._tracing.acknowledged, self._owner
        relay = Relay(database, self._transport, clock=self._clock, acknowledged=told, owner=owner)
        await relay.start()
        self._relay = relay
        kept = self._settings.kept
        self._house = Housekeeping(
            database, self._reader, self._dispatcher, self.parking, self._clock, kept, service.claim
        )
        return StoreCommit(database, relay, self._execution, service.claim, self._dispatcher.followers, owner)

    async def _subscribe(self) -> Consumer:
        client = f"{self.service.name}-{os.getpid()}"
        topics = (*self.service.consumes, *self.service.retry_topics)
        return await self._transport.subscribe(self.service.name, topics, listener=self, client=client)

    async def _close_parts(self) -> None:
        if self._relay is not None:
            await self._relay.close()  # before the group is left: or the next owner's outputs overtake ours
        if self._consumer is not None:
            await self._consumer.close()
            self._consumer = None
        await self._provided.close(self.service.drain / SECOND)
        if self._database is not None and self._own_database:
            await self._database.close()
        if self._own_registry:
            await self._registry.close()

    def _watch(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("service cannot go on", service=self.service.name, error=first_line(error))
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # told above, also where nobody waits

    async def _poll(self) -> None:
        while not self._stopping:
            consumer = self._consumer
            assert consumer is not None
            # Small batches would cost as many queries as large ones. To pause and resume costs more than a moment.
            least = max(1, MOST_IN_FLIGHT // 4)
            room = await self._dispatcher.room(MOST_IN_FLIGHT, least, 0.0 if self._partitions.throttled else _POLL)
            full = room < least
            self._partitions.throttle(consumer, full=full, held=self._dispatcher.held())
            try:
                # Also without room: whoever does not poll is taken for dead. What is paused gives nothing.
                timeout = _BUSY_POLL if self._partitions.throttled else _POLL
                records = await consumer.poll(most=max(1, min(room, _BATCH)), timeout=timeout)
            except TransportError as error:
                if not error.retryable:
                    raise
                await self._reconnect(error)
                continue
            if not (records := self._delays.sift(consumer, records)):
                self._partitions.pass_over(consumer)
            else:
                self._admitting = True
                try:
                    await self._admit(records)
                finally:
                    self._admitting = False

    async def _admit(self, records: Sequence[Delivery]) -> None:
        receipts = self._partitions.read(records)
        readings = await self._reader.read_all(records, lambda: self._stopping)
        flying: Collection[Key] = ()
        known: Mapping[Key, Row] = {}
        if self._database is not None:
            flying = set(self._dispatcher.met)  # what ends while the inbox is asked may be missing in its answer
            known, parked = await look_up(
                self._database, readings, self.parking, lambda: self._stopping, self.service.name
            )
            self._dispatcher.parked |= parked
        for receipt, reading in zip(receipts, readings, strict=not self._stopping):
            if self._stopping or not self._partitions.ours(receipt):
                continue  # whoever reads on there reads it again
            receipt.left = len(reading.routes)
            if not reading.routes:
                self._counters.skipped += 1
                self._partitions.finish(receipt)
            for route in reading.routes:
                job = Job(route, reading.envelope, reading.delivery or receipt.delivery, receipt, route.stage)
                if reading.rung:
                    job.climb(reading.rung)
                if flying and job.key in flying and job.stage is Stage.RUN:
                    job.stage = Stage.LOOK
                self._admit_job(job, reading, known.get(job.key) if known else None)

    def _admit_job(self, job: Job, reading: Reading, row: Row | None) -> None:
        if row is not None:
            job.replayed = row.state == "failed" and any(name == REPLAY for name, _ in job.envelope.extra)
            verdict = judge_event(row, None, replayed=job.replayed, retried=job.retried)
            if verdict != "run":
                again = inbox.unpack(row.answer) if row.answer is not None and verdict == "duplicate" else ()
                job.result = Result("duplicates" if verdict == "duplicate" else "refused", None, again)
                job.stage = Stage.RECORD
        if job.stage is not Stage.RECORD and reading.error is not None:
            job.result, job.stage = self._execution.dead(job, reading.error), Stage.RECORD
        self._dispatcher.admit(job)

    # -- finishing ----------------------------------------------------------------------------------------------------

    def _finished(self, jobs: Sequence[tuple[Job, Kind]]) -> None:
        self._counters.add(kind for _, kind in jobs)
        for job, kind in jobs:
            if kind == "refused":
                log.info(
                    "event refused: it was undone before it came",
                    service=self.service.name,
                    handler=job.route.handler.name,
                    **ids_of(job.envelope),
                )
            if job.retried:
                self._tick.set()  # what waits behind it may be due
        self._partitions.finish(*[job.receipt for job, _ in jobs if job.receipt is not None])

    async def _commit_offsets(self) -> None:
        while True:
            await self._partitions.until_moved()
            failpoint("service.before_offsets")
            try:
                if self._consumer is not None:
                    await self._partitions.commit(self._consumer)
                    continue
            except CommitRefused:
                continue  # a rebalance is under way; whoever owns them now meets the inbox
            except ChoreoError as error:
                log.warning("offsets not committed, tried again", service=self.service.name, error=error.message)
            await asyncio.sleep(1.0)
            self._partitions.moved.set()

    # -- rebalances ---------------------------------------------------------------------------------------------------

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Finish what runs of these partitions, commit it, and forget the rest; see `Listener`."""
        await self._let_go(partitions, self.service.drain / SECOND)

    async def _let_go(self, partitions: frozenset[TopicPartition], patience: float) -> None:
        failpoint("service.in_revoke")
        self._assigned = False
        self._delays.forget()
        self._partitions.leave(partitions)
        try:
            if not await self._dispatcher.drain(of_places(partitions), self.service.drain / SECOND):
                log.warning("handlers outlast a rebalance; their events come again", service=self.service.name)
            if self._consumer is not None:
                await self._partitions.commit(self._consumer, partitions)
            if self._relay is not None:
                await self._relay.drained(patience)  # or the next owner's outputs overtake ours
        except ChoreoError as error:
            log.warning("offsets not committed before a rebalance; their events come again", error=error.message)
        finally:  # also when this is cancelled: nothing of a partition that is leaving would ever be handled again
            self._partitions.forget(partitions)

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Begin with nothing paused; see `Listener`."""
        self._partitions.assigned()
        self._assigned = True

    async def _reconnect(self, error: TransportError) -> None:
        """Join the group anew after the connection broke for good."""
        log.warning("the broker does not answer, reading waits", service=self.service.name, error=error.message)
        pause = 0.5
        while not self._stopping:
            if self._consumer is not None:
                await self._let_go(self._consumer.assignment(), 0.0)
                await self._consumer.close()
                self._consumer = None
            await asyncio.sleep(pause)
            try:
                self._consumer = await self._subscribe()
                return
            except TransportError as again:
                if not again.retryable:
                    raise
                pause = min(pause * 2, 10.0)

    # -- housekeeping -------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Look after the store, and take note of new sagas."""
        next_look = self._clock() + _DEFINITIONS_EVERY
        while not self._stopping:
            self._tick.clear()
            try:
                await self._resting.tell(self._dispatcher.resting())
                if self._house is not None:
                    await self._house.keep(self._assigned)
                if self._clock() >= next_look:
                    next_look = self._clock() + _DEFINITIONS_EVERY
                    await self._learn_definitions()
            except ChoreoError as error:
                log.warning("housekeeping waits", service=self.service.name, error=error.message)
            await happens(self._tick, _TICK)

    async def _learn_definitions(self) -> None:
        found = await self._definitions.changed()
        if found is not None:
            self._execution.learn_definitions(found)
