"""One order that is declined and undone, by real services and a coordinator, and the tree that its trace must be."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace.export import SpanExporter

from choreo import Service
from choreo.events.settings import load_settings
from choreo.saga.coordinator import Coordinator
from choreo.saga.words import Phase
from choreo.services.worker import Worker
from choreo.tracing.export import open_tracing
from tests.saga.stage import Declined, Order, Paid, Placed, Refused, Release, Released, Reserved, Stage

GOLDEN = [
    "saga order [choreo.coordinator] ERROR -> origin",
    "  saga order started [choreo.coordinator] -> origin",
    "  step reserve [choreo.coordinator] -> trigger",
    "    process orders [inventory] -> message",
    "      send inventory [inventory]",
    "  step charge [choreo.coordinator] ERROR -> trigger",
    "    process inventory [payment] -> message",
    "      send payments [payment]",
    "  compensate reserve [choreo.coordinator] -> trigger",
    "    process inventory.commands [inventory] -> message",
    "      send inventory [inventory]",
]
ORIGIN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def inventory_service(folder: str) -> Service:
    """Reserves, and releases; its store is in a folder."""
    inventory = Service("inventory", store=f"sqlite:{folder}/inventory.db")

    @inventory.on(Placed)
    async def reserve(order: Placed) -> Reserved | Refused:
        return Reserved(order_id=order.order_id)

    @inventory.on(Release, undoes=reserve)
    async def release(command: Release) -> Released:
        return Released(order_id=command.order_id)

    return inventory


def payment_service(folder: str, *, declines: bool = True) -> Service:
    """Declines, or takes the money; its store is in a folder."""
    payment = Service("payment", store=f"sqlite:{folder}/payment.db")

    @payment.on(Reserved)
    async def charge(order: Reserved) -> Paid | Declined:
        return Declined(order_id=order.order_id) if declines else Paid(order_id=order.order_id)

    return payment


async def run_order(
    stage: Stage,
    order_id: str = "4711",
    *,
    traceparent: str | None = ORIGIN,
    services: Sequence[Service] | None = None,
    ends: Phase = Phase.COMPENSATED,
    extra: Sequence[SpanExporter] = (),
) -> None:
    """Run one order to its end; when this returns, its spans are where the environment says.

    Args:
        stage: broker and store, on real time; its settings say the namespace.
        order_id: the saga's key.
        traceparent: of the order.
        services: who reacts to it; default: inventory, and a payment that declines.
        ends: how the saga ends.
        extra: exporters that get every span too.
    """
    settings = load_settings(broker="memory:", namespace=stage.settings.namespace)
    running = [inventory_service(stage.folder), payment_service(stage.folder)] if services is None else services
    tracings = [
        open_tracing(settings, name, extra=extra) for name in (*(s.name for s in running), "choreo.coordinator")
    ]
    workers = [
        Worker(service, stage.broker, settings=settings, tracing=tracing)
        for service, tracing in zip(running, tracings, strict=False)
    ]
    coordinator = Coordinator(
        [Order],
        transport=stage.broker,
        database=stage.database,
        settings=settings,
        tracing=tracings[-1],
        options=stage.options,
    )
    await coordinator.start()
    for worker in workers:
        await worker.start()
    await stage.publish(Placed(order_id=order_id), traceparent=traceparent)
    await stage.until(lambda all_: bool(all_) and all_[f"order/{order_id}"].phase is ends)
    for worker in workers:
        await worker.stop()
    await coordinator.stop()
    for tracing in tracings:
        assert await tracing.aclose(), tracing.losses
