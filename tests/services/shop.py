"""The events of a small shop, and a rig that runs services on a broker of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from choreo.events.codec import Codec, to_record
from choreo.events.envelope import Delivery, Envelope, Record, read_envelope
from choreo.events.event import Event
from choreo.events.ids import new_id
from choreo.events.registry import EmbeddedRegistry
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec, Transport
from choreo.services.service import Service
from choreo.services.worker import Worker

NOW = 1_790_000_000_000_000


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    number: int = 0


class OrderChanged(Event, topic="orders", key="order_id"):
    order_id: str


class StockReserved(Event, topic="inventory", key="order_id"):
    order_id: str
    number: int = 0


class StockRefused(Event, topic="inventory", key="order_id"):
    order_id: str


class ReleaseStock(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class StockReleased(Event, topic="inventory", key="order_id"):
    order_id: str


class Charge(Event, topic="payment.commands", key="order_id"):
    order_id: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str


class Refund(Event, topic="payment.commands", key="order_id"):
    order_id: str


class Refunded(Event, topic="payments", key="order_id"):
    order_id: str


class Legacy(Event, topic="legacy", key="ref", format="json"):
    ref: str


EVERY = (
    OrderPlaced,
    OrderChanged,
    StockReserved,
    StockRefused,
    ReleaseStock,
    StockReleased,
    Charge,
    Charged,
    Refund,
    Refunded,
    Legacy,
)


class Published(NamedTuple):
    """A record that was published, read."""

    envelope: Envelope
    event: dict[str, object]
    delivery: Delivery

    @property
    def type(self) -> str:
        return self.envelope.type

    def header(self, name: str) -> str | None:
        return next((value.decode() for found, value in self.delivery.headers if found == name), None)


class Rig:
    """A broker, its schemas, and what a test does with them."""

    def __init__(self, broker: Transport, settings: Settings) -> None:
        self.broker = broker
        self.settings = settings
        self.registry = EmbeddedRegistry(broker)
        self.codec = Codec(self.registry)

    async def prepare(self, partitions: int = 4) -> None:
        names = {event.spec().topic for event in EVERY}
        names |= {f"{name}.dlq" for name in names} | {"choreo.failures"}
        await self.broker.create_topics([TopicSpec(name, partitions) for name in sorted(names)])
        await self.codec.prepare(EVERY)

    def record(self, event: Event, **headers: Any) -> Record:
        given = {"id": new_id(), "type": event.spec().type, "source": "test", "time": NOW, "key": "", **headers}
        return to_record(event, Envelope(**given), self.codec)

    async def publish(self, *events: Event, **headers: Any) -> list[str]:
        """Publish events; headers are fields of their envelopes."""
        records = [self.record(event, **headers) for event in events]
        await self.broker.send(records)
        return [dict(record.headers)["ce_id"].decode() for record in records]

    async def deliveries(self, topic: str) -> list[Delivery]:
        return await self.broker.snapshot(topic)

    async def published(self, topic: str, *types: str) -> list[Published]:
        """Read what lies on a topic, of these types."""
        found = []
        for delivery in await self.broker.snapshot(topic):
            envelope = read_envelope(delivery)
            if not types or envelope.type in types:
                event = {}
                if delivery.value is not None and not topic.endswith(".dlq"):
                    event = self.codec.decode_any(delivery.value, envelope.content_type)
                found.append(Published(envelope, event, delivery))
        return found

    async def all_committed(self, group: str, *topics: str) -> bool:
        """Say whether a group has committed everything that lies on these topics."""
        ends = await self.broker.end_offsets(topics)
        committed = (await self.broker.group(group)).committed
        return all(committed.get(place, 0) == end for place, end in ends.items())

    def worker(self, service: Service, **options: Any) -> Worker:
        return Worker(service, self.broker, settings=self.settings, registry=self.registry, **options)

    @asynccontextmanager
    async def running(self, service: Service, **options: Any):
        """Run a service; when the block ends it is idle, then stopped."""
        async with self.worker(service, **options) as worker:
            yield worker
            await idle(worker)

    async def run(self, service: Service, **options: Any) -> Worker:
        """Run a service until nothing is left to do, and stop it."""
        async with self.running(service, **options) as worker:
            pass
        return worker


async def idle(*workers: Worker) -> None:
    """Wait until nothing is left to do."""

    async def all_idle() -> bool:
        return all([await worker.idle() for worker in workers])

    await until(all_idle)


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait until something holds; fail after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while True:
            found = condition()
            if not isinstance(found, bool):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


def command(step: str, attempt: int = 1, *, undoes: Sequence[str] = (), key: str = "1", run: int = 1) -> dict[str, Any]:
    """Give the headers of a saga's command."""
    return {
        "saga_id": f"fulfilment/{key}",
        "saga_type": "fulfilment",
        "saga_run": run,
        "saga_step": step,
        "saga_attempt": attempt,
        "undoes": tuple(undoes),
    }
