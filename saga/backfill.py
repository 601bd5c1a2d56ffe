"""Feed past events through a saga that only watches, with time taken from the events (ruling R16).

The store's clock plays no part: before an event, the saga's timers that were due at or before its time fire, each at
its own time, and the end of the input does the same for every saga. So deadlines and durations of the past are judged
as they were. All else is a coordinator's: the same transactions, the same duplicates dropped by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection, select

from ..events.codec import Codec, UnknownSchema
from ..events.database import Database
from ..events.errors import DecodeError, EventError
from ..events.errors import Refused as NotAllowed
from . import definitions, store
from .batch import Batch
from .bygone import PastEvent
from .commands import Sender
from .correlation import asked_of, reader
from .declaration import Declaration
from .durations import Durations, record
from .inputs import Elapsed
from .instance import Instance
from .knowledge import Knowledge
from .pace import LEAST, Stretch, Usual
from .refusals import Refused, unreadable
from .routing import Arrival, Routes
from .tables import HEAD, metadata, saga
from .usual import pace_of
from .work import Work

_CHUNK = 500


@dataclass
class Judged:
    """Durations, each judged by those that had ended well before it: how many, and how many were longer than usual."""

    size: int = 0
    p95: int = 0
    p99: int = 0


@dataclass
class Tracked:
    """What became of past events.

    Args:
        events: that were fed.
        applied: inputs that changed a saga, timers among them.
        already: events that the sagas had seen before.
        began, end: times of the first and the last event, microseconds; 0 without any.
        refused: the first events that could not be applied, with the reason.
        refused_count: how many there were.
        judged: by what takes time, how many durations were slow when they ended.
    """

    events: int = 0
    applied: int = 0
    already: int = 0
    began: int = 0
    end: int = 0
    refused: list[str] = field(default_factory=list)
    refused_count: int = 0
    judged: dict[Stretch, Judged] = field(default_factory=dict)


class Backfill:
    """Feeds past events through one saga.

    Args:
        declaration: of the saga; whatever it says, it only observes here.
        database: the store; tables that it lacks are made.
        codec: reads what the events hold, where a key or a function asks.
        most_refused: how many events that could not be applied are listed.
    """

    def __init__(self, declaration: Declaration, database: Database, codec: Codec, *, most_refused: int = 20) -> None:
        self._declaration = declaration.observing()
        self._database = database
        self._codec = codec
        self._most_refused = most_refused
        self._pace: dict[Stretch, Usual] = {}
        self.tracked = Tracked()

    async def prepare(self) -> None:
        """Make the tables and register the definition.

        Raises:
            Refused: sagas of this type are live in this store: what is open at the end of the past would be undone.
            DefinitionError: its version is registered with another content.
        """
        definition = self._declaration.definition
        await self._database.ensure_schema("saga", metadata, HEAD)
        known = await self._database.read(store.stored_definitions)
        live = [each for each, _, _ in known.values() if each.type == definition.type and not each.observe_only]
        if live:
            raise NotAllowed(
                f"{definition.type} is live in {self._database.url}: a past order that is still open would be undone; "
                "track into a store of its own (--store), or with --dry-run"
            )
        own = {(definition.type, definition.version): self._declaration}
        registered, _ = await self._database.write(
            lambda connection: definitions.register(connection, own, self._database.now(connection))
        )
        self._knowledge = Knowledge(
            declarations=own,
            newest=definitions.newest(own),
            definitions=registered,
            catalog={},
            codec=self._codec,
            sampled=lambda saga_id, origin: False,
            sender=Sender(""),
            emits=False,  # the past has no spans: nobody shall emit them later
        )
        known_here = [each for each in registered.values() if each.type == definition.type]
        asked = asked_of({definition.type: self._declaration})
        self._routes = Routes(known_here, {definition.type: 0}, {}, asked)
        self._read = reader(self._codec, asked)
        self._pace.update(await self._database.read(lambda connection: pace_of(connection, definition.type)))

    async def feed(self, events: Iterable[PastEvent], on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Apply events in the order in which they are given, which is that of their times, then flush.

        Args:
            events: of the past.
            on_progress: told after each transaction how many were fed.
        """
        waiting = iter(events)
        while chunk := list(islice(waiting, _CHUNK)):
            arrivals: list[Arrival] = []
            for each in chunk:
                self.tracked.began = self.tracked.began or each.envelope.time
                self.tracked.end = max(self.tracked.end, each.envelope.time)
                arrivals.append(await self._routed(each))
            await self._transact(lambda batch, arrivals=arrivals: batch.replay(arrivals))  # type: ignore[misc]
            self.tracked.events += len(chunk)
            on_progress(self.tracked.events)
        while await self._transact(self._flush):
            pass

    def _flush(self, batch: _Chunk) -> bool:
        """Fire what was due by the end of the input; tell whether there was anything."""
        due = select(saga.c.type, saga.c.key).where(saga.c.type == self._declaration.definition.type)
        due = due.where(saga.c.next_due <= self.tracked.end).order_by(saga.c.id).limit(_CHUNK)
        keys = [(type_, key) for type_, key in batch.connection.execute(due)]
        batch.load_keys(keys)
        return batch.catch_up(keys, self.tracked.end)

    async def _transact(self, work: Callable[[_Chunk], bool]) -> bool:
        while True:
            try:
                batch, more = await self._database.write(lambda connection: self._within(connection, work))
                break
            except UnknownSchema as error:
                try:
                    await self._codec.learn(error.schema_id)
                except DecodeError:
                    self._knowledge.unreadable.add(error.schema_id)
            except store.LostRace:
                continue
        self._judge(batch)
        self.tracked.applied += batch.applied
        self.tracked.already += batch.already
        for refused in batch.refused:
            self._refuse(refused)
        return more

    def _within(self, connection: Connection, work: Callable[[_Chunk], bool]) -> tuple[_Chunk, bool]:
        batch = _Chunk(connection, self._knowledge, 0)
        more = work(batch)
        moves = batch.write()
        durations = Durations(self._database)
        durations.note(moves)
        batch.took = [(slot.stretch, took) for slot, all_ in durations.collected.items() for took in all_]
        batch.usual = record(connection, durations.collected)
        return batch, more

    def _judge(self, batch: _Chunk) -> None:
        """Judge what took time by what had ended before it, as a coordinator would have."""
        for stretch, took in batch.took:
            usual = self._pace.get(stretch)
            if usual is None or usual.size < LEAST:
                continue
            judged, beyond = self.tracked.judged.setdefault(stretch, Judged()), usual.beyond(took)
            judged.size += 1
            judged.p95 += beyond is not None
            judged.p99 += beyond == "P99"
        self._pace.update({stretch: usual for (_, stretch), usual in batch.usual.items()})

    async def _routed(self, event: PastEvent) -> Arrival:
        while True:
            try:
                return self._routes.observe(event.delivery, event.envelope, self._read)
            except UnknownSchema as error:
                await self._codec.learn(error.schema_id)
            except EventError as error:
                return unreadable(event.delivery, error, event.envelope).arrival

    def _refuse(self, refused: Refused) -> None:
        self.tracked.refused_count += 1
        if len(self.tracked.refused) < self._most_refused:
            envelope = refused.arrival.envelope
            self.tracked.refused.append(f"{envelope.type} {envelope.id}: {refused.reason}")


