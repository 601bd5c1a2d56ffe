"""The saga benchmarks: an order in three steps; every tenth is refused at the third, and two steps are undone.

`track` is the coordinator alone: it reads what all services said from one full topic, where the events of an order
stand in their order. `catch_up` is the same from four topics, as after an outage: there effects may be read before
their causes, and no undo is answered yet. `whole` is coordinator and services in one process, as `saga run` has them,
from the first order to the end of the last undo; `paced` is the same, fifty a second. Every store is SQLite with
synchronous=FULL, and so is the embedded broker; or, with coordinators as processes of their own, PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles

from sqlalchemy import text

from choreo.events.clock import SECOND, system_clock
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record
from choreo.events.event import Event
from choreo.events.ids import derived_id
from choreo.events.publisher import Publisher
from choreo.events.registry import open_registry
from choreo.events.settings import Settings, load_settings
from choreo.events.transport import Transport
from choreo.events.transports import connect
from choreo.saga.coordinator import Coordinator
from choreo.saga.loading import Parts
from choreo.saga.options import Options
from choreo.saga.running import Process
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.saga.tables import HEAD, metadata
from choreo.services.service import Service

from . import old
from .orders import RUN
from .outside import Helper, helper, stores
from .stopwatch import Measured, Stopwatch, warm

SECONDS = 240
"""How long one measurement may take."""
REFUSED = 10
"""One order in so many is refused by the carrier."""
_OPTIONS = Options(undo_rate=1_000_000)  # the brake on mass refunds is not what is measured
RATE = 50
"""How many sagas begin each second where it is measured how long one takes."""
GROWTH = "CHOREO_BENCH_GROWTH"
_WINDOW = 500
_ONE_TOPIC = os.environ.get("CHOREO_BENCH_TOPICS") == "one"


def _topic(name: str) -> str:
    return f"{RUN}.{'events' if _ONE_TOPIC else name}"


class OrderPlaced(Event, topic=_topic("orders"), key="order_id"):
    """A customer ordered."""

    order_id: str
    customer: str
    total: int
    articles: list[str]


class StockReserved(Event, topic=_topic("stock"), key="order_id"):
    """Step 1 is done."""

    order_id: str
    reservation: str
    total: int


class StockReleased(Event, topic=_topic("stock"), key="order_id"):
    """Step 1 is undone."""

    order_id: str


class ReleaseStock(Event, topic=f"{RUN}.stock.commands", key="order_id"):
    """Command: undo step 1."""

    order_id: str


class PaymentCaptured(Event, topic=_topic("payments"), key="order_id"):
    """Step 2 is done."""

    order_id: str
    payment: str
    total: int


class PaymentRefunded(Event, topic=_topic("payments"), key="order_id"):
    """Step 2 is undone."""

    order_id: str


class RefundPayment(Event, topic=f"{RUN}.payments.commands", key="order_id"):
    """Command: undo step 2."""

    order_id: str


class OrderShipped(Event, topic=_topic("shipping"), key="order_id"):
    """Step 3 is done."""

    order_id: str
    tracking: str


class ShippingRefused(Event, topic=_topic("shipping"), key="order_id"):
    """Step 3 failed."""

    order_id: str


class Order(Saga, start=OrderPlaced, key="order_id", type=f"order-{RUN}", deadline="2h", active_from="beginning"):
    """Reserve, charge, ship."""

    reserve = step(done=StockReserved, undo=ReleaseStock, undone=StockReleased, within="10m")
    charge = step(after=reserve, done=PaymentCaptured, undo=RefundPayment, undone=PaymentRefunded, within="10m")
    ship = step(after=charge, done=OrderShipped, failed=ShippingRefused, undo=None, within="10m")


EVENTS = (
    OrderPlaced,
    StockReserved,
    StockReleased,
    PaymentCaptured,
    PaymentRefunded,
    OrderShipped,
    ShippingRefused,
)


_ANSWERS = (PaymentRefunded.spec().type, StockReleased.spec().type)


def services(home: Path, databases: Sequence[str] = ()) -> tuple[Service, ...]:
    """Make the three services; their steps do nothing, so that everything around them is what is measured."""
    urls = databases or [f"sqlite:{home / name}.db" for name in ("stock", "payments", "shipping")]
    stock = Service(f"{RUN}.stock", store=urls[0])
    payments = Service(f"{RUN}.payments", store=urls[1])
    shipping = Service(f"{RUN}.shipping", store=urls[2])

    @stock.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id, reservation=f"r-{order.order_id}", total=order.total)

    @stock.on(ReleaseStock, undoes=reserve)
    async def release(command: ReleaseStock) -> StockReleased:
        return StockReleased(order_id=command.order_id)

    @payments.on(StockReserved)
    async def charge(reserved: StockReserved) -> PaymentCaptured:
        return PaymentCaptured(order_id=reserved.order_id, payment=f"p-{reserved.order_id}", total=reserved.total)

    @payments.on(RefundPayment, undoes=charge)
    async def refund(command: RefundPayment) -> PaymentRefunded:
        return PaymentRefunded(order_id=command.order_id)

    @shipping.on(PaymentCaptured)
    async def ship(captured: PaymentCaptured) -> OrderShipped | ShippingRefused:
        if _refused(captured.order_id):
            return ShippingRefused(order_id=captured.order_id)
        return OrderShipped(order_id=captured.order_id, tracking=f"t-{captured.order_id}")

    return stock, payments, shipping


async def track(broker: str, home: Path, count: int) -> Measured:
    """Measure the coordinator alone on one topic: events per second, until the last decision is published."""
    assert _ONE_TOPIC
    return await _track(broker, home, count, answered=True)


async def track_by_hand(broker: str, home: Path, count: int) -> Measured:
    """Measure a coordinator that is written by hand for this saga, on the same topic."""
    from .by_hand import follow

    assert _ONE_TOPIC
    settings = _settings(broker, home)
    async with connect(broker, settings) as transport:
        await transport.create_topics(Parts(services=services(home), sagas=(Order,)).topics(partitions=4))
        total = await _fill(transport, settings, count, True, 0)
        registry = open_registry(settings, transport)
        codec = Codec(registry)
        await codec.prepare([RefundPayment, ReleaseStock])
        measured = await follow(transport, [OrderPlaced.spec().topic], codec, home, total)
        await registry.close()
        _check(measured.more["phases"], count)
        commands = await transport.end_offsets([RefundPayment.spec().topic, ReleaseStock.spec().topic])
        assert sum(commands.values()) == 2 * _refusals(count), commands
    return measured


async def catch_up(broker: str, home: Path, count: int) -> Measured:
    """Measure the coordinator alone on four topics."""
    assert not _ONE_TOPIC
    return await _track(broker, home, count, answered=False)


@dataclass(frozen=True, slots=True)
class Growth:
    """What is large before the coordinator alone is measured.

    Args:
        finished: sagas of earlier days in the store that have ended.
        running: such that have not.
        partitions: of each topic.
        repeats: events of each saga that say again what its first step said, with an id of their own.
    """

    finished: int = 0
    running: int = 0
    partitions: int = 4
    repeats: int = 0


async def track_grown(broker: str, home: Path, count: int) -> Measured:
    """Measure the coordinator alone where something is large (CHOREO_BENCH_GROWTH, JSON of a `Growth`)."""
    return await _track(broker, home, count, answered=True, growth=Growth(**json.loads(os.environ[GROWTH])))


async def _track(broker: str, home: Path, count: int, *, answered: bool, growth: Growth = Growth()) -> Measured:
    settings = _settings(broker, home)
    parts = Parts(services=services(home), sagas=(Order,))
    watch = Stopwatch()
    async with connect(broker, settings) as transport:
        await transport.create_topics(parts.topics(partitions=growth.partitions))
        total = await _fill(transport, settings, count, answered, growth.repeats)
        await _grow(settings.store_url, growth.finished, growth.running)
        database = await Database.open(settings.store_url, by_index=True)
        try:
            before = Counter(await _phases(database))
            coordinator = Coordinator(
                [Order], transport=transport, database=database, settings=settings, options=_OPTIONS
            )
            await coordinator.start()
            try:
                watch.start()
                async with asyncio.timeout(SECONDS):
                    while coordinator.events < total:
                        await asyncio.sleep(0.005)
                    while not await coordinator.caught_up():
                        await asyncio.sleep(0.005)
                watch.lap()
            finally:
                await coordinator.stop()
            assert coordinator.events == total, f"{coordinator.events} of {total} events"
            phases = dict(Counter(await _phases(database)) - before)
            early, longest = await _early(database), await _longest(database)
        finally:
            await database.close()
        _check(phases, count, "COMPENSATED" if answered else "COMPENSATING")
        commands = await transport.end_offsets([RefundPayment.spec().topic, ReleaseStock.spec().topic])
        sent = sum(commands.values())
        assert sent == 2 * _refusals(count) or (not answered and sent >= _refusals(count)), commands
    return watch.measured(total, sagas=count, batches=coordinator.batches, early=early, longest=longest, phases=phases)


async def _grow(url: str, finished: int, running: int) -> None:
    """Make the store one that has been used before."""
    database = await Database.open(url)
    try:
        await database.ensure_schema("saga", metadata, HEAD)
        if not finished + running:
            return
        definition, now = Order.definition(), await database.read(database.now)
        await database.write(lambda c: old.fill(c, definition, now, finished=finished, running=running))
        if database.url.startswith("postgresql"):  # what the server does by itself, a minute later
            for statement in ("ANALYZE choreo_saga", "ANALYZE choreo_history", "CHECKPOINT"):
                await database.write(lambda c, statement=statement: c.execute(text(statement)))  # type: ignore[misc]
    finally:
        await database.close()  # SQLite brings its log to the file with that
    os.sync()  # else the first checkpoint that is measured waits for gigabytes that were filled in


async def whole(broker: str, home: Path, count: int, *, coordinators: int = 0) -> Measured:
    """Measure everything together: sagas per second from the first order to the end of the last undo."""
    async with _open(broker, home, coordinators) as shop:
        shop.watch.start()
        for start in range(0, count, _WINDOW):
            numbers = range(start, min(start + _WINDOW, count))
            await shop.publisher.publish(*[_placed(number) for number in numbers])
        await shop.until_ended(count, 0.02)
        shop.watch.lap()
        measured = shop.watch.measured(count)
        await shop.process.until_idle()
        phases = await _phases(shop.database)
        handled = {worker.service.name: worker.counters.handled for worker in shop.process.workers}
        dead = sum(worker.counters.dead for worker in shop.process.workers)
        events = await shop.coordinated()
        _check(phases, count)
        assert not dead, f"{dead} dead letters"
        assert sum(handled.values()) == 3 * count + 2 * _refusals(count), handled
        assert sum(events) == _events(count), f"{events} events"
    return replace(measured, more={"events": sum(events), "of_each": events, "phases": phases})


async def paced(broker: str, home: Path, count: int, *, coordinators: int = 0, rate: int = RATE) -> Measured:
    """Measure single sagas while `rate` begin each second: from just before the event is published to its end."""
    began: dict[str, int] = {}
    before = warm(count)
    async with _open(broker, home, coordinators) as shop:
        shop.watch.start()
        loop = asyncio.get_running_loop()
        first = loop.time()
        for number in range(before + count):
            await asyncio.sleep(max(0.0, first + number / rate - loop.time()))
            placed = _placed(number)
            began[placed.order_id] = system_clock()
            await shop.publisher.publish(placed)
        await shop.until_ended(before + count, 0.1)
        shop.watch.lap()
        measured = shop.watch.measured(before + count)
        query = text("SELECT key, ended_at FROM choreo_saga")
        ended = {key: int(at) for key, at in await shop.database.read(lambda c: c.execute(query).all())}
    assert ended.keys() == began.keys()
    hundredths = quantiles([(ended[key] - at) / 1_000 for key, at in began.items()][before:], n=100, method="inclusive")
    return replace(measured, more={"p50_ms": hundredths[49], "p99_ms": hundredths[98]})


async def coordinate(broker: str, home: Path, _: int) -> Measured:
    """Run a coordinator as a process of its own: it says when it is ready, and runs until its input closes."""
    settings = _settings(broker, home)
    watch = Stopwatch()
    async with (
        connect(broker, settings) as transport,
        Process(Parts(sagas=(Order,)), transport, settings, options=_OPTIONS) as process,
    ):
        assert process.coordinator is not None
        watch.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        watch.lap()
        events = process.coordinator.events
    return watch.measured(max(events, 1), events=events)


@dataclass(frozen=True, slots=True)
class _Shop:
    process: Process
    publisher: Publisher
    database: Database
    watch: Stopwatch
    helpers: Sequence[Helper]

    async def until_ended(self, count: int, look: float) -> None:
        """Wait until so many sagas have ended, and look so often, seconds."""
        async with asyncio.timeout(SECONDS):
            while sum((await _phases(self.database, ended=True)).values()) < count:
                await asyncio.sleep(look)

    async def coordinated(self) -> list[int]:
        """Give the events of each coordinator; those that are processes of their own end with it."""
        if self.process.coordinator is not None:
            return [self.process.coordinator.events]
        return [int((await helper.finish())["more"]["events"]) for helper in self.helpers]


@asynccontextmanager
async def _open(broker: str, home: Path, coordinators: int) -> AsyncIterator[_Shop]:
    """Run the services in this process, with the coordinator; or with so many of them as processes, on PostgreSQL."""
    settings = _settings(broker, home)
    parts = Parts(services=services(home, stores()[1:] if coordinators else ()), sagas=(Order,))
    here = replace(parts, sagas=()) if coordinators else parts
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(connect(broker, settings))
        await transport.create_topics(parts.topics())
        command = ("coordinate", broker, str(home), "0")
        helpers = [await stack.enter_async_context(helper(command)) for _ in range(coordinators)]
        process = await stack.enter_async_context(Process(here, transport, settings, options=_OPTIONS))
        await process.until_idle()
        database = await Database.open(settings.store_url)
        stack.push_async_callback(database.close)
        publisher = await stack.enter_async_context(Publisher(transport, source="shop", settings=settings))
        await publisher.prepare([OrderPlaced])
        yield _Shop(process, publisher, database, Stopwatch([each.pid for each in helpers]), helpers)


def _settings(broker: str, home: Path) -> Settings:
    """Give the settings of a coordinator; its store is CHOREO_STORE where that is set, else SQLite in its home."""
    return load_settings(broker=broker, home=home, group=f"{RUN}.coordinator")


def _refused(order_id: str) -> bool:
    return int(order_id.rpartition("-")[2]) % REFUSED == 0


def _refusals(count: int) -> int:
    return -(-count // REFUSED)


def _events(count: int) -> int:
    return 4 * count + 2 * _refusals(count)


def _check(phases: dict[str, int], count: int, refused: str = "COMPENSATED") -> None:
    wanted = {"COMPLETED": count - _refusals(count), refused: _refusals(count)}
    wanted = {phase: number for phase, number in wanted.items() if number}
    assert phases == wanted, f"{phases}, not {wanted}"


async def _phases(database: Database, *, ended: bool = False) -> dict[str, int]:
    where = "WHERE phase IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED')" if ended else ""
    query = text(f"SELECT phase, count(*) FROM choreo_saga {where} GROUP BY phase")
    rows = await database.read(lambda connection: connection.execute(query).all())
    return {str(phase): int(number) for phase, number in rows}


async def _early(database: Database) -> int:
    """Count the events that came before their turn, or before their saga."""
    query = text(
        "SELECT count(*) FROM choreo_history WHERE EXISTS (SELECT 1 FROM choreo_saga WHERE id = saga_id AND "
        "conditions LIKE '%OutOfOrder%') AND kind = 'event'"
    )
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


async def _longest(database: Database) -> int:
    """Count the rows of the longest history."""
    query = text("SELECT max(seq) FROM choreo_history")
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


def _placed(number: int) -> OrderPlaced:
    articles = [f"article-{(number + each) % 997:04d}" for each in range(3)]
    return OrderPlaced(
        order_id=f"order-{number:08d}", customer=f"customer-{number % 997}", total=100 + number % 900, articles=articles
    )


async def _fill(transport: Transport, settings: Settings, count: int, answered: bool, repeats: int) -> int:
    """Publish what all services said about these orders, in the order of time; give the number of events."""
    registry = open_registry(settings, transport)
    codec = Codec(registry)
    await codec.prepare(EVENTS)
    now = time.time_ns() // 1_000 - 3_600 * SECOND
    total = 0
    chunk: list[Record] = []
    for at, event, cause, id_ in _said(count, repeats):
        spec = event.spec()
        envelope = Envelope(id_, spec.type, spec.topic, now + at, event.key_text(), causation_id=cause)
        if not answered and spec.type in _ANSWERS:
            continue
        chunk.append(replace(to_record(event, envelope, codec), timestamp=(now + at) // 1_000))
        total += 1
        if len(chunk) == 5_000:
            await transport.send(chunk)
            chunk = []
    await transport.send(chunk)
    await registry.close()
    return total


def _said(count: int, repeats: int) -> Iterator[tuple[int, Event, str | None, str]]:
    """Tell the events of all orders by time: an order each millisecond, each event five seconds after its cause."""
    stories = [list(_story(number, repeats)) for number in range(count)]
    timed = sorted(
        (number * 1_000 + (index if index < 2 else max(index - repeats, 1)) * 5_000_000, number, index)
        for number, story in enumerate(stories)
        for index in range(len(story))
    )
    for at, number, index in timed:
        ids = [derived_id("bench", str(number), str(each)) for each in (index - 1, index)]
        yield at, stories[number][index], ids[0] if index else None, ids[1]


def _story(number: int, repeats: int) -> Iterator[Event]:
    placed = _placed(number)
    order_id = placed.order_id
    yield placed
    for _ in range(1 + repeats):
        yield StockReserved(order_id=order_id, reservation=f"r-{order_id}", total=placed.total)
    yield PaymentCaptured(order_id=order_id, payment=f"p-{order_id}", total=placed.total)
    if not _refused(order_id):
        yield OrderShipped(order_id=order_id, tracking=f"t-{order_id}")
        return
    yield ShippingRefused(order_id=order_id)
    yield PaymentRefunded(order_id=order_id)
    yield StockReleased(order_id=order_id)
