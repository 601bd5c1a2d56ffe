"""The span file: several writers, bounded, never in the way."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from choreo.events.errors import StoreUnreachable
from choreo.events.settings import Settings
from choreo.tracing.export import SPAN_FILE, open_tracing
from choreo.tracing.headers import parse_traceparent
from choreo.tracing.ids import trace_id
from choreo.tracing.saga_spans import derived_span, end_spans
from choreo.tracing.spanfile import SpanFileExporter, read_spans, to_row
from tests.tracing.stories import COMPENSATED

SAGA = Resource({"service.name": "saga"})


def span(number: int, trace: int = 1, end: int = 20, saga_id: str = "x/1") -> ReadableSpan:
    return derived_span("step a", trace, number, None, 10, end, resource=SAGA, attributes={"saga.id": saga_id})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "spans.db"


def test_what_is_written_is_read_back(path: Path) -> None:
    given = derived_span(
        "step a",
        trace_id("", "x/1"),
        2**64 - 1,
        3,
        10,
        20,
        resource=SAGA,
        status=Status(StatusCode.ERROR, "why"),
        attributes={"saga.id": "x/1", "n": 2, "yes": True},
        links=[Link(SpanContext(5, 6, True), {"saga.link": "trigger"})],
        events=[Event("saga.step.attempt_failed", {"saga.attempt": 1}, 15_000)],
    )
    exporter = SpanFileExporter(path, clock=lambda: 20)
    assert exporter.export([given]) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    assert read_spans(path, trace_id("", "x/1")) == [to_row(given)]
    exporter.shutdown()


def test_a_duplicate_is_kept_once(path: Path) -> None:
    exporter = SpanFileExporter(path, clock=lambda: 20)
    exporter.export([span(1), span(1), span(2)])
    exporter.export([span(2)])
    exporter.shutdown()
    assert [row.span_id for row in read_spans(path, 1)] == [f"{n:016x}" for n in (1, 2)]


def test_copies_from_another_export_are_left_out_where_the_first_ones_stand(path: Path) -> None:
    exporter = SpanFileExporter(path, clock=lambda: 20)
    exporter.export([span(1), span(9, trace=2), span(2)])
    exporter.export([span(3), span(1), span(2)])
    exporter.shutdown()
    assert [int(row.span_id, 16) for row in read_spans(path, 1)] == [1, 2, 3]
    assert [int(row.span_id, 16) for row in read_spans(path, 2)] == [9]


def test_it_is_bounded_by_spans_and_by_age(path: Path) -> None:
    exporter = SpanFileExporter(path, most_spans=40, most_age=100, clock=lambda: 1_000)
    exporter.export([span(n, end=950) for n in range(1, 251)])
    assert [int(row.span_id, 16) for row in read_spans(path, 1)] == [*range(201, 251)], "a part goes as a whole"
    exporter.shutdown()
    later = SpanFileExporter(path, most_spans=40, most_age=100, clock=lambda: 2_000)
    later.export([span(300, end=1_990)])
    assert [int(row.span_id, 16) for row in read_spans(path, 1)] == [300]
    later.shutdown()


def test_the_bound_counts_the_spans_of_all_exports_and_traces(path: Path) -> None:
    exporter = SpanFileExporter(path, most_spans=150, most_age=10_000, clock=lambda: 1_000)
    for trace in (1, 2, 3):
        exporter.export([span(n, trace) for n in range(1, 101)])
    exporter.shutdown()
    SpanFileExporter(path, most_spans=150, most_age=10_000, clock=lambda: 1_000).export([span(1, 4)])
    assert [len(read_spans(path, trace)) for trace in (1, 2, 3, 4)] == [0, 100, 100, 1]


def test_two_processes_write_while_a_third_reads(path: Path) -> None:
    program = """
import sys
from pathlib import Path
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from choreo.tracing.saga_spans import derived_span
from choreo.tracing.spanfile import SpanFileExporter
path, first = Path(sys.argv[1]), int(sys.argv[2])
exporter = SpanFileExporter(path, clock=lambda: 20)
resource = Resource({"service.name": sys.argv[2]})
for n in range(100):
    span = derived_span("step a", 1, first + n, None, 10, 20, resource=resource)
    both = derived_span("both", 1, 7, None, 1, 2, resource=resource)
    assert exporter.export([span, both]) is SpanExportResult.SUCCESS
