"""An OTLP/HTTP endpoint inside the test: a real server on a free loopback port that keeps what it is sent.

```python
with OtlpSink() as sink:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    ...
    assert sink.outline(trace_id) == [...]
```
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from choreo.tracing.tree import AttributeValue, EventRow, LinkRow, Node, SpanRow, build_tree


class OtlpSink:
    """Receives spans over HTTP, drops identical duplicates as Jaeger does, and shows them as a tree.

    Attributes:
        received: every span, duplicates included, in the order of arrival.
        metrics: names of the metrics that came.
        requests: how many requests came.
        answer: the HTTP status to answer with; spans are kept only with 200.
        delay: seconds to wait before answering.
    """

    def __init__(self) -> None:
        self.received: list[SpanRow] = []
        self.metrics: set[str] = set()
        self.encodings: list[str] = []
        self.requests = 0
        self.answer = 200
        self.delay = 0.0
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> OtlpSink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def spans(self, trace_id: int | None = None) -> list[SpanRow]:
        """Give the spans (of one trace), identical duplicates dropped, in the order of arrival."""
        with self._changed:
            rows = list(self.received)
        unique = {repr(row): row for row in rows}
        return [row for row in unique.values() if trace_id is None or row.trace_id == f"{trace_id:032x}"]

    def tree(self, trace_id: int) -> list[Node]:
        """Give one trace as a tree."""
        return build_tree(self.spans(trace_id))

    def outline(self, trace_id: int) -> list[str]:
        """Give one trace as lines of text: indentation, name, service, ERROR, orphan, and the kinds of its links."""
        return outline(self.tree(trace_id))

    def wait_for(self, enough: Callable[[list[SpanRow]], bool], timeout: float = 60.0) -> list[SpanRow]:
        """Wait until the spans suffice; fail the test otherwise."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not enough(self.received):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    names = [row.name for row in self.received]
                    raise AssertionError(f"the spans did not come within {timeout} s; there are {names}")
            return list(self.received)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                encoding = self.headers.get("Content-Encoding", "")
                if sink.delay:
                    time.sleep(sink.delay)
                status = sink.answer if self.path in ("/v1/traces", "/v1/metrics") else 404
                rows, metrics = [], set()
                body = gzip.decompress(body) if encoding == "gzip" else body
                if status == 200 and self.path == "/v1/traces":
                    rows = list(read_request(ExportTraceServiceRequest.FromString(body)))
                elif status == 200:
                    metrics = set(read_metrics(ExportMetricsServiceRequest.FromString(body)))
                with sink._changed:
                    sink.metrics |= metrics
                    sink.requests += 1
                    sink.encodings.append(encoding)
                    sink.received.extend(rows)
                    sink._changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on standard error."""

        return Handler


def read_request(request: ExportTraceServiceRequest) -> Iterable[SpanRow]:
    """Decode an export request."""
    for resource_spans in request.resource_spans:
        service = str(_attributes(resource_spans.resource.attributes).get("service.name", ""))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _row(span, service)


def read_metrics(request: ExportMetricsServiceRequest) -> Iterable[str]:
    """Give the names of the metrics in an export request."""
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            yield from (metric.name for metric in scope_metrics.metrics)


def outline(nodes: Iterable[Node]) -> list[str]:
    """Write a tree as lines of text."""
    lines = []
    for node in nodes:
        parts = [f"{'  ' * node.depth}{node.name} [{node.service}]"]
        if node.status != "UNSET":
            parts.append(node.status)
        if node.orphan:
            parts.append("orphan")
        parts.extend(f"-> {link.attributes.get('saga.link')}" for link in node.span.links)
        lines.append(" ".join(parts))
    return lines


def _row(span: Span, service: str) -> SpanRow:
    return SpanRow(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex() or None,
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        service,
        span.start_time_unix_nano // 1_000,
        span.end_time_unix_nano // 1_000,
        Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        span.status.message,
        _attributes(span.attributes),
        tuple(LinkRow(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        tuple(
            EventRow(event.name, event.time_unix_nano // 1_000, _attributes(event.attributes)) for event in span.events
        ),
    )


def _attributes(pairs: Iterable[KeyValue]) -> Mapping[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [str(_value(each)) for each in value.array_value.values]
    return getattr(value, kind) if kind else ""
