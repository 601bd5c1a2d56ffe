"""Export: by the standard variables, counted, and without any effect on who uses it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from structlog.testing import capture_logs

from choreo.events.errors import ConfigurationError
from choreo.events.settings import Settings
from choreo.tracing.export import open_tracing
from choreo.tracing.headers import UNSAMPLED
from choreo.tracing.pipeline import QUEUE, CountedProcessor
from choreo.tracing.saga_spans import derived_span, end_spans
from choreo.tracing.sampling import Sampling, is_failure, read_sampling
from choreo.tracing.spans import Losses, Tracing
from tests.support.otlp import OtlpSink
from tests.tracing.stories import COMPENSATED

SAGA = Resource({"service.name": "saga"})


def spans(count: int, first: int = 1) -> list[ReadableSpan]:
    return [derived_span("x", 1, first + n, None, 1, 2, resource=SAGA) for n in range(count)]


class Slow(SpanExporter):
    """An exporter that waits until it is let go, and counts its ends."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.seen = 0
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.started.set()
        self.gate.wait(20)
        self.seen += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shutdowns += 1


class Raising(SpanExporter):
    """An exporter that breaks its contract."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("secret")

    def shutdown(self) -> None:
        raise RuntimeError("secret")


def test_without_any_variable_nothing_is_made(settings: Settings) -> None:
    tracing = open_tracing(settings, "inventory")
    assert not tracing.enabled
    assert not tracing.emits
    assert tracing.namespace == "shop"
    assert tracing.losses == ()


def test_switched_off_tracing_does_not_load_the_sdk() -> None:
    program = (
        "import sys; from choreo.events.settings import Settings; from choreo.tracing.export import open_tracing\n"
        "assert not open_tracing(Settings(broker='memory:'), 'x').enabled\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'grpc')\n"
        "assert not [name for name in sys.modules if name.startswith(heavy)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={"PATH": ""})


def test_spans_reach_a_real_endpoint_with_their_resource(
    sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2,host.name=h1")
    tracing = open_tracing(settings, "inventory")
    tracing.send("orders", "e-1").end()
    tracing.emit(end_spans(COMPENSATED, tracing.resource))
    assert tracing.flush()
    assert sorted((row.name, row.service) for row in sink.spans()) == [
        ("saga fulfilment", "inventory"),
        ("send orders", "inventory"),
    ]
    assert tracing.losses == (Losses("otlp http/protobuf", 2, 0, 0),)
    assert tracing.close()
    assert tracing.close(), "closing twice is harmless"


def test_the_coordinators_resource_holds_nothing_of_the_process(
    sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2,host.name=h1")
    tracing = open_tracing(settings, "saga")
    assert dict(tracing.resource.attributes) == {"service.name": "saga", "service.version": "1.2"}
    tracing.close()


def test_an_endpoint_that_comes_up_late_still_gets_the_spans(sink: OtlpSink, settings: Settings) -> None:
    sink.answer = 503
    tracing = open_tracing(settings, "inventory")
    tracing.send("orders", "e-1").end()
    threading.Timer(0.3, lambda: setattr(sink, "answer", 200)).start()
    assert tracing.flush(20)
    assert [row.name for row in sink.spans()] == ["send orders"]
    assert tracing.close()


def test_a_backend_that_is_down_costs_spans_and_one_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        with capture_logs() as logs, caplog.at_level(logging.DEBUG):
            tracing = open_tracing(settings, "inventory")
            for number in range(3):
                tracing.emit(spans(10, 1 + 10 * number))
                tracing.flush(60)
            assert not tracing.close(2)
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in warnings] == [
        "spans cannot be exported; they are lost and counted, nothing else is"
    ]
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    (losses,) = tracing.losses
    assert (losses.exported, losses.dropped, losses.failed) == (0, 0, 30)


def test_a_hanging_backend_does_not_hold_up_the_end(
    sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Slow()
    processor = CountedProcessor("slow", exporter, delay=0.01, batch=10)
    tracing = Tracing(pipelines=[processor])
    tracing.emit(spans(10))
    assert exporter.started.wait(60)
    tracing.emit(spans(15, 11))
    assert not tracing.flush(0.05)
    assert not tracing.close(0.1)
    assert processor.losses() == Losses("slow", 0, 0, 25), "what was left is counted"
    exporter.gate.set()
    assert exporter.shutdowns == 1


async def test_closing_leaves_the_event_loop_free() -> None:
    exporter = Slow()
    tracing = Tracing(pipelines=[CountedProcessor("slow", exporter, delay=0.01)])
    tracing.emit(spans(1))
    closing = asyncio.create_task(tracing.aclose(10))
    await asyncio.sleep(0.05)
    assert not closing.done()
    exporter.gate.set()
    assert await closing
    assert exporter.seen == 1


def test_a_full_queue_refuses_the_newest_and_counts_them() -> None:
    exporter = Slow()
    processor = CountedProcessor("slow", exporter, queue=20, batch=10, delay=0.01)
    with capture_logs() as logs:
        for span in spans(50):
            processor.on_end(span)
        assert processor.losses().dropped == 30
        exporter.gate.set()
        assert not processor.close(10), "spans were lost"
        processor.on_end(spans(1)[0])
    assert exporter.seen == 20
    assert processor.losses() == Losses("slow", 20, 31, 0)
    assert [line["log_level"] for line in logs] == ["warning", "info"]


def test_what_waits_to_be_exported_has_not_left() -> None:
    """A process that is killed now takes it along, so nobody may count on it."""
    exporter = Slow()
    processor = CountedProcessor("slow", exporter, delay=0.01, batch=1)
    tracing = Tracing(pipelines=[processor, CountedProcessor("quick", InMemorySpanExporter(), delay=0.01)])
    nothing = tracing.mark()
    assert tracing.has_left(nothing)
    tracing.emit(spans(2))
    before = tracing.mark()
    tracing.emit(spans(2))
    assert not tracing.has_left(before)
    exporter.gate.set()
    assert tracing.flush(10)
    assert tracing.has_left(before)
    assert tracing.has_left(tracing.mark())
    assert tracing.close(10)


def test_what_is_lost_and_counted_has_left_too() -> None:
    tracing = Tracing(pipelines=[CountedProcessor("raising", Raising(), delay=0.01)])
    tracing.emit(spans(3))
    mark = tracing.mark()
    assert tracing.flush(10)
    assert tracing.has_left(mark)
    assert not tracing.close(10)


def test_an_exporter_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    processor = CountedProcessor("raising", Raising(), delay=0.01)
    with capture_logs() as logs:
        for span in spans(3):
            processor.on_end(span)
        assert processor.force_flush(5_000)
        processor.shutdown()
    assert processor.losses() == Losses("raising", 0, 0, 3)
    assert "secret" not in str(logs) + caplog.text


def test_an_unsampled_span_is_not_queued() -> None:
    processor = CountedProcessor("memory", InMemorySpanExporter())
    processor.on_end(ReadableSpan("x", SpanContext(1, 2, False, UNSAMPLED), resource=SAGA))
    processor.on_end(ReadableSpan("x", resource=SAGA))
    assert processor.close(5)
    assert processor.losses() == Losses("memory", 0, 0, 0)


def test_the_queue_holds_a_long_saga() -> None:
    assert QUEUE >= 16_384


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "console")],
)
def test_it_can_be_switched_off(
    sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not open_tracing(settings, "inventory").enabled


def test_otlp_may_be_asked_for_without_an_endpoint(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    tracing = open_tracing(settings, "inventory")
    assert [losses.name for losses in tracing.losses] == ["otlp http/protobuf"]
    assert tracing.close()


def test_grpc_is_used_where_asked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    tracing = open_tracing(settings, "inventory")
    assert [losses.name for losses in tracing.losses] == ["otlp grpc"]
    assert tracing.close()


def test_grpc_that_is_not_installed_is_said_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"needs the package opentelemetry-exporter-otlp-proto-grpc"):
        open_tracing(settings, "inventory")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", r"OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon", r"http/protobuf \(the default\) and grpc"),
    ],
)
def test_a_wrong_variable_is_said_in_one_line(
    sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        open_tracing(settings, "inventory")


def test_compression_is_an_option(sink: OtlpSink, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    tracing = open_tracing(settings, "inventory")
    tracing.send("orders", "e-1").end()
    assert tracing.close()
    assert sink.encodings == ["gzip"]
    assert [row.name for row in sink.spans()] == ["send orders"]


def test_an_exporter_of_the_application_gets_everything(settings: Settings) -> None:
    memory = InMemorySpanExporter()
    tracing = open_tracing(settings, "inventory", extra=[memory])
    tracing.send("orders", "e-1").end()
    tracing.emit(end_spans(COMPENSATED, tracing.resource))
    assert tracing.close()
    assert [span.name for span in memory.get_finished_spans()] == ["send orders", "saga fulfilment"]


def test_a_provider_of_the_application_makes_the_services_spans(sink: OtlpSink) -> None:
    """In a process of its own: a provider can be installed only once."""
    program = f"""
