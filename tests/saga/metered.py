"""A shop in which everything happens once that there is a metric for, and what a scrape of it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from choreo import Event, Publisher, Saga, Service, step
from choreo.events.envelope import Record
from choreo.events.errors import BrokerUnreachable, Permanent
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.saga.loading import Parts
from choreo.saga.outcomes import OUTCOMES_TOPIC
from choreo.saga.running import Process
from choreo.services.breaker import Breaker
from choreo.services.probes import Probes, scraping
from choreo.services.retry import Retry
from choreo.tracing.metrics import exported_metrics
from tests.services.shop import until


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str
    card: str = "good"


class Packed(Event, topic="parcels", key="order_id"):
    order_id: str
    card: str


class Unpack(Event, topic="parcels.commands", key="order_id"):
    order_id: str


class Unpacked(Event, topic="parcels", key="order_id"):
    order_id: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str


class Declined(Event, topic="payments", key="order_id"):
    order_id: str


class Sale(Saga, start=Ordered, key="order_id"):
    pack = step(done=Packed, undo=Unpack, undone=Unpacked, within="1h")
    charge = step(after=pack, done=Charged, failed=Declined, undo=None, within="1h")


def shop() -> Parts:
    """Packing tries again, parks, and gives up; payment declines."""
    packing, payment, mail = Service("packing"), Service("payment"), Service("mail")
    tried: set[str] = set()

    @packing.on(Ordered, retry=Retry(attempts=3, first="1ms", most="1ms"), breaker=Breaker())
    async def pack(order: Ordered) -> Packed:
        if order.card == "torn":
            raise Permanent("it is torn")
        if order.card == "slow" and order.order_id not in tried:
            tried.add(order.order_id)
            raise OSError("the press is jammed")
        return Packed(order_id=order.order_id, card=order.card)

    @packing.on(Unpack, undoes=pack)
    async def unpack(command: Unpack) -> Unpacked:
        return Unpacked(order_id=command.order_id)

    @payment.on(Packed, retry=Retry(attempts=1, first="1h", most="1h"), exhausted="park")
    async def charge(packed: Packed) -> Charged | Declined:
        if packed.card == "lost":
            raise OSError("it is somewhere")
        return (Declined if packed.card == "empty" else Charged)(order_id=packed.order_id)

    @mail.on(Charged, retry=Retry(attempts=1, first="1h", most="1h"), exhausted="park")
    async def thank(charged: Charged) -> None:
        if charged.order_id == "1":
            raise OSError("no post today")

    return Parts((packing, payment, mail), (Sale,))


class Flaky(MemoryBroker):
    """Takes the end of a saga only when it is sent again."""

    refused = False

    async def send(self, records: Sequence[Record]) -> None:
        if not self.refused and any(record.topic == OUTCOMES_TOPIC for record in records):
            self.refused = True
            raise BrokerUnreachable("the broker is away for a moment")
        await super().send(records)


class Sample(NamedTuple):
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


class Scrape(NamedTuple):
    """What one scrape said."""

    text: str
    samples: list[Sample]

    def of(self, name: str, **labels: str) -> float:
        """Sum the samples of a name that have these labels."""
        found = [each for each in self.samples if each.name == name and labels.items() <= each.labels.items()]
        assert found, f"{name}{labels} is not among {sorted({each.name for each in self.samples})}"
        return sum(each.value for each in found)


def read(text: str) -> Scrape:
    """Read Prometheus text."""
    families = list(text_string_to_metric_families(text))
    return Scrape(text, [Sample(s.name, s.labels, s.value) for family in families for s in family.samples])


@asynccontextmanager
async def measured(tmp_path: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Run the shop until all of its orders but a parked one are done, and give what reaches its health port."""
    with exported_metrics("choreo", environ or {}, scraped=True) as metrics:
        assert metrics is not None
        async with Flaky() as broker:
            settings = Settings(home=tmp_path)
            process = Process(shop(), broker, settings, create_topics=True, meters=metrics.meters)
            text = scraping(process.measure, metrics)
            async with (
                Probes("0", process.health, process.size, text) as probes,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{probes.port}", timeout=60) as client,
                process,
            ):
                async with Publisher(broker, source="test", settings=settings) as publisher:
                    cards = ["good", "good", "slow", "empty", "torn", "lost"]
                    orders = [Ordered(order_id=str(number), card=card) for number, card in enumerate(cards)]
                    await publisher.publish(*orders)
                    await publisher.publish(Charged(order_id="nobody's"))
                async with asyncio.timeout(60):
                    await until(lambda: _ended(client))
                    yield client


async def _ended(client: httpx.AsyncClient) -> bool:
    found = await scrape(client)
    names = {each.name for each in found.samples}
    if not {"saga_finished_total", "choreo_dead_letters_total", "choreo_parked_messages"} <= names:
        return False
    settled = found.of("saga_finished_total") >= 5 and found.of("choreo_parked_messages") >= 3
    settled = settled and "saga_conditions" in names
    return settled and found.of("choreo_consumer_lag") == 0 and found.of("choreo_outbox_waiting") == 0


async def scrape(client: httpx.AsyncClient) -> Scrape:
    """Scrape once."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain"), answer.headers
    return read(answer.text)
