"""Everything that a test plays with, in one event loop on virtual time: broker, stores, coordinator, workers.

The parts are those of production; only the clock, the stores' driver and where ids and jitter come from are replaced.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import TypeVar

from sqlalchemy import Connection, func, select

from ...events.clock import SECOND, Clock, to_datetime
from ...events.codec import UnknownSchema, open_codec
from ...events.database import Database
from ...events.envelope import Delivery, Envelope, Record, read_envelope
from ...events.errors import Refused
from ...events.event import Event
from ...events.ids import uuid7
from ...events.memory import MemoryBroker
from ...events.publisher import Publisher
from ...events.registry import open_registry
from ...events.settings import Settings
from ...services.announce import announce
from ...services.inbox import parked as parked_by_service
from ...services.provided import Overrides, of_service
from ...services.worker import Worker
from .. import admissions, operators, queries, queues, ticks, timers
from ..coordinator import Coordinator
from ..loading import Parts
from ..options import Options
from ..tables import HEAD, metadata, parked, saga, sent
from ..words import Condition, Phase, StepState
from .keys import TEST_KEYS
from .loop import VirtualLoop, earliest
from .stores import open_memory
from .views import DeadLetter, Published, SagaView, read_dead_letter, saga_view

E = TypeVar("E", bound=Event)

_LOOK = 0.001
"""Seconds between the coordinator's looks: an operator's command takes as long."""
_PATIENCE = 2 * SECOND
"""How long something may be overdue until it is taken for held: longer than any part's pause between two looks."""