@dataclass
class _Chunk(Batch):
    """A transaction whose clock is that of each event."""

    already: int = 0
    took: list[tuple[Stretch, int]] = field(default_factory=list)
    usual: Mapping[tuple[str, Stretch], Usual] = field(default_factory=dict)

    def replay(self, arrivals: Sequence[Arrival]) -> bool:
        """Apply events, each at its own time, behind the timers that were due by then."""
        self.load(arrivals)
        for arrival in arrivals:
            keys = [(target.type, target.key) for target in arrival.targets]
            works = [work for key in keys for work in self._runs.get(key, {}).values()]
            if any((work.instance.id, arrival.input.id) in self._seen for work in works):
                self.already += 1
                continue
            self.catch_up(keys, arrival.envelope.time)
            # An event that is older than what the saga has come to changes nothing of when that was.
            self.now = max([arrival.envelope.time, *(_latest(work.instance) for work in works)])
            self.arrive(arrival)
        return False

    def catch_up(self, keys: Iterable[tuple[str, str]], until: int) -> bool:
        """Fire the timers of these sagas that were due by then, each at its time; tell whether there were any."""
        fired = False
        for key in keys:
            for work in list(self._runs.get(key, {}).values()):
                while (due := work.instance.next_due) is not None and due <= until:
                    self.now = due
                    if not self._fires(work, due):
                        break
                    fired = True
        return fired

    def _fires(self, work: Work, due: int) -> bool:
        return self.apply(work, Elapsed(due)).verdict == "applied"


def _latest(instance: Instance) -> int:
    return max(instance.opened_at, *(step.since for step in instance.steps.values()))