exporter.shutdown()
"""
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", program, str(path), str(first)])
        for first in (1_000, 2_000)
    ]
    while any(writer.poll() is None for writer in writers):
        read_spans(path, 1)
    assert [writer.wait(60) for writer in writers] == [0, 0]
    rows = read_spans(path, 1)
    assert len(rows) == 201
    assert {row.service for row in rows} == {"1000", "2000"}


def test_a_missing_file_and_an_unknown_trace_are_empty(path: Path) -> None:
    assert read_spans(path, 1) == []
    assert not path.exists()
    SpanFileExporter(path).export([span(1)])
    assert read_spans(path, 2) == []


def test_a_file_of_another_release_is_emptied_by_the_writer_and_empty_to_the_reader(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE span (something TEXT)")
        old.execute("PRAGMA user_version = 99")
    old.close()
    assert read_spans(path, 1) == []
    exporter = SpanFileExporter(path, clock=lambda: 20)
    assert exporter.export([span(1)]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert len(read_spans(path, 1)) == 1


def test_another_layout_of_a_span_is_another_version_of_the_file(path: Path) -> None:
    exporter = SpanFileExporter(path, clock=lambda: 20)
    link = Link(SpanContext(5, 6, True), {"saga.link": "trigger"})
    exporter.export(
        [derived_span("a", 1, 2, 3, 10, 20, resource=SAGA, links=[link], events=[Event("e", {"n": 1}, 15_000)])]
    )
    exporter.shutdown()
    with closing(sqlite3.connect(path)) as file:
        version = file.execute("PRAGMA user_version").fetchone()[0]
        parts = file.execute("SELECT n, trace_id, end, spans FROM part").fetchall()
    trace = f"{1:032x}"
    assert (version, [part[:3] for part in parts]) == (3, [(1, trace, 20)])
    assert json.loads(parts[0][3]) == [
        [trace, f"{2:016x}", f"{3:016x}", "a", "INTERNAL", "saga", 10, 20, "UNSET", "", {},
         [[f"{5:032x}", f"{6:016x}", {"saga.link": "trigger"}]], [["e", 15, {"n": 1}]]],
    ]  # fmt: skip


def test_spans_that_cannot_be_read_tell_the_reader(path: Path) -> None:
    SpanFileExporter(path, clock=lambda: 20).export([span(1)])
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE part SET spans = '[[1]]'")
    with pytest.raises(StoreUnreachable, match=r"cannot read the span file .*spans\.db: .*delete it"):
        read_spans(path, 1)


def test_a_damaged_file_fails_the_export_and_tells_the_reader(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, it is a text of more than a hundred bytes " * 40)
    exporter = SpanFileExporter(path)
    assert exporter.export([span(1)]) is SpanExportResult.FAILURE
    with pytest.raises(StoreUnreachable, match=r"cannot read the span file .*spans\.db: .*delete it"):
        read_spans(path, 1)


def test_a_folder_that_cannot_be_made_fails_the_export(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert SpanFileExporter(tmp_path / "file" / "spans.db").export([span(1)]) is SpanExportResult.FAILURE


def test_an_unended_span_is_left_out(path: Path) -> None:
    assert to_row(ReadableSpan("x")) is None
    assert SpanFileExporter(path).export([ReadableSpan("x", resource=SAGA)]) is SpanExportResult.SUCCESS


def test_an_embedded_run_writes_it_and_only_that(settings: Settings, tmp_path: Path) -> None:
    memory = open_tracing(settings, "saga")
    assert not memory.enabled
    local = open_tracing(settings.model_copy(update={"broker": "local:" + str(tmp_path / "broker.db")}), "saga")
    local.emit(end_spans(COMPENSATED, local.resource))
    sent = local.send("orders", "e-1", saga_id="x/1")
    sent.end()
    assert local.flush()
    context = parse_traceparent(sent.traceparent)
    assert context is not None
    assert [row.name for row in read_spans(tmp_path / SPAN_FILE, context.trace_id)] == ["send orders"]
    assert local.close()
    (row,) = read_spans(tmp_path / SPAN_FILE, trace_id("shop", "fulfilment/4711"))
    assert (row.name, row.service) == ("saga fulfilment", "saga")
