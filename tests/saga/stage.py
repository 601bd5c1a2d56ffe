"""A coordinator on a memory broker and a real store, on a clock that the test moves, with events published by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from choreo import Coordinator, Event, Retry, Saga, step
from choreo.events.catalog import catalog_topics
from choreo.events.clock import system_clock
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Envelope, Headers, Record
from choreo.events.ids import new_id
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.events.transport import TopicSpec
from choreo.saga import difference, operators, recorded
from choreo.saga.instance import Instance
from choreo.saga.options import Options
from choreo.saga.tables import history, ignored, saga

TOPICS = ("orders", "inventory", "inventory.commands", "payments", "payments.commands", "choreo.failures")


class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    total: int = 1


class Reserved(Event, topic="inventory", key="order_id"):
    order_id: str
    reservation: str = "r"


class Refused(Event, topic="inventory", key="order_id"):
    order_id: str


class Release(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    reservation: str | None = None


class Released(Event, topic="inventory", key="order_id"):
    order_id: str


class Paid(Event, topic="payments", key="order_id"):
    order_id: str


class Declined(Event, topic="payments", key="order_id"):
    order_id: str


class Fulfilled(Event, topic="orders", key="order_id"):
    order_id: str


class Cancelled(Event, topic="orders", key="order_id"):
    order_id: str
    total: int


class Again(Saga, start=Placed, key="order_id", rerun=True):
    reserve = step(done=Reserved, undo=None, within="30s")


class Past(Saga, start=Placed, key="order_id", active_from="beginning"):
    reserve = step(done=Reserved, failed=Refused, undo=None, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="30s")


class Undoing(Saga, start=Placed, key="order_id", compensated=Cancelled, active_from="beginning"):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="30s")


class Backwards(Saga, start=Placed, key="order_id"):
    pay = step(done=Paid, undo=None, within="30s")
    reserve = step(after=pay, done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    pack = step(after=reserve, done=Fulfilled, undo=None, within="30s")
    bill = step(after=reserve, done=Cancelled, failed=Declined, undo=None, within="30s")


class Asking(Saga, start=Placed, key="order_id"):
    release = step(send=Release, done=Released, undo=None, within="10m", retry=Retry(attempts=2))


class Changed(Saga, start=Placed, key="order_id", type="order"):
    reserve = step(done=Reserved, undo=None, within="5s")


class Order(Saga, start=Placed, key="order_id", completed=Fulfilled, compensated=Cancelled):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="30s")


EVENTS: tuple[type[Event], ...] = (Placed, Reserved, Refused, Release, Released, Paid, Declined, Fulfilled, Cancelled)


@dataclass
class Stage:
    """Everything that a coordinator needs, and a view of what it did."""

    url: str
    sagas: tuple[type[Saga], ...] = (Order,)
    options: Options = field(default_factory=lambda: Options(poll=0.01, tick=0.0))
    now: int = field(default_factory=system_clock)
    partitions: int = 2
    live: bool = False
    verified: bool = True
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(""))
    coordinators: list[Coordinator] = field(default_factory=list)
    settings: Any = field(default_factory=lambda: load_settings(broker="memory:"))

    @property
    def folder(self) -> str:
        """Where its SQLite file is: room for more."""
        return self.url.removeprefix("sqlite:").rpartition("/")[0]

    async def __aenter__(self) -> Stage:
        await self.broker.__aenter__()
        specs = [TopicSpec(name, self.partitions) for name in (*TOPICS, *(f"{name}.dlq" for name in TOPICS))]
        await self.broker.create_topics([*specs, *catalog_topics()])
        self.codec = Codec(open_registry(self.settings, self.broker))
        await self.codec.prepare(EVENTS)
        self.live = self.live or self.url.startswith("postgresql")
        self.database = await Database.open(self.url, clock=system_clock if self.live else lambda: self.now)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        for coordinator in self.coordinators:
            await coordinator.stop()
        differing = await self.differing() if kind is None and self.verified else {}
        await self.database.close()
        await self.broker.__aexit__(None, None, None)
        assert differing == {}, "S3: every history folds again to what the store has"

    async def start(self) -> Coordinator:
        """Start a coordinator."""
        coordinator = Coordinator(
            self.sagas,
            transport=self.broker,
            database=self.database,
            settings=self.settings,
            clock=system_clock if self.live else lambda: self.now,
            options=self.options,
        )
        await coordinator.start()
        self.coordinators.append(coordinator)
        return coordinator

    async def stop(self) -> None:
        """Stop the last coordinator."""
        await self.coordinators.pop().stop()

    async def publish(self, *events: Event, **envelope: Any) -> list[str]:
        """Publish events; `envelope` overrides fields of the last one's envelope."""
        ids = []
        records = []
        for event in events:
            self._tick()
            options = {"id": new_id(), "time": self.now, **envelope}
            made = Envelope(type=event.spec().type, source="test", key=event.key_text(), **options)
            ids.append(made.id)
            record = to_record(event, made, self.codec)
            records.append(Record(record.topic, record.key, record.value, record.headers, self.now // 1_000))
        await self.broker.send(records)
        return ids

    async def raw(self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> None:
        """Publish bytes as they are."""
        self._tick()
        await self.broker.send([Record(topic, key, value, headers, self.now // 1_000)])

    def _tick(self) -> None:
        # PostgreSQL's clock decides there, so events have to live in its time.
        self.now = max(self.now + 1_000, system_clock() if self.live else 0)

    async def until(self, holds: Callable[[dict[str, Instance]], bool]) -> dict[str, Instance]:
        """Wait until the sagas are as wanted."""
        for _ in range(6_000):
            found = await self.instances()
            if holds(found):
                return found
            await asyncio.sleep(0.01)
        told = [f"{name} {each.phase}: {[s.state.value for s in each.steps.values()]}" for name, each in found.items()]
        raise AssertionError(f"not so after a minute: {told}")

    async def ask(self, kind: str, **arguments: Any) -> operators.Answer:
        """Ask what a person would ask, and wait for the answer."""
        id_ = await self.database.write(lambda connection: operators.ask(connection, kind, by="ann", **arguments))
        for _ in range(6_000):
            told = await self.database.read(lambda connection: operators.answer(connection, id_))
            if told.state != operators.PENDING:
                return told
            await asyncio.sleep(0.01)
        raise AssertionError(f"{kind} was not answered in a minute")

    async def eventually_sent(self, topic: str, number: int) -> list[Delivery]:
        """Wait until a topic holds so many records."""
        for _ in range(6_000):
            found = await self.sent(topic)
            if len(found) >= number:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"{topic} holds {len(found)} records, not {number}, after a minute")

    async def settled(self) -> dict[str, Instance]:
        """Wait until the coordinator has read everything and published everything, timers apart."""
        for _ in range(6_000):
            if await self.coordinators[-1].caught_up():
                return await self.instances()
            await asyncio.sleep(0.01)
        raise AssertionError("the coordinator did not catch up in a minute")

    async def differing(self) -> dict[str, difference.Difference]:
        """Fold every saga's history again, and tell those that come out otherwise."""

        def look(connection: Connection) -> dict[str, difference.Difference]:
            if not connection.dialect.has_table(connection, "choreo_saga"):
                return {}
            found = {}
            for each in recorded.page(connection, recorded.Which(), most=10_000):
                if each.forgotten or each.erased:
                    continue
                known = recorded.definitions_of(connection, each.instance.type)
                if (told := difference.recorded(each, known)) is not None:
                    found[each.instance.id] = told
            return found

        return await self.database.read(look)

    async def instances(self) -> dict[str, Instance]:
        """Read every saga."""
        states = await self.database.read(lambda connection: connection.execute(select(saga.c.id, saga.c.state)).all())
        return {id_: Instance.from_json(state) for id_, state in states}

    async def history(self, saga_id: str) -> list[Any]:
        """Read a saga's history."""
        query = select(history).where(history.c.saga_id == saga_id).order_by(history.c.seq)
        return list(await self.database.read(lambda connection: connection.execute(query).all()))

    async def ignored(self) -> dict[tuple[str, str], int]:
        """Count what changed nothing, by (event type, reason)."""
        rows = await self.database.read(lambda connection: connection.execute(select(ignored)).all())
        found: dict[tuple[str, str], int] = {}
        for row in rows:
            found[row.event_type, row.reason] = found.get((row.event_type, row.reason), 0) + row.count
        return found

    async def sent(self, topic: str) -> list[Delivery]:
        """Read everything in a topic."""
        return await self.broker.snapshot(topic)


def header(delivery: Delivery, name: str) -> str | None:
    """Read a header as text."""
    return next((value.decode() for key, value in delivery.headers if key == name), None)
