"""Records on their way: a `send <topic>` span from the moment a record is built until the broker has it."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from ..events.envelope import Record
from .headers import format_traceparent, format_tracestate, is_sampled

SYSTEM = "kafka"
MOST_OPEN = 65_536
"""Sends that may wait for their acknowledgement; beyond it the oldest ends early (another process published it)."""


class SendSpan:
    """The send of one record; its headers are fixed from the start, so that the record can wait in an outbox.

    Args:
        traceparent, tracestate: what the record carries; None where there is no context.
        saga_traceparent: the saga's header; None without a saga.
        sends: where it is open, if it is sampled.
    """

    __slots__ = ("_sends", "saga_traceparent", "traceparent", "tracestate")

    def __init__(
        self,
        traceparent: str | None,
        tracestate: str | None,
        saga_traceparent: str | None,
        sends: Sends | None = None,
    ) -> None:
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.saga_traceparent = saga_traceparent
        self._sends = sends

    def end(self, error: BaseException | None = None) -> None:
        """End it by hand, where nobody calls `Sends.acknowledged`: now, or as failed."""
        span = self._take()
        if span is not None:
            if error is not None:
                mark_failed(span, error)
            span.end()

    def discard(self) -> None:
        """Forget it without a trace: the attempt that made the record failed, so it will never be sent."""
        self._take()

    def _take(self) -> Span | None:
        if self._sends is None or self.traceparent is None:
            return None
        return self._sends.take(self.traceparent.encode())


class Sends:
    """The open send spans of one process, found again by the header that their record carries.

    Args:
        tracer: makes them; None: context is only passed on.
    """

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._open: dict[bytes, Span] = {}

    def open(
        self,
        topic: str,
        message_id: str,
        parent: SpanContext,
        *,
        saga_id: str | None = None,
        saga_traceparent: str | None = None,
    ) -> SendSpan:
        """Open a send under `parent` (an invalid one: a new trace); an unsampled parent's context is passed on.

        Args:
            topic: where to.
            message_id: the event's id.
            parent: the span it stands under.
            saga_id: the saga's public name with its run, if any.
            saga_traceparent: the saga's header, to be carried along.
        """
        if self._tracer is None or (parent.is_valid and not parent.trace_flags.sampled):
            return SendSpan(*carried(parent), saga_traceparent)
        attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.message.id": message_id,
        }
        if saga_id is not None:
            attributes["messaging.message.conversation_id"] = saga_id
            attributes["saga.id"] = saga_id
        context = set_span_in_context(NonRecordingSpan(parent) if parent.is_valid else INVALID_SPAN)
        span = self._tracer.start_span(f"send {topic}", context, SpanKind.PRODUCER, attributes)
        traceparent, tracestate = carried(span.get_span_context())
        if traceparent is None or not span.is_recording():
            return SendSpan(traceparent, tracestate, saga_traceparent)
        while len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open))).end()
        self._open[traceparent.encode()] = span
        return SendSpan(traceparent, tracestate, saga_traceparent, self)

    def acknowledged(self, records: Iterable[Record]) -> None:
        """End the sends of these records, which the broker has; records of other processes are skipped."""
        if not self._open:
            return
        for record in records:
            for name, value in record.headers:
                if name == "traceparent":
                    if is_sampled(value) and (span := self._open.pop(value, None)) is not None:
                        span.end()
                    break

    def take(self, traceparent: bytes) -> Span | None:
        """Take an open span out."""
        return self._open.pop(traceparent, None)

    def end_all(self) -> None:
        """End what is still open: those records are committed, and somebody will publish them."""
        while self._open:
            self._open.popitem()[1].end()


def carried(context: SpanContext) -> tuple[str | None, str | None]:
    """Give the `traceparent` and `tracestate` of a context; None for what it has not."""
    if not context.is_valid:
        return None, None
    return format_traceparent(context), format_tracestate(context.trace_state) if context.trace_state else None


def mark_failed(span: Span, error: BaseException | str) -> None:
    """Set a span to ERROR with `error.type`; the error's text may hold payload, so it stays out.

    Args:
        span: still open.
        error: the error, or the name of its class.
    """
    span.set_attribute("error.type", error if isinstance(error, str) else error_type(error))
    span.set_status(Status(StatusCode.ERROR))


def error_type(error: BaseException) -> str:
    """Name an error's class as `error.type` wants it: qualified, and short for a builtin."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