import os, tempfile
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = {sink.url!r}
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from choreo.events.settings import Settings
from choreo.tracing.export import SPAN_FILE, open_tracing
from choreo.tracing.headers import parse_traceparent
from choreo.tracing.ids import trace_id
from choreo.tracing.spanfile import read_spans
from choreo.events.clock import system_clock
from choreo.tracing.saga_spans import end_spans, SagaStory
memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
home = Path(tempfile.mkdtemp())
tracing = open_tracing(Settings(home=home), "inventory", install=True)
sent = tracing.send("orders", "e-1", saga_id="x/1")
sent.end()
tracing.emit(end_spans(SagaStory("x/1", "x", 1, "", system_clock(), "COMPLETED"), tracing.resource))
assert tracing.close()
assert [span.name for span in memory.get_finished_spans()] == ["send orders"]
traces = [parse_traceparent(sent.traceparent).trace_id, trace_id("", "x/1")]
assert [row.name for each in traces for row in read_spans(home / SPAN_FILE, each)] == ["send orders", "saga x"]
assert trace.get_tracer_provider() is provider
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    assert [row.name for row in sink.spans()] == ["saga x"], "the application exports its own"


def test_installed_it_takes_the_handlers_own_spans_along(sink: OtlpSink) -> None:
    program = f"""
import os
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = {sink.url!r}
from opentelemetry import trace
from choreo.events.settings import Settings
from choreo.tracing.export import open_tracing
first = open_tracing(Settings(broker="memory:"), "inventory", install=True)
second = open_tracing(Settings(broker="memory:"), "payments", install=True)
with trace.get_tracer("user").start_as_current_span("query"):
    second.send("payments", "e-1").end()
assert first.close() and second.close()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    assert sorted((row.name, row.service) for row in sink.spans()) == [
        ("query", "inventory"),
        ("send payments", "payments"),
    ]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Sampling(1.0, True)),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF"}, Sampling(0.0, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampling(0.0, True)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, Sampling(0.1, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}, Sampling(0.05, True)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, Sampling(1.0, True)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "few"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "something_else"}, Sampling(1.0, True)),
    ],
)
def test_the_standard_sampler_variables_are_read(environ: dict[str, str], expected: Sampling) -> None:
    with capture_logs():
        assert read_sampling(environ) == expected


def test_a_saga_is_sampled_if_its_origin_is_or_by_ratio() -> None:
    low, high = 1, 2**64 - 1
    assert Sampling(0.5).decide(low, False)
    assert not Sampling(0.5).decide(high, False)
    assert Sampling(0.5).decide(high, True)
    assert not Sampling(0.5, follow_origin=False).decide(high, True)
    assert Sampling(1.0).decide(high, False)
    assert not Sampling(0.0).decide(low, False)


def test_a_failure_is_a_failure_in_any_case() -> None:
    assert is_failure("FAILED")
    assert is_failure("compensated")
    assert not is_failure("Completed")


def test_emission_does_not_wait_for_the_exporter() -> None:
    exporter = Slow()
    processor = CountedProcessor("slow", exporter, delay=0.01, batch=1)
    tracing = Tracing(pipelines=[processor])
    tracing.emit(spans(200))
    assert exporter.seen == 0, "it returned while the exporter was stuck"
    exporter.gate.set()
    assert tracing.close(10)
    assert exporter.seen == 200
