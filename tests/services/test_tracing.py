"""Handler spans stand beneath their saga's step, one per attempt; what is sent carries the context on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from choreo.events.catalog import DefinitionAnnouncement, StepAnnouncement, announce
from choreo.events.settings import Settings
from choreo.services.context import Transaction
from choreo.services.retry import Retry
from choreo.services.service import Service
from choreo.tracing.export import open_tracing
from choreo.tracing.headers import parse_traceparent, saga_traceparent
from choreo.tracing.ids import span_id, trace_id
from choreo.tracing.spans import Tracing
from tests.services.shop import OrderPlaced, ReleaseStock, Rig, StockReleased, StockReserved, command, idle, until

QUICK = Retry(attempts=3, first="1ms", most="2ms")
DEFINITION = DefinitionAnnouncement(
    type="fulfilment",
    version=1,
    hash="h",
    namespace="shop",
    start=["OrderPlaced"],
    key="order_id",
    topics={"OrderPlaced": "orders", "StockReserved": "inventory"},
    steps=[
        StepAnnouncement(name="reserve", index=0, done=["StockReserved"], undo="ReleaseStock", undone=["StockReleased"])
    ],
)


class Spans:
    """The spans that were exported."""

    def __init__(self, tracing: Tracing, exporter: InMemorySpanExporter) -> None:
        self.tracing = tracing
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        self.tracing.flush()
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans(tmp_path) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    tracing = open_tracing(Settings(home=tmp_path, broker="memory:", namespace="shop"), "inventory", extra=[exporter])
    yield Spans(tracing, exporter)
    tracing.close()


def _service(store, fails=0):
    service = Service("inventory", store=store)
    left = [fails]

    @service.on(OrderPlaced, retry=QUICK)
    async def reserve(order: OrderPlaced) -> StockReserved:
        if left[0]:
            left[0] -= 1
            raise OSError("away")
        return StockReserved(order_id=order.order_id)

    return service


@pytest.mark.parametrize("stateless", [False, True])
async def test_each_attempt_is_a_span_beneath_the_step_and_the_output_is_sent_beneath_the_last(
    rig: Rig, store, spans: Spans, stateless
):
    await announce(rig.broker, DEFINITION)
    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(_service(None if stateless else store, fails=1), tracing=spans.tracing)
    first, second = spans.named("process orders")
    (sent,) = spans.named("send inventory")
    trace, step = trace_id("shop", "fulfilment/1"), span_id("shop", "fulfilment/1", "step", "reserve", "")
    for number, span in enumerate((first, second), 1):
        assert (span.context.trace_id, span.parent.span_id) == (trace, step)
        assert span.attributes["saga.step"] == "reserve"
        assert span.attributes["saga.attempt"] == number
        assert span.attributes["messaging.consumer.group.name"] == "inventory"
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert sent.parent.span_id == second.context.span_id
    (out,) = await rig.published("inventory")
    carried = parse_traceparent(out.envelope.traceparent)
    assert (carried.trace_id, carried.span_id) == (trace, sent.context.span_id)
    assert out.envelope.saga_traceparent is not None


async def test_an_undo_stands_beneath_the_compensation(rig: Rig, store, spans: Spans):
    service = _service(store)
    reserve = service.handlers[0].function

    @service.on(ReleaseStock, undoes=reserve)
    async def release(command: ReleaseStock, tx: Transaction) -> StockReleased:
        return StockReleased(order_id=command.order_id)

    await announce(rig.broker, DEFINITION)
    (sent,) = await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service, tracing=spans.tracing)
    await rig.publish(ReleaseStock(order_id="1"), **command("reserve", undoes=[sent]))
    await rig.run(service, tracing=spans.tracing)
    (span,) = spans.named("process inventory.commands")
    assert span.parent.span_id == span_id("shop", "fulfilment/1", "comp", "reserve", "")
    (answer,) = await rig.published("inventory", "StockReleased")
    assert (answer.envelope.saga_id, answer.envelope.saga_step) == ("fulfilment/1", "reserve")


async def test_a_definition_that_is_announced_later_counts_from_then_on(rig: Rig, store, spans: Spans, monkeypatch):
    monkeypatch.setattr("choreo.services.worker._DEFINITIONS_EVERY", 1)
    async with rig.running(_service(store), tracing=spans.tracing) as worker:
        await rig.publish(OrderPlaced(order_id="1"))
        await idle(worker)
        await announce(rig.broker, DEFINITION)
        number = 1

        async def placed() -> bool:
            nonlocal number
            number += 1
            await rig.publish(OrderPlaced(order_id=str(number)))
            await idle(worker)
            return "saga.step" in spans.named("process orders")[-1].attributes

        await until(placed)
    assert "saga.step" not in spans.named("process orders")[0].attributes


async def test_an_unsampled_saga_makes_no_span_and_says_so_to_the_next(rig: Rig, store, spans: Spans):
    await announce(rig.broker, DEFINITION)
    unsampled = saga_traceparent("shop", "fulfilment/1", 0, False)
    await rig.publish(OrderPlaced(order_id="1"), saga_id="fulfilment/1", saga_traceparent=unsampled)
    await rig.run(_service(store), tracing=spans.tracing)
    assert spans.named("process orders") == spans.named("send inventory") == []
    (out,) = await rig.published("inventory")
    assert out.envelope.saga_traceparent == unsampled
    assert not parse_traceparent(out.envelope.traceparent).trace_flags.sampled


async def test_without_tracing_the_context_is_passed_on(rig: Rig, store):
    given = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    await rig.publish(OrderPlaced(order_id="1"), traceparent=given, saga_traceparent=given, baggage="user=1")
    await rig.run(_service(store))
    (out,) = await rig.published("inventory")
    assert (out.envelope.traceparent, out.envelope.saga_traceparent, out.envelope.baggage) == (given, given, None)


async def test_a_choreographed_output_names_the_step_that_published_it(rig: Rig, store):
    """An event that was published by another step must not lend its step to what follows it."""
    await announce(rig.broker, DEFINITION)
    await rig.publish(OrderPlaced(order_id="1"), saga_id="fulfilment/1", saga_type="fulfilment", saga_step="other")
    await rig.run(_service(store))
    (out,) = await rig.published("inventory")
    assert (out.envelope.saga_id, out.envelope.saga_step) == ("fulfilment/1", "reserve")
