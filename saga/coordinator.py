"""The coordinator: reads what services say, applies it batch by batch, sends what `advance` decides.

One task polls; a batch is one database transaction; what it decided is published after the commit. Any number of
coordinators share the work as one consumer group (ruling R9); a process may be killed at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..events.catalog import announce, read_catalog
from ..events.clock import SECOND, Clock, system_clock
from ..events.codec import UnknownSchema, open_codec
from ..events.database import Database
from ..events.envelope import Delivery, Envelope, Record, TopicPartition
from ..events.errors import ChoreoError, ConfigurationError, DecodeError, EventError, StoreError
from ..events.failpoints import failpoint
from ..events.intake import Intake
from ..events.outbox import OutboxRow, Relay
from ..events.registry import SchemaRegistry, open_registry
from ..events.sending import require_topics
from ..events.settings import Settings
from ..events.transport import Transport
from ..services.health import Health, health_of
from ..tracing.spans import Tracing
from . import alerts, definitions, early, ends, lanes, loaded, operators, shard, store, ticks, timers
from .admissions import next_in
from .alerting import Alerting
from .alerts import AlertRaised
from .batch import Batch
from .commands import Sender
from .correlation import asked_of, consumed_classes
from .due import look, quiet
from .durations import Durations
from .emission import Emission
from .feed import Feed
from .knowledge import Knowledge, UnknownDefinition
from .names import parse_saga_id
from .options import Options
from .ordering import in_order
from .outcomes import COMMANDS_TOPIC, OUTCOMES, SagaEnded, ensure_topics
from .partitions import Partitions
from .positions import Positions
from .presence import Presence
from .queues import next_in_line
from .rate import Rate
from .refusals import Refused, set_aside, trouble, unreadable
from .retention import Sweeper
from .routing import FAILURES, UNKNOWN, Arrival, Routes
from .saga import Saga
from .work import Moved

log = structlog.get_logger("choreo.coordinator")

_CATALOG = 10.0
"""Seconds after which the services' announcements are read again: an undo needs to know what triggers its step."""


