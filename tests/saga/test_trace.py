"""One compensated saga as one trace: exact tree, links and status, whoever's spans arrive first."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from choreo import Service
from choreo.events.settings import load_settings
from choreo.saga.coordinator import Coordinator
from choreo.services.worker import Worker
from choreo.tracing.export import open_tracing
from choreo.tracing.ids import trace_id
from choreo.tracing.tree import SpanRow, build_tree
from tests.saga.stage import Declined, Order, Paid, Placed, Refused, Release, Released, Reserved, Stage
from tests.support.otlp import OtlpSink, outline

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


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    with OtlpSink() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield made


@pytest.fixture
async def live_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", live=True) as made:
        yield made


def shop() -> list[Service]:
    inventory = Service("inventory", store="sqlite::memory:")
    payment = Service("payment", store="sqlite::memory:")

    @inventory.on(Placed)
    async def reserve(order: Placed) -> Reserved | Refused:
        return Reserved(order_id=order.order_id)

    @inventory.on(Release, undoes=reserve)
    async def release(command: Release) -> Released:
        return Released(order_id=command.order_id)

    @payment.on(Reserved)
    async def charge(order: Reserved) -> Paid | Declined:
        return Declined(order_id=order.order_id)

    return [inventory, payment]


async def run_one_declined_order(stage: Stage, sink: OtlpSink) -> list[SpanRow]:
    settings = load_settings(broker="memory:")
    tracings = [open_tracing(settings, name) for name in ("inventory", "payment", "choreo.coordinator")]
    workers = [
        Worker(service, stage.broker, settings=settings, tracing=tracing)
        for service, tracing in zip(shop(), tracings, strict=False)
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
    origin = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await stage.publish(Placed(order_id="4711"), traceparent=origin)
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase == "COMPENSATED")
    for worker in workers:
        await worker.stop()
    await coordinator.stop()
    for tracing in tracings:
        await tracing.aclose()
    wanted = trace_id("", "order/4711")
    return sink.wait_for(lambda rows: sum(row.trace_id == f"{wanted:032x}" for row in rows) >= len(GOLDEN))


async def test_a_compensated_saga_is_one_trace(live_stage: Stage, sink: OtlpSink) -> None:
    await run_one_declined_order(live_stage, sink)
    assert sink.outline(trace_id("", "order/4711")) == GOLDEN


async def test_the_tree_is_the_same_whatever_arrives_first_or_twice(live_stage: Stage, sink: OtlpSink) -> None:
    await run_one_declined_order(live_stage, sink)
    rows = sink.spans(trace_id("", "order/4711"))
    for seed in range(20):
        shuffled = [*rows, *rows]
        random.Random(seed).shuffle(shuffled)
        assert outline(build_tree(shuffled)) == GOLDEN


async def test_the_origins_trace_leads_to_the_saga(live_stage: Stage, sink: OtlpSink) -> None:
    await run_one_declined_order(live_stage, sink)
    origin = int("0af7651916cd43dd8448eb211c80319c", 16)
    sink.wait_for(lambda rows: any(row.trace_id == f"{origin:032x}" for row in rows))
    (anchor,) = sink.spans(origin)
    assert anchor.name == "saga start order"
    assert anchor.attributes["saga.trace_id"] == f"{trace_id('', 'order/4711'):032x}"
    assert anchor.start == anchor.end
