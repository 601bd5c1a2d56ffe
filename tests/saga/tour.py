"""Five steps by real services: one is tried three times, the last fails for good, two are undone, one of them twice.

`TOUR` is the tree that its trace must be, whoever shows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from opentelemetry.sdk.trace.export import SpanExporter

from choreo import Event, Retry, Saga, Service, step
from choreo.events.settings import load_settings
from choreo.saga.coordinator import Coordinator
from choreo.saga.options import Options
from choreo.saga.words import Phase
from choreo.services.worker import Worker
from choreo.tracing.export import open_tracing
from tests.saga.stage import Placed, Stage

QUICK = Retry(attempts=3, first="1ms", most="2ms")


class Held(Event, topic="inventory", key="order_id"):
    order_id: str


class Screened(Event, topic="inventory", key="order_id"):
    order_id: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str


class Booked(Event, topic="inventory", key="order_id"):
    order_id: str


class Shipped(Event, topic="orders", key="order_id"):
    order_id: str


class NotShipped(Event, topic="orders", key="order_id"):
    order_id: str


class LetGo(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class Gone(Event, topic="inventory", key="order_id"):
    order_id: str


class PayBack(Event, topic="payments.commands", key="order_id"):
    order_id: str


class PaidBack(Event, topic="payments", key="order_id"):
    order_id: str


EVENTS = (Placed, Held, Screened, Charged, Booked, Shipped, NotShipped, LetGo, Gone, PayBack, PaidBack)


class Tour(Saga, start=Placed, key="order_id"):
    hold = step(done=Held, undo=LetGo, undone=Gone, within="5m")
    screen = step(after=hold, done=Screened, undo=None, within="5m")
    charge = step(after=screen, done=Charged, undo=PayBack, undone=PaidBack, within="5m")
    book = step(after=charge, done=Booked, undo=None, within="5m")
    ship = step(after=book, done=Shipped, failed=NotShipped, undo=None, within="5m")


COORDINATOR = "[choreo.coordinator]"
TOUR = [
    f"saga tour {COORDINATOR} ERROR -> origin",
    f"  saga tour started {COORDINATOR} -> origin",
    f"  step hold {COORDINATOR} -> trigger",
    "    process orders [inventory] -> message",
    "      send inventory [inventory]",
    f"  step screen {COORDINATOR} -> trigger",
    "    process inventory [screening] -> message",
    "      send inventory [screening]",
    f"  step charge {COORDINATOR} -> trigger",
    "    process inventory [payment] ERROR -> message",
    "    process inventory [payment] ERROR -> message",
    "    process inventory [payment] -> message",
    "      send payments [payment]",
    f"  step book {COORDINATOR} -> trigger",
    "    process payments [shipping] -> message",
    "      send inventory [shipping]",
    f"  step ship {COORDINATOR} ERROR -> trigger",
    "    process inventory [shipping] -> message",
    "      send orders [shipping]",
    f"  compensate charge {COORDINATOR} -> trigger",
    "    process payments.commands [payment] ERROR -> message",
    "    process payments.commands [payment] -> message",
    "      send payments [payment]",
    f"  compensate hold {COORDINATOR} -> trigger",
    "    process inventory.commands [inventory] -> message",
    "      send inventory [inventory]",
]
"""One root, no orphan, 26 spans."""


class Trip:
    """What may differ from one tour to the next.

    Args:
        ships: the last step succeeds, so nothing is undone.
        screens: what a screening does before it answers.
    """

    def __init__(self, *, ships: bool = False, screens: Callable[[], Awaitable[object]] | None = None) -> None:
        self.ships = ships
        self.screens = screens


def services(trip: Trip, folder: str) -> list[Service]:
    """Make the four services, with stores in a folder."""
    inventory, screening, payment, shipping = (
        Service(name, store=f"sqlite:{folder}/{name}.db") for name in ("inventory", "screening", "payment", "shipping")
    )
    tries = {"charge": 0, "pay_back": 0}

    @inventory.on(Placed)
    async def hold(order: Placed) -> Held:
        return Held(order_id=order.order_id)

    @inventory.on(LetGo, undoes=hold)
    async def let_go(command: LetGo) -> Gone:
        return Gone(order_id=command.order_id)

    @screening.on(Held)
    async def screen(held: Held) -> Screened:
        if trip.screens is not None:
            await trip.screens()
        return Screened(order_id=held.order_id)

    @payment.on(Screened, retry=QUICK)
    async def charge(screened: Screened) -> Charged:
        tries["charge"] += 1
        if not trip.ships and tries["charge"] <= 2:
            raise OSError("away")
        return Charged(order_id=screened.order_id)

    @payment.on(PayBack, undoes=charge, retry=QUICK)
    async def pay_back(command: PayBack) -> PaidBack:
        tries["pay_back"] += 1
        if tries["pay_back"] <= 1:
            raise OSError("away")
        return PaidBack(order_id=command.order_id)

    @shipping.on(Charged)
    async def book(charged: Charged) -> Booked:
        return Booked(order_id=charged.order_id)

    @shipping.on(Booked)
    async def ship(booked: Booked) -> Shipped | NotShipped:
        kind = Shipped if trip.ships else NotShipped
        return kind(order_id=booked.order_id)

    return [inventory, screening, payment, shipping]


async def run_tour(
    stage: Stage,
    trip: Trip | None = None,
    keys: Sequence[str] = ("4711",),
    *,
    traceparent: str | None,
    options: Options | None = None,
    extra: Sequence[SpanExporter] = (),
) -> None:
    """Run tours to their ends; when this returns, their spans are where the environment says.

    Args:
        stage: broker and store, on real time; its settings say the namespace.
        trip: what happens on them.
        keys: one for each.
        traceparent: of what starts them.
        options: how the coordinator works.
        extra: exporters that get every span too.
    """
    trip = trip or Trip()
    settings = load_settings(broker="memory:", namespace=stage.settings.namespace)
    await stage.codec.prepare(EVENTS)
    running = services(trip, stage.folder)
    tracings = [
        open_tracing(settings, name, extra=extra) for name in (*(each.name for each in running), "choreo.coordinator")
    ]
    workers = [
        Worker(service, stage.broker, settings=settings, tracing=tracing)
        for service, tracing in zip(running, tracings, strict=False)
    ]
    coordinator = Coordinator(
        [Tour],
        transport=stage.broker,
        database=stage.database,
        settings=settings,
        tracing=tracings[-1],
        options=options or stage.options,
    )
    await coordinator.start()
    for worker in workers:
        await worker.start()
    for key in keys:
        await stage.publish(Placed(order_id=key), traceparent=traceparent)
    ends = Phase.COMPLETED if trip.ships else Phase.COMPENSATED
    await stage.until(lambda all_: len(all_) == len(keys) and all(each.phase is ends for each in all_.values()))
    for worker in workers:
        await worker.stop()
    await coordinator.stop()
    for tracing in tracings:
        assert await tracing.aclose(), tracing.losses
