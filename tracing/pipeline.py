"""A span queue with one exporter behind it, that counts what it loses and never disturbs its host.

The SDK's `BatchSpanProcessor` does the batching. Around it stand a bound of our own (the SDK drops the *oldest* spans,
so a saga would lose its head; here the newest are refused), counters, one warning, and a close with a time limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .spans import Losses

log = structlog.get_logger("choreo.tracing")

QUEUE = 16_384
BATCH = 2_048
DELAY = 1.0

_NOISY = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "urllib3.connectionpool",
)
_exporting = threading.local()


class _NotWhileExporting(logging.Filter):
    """Holds back what an exporter logs during an export of ours; other users of the same exporter keep their lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_exporting, "now", False)


_filter = _NotWhileExporting()


class CountedProcessor(SpanProcessor):
    """The queue and its exporter.

    Args:
        name: shown in warnings and counts, e.g. "otlp".
        exporter: where batches go.
        queue: spans that may wait, the batch under way included.
        batch: spans per export.
        delay: seconds until an incomplete batch goes.
    """

    def __init__(
        self, name: str, exporter: SpanExporter, *, queue: int = QUEUE, batch: int = BATCH, delay: float = DELAY
    ) -> None:
        self._name = name
        self._queue = queue
        self._lock = threading.Lock()
        self._waiting = 0
        self._accepted = 0
        self._dropped = 0
        self._closed = False
        self._exporter = _CountingExporter(name, exporter, self._taken)
        self._batch = BatchSpanProcessor(
            self._exporter,
            max_queue_size=queue,
            schedule_delay_millis=delay * 1_000,
            max_export_batch_size=min(batch, queue),
        )
        for logger in _NOISY:
            logging.getLogger(logger).addFilter(_filter)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only ended spans count."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span, or count it as dropped."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            if self._closed or self._waiting >= self._queue:
                self._dropped += 1
                if self._dropped == 1 and not self._closed:
                    log.warning("span queue is full; spans are dropped and counted", exporter=self._name)
                return
            self._waiting += 1
            self._accepted += 1
            self._batch.on_end(span)  # within the lock: the queue's order is that of the count

    def accepted(self) -> int:
        """Count the spans that were queued so far."""
        with self._lock:
            return self._accepted

    def left(self) -> int:
        """Count those of them that have left, in their order: exported, or lost and counted."""
        with self._lock:
            return self._accepted - self._waiting

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until what is queued now was exported."""
        worker = threading.Thread(target=self._batch.force_flush, name=f"choreo-flush-{self._name}", daemon=True)
        worker.start()
        worker.join(timeout)
        return not worker.is_alive()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """As `flush`; the SDK's name for it."""
        return self.flush(timeout_millis / 1_000)

    def close(self, timeout: float) -> bool:
        """Export what is queued and stop; after `timeout` seconds what is left is given up and counted.

        False if a span was lost, now or before.
        """
        with self._lock:
            if self._closed:
                return True
            self._closed = True
        worker = threading.Thread(target=self._batch.shutdown, name=f"choreo-close-{self._name}", daemon=True)
        worker.start()
        worker.join(timeout)
        in_time = not worker.is_alive()
        if not in_time:
            self._exporter.give_up()
            worker.join(0.5)
        counted = self.losses()
        if counted.dropped or counted.failed:
            log.info(
                "spans were lost",
                exporter=self._name,
                exported=counted.exported,
                dropped=counted.dropped,
                failed=counted.failed,
            )
        return in_time and not counted.dropped and not counted.failed

    def shutdown(self) -> None:
        """As `close` with the SDK's limit of thirty seconds, for a provider that is shut down by its owner."""
        self.close(30.0)

    def losses(self) -> Losses:
        """Count what went out and what did not; spans still waiting after `close` count as failed."""
        with self._lock:
            left = self._waiting if self._closed and self._exporter.stopped else 0
            return Losses(self._name, self._exporter.exported, self._dropped, self._exporter.failed + left)

    def _taken(self, count: int) -> None:
        with self._lock:
            self._waiting -= count


class _CountingExporter(SpanExporter):
    """Passes batches on and counts; whatever the exporter does, the caller sees a result and no exception."""

    def __init__(self, name: str, inner: SpanExporter, taken: Callable[[int], None]) -> None:
        self._name = name
        self._inner = inner
        self._taken = taken
        self._closing = threading.Lock()
        self.exported = 0
        self.failed = 0
        self.stopped = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch."""
        result = SpanExportResult.FAILURE
        if not self.stopped:
            _exporting.now = True
            try:
                result = self._inner.export(spans)
            except Exception as error:
                # Not our host's business; the class is enough to look it up.
                log.debug("span exporter raised", exporter=self._name, error=type(error).__name__)
            finally:
                _exporting.now = False
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
        else:
            if not self.failed:
                log.warning("spans cannot be exported; they are lost and counted, nothing else is", exporter=self._name)
            self.failed += len(spans)
        self._taken(len(spans))
        return result

    def give_up(self) -> None:
        """Refuse further batches and interrupt the exporter's retries."""
        self.shutdown()

    def shutdown(self) -> None:
        """Close the exporter, once."""
        with self._closing:
            if self.stopped:
                return
            self.stopped = True
        _exporting.now = True
        try:
            self._inner.shutdown()
        except Exception as error:
            log.debug("span exporter raised at its end", exporter=self._name, error=type(error).__name__)
        finally:
            _exporting.now = False

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return True
