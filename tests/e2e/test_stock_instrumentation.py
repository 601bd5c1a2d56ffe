"""Beside `opentelemetry-instrumentation-aiokafka`: every record has one context, every message one span of a kind."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from choreo.events.codec import to_record
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.ids import new_id
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.events.uninstrumented import plain
from choreo.tracing.ids import trace_id
from tests.saga.stage import Stage
from tests.saga.traced import GOLDEN, run_order
from tests.support.otlp import OtlpSink


@pytest.fixture
def stock() -> Iterator[InMemorySpanExporter]:
    """The stock instrumentation, switched on as its documentation says, with what it has made so far."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "web"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AIOKafkaInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    AIOKafkaInstrumentor().uninstrument()


@dataclass
class Beside(Stage):
    """A stage whose orders come from a client of the application's own, which is instrumented."""

    bootstrap: str = ""
    prefix: str = ""
    own: Any = field(default=None)

    async def publish(self, *events: Event, **envelope: Any) -> list[str]:
        for event in events:
            made = Envelope(new_id(), event.spec().type, "web", self.now, event.key_text())
            record = to_record(event, made, self.codec)
            self.own = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
            await self.own.start()
            try:
                name = self.prefix + record.topic
                await self.own.send_and_wait(name, record.value, record.key, headers=list(record.headers))
            finally:
                await self.own.stop()
        return []


@pytest.mark.kafka
async def test_a_saga_is_one_tree_and_no_record_has_two_contexts(
    stock: InMemorySpanExporter, kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=prefix, home=tmp_path, namespace=prefix)
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        async with Beside(
            f"sqlite:{tmp_path / 'saga.db'}",
            broker=connect(settings.broker_url, settings),  # type: ignore[arg-type]
            settings=settings,
            bootstrap=kafka_bootstrap,
            prefix=prefix,
            live=True,
        ) as stage:
            await run_order(stage)
        assert sink.outline(trace_id(prefix, "order/4711")) == GOLDEN
        (sent,) = stock.get_finished_spans()
        assert sent.name == f"{prefix}orders send", "the application's own client; nothing of ours is shown twice"
        (anchor,) = sink.spans(sent.context.trace_id)
        assert (anchor.name, anchor.parent_id) == ("saga start order", f"{sent.context.span_id:016x}")
    contexts = await _contexts(kafka_bootstrap, prefix)
    assert len(contexts) >= 5
    assert all(len(found) <= 1 for found in contexts), contexts


async def _contexts(bootstrap: str, prefix: str) -> list[list[bytes]]:
    """Read the `traceparent` headers of every record."""
    names = [f"{prefix}{topic}" for topic in ("orders", "inventory", "inventory.commands", "payments")]
    consumer = AIOKafkaConsumer(*names, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    found = []
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        assert ends
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for batch in (await plain(consumer.getmany)(timeout_ms=1_000)).values():
                found += [[value for name, value in record.headers if name == "traceparent"] for record in batch]
    finally:
        await consumer.stop()
    return found


def test_only_ours_are_without_it_and_only_while_it_is_on(stock: InMemorySpanExporter) -> None:
    class Client(AIOKafkaConsumer):
        def __init__(self) -> None:
            """Connect to nothing."""

        def __del__(self) -> None:
            """Close nothing."""

    client = Client()
    assert inspect.unwrap(client.getmany) is not client.getmany, "the stock instrumentation is on"
    assert plain(client.getmany) == inspect.unwrap(client.getmany)
    AIOKafkaInstrumentor().uninstrument()
    assert plain(client.getmany) == client.getmany
    AIOKafkaInstrumentor().instrument()
