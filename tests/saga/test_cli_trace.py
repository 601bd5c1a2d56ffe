"""`saga trace`: what it shows of a trace, where it has it from, and how a saga is emitted once more."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import webbrowser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from choreo.saga.cli import exits
from choreo.tracing.critical import critical_path, length
from choreo.tracing.ids import span_id, step_path, trace_id
from choreo.tracing.otlp_json import read_otlp_json, to_otlp_json
from choreo.tracing.tree import EventRow, LinkRow, SpanRow, build_tree
from tests.saga import shelf
from tests.saga.shelf import CHARGING, COMPENSATED, COMPENSATING, COMPLETED, FAILED
from tests.support.console import Console, validate
from tests.support.otlp import OtlpSink

TRACE = trace_id("", COMPENSATED)
HANDLER = SpanRow(
    f"{TRACE:032x}",
    "00000000000000aa",
    f"{span_id('', COMPENSATED, *step_path('reserve')):016x}",
    "process orders",
    "CONSUMER",
    "inventory",
    1_700_000_000_000_000,
    1_700_000_000_200_000,
    "ERROR",
    "said by nobody",
    {"saga.queue_ms": 31, "error.type": "OSError", "ok": True, "share": 0.5, "names": ["a", "b"]},
    (LinkRow("a" * 32, "b" * 16, {"saga.link": "message"}),),
    (EventRow("tick", 1_700_000_000_100_000, {"n": 1}),),
)


class FakeJaeger:
    """Answers as Jaeger's query API does; `broken` answers are what else may stand at an address."""

    def __init__(self) -> None:
        self.spans: dict[str, list[SpanRow]] = {}
        self.broken: bytes | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trace = self.path.removeprefix("/api/v3/traces/")
                found = fake.spans.get(trace)
                body = fake.broken or json.dumps({"result": to_otlp_json(found or [])}).encode()
                self.send_response(200 if found or fake.broken else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def jaeger_like(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJaeger]:
    fake = FakeJaeger()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("CHOREO_JAEGER", fake.url)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def shelf_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shelf")
    asyncio.run(shelf.fill(home))
    return home


@pytest.fixture
def saga(shelf_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHOREO_HOME", str(shelf_home))
    return Console(capsys, shelf_home)


def names(told: dict[str, Any]) -> list[str]:
    return [span["name"] for span in told["spans"]]


# ---- where it is from -----------------------------------------------------------------------------------------------


def test_what_jaeger_has_stands_beneath_what_the_history_tells(saga: Console, jaeger_like: FakeJaeger) -> None:
    jaeger_like.spans[f"{TRACE:032x}"] = [HANDLER]
    told = validate(saga("trace", COMPENSATED, "-o", "json").json, "saga.trace/v1")
    assert told["source"] == ["history", "jaeger"]
    assert names(told)[2:4] == ["step reserve", "process orders"]
    handler = told["spans"][3]
    assert (handler["depth"], handler["service"], handler["queue_ms"]) == (2, "inventory", 31)
    assert told["url"] == f"{jaeger_like.url}/trace/{TRACE:032x}"
    drawn = saga("trace", COMPENSATED)
    assert re.search(r"process orders +inventory +0\.2s .*✖ OSError queue 31ms", drawn.out), "apart from its own time"
    assert "from the history, and Jaeger" in drawn.err
    assert names(saga("trace", COMPENSATED, "--source", "history", "-o", "json").json) == [
        name for name in names(told) if name != "process orders"
    ]


def test_jaeger_alone_shows_what_jaeger_shows(saga: Console, jaeger_like: FakeJaeger) -> None:
    jaeger_like.spans[f"{TRACE:032x}"] = [HANDLER]
    told = validate(saga("trace", COMPENSATED, "--source", "jaeger", "-o", "json").json, "saga.trace/v1")
    assert (names(told), told["source"]) == (["process orders"], ["jaeger"])
    assert told["spans"][0]["orphan"]


def test_a_jaeger_that_is_away_is_named_and_the_history_is_drawn(
    saga: Console, jaeger_like: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    jaeger_like.broken = b"<html>"
    done = saga("trace", COMPENSATED, "-o", "json")
    assert (done.code, done.json["source"]) == (exits.OK, ["history"])
    assert "is no Jaeger" in done.err
    asked = saga("trace", COMPENSATED, "--source", "both")
    assert (asked.code, asked.out) == (exits.UNREACHABLE, "")
    monkeypatch.setenv("CHOREO_JAEGER", "http://127.0.0.1:9")
    assert "Jaeger at http://127.0.0.1:9 cannot be asked: ConnectError" in saga("trace", COMPENSATED).err
    monkeypatch.delenv("CHOREO_JAEGER")
    for option in (("--source", "jaeger"), ("--web",)):
        done = saga("trace", COMPENSATED, *option)
        assert done.code == exits.USAGE
        assert "set CHOREO_JAEGER" in done.err


def test_its_page_opens_where_the_trouble_is(
    saga: Console, jaeger_like: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)))
    done = saga("trace", COMPENSATED, "--web")
    assert opened == [f"{jaeger_like.url}/trace/{TRACE:032x}?uiFind=charge"]
    assert f"no browser can be opened here: {opened[0]}" in done.err


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_the_critical_path_is_what_everything_waited_for(saga: Console) -> None:
    whole = saga("trace", FAILED, "-o", "json").json
    assert 0 < whole["critical_path_ms"] <= whole["spans"][0]["duration_ms"]
    drawn = saga("trace", FAILED)
    assert re.search(r"critical path .+ of .+ · \d+ spans", drawn.out.splitlines()[0])
    only = saga("trace", FAILED, "--critical", "-o", "json").json
    assert only["critical_path_ms"] == whole["critical_path_ms"]
    assert "compensate reserve" in names(only), "it waited half an hour for that"
    assert "saga order started" not in names(only)


def test_of_parallel_steps_the_longer_one_counts() -> None:
    def row(name: str, start: int, end: int, parent: str | None = "r") -> SpanRow:
        return SpanRow("t", name, parent, name, "INTERNAL", "saga", start, end)

    root = row("r", 0, 100, None)
    steps = [row("a", 0, 30), row("b", 1, 60), row("c", 62, 100), row("d", 61, 90), row("mark", 0, 0)]
    nodes = build_tree([root, *steps, row("work", 0, 99, "b")])
    path = critical_path(nodes, root)
    assert [span.name for span in path] == ["b", "c"]
    assert length(path) == 97


def test_what_is_done_can_be_folded(saga: Console, jaeger_like: FakeJaeger) -> None:
    jaeger_like.spans[f"{TRACE:032x}"] = [HANDLER]
    folded = saga("trace", COMPENSATED, "--fold", "done", "-o", "json").json
    assert "process orders" not in names(folded)
    assert "step reserve" in names(folded)


def test_as_a_gantt_chart(saga: Console) -> None:
    lines = saga("trace", COMPENSATING, "-o", "mermaid").out.splitlines()
    assert lines[:2] == ["gantt", f"  title {COMPENSATING} COMPENSATING"]
    assert any(re.fullmatch(r"  step charge :crit, \d+, \d+", line) for line in lines)
    assert any(re.fullmatch(r"  compensate reserve :active, \d+, \d+", line) for line in lines)


def test_as_what_every_endpoint_takes(saga: Console, jaeger_like: FakeJaeger) -> None:
    jaeger_like.spans[f"{TRACE:032x}"] = [HANDLER]
    rows = read_otlp_json(saga("trace", COMPENSATED, "-o", "otlp-json").json)
    assert HANDLER in rows, "nothing of it is lost"
    told = saga("trace", COMPENSATED, "-o", "json").json
    assert {row.span_id for row in rows} == {span["span_id"] for span in told["spans"]}
    open_ = read_otlp_json(saga("trace", CHARGING, "-o", "otlp-json").json)
    assert [row.name for row in open_] == ["saga order started", "step reserve"], "what has no end is no span yet"


# ---- once more ------------------------------------------------------------------------------------------------------


def test_a_saga_is_emitted_once_more_in_a_trace_of_its_own(saga: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        monkeypatch.setenv("CHOREO_JAEGER", "http://127.0.0.1:16686")
        (told,) = [validate(each) for each in saga("trace", "export", COMPENSATED, "-o", "json").json]
        (new,) = told["trace_ids"]
        assert told["first_trace_id"] == f"{TRACE:032x}" != new
        assert told["url"] == f"http://127.0.0.1:16686/trace/{new}"
        assert sink.outline(int(new, 16)) == [
            "saga order [choreo-coordinator] ERROR -> first",
            "  saga order started [choreo-coordinator] -> first",
            "  step reserve [choreo-coordinator]",
            "  step charge [choreo-coordinator] ERROR",
            "  compensate reserve [choreo-coordinator]",
        ]
        assert {row.trace_id for row in sink.received} == {new}, "nothing joins an older emission"
        assert len(sink.received) == told["spans"]
        again = saga("trace", "export", COMPENSATED, COMPLETED[0], "-o", "id")
        assert again.out.splitlines()[0] == new
        assert len(sink.spans(int(new, 16))) == told["spans"], "the same state gives the same spans"
        assert "sent to http://127.0.0.1" in saga("trace", "export", COMPLETED[1]).err
        before = sink.requests
        planned = saga("trace", "export", COMPENSATED, "--dry-run")
        assert f"5 spans as {new}" in planned.out
        assert sink.requests == before
        sink.answer = 400
        refused = saga("trace", "export", COMPENSATED)
        assert refused.code == exits.UNREACHABLE
        assert "did not take 5 of 5 spans" in refused.err


def test_without_an_endpoint_nothing_is_emitted_once_more(saga: Console) -> None:
    done = saga("trace", "export", COMPENSATED)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert "set OTEL_EXPORTER_OTLP_ENDPOINT" in done.err
    assert saga("trace", "export").code == exits.USAGE
    assert saga("trace", "export", "order/none", "--dry-run").code == exits.NOT_FOUND