class World:
    """The parts on one loop; every coroutine of it runs there.

    Args:
        parts: services and sagas.
        loop: the loop.
        seed: decides every id and every jitter.
    """

    def __init__(self, parts: Parts, loop: VirtualLoop, seed: int, overrides: Overrides) -> None:
        self._parts = parts
        self._overrides = overrides
        self._loop = loop
        self._ids = Random(f"{seed}/ids")
        self._jitter = Random(f"{seed}/jitter")
        self._settings = Settings.model_construct(broker="memory:", keys=TEST_KEYS)  # of no environment and no file
        self._broker = _Recorder(loop.clock)
        self._classes = {cls.spec().type: cls for cls in event_classes(parts)}
        self._stack = AsyncExitStack()
        self._parking: list[Database] = []
        self._read = 0
        self._published: list[Published] = []
        self._commands: dict[str, dict[str, str]] = {}
        self._waits: list[asyncio.Task[None]] = []
        self._stops: list[Callable[[], Awaitable[None]]] = []

    # ---- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part, and wait until each has its partitions.

        Raises:
            ChoreoError: a part cannot start.
        """
        broker, stack = self._broker, self._stack
        await stack.enter_async_context(broker)
        await broker.create_topics(self._parts.topics())
        self._codec = open_codec(open_registry(self._settings, broker), self._settings)
        self._publisher = await stack.enter_async_context(
            Publisher(broker, source="test", settings=self._settings, clock=self._loop.clock)
        )
        for service in self._parts.services:
            await announce(service, broker)
        self._store = await self._open()
        await self._store.ensure_schema("saga", metadata, HEAD)
        if self._parts.sagas:
            await self._start_coordinator()
        for service in self._parts.services:
            database = await self._open() if service.store is not None else None
            worker = Worker(
                service,
                broker,
                settings=self._settings,
                database=database,
                clock=self._loop.clock,
                randomness=self._jitter.random,
                overrides=of_service(service, self._overrides),
            )
            await worker.start()
            self._stops.append(worker.stop)
            self._waits.append(asyncio.create_task(worker.wait()))
            if database is not None and any(handler.exhausted == "park" for handler in service.handlers):
                self._parking.append(database)
        await self._loop.settled()
        self._check()
        self._loop.watch()

    async def _start_coordinator(self) -> None:
        coordinator = Coordinator(
            self._parts.sagas,
            transport=self._broker,
            database=self._store,
            settings=self._settings,
            clock=self._loop.clock,
            options=Options(poll=_LOOK, linger=0.0, tick=_LOOK),
        )
        await coordinator.start()
        self._stops.append(coordinator.stop)
        self._waits.append(asyncio.create_task(coordinator.wait()))

    async def _open(self) -> Database:
        database = open_memory(self._loop.clock)
        self._stack.push_async_callback(database.close)
        return database

    async def stop(self) -> None:
        """Stop every part."""
        for task in self._waits:
            task.cancel()
        await asyncio.gather(*self._waits, return_exceptions=True)
        await asyncio.gather(*(stop() for stop in self._stops))
        await self._stack.aclose()

    def _check(self) -> None:
        for task in self._waits:
            if task.done():
                task.result()

    # ---- time --------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Give the time, microseconds since the epoch."""
        return self._loop.clock()

    async def settle(self) -> None:
        """Run until nothing is left to do at the present time."""
        started, pause = self._loop.clock(), SECOND // 1_000
        while True:
            await self._loop.settled()
            self._check()
            now = self._loop.clock()
            if now - started > _PATIENCE or not await self._overdue():
                return
            # Whoever has to do it looks again in a moment, but nobody's sleep may be passed over.
            self._loop.move(earliest((now + pause, self._loop.next_due())) or now)
            pause *= 2

    async def advance(self, to: int) -> None:
        """Let time go on to `to`, from one thing that is due to the next."""
        await self.settle()
        while (due := await self._next_due()) is not None and due <= to:
            self._loop.move(due)
            await self.settle()
        self._loop.move(to)
        await self.settle()

    async def run(self, until: int) -> bool:
        """Let time go on until no saga goes on by itself; False when that is not so at `until`.

        Where no saga has begun, until nothing is due any more.
        """
        while True:
            await self.settle()
            if await self._store.read(all_at_rest):
                return True
            due = await self._next_due()
            if due is None:
                return True
            if due > until:
                return False
            self._loop.move(due)

    async def _next_due(self) -> int | None:
        return earliest([self._loop.next_due(), await self._due_after(self._loop.clock())])

    async def _overdue(self) -> bool:
        now = self._loop.clock()
        known = [cls.definition() for cls in self._parts.sagas]
        versions = {(each.type, each.version) for each in known}
        limits = {each.type: each.max_open for each in sorted(known, key=lambda each: each.version)}
        if await self._store.read(lambda c: operators.any_pending(c) or queues.any_in_line(c, versions)):
            return True
        if await self._store.read(lambda c: admissions.any_in_line(c, limits)):
            return True
        due = await self._due_after(-1)
        return due is not None and due <= now

    async def _due_after(self, time: int) -> int | None:
        """Give the earliest time after `time` at which a store has something due."""
        found = [await self._store.read(lambda connection: saga_due(connection, time))]
        for database in self._parking:
            asked = asyncio.create_task(database.read(lambda connection: parked_due(connection, time)))
            # A handler that sleeps in its transaction holds the store: its own timer comes first then.
            await self._loop.settled()
            if asked.done():
                found.append(asked.result())
            asked.cancel()
        return earliest(found)

    # ---- doing -------------------------------------------------------------------------------------------------

    async def publish(self, events: Sequence[Event], id_: str | None) -> list[str]:
        """Publish events in order; give their ids."""
        ids = [id_ or self._new_id() for _ in events]
        for event, each in zip(events, ids, strict=True):
            self._classes.setdefault(event.spec().type, type(event))
            await self._publisher.publish(event, id=each)
        return ids

    async def ask(self, kind: str, saga_id: str | None, reason: str, by: str, **arguments: object) -> str:
        """Ask what a person may ask, and give the answer.

        Raises:
            Refused: with the coordinator's reason.
        """
        id_, at = self._new_id(), self._loop.clock()

        def write(connection: Connection) -> None:
            operators.ask(connection, kind, saga_id=saga_id, by=by, reason=reason, id=id_, at=at, **arguments)

        await self._store.write(write)
        await self.settle()
        told = await self._store.read(lambda connection: operators.answer(connection, id_))
        if told.state == operators.REFUSED:
            raise Refused(told.result)
        return told.result

    def _new_id(self) -> str:
        return uuid7(self._loop.clock() // 1_000, self._ids.randbytes(10))

    # ---- looking -----------------------------------------------------------------------------------------------

    async def view(self, name: str) -> SagaView:
        """Look at a saga.

        Raises:
            SagaNotFound: there is none; what comes near is named.
        """
        id_ = await self._store.read(lambda connection: queries.resolve(connection, name))
        found = await self._store.read(lambda connection: queries.load(connection, id_))
        entries = await self._store.read(lambda connection: queries.read_history(connection, id_))
        await self._read_log()
        return saga_view(found.instance, entries, list(self._commands.get(id_, {}).values()))

    async def sagas(self) -> list[SagaView]:
        """Look at every saga, in the order in which they began."""
        query = select(saga.c.id).order_by(saga.c.started_at, saga.c.id)
        ids = await self._store.read(lambda connection: connection.execute(query).scalars().all())
        return [await self.view(id_) for id_ in ids]

    async def published(self) -> list[Published]:
        """List every event that was published, in order; news of failures and dead letters are not among them."""
        await self._read_log()
        return list(self._published)

    async def dead_letters(self) -> list[DeadLetter]:
        """List the dead letters of every topic, in order."""
        return [read_dead_letter(delivery) for delivery in self._broker.log if delivery.topic.endswith(".dlq")]

    async def _read_log(self) -> None:
        """Read what was sent since the last call."""
        for delivery in itertools.islice(self._broker.log, self._read, None):
            self._read += 1
            envelope = read_envelope(delivery)
            cls = self._classes.get(envelope.type)
            if cls is None or delivery.topic != cls.spec().topic:
                continue
            event = await self._decode(cls, delivery, envelope)
            name = saga_of(envelope)
            at = to_datetime(delivery.timestamp * 1_000)
            self._published.append(Published(event, envelope.id, envelope.source, at, name))
            if name is not None and envelope.saga_attempt is not None and envelope.source == coordinator_of(envelope):
                self._commands.setdefault(name, {})[envelope.id] = envelope.type

    async def _decode(self, cls: type[E], delivery: Delivery, envelope: Envelope) -> E:
        while True:
            try:
                return self._codec.decode(cls, delivery.value or b"", envelope.content_type, id_=envelope.id)
            except UnknownSchema as error:
                await self._codec.learn(error.schema_id)


class _Recorder(MemoryBroker):
    """A broker that remembers what was sent, over all topics, in order."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._now = clock
        self.log: list[Delivery] = []

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`."""
        await super().send(records)
        now = self._now() // 1_000
        for each in records:
            self.log.append(Delivery(each.topic, 0, len(self.log), now, each.key, each.value, tuple(each.headers)))


def event_classes(parts: Parts) -> list[type[Event]]:
    """List every event class that these parts name."""
    found: dict[type[Event], None] = {}
    for cls in parts.sagas:
        found.update(dict.fromkeys(cls.declaration().events.values()))
    for service in parts.services:
        for handler in service.handlers:
            found.update(dict.fromkeys((*handler.events, *handler.signature.produces)))
    return list(found)


def coordinator_of(envelope: Envelope) -> str:
    """Name the source of what the saga sends that an event belongs to."""
    return f"choreo/{envelope.saga_type}"


def saga_of(envelope: Envelope) -> str | None:
    """Name the saga, with its run, that an event belongs to by its headers."""
    if envelope.saga_id is None:
        return None
    return envelope.saga_id if (envelope.saga_run or 1) == 1 else f"{envelope.saga_id}~{envelope.saga_run}"


def parked_due(connection: Connection, after: int) -> int | None:
    """When a parked event is tried next."""
    query = select(func.min(parked_by_service.c.due_at)).where(parked_by_service.c.due_at > after)
    return connection.execute(query).scalar()


def saga_due(connection: Connection, after: int) -> int | None:
    """When a saga's timer, a held undo, an event without a saga or a schedule is due; what a person holds is not."""
    due = select(func.min(saga.c.next_due)).where(saga.c.next_due > after)
    if timers.held(connection):
        due = due.where(saga.c.phase != Phase.RUNNING.value)
    if timers.stopped(connection):
        due = due.where(saga.c.phase != Phase.COMPENSATING.value)
    release = select(func.min(sent.c.release_at)).where(sent.c.release_at > after, sent.c.release_at < operators.FAR)
    expiry = select(func.min(parked.c.expires_at)).where(parked.c.expires_at > after)
    found = [connection.execute(query).scalar() for query in (due, release, expiry)]
    return earliest([*found, ticks.next_due(connection, after)])


def all_at_rest(connection: Connection) -> bool:
    """Whether sagas have begun, and each has ended or only waits for a person."""
    open_ = connection.execute(select(saga.c.id).where(saga.c.phase.in_(queries.OPEN))).scalars().all()
    for definition, instance, _ in queries.states(connection, open_).values():
        if Condition.WAITING_FOR_PERSON not in instance.conditions:
            return False
        plans = {plan.name for plan in definition.steps if plan.approval is not None}
        asked = [name for name in plans if instance.steps[name].state is StepState.WAITING]
        # The limit of an approval, and the deadline of a saga that waits for one, are somebody's time to answer.
        due = [at for name, step in instance.steps.items() if name not in asked for at in step.timers()]
        if due or (not asked and instance.next_due is not None):
            return False
    return connection.execute(select(saga.c.id).limit(1)).first() is not None
