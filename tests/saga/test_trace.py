"""One compensated saga as one trace: exact tree, links and status, whoever's spans arrive first."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from choreo.saga import store
from choreo.saga.coordinator import Coordinator
from choreo.saga.tables import saga
from choreo.tracing.export import open_tracing
from choreo.tracing.ids import trace_id
from choreo.tracing.tree import SpanRow, build_tree
from tests.saga.stage import Declined, Order, Placed, Refused, Released, Reserved, Stage
from tests.saga.traced import GOLDEN, run_order
from tests.support.otlp import OtlpSink, outline


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


async def run_one_declined_order(stage: Stage, sink: OtlpSink) -> list[SpanRow]:
    await run_order(stage)
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


async def test_what_a_dead_coordinator_left_is_emitted_at_the_next_start_however_much_it_is(
    live_stage: Stage, sink: OtlpSink
) -> None:
    orders = [str(number) for number in range(450)]
    await live_stage.start()
    await live_stage.publish(*(Placed(order_id=order) for order in orders))
    await live_stage.publish(*(Refused(order_id=order) for order in orders))
    await live_stage.until(lambda all_: len(all_) == 450 and all(each.phase.ended for each in all_.values()))
    await live_stage.stop()
    await live_stage.database.write(lambda connection: connection.execute(update(saga).values(traced=False)))

    tracing = open_tracing(live_stage.settings, "choreo.coordinator")
    again = Coordinator(
        [Order],
        transport=live_stage.broker,
        database=live_stage.database,
        settings=live_stage.settings,
        tracing=tracing,
        options=live_stage.options,
    )
    await again.start()
    assert await tracing.aclose()
    await again.stop()
    roots = [row for row in sink.spans() if row.name == "saga order"]
    assert {row.attributes["saga.id"] for row in roots} == {f"order/{order}" for order in orders}
    assert await live_stage.database.read(store.untraced) == []


async def test_where_nothing_is_emitted_a_saga_says_so_from_its_first_row_on(live_stage: Stage) -> None:
    await live_stage.start()
    await live_stage.publish(Placed(order_id="open"), Placed(order_id="ended"), Refused(order_id="ended"))
    await live_stage.until(lambda all_: len(all_) == 2 and all_["order/ended"].phase.ended)
    marks = await live_stage.database.read(lambda c: c.execute(select(saga.c.traced)).scalars().all())
    assert marks == [True, True], "no other process emits it later, and no transaction has to write it down"


async def test_an_end_and_a_reopening_within_one_batch_are_two_whole_traces(live_stage: Stage, sink: OtlpSink) -> None:
    tracing = open_tracing(live_stage.settings, "choreo.coordinator")
    coordinator = Coordinator(
        [Order],
        transport=live_stage.broker,
        database=live_stage.database,
        settings=live_stage.settings,
        tracing=tracing,
        options=live_stage.options,
    )
    await coordinator.start()
    await live_stage.publish(Placed(order_id="1"), Declined(order_id="1"))
    await live_stage.until(lambda all_: bool(all_) and all_["order/1"].phase == "COMPENSATING")
    # It is undone, and done after that.
    await live_stage.publish(Released(order_id="1"), Reserved(order_id="1"))
    await live_stage.until(lambda all_: all_["order/1"].epoch == 1)
    await live_stage.publish(Released(order_id="1"))
    await live_stage.until(lambda all_: all_["order/1"].phase == "COMPENSATED")
    await coordinator.stop()
    assert await tracing.aclose()
    assert sink.outline(trace_id("", "order/1")) == [
        "saga order [choreo.coordinator] ERROR",
        "  saga order started [choreo.coordinator]",
        "  step reserve [choreo.coordinator] ERROR",
        "  step charge [choreo.coordinator] ERROR",
        "  compensate reserve [choreo.coordinator]",
    ]
    assert sink.outline(trace_id("", "order/1", 1)) == [
        "saga order [choreo.coordinator] ERROR -> previous",
        "  saga order started [choreo.coordinator] -> previous",
        "  compensate reserve [choreo.coordinator]",
    ]