class Coordinator:
    """Tracks sagas, one member of the coordinators' group.

    Args:
        sagas: the saga classes to run; several versions of one type may stand side by side.
        transport: an open broker.
        database: the store; the coordinator makes its tables where they are missing.
        settings: group, namespace, registry.
        tracing: where spans go.
        clock: this process's clock; PostgreSQL's own is used where there is one.
        options: how it works.
        registry: of schemas, closed at the end; by default the settings'.
        committed: told of each transaction after its commit: what it sends, and what moved.
        owner: names this process in the ids of what it writes, at most 12 characters; by default at random.
    """

    def __init__(
        self,
        sagas: Sequence[type[Saga]],
        *,
        transport: Transport,
        database: Database,
        settings: Settings,
        tracing: Tracing | None = None,
        clock: Clock = system_clock,
        options: Options | None = None,
        registry: SchemaRegistry | None = None,
        committed: Callable[[Sequence[OutboxRow], Sequence[Moved]], None] | None = None,
        owner: str | None = None,
    ) -> None:
        if not sagas:
            raise ConfigurationError("a coordinator needs at least one saga")
        self._loaded = definitions.load(cls.declaration() for cls in sagas)
        self._transport = transport
        self._database = database
        self._settings = settings
        self._tracing = tracing if tracing is not None else Tracing(namespace=settings.namespace)
        self._options = options if options is not None else Options()
        self._registry = registry or open_registry(settings, transport)
        self._codec = open_codec(self._registry, settings)
        self._intake = Intake(consumed_classes(self._loaded.values()), self._codec)
        self._asked = asked_of(definitions.newest(self._loaded))
        self._relay = Relay(database, transport, clock=clock, owner=owner)
        self._emission = Emission(self._tracing, settings.slow)
        self._committed = committed
        self._durations = Durations(database)
        self._lanes = lanes.MOST[database.dialect]
        self._most = self._options.batch * self._lanes
        self._positions = Positions(database, settings.group, self._since, self._options.gap, self._most)
        self._barrier = self._positions.barrier
        self._shard = shard.Shard.read(settings.shard)
        self._rate = Rate(self._options.undo_rate)
        told = self._options.alerts and not all(each.definition.observe_only for each in self._loaded.values())
        self._alerting = Alerting(
            database, transport, self._relay, self._codec, self.group, settings.kept, self._options.stuck, on=told
        )
        self._stopping = asyncio.Event()
        self._partitions = Partitions(database, transport)
        self._begins: dict[str, int] = {}
        self._client = loaded.client_name(owner)
        self._presence = Presence(
            database, transport, self.group, self._client, lambda: self.partitions, lambda: self._knowledge.catalog
        )
        self._task: asyncio.Task[None] | None = None
        self._caught_up = False
        self._joined = False
        self.batches = self.events = 0

    @property
    def group(self) -> str:
        """Its consumer group."""
        return self._settings.group

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The partitions that it reads now."""
        return frozenset(self._positions.processed)

    # ---- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the tables, register and announce the definitions, join the group, and begin.

        Raises:
            ChoreoError: one clear line: a topic is missing, a definition changed, the store is of another release.
        """
        await shard.prepare(self._database, self._shard, self._loaded.values())
        members = (await self._transport.group(self.group)).members
        await self._database.write(
            lambda c: loaded.join(c, self.group, self._client, self._loaded, members, self._database.now(c))
        )
        self._joined = True
        await self._relay.start()
        sent = [d.events[type_] for d in self._loaded.values() for type_ in sorted({*d.builds, *d.definition.start})]
        await self._codec.prepare([*sent, *OUTCOMES.values(), SagaEnded, AlertRaised])
        known, self._begins = await self._database.write(
            lambda connection: definitions.register(connection, self._loaded, self._database.now(connection))
        )
        self._sweeper = Sweeper(self._database, self._settings.kept, self._begins, self._partitions.look)
        own = [declaration.definition for declaration in self._loaded.values()]
        self._behind = await self._database.read(lambda c: loaded.left_behind(c, self.group, known, self._loaded))
        await announce(self._transport, *definitions.announcements(own, self._settings.namespace))
        self._knowledge = Knowledge(
            declarations=self._loaded,
            newest=definitions.newest(self._loaded),
            definitions=known,
            catalog=await read_catalog(self._transport),
            codec=self._codec,
            sampled=self._emission.samples,
            sender=Sender(self._settings.namespace),
            rotation=self._options.rotation,
            emits=self._tracing.emits,
        )
        await ensure_topics(self._transport)
        await require_topics(self._transport, definitions.topics(own))
        consumed = {topic for d in (*own, *self._behind) for topic in d.consumed_topics}
        self._topics = await self._partitions.begin({FAILURES, COMMANDS_TOPIC, *consumed})
        self._catalog_until = asyncio.get_running_loop().time() + _CATALOG
        self._route()
        options = replace(self._options, batch=self._most)
        self._feed = Feed(self._transport, self.group, self._topics, self._positions, options, client=self._client)
        await self._feed.open()
        await self._emission.learn(self._database)
        await self._emission.emit_left_over(self._database, known)
        self._task = asyncio.create_task(self._run(), name="choreo-coordinator")
        self._alerting.begin(self._topics)
        if self._options.presence:
            self._presence.begin()

    async def wait(self) -> None:
        """Wait until it stops.

        Raises:
            ChoreoError: it cannot go on without a person.
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    async def stop(self, *, drain: float = 10.0) -> None:
        """Finish the batch, leave the group, publish what is pending for at most `drain` seconds."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            await self._alerting.close()
            await self._presence.close()
            await self._positions.commit()
            await self._feed.close()
        if self._joined:
            await self._try(lambda connection: loaded.leave(connection, self.group, self._client))
        await self._relay.close(drain=drain)
        ended = self._emission.take_ended()
        if ended:
            await self._try(lambda connection: store.mark_traced(connection, ended))
        if self._durations.waiting:
            await self._try(self._durations.write)
        await self._registry.close()

    async def _try(self, work: Callable[[Connection], None]) -> None:
        try:
            await self._database.write(work)
        except ChoreoError:
            pass  # spans are emitted once more, identical; what was loaded is taken out by the others

    async def idle(self) -> bool:
        """Tell whether nothing is left to do: all read, all sent, no timer due within a second (ruling R18)."""
        if not await self.caught_up() or await self._alerting.owes():
            return False
        return await self._database.read(lambda c: quiet(c, self._database.now(c) + SECOND, self._knowledge))

    async def caught_up(self) -> bool:
        """Tell whether everything was read and everything decided so far was published."""
        return self._caught_up and not await self._positions.lag() and await self._relay.depth() == 0

    async def health(self) -> Health:
        """Say whether it has joined its group, what it reaches, and how far it is behind."""
        consumer = None if self._stopping.is_set() else self._positions.member
        database, done = self._database, self._positions.processed
        return await health_of("coordinator", self.group, self._transport, consumer, database, processed=done)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = 0.0
        while not self._stopping.is_set():
            try:
                await self._positions.settle()
                await self._feed.fill()
                async with self._positions.busy:
                    if not self._positions.settled:
                        continue
                    deliveries = self._feed.take()
                    if deliveries:
                        await self._process(deliveries)
                    self._positions.pass_over()
                    self._caught_up = not deliveries
                    if loop.time() >= next_tick or not deliveries:
                        await self._tick()
                        next_tick = loop.time() + self._options.tick
            except (ChoreoError, DBAPIError) as error:
                if isinstance(error, ChoreoError) and not error.retryable:
                    raise
                log.warning("the coordinator waits", error=trouble(error))
                self._positions.rewind()
                await asyncio.sleep(0.5)

    # ---- events ------------------------------------------------------------------------------------------------

    async def _process(self, deliveries: Sequence[Delivery]) -> None:
        refused: list[Refused] = []
        readable: list[tuple[Delivery, Envelope]] = []
        for delivery, taken in await self._intake.read_all(deliveries):
            if isinstance(taken, Envelope):
                readable.append((delivery, taken))
            else:
                refused.append(unreadable(delivery, taken))
        ordered = in_order(readable)
        if any(delivery.topic == FAILURES for delivery, _ in ordered):
            await self._refresh_catalog()  # a report is read by it: its service may have announced itself just now
        arrivals, unrouted = await self._routed_all(ordered)
        # What nobody knew when this process started may belong to a version that another one has registered since.
        if any(arrival.reason == UNKNOWN for arrival in arrivals) and await self._refresh_definitions():
            arrivals, unrouted = await self._routed_all(ordered)
        arrivals, refused = self._shard.own(arrivals, [*refused, *unrouted])
        ends = {(delivery.topic, delivery.partition): delivery.offset + 1 for delivery in deliveries}
        batch = lanes.Lane(arrivals, refused, {TopicPartition(*place): end for place, end in ends.items()})
        await lanes.apply_all(lanes.divided(batch, self._lanes), self._apply)
        self.events += len(deliveries)
        self._presence.decided(deliveries[0])

    async def _routed_all(self, ordered: Iterable[tuple[Delivery, Envelope]]) -> tuple[list[Arrival], list[Refused]]:
        arrivals: list[Arrival] = []
        refused: list[Refused] = []
        route, codec, catalog = self._routes.route, self._codec, self._knowledge.catalog
        for delivery, envelope in ordered:
            try:
                try:
                    arrivals.append(route(delivery, envelope, codec, catalog))
                except UnknownSchema:
                    arrivals.append(await self._routed(delivery, envelope))
            except EventError as error:
                refused.append(unreadable(delivery, error, envelope))
        return arrivals, refused

    async def _routed(self, delivery: Delivery, envelope: Envelope) -> Arrival:
        while True:
            try:
                return self._routes.route(delivery, envelope, self._codec, self._knowledge.catalog)
            except UnknownSchema as error:
                await self._codec.learn(error.schema_id)

    async def _apply(self, lane: lanes.Lane) -> None:
        def work(batch: Batch) -> None:
            batch.load(lane.arrivals)
            for arrival in lane.arrivals:
                batch.arrive(arrival)
            batch.refused.extend(lane.refused)
            batch.alerts.extend(alerts.of_reports(lane.arrivals, batch.now))
            store.save_positions(batch.connection, self.group, lane.read, self._barrier.until())

        await self._transact(work)
        self._positions.advance(lane.read)

    async def _transact(self, work: Callable[[Batch], None]) -> None:
        """Run one transaction; a schema that is not known yet is fetched and the transaction made again."""
        failpoint("coordinator.before_transaction")
        ended = self._emission.take_ended()
        while True:
            try:
                rows, moves, noted = await self._database.write(
                    lambda connection: self._within(connection, work, ended)
                )
                break
            except UnknownSchema as error:
                await self._learn(error.schema_id)
            except store.LostRace:
                continue
            except UnknownDefinition as error:
                await self._refresh_definitions()
                if error.key not in self._knowledge.definitions:
                    raise StoreError(f"the store lacks the definition of a saga that it holds: {error}") from None
            except BaseException:
                self._emission.ended[:0] = ended
                raise
        failpoint("coordinator.after_commit")
        self.batches += 1
        self._relay.publish(rows)
        self._alerting.committed(noted)
        self._emission.emit(moves)
        if self._committed is not None:
            self._committed(rows, moves)
        self._durations.note(moves)

    def _within(
        self, connection: Connection, work: Callable[[Batch], None], ended: Sequence[str]
    ) -> tuple[list[OutboxRow], list[Moved], bool]:
        failpoint("coordinator.in_transaction")
        self._relay.settle(connection)
        store.mark_traced(connection, ended)
        now = self._database.now(connection)
        batch = Batch(connection, self._knowledge, now)
        work(batch)
        for refused in batch.refused:
            batch.records.append(set_aside(refused, now, self._knowledge.secrets(refused.arrival.delivery.topic)))
        moves = batch.write()
        noted = self._alerting.note(batch, moves)
        records = [*self._released(connection, batch), *ends.told(self._knowledge.sender, self._codec, moves)]
        rows = self._relay.put(connection, records)
        failpoint("coordinator.before_commit")
        return rows, moves, noted

    def _released(self, connection: Connection, batch: Batch) -> list[Record]:
        """Keep the commands, and hold back the undos that are above the rate or stopped."""
        if not batch.held:
            return batch.records
        undos = [command for command in batch.held if command.kind == "undo"]
        if undos and timers.stopped(connection):
            release_at = {command.id: operators.FAR for command in undos}
        else:
            release_at = self._rate.hold_back([command.id for command in undos], batch.now)
        store.put_sent(connection, batch.held, batch.now, release_at)
        return [*batch.records, *(command.record for command in batch.held if command.id not in release_at)]

    # ---- time and people ---------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Look at timers, commands, held undos and parked events; write only where there is something to do."""
        due = await self._database.read(lambda c: look(c, self._database.now(c), self._knowledge))
        await self._positions.raise_barrier(due.now)
        if due.paused:
            await self._transact(loaded.release)
        if due.fires:
            await self._partitions.look(due.now)  # what came to a partition that is new must have been read as well
            await self._transact(self._fire)
        if due.asked:
            await self._transact(operators.obey)
        await self._sweeper.step(due.now, lambda connection: min(self._until(connection).values(), default=0))
        await self._durations.step(due.now)
        await self._positions.commit()
        if asyncio.get_running_loop().time() >= self._catalog_until:
            await self._refresh_catalog()

    def _fire(self, batch: Batch) -> None:
        connection, now, unloaded = batch.connection, batch.now, self._knowledge.unloaded
        store.save_positions(connection, self.group, self._positions.processed, self._barrier.until())
        until = self._until(connection)
        readable = min(until.values(), default=0)
        held = timers.held(connection)
        if held and not timers.overdue(connection, now, unloaded):
            log.info("nobody is past a limit any more: limits are not held any longer")
            timers.let_through(connection, now, "breaker")
            held = False
        if not held and (over := timers.mass_timeout(connection, min(now, readable), self._options.breaker, unloaded)):
            log.error(
                "too many sagas pass a limit at once: timers are held until somebody says `saga resume`", sagas=over
            )
            batch.alerts.append(alerts.breaker(self.group, timers.released_until(connection), over, now))
            timers.hold(connection, now, over)
            held = True
        answered = self._partitions.answered(self._knowledge.definition, until)
        stopped = timers.stopped(connection)
        due = timers.due(connection, now, answered, held=held, stopped=stopped, unloaded=unloaded)
        rooms = [parse_saga_id(each) for each in next_in(connection, self._knowledge.limits)]
        turns = [parse_saga_id(each.saga_id) for each in next_in_line(connection, self._knowledge.locking)]
        # All at once: sagas are locked in the order of their names, whatever is done with them.
        names = (*turns, *rooms)
        batch.load_keys([*((instance.type, instance.key) for instance, _ in due), *((t.type, t.key) for t in names)])
        batch.give_turns(turns, rooms)  # first: who has waited too long may have waited for us
        batch.elapse(due)
        batch.records.extend(store.release(connection, now, self._options.undo_rate))
        batch.records.extend(ticks.fire(connection, self._knowledge.newest, self._codec, now))
        for row in early.expired(connection, min(now, readable)):
            batch.count_expired(row)

    def _until(self, connection: Connection) -> dict[TopicPartition, int]:
        """Until when each partition was read, by us or by another coordinator."""
        saved = {place: read for place, (_, read) in store.load_positions(connection, self.group).items()}
        return self._partitions.until(self._topics, saved, self._barrier.until())

    # ---- small pieces ------------------------------------------------------------------------------------------

    def _since(self, topic: str) -> int:
        """Where the history of a topic begins, microseconds: the earliest of the definitions that read it."""
        reading = [*(declaration.definition for declaration in self._loaded.values()), *self._behind]
        return min((self._begins[each.type] for each in reading if topic in each.consumed_topics), default=0)

    async def _learn(self, schema_id: int) -> None:
        """Fetch a schema that a command needs; where there is none, that command cannot be built."""
        try:
            await self._codec.learn(schema_id)
        except DecodeError:
            self._knowledge.unreadable.add(schema_id)

    def _route(self) -> None:
        types = {type_ for type_, _ in self._loaded} | {each.type for each in self._behind}
        known = self._knowledge.definitions.values()
        new = {type_: each.definition for type_, each in self._knowledge.newest.items()}
        locks = {type_: each.lock for type_, each in new.items() if each.lock is not None and not each.observe_only}
        own = [each for each in known if each.type in types]
        self._routes = Routes(own, self._begins, locks, self._asked)

    async def _refresh_definitions(self) -> bool:
        """Learn of versions that other coordinators have registered; tell whether there are any."""
        known = self._knowledge.definitions
        found = await self._database.read(lambda connection: definitions.registered_since(connection, known))
        if found is None:
            return False
        self._knowledge = replace(self._knowledge, definitions={**found, **known})
        self._route()
        return True

    async def _refresh_catalog(self) -> None:
        self._knowledge = replace(self._knowledge, catalog=await read_catalog(self._transport))
        members = (await self._transport.group(self.group)).members
        await self._database.write(lambda c: loaded.prune(c, self.group, members, self._database.now(c)))
        await self._emission.learn(self._database)
        await self._partitions.look()
        self._catalog_until = asyncio.get_running_loop().time() + _CATALOG
