"""Spans of what services do: `process <topic>` around each attempt of a handler, `send <topic>` for each output.

They need the OpenTelemetry API alone: a handler's span takes the *derived* step span as its parent, which the
coordinator emits when the step ends (`saga_spans`). Names and attributes follow the messaging conventions 1.44.0
(status Development) and `docs/tracing.md`. Spans carry identifiers only: never a payload, never an error's text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from ..events.clock import Clock, system_clock
from ..events.envelope import Delivery, Envelope, Record
from .headers import (
    REPLAYED_TRACE,
    SAMPLED,
    UNSAMPLED,
    SagaTrace,
    UnsampledSpan,
    format_saga_trace,
    is_sampled,
    is_unsampled,
    parse_saga_traceparent,
    parse_traceparent,
)
from .ids import ROOT, span_id, trace_id
from .place import Place
from .sampling import Sampling
from .sends import SYSTEM, Sends, SendSpan, mark_failed

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_DEFAULT_SAMPLING = Sampling()
_STEP_KIND = {"step": "action", "comp": "compensation"}


@dataclass(frozen=True, slots=True)
class Losses:
    """What became of a pipeline's spans so far.

    Args:
        name: of the pipeline.
        exported: delivered.
        dropped: refused because the queue was full, or after the close.
        failed: given to the exporter, which could not deliver them.
    """

    name: str
    exported: int
    dropped: int
    failed: int


class Pipeline(Protocol):
    """Where ended spans go: a queue and one exporter (`pipeline.CountedProcessor`)."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span; never waits, never raises."""

    def accepted(self) -> int:
        """Count the spans that were queued so far."""

    def left(self) -> int:
        """Count those of them that have left, in their order: exported, or lost and counted."""

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the queue is empty."""

    def close(self, timeout: float) -> bool:
        """Export what is queued, for at most about `timeout` seconds, and stop."""

    def losses(self) -> Losses:
        """Count what went out and what did not."""


class Tracing:
    """One service's or coordinator's door to tracing; `export.open_tracing` makes it.

    Nothing here raises, waits or logs per event because a telemetry backend is away.

    Args:
        tracer: makes the spans of services; None: tracing is off, and context is only passed on.
        pipelines: where the coordinator's spans go.
        resource: who emits them.
        namespace: of this deployment.
        sampling: the rule for sagas that carry no decision yet.
        clock: for queue times.
    """

    def __init__(
        self,
        *,
        tracer: Tracer | None = None,
        pipelines: Sequence[Pipeline] = (),
        resource: Resource | None = None,
        namespace: str = "",
        sampling: Sampling = _DEFAULT_SAMPLING,
        clock: Clock = system_clock,
    ) -> None:
        self._tracer = tracer
        self._pipelines = tuple(pipelines)
        self._resource = resource
        self._clock = clock
        self._constant: dict[tuple[str, int, str], dict[str, str | int]] = {}
        self._sends = Sends(tracer)
        self.namespace = namespace
        self.sampling = sampling

    @property
    def enabled(self) -> bool:
        """Whether services' spans are made."""
        return self._tracer is not None

    @property
    def emits(self) -> bool:
        """Whether `emit` leads anywhere; else the coordinator need not build spans."""
        return bool(self._pipelines)

    @property
    def resource(self) -> Resource:
        """Who emits the spans, for `saga_spans`."""
        if self._resource is None:
            # The SDK costs start-up time that nobody needs while tracing is off.
            from opentelemetry.sdk.resources import Resource

            self._resource = Resource.get_empty()
        return self._resource

    def process(
        self,
        delivery: Delivery,
        envelope: Envelope,
        *,
        group: str,
        place: Place | None = None,
        attempt: int = 1,
        redelivered: bool = False,
        trusted: bool = True,
    ) -> HandlerSpan:
        """Open the span of one attempt of a handler; use it in a `with` around the call, it is current inside.

        Under a saga its parent is the derived span of `place` and it exists only if the saga is sampled; without one
        the message's creation context is the parent. Either way it links to that context. An unsampled context costs no
        span of the SDK: it is made current as it is, so that the handler's own spans are not sampled either.

        Args:
            delivery: the record as read.
            envelope: its envelope.
            group: the consumer group.
            place: from `Placement.place`.
            attempt: counted from 1.
            redelivered: whether the record was delivered before.
            trusted: False for a topic that strangers may write to: then nothing becomes a parent, all is linked.
        """
        tracer = self._tracer
        if tracer is None:
            passed_on = SendSpan(envelope.traceparent, envelope.tracestate, envelope.saga_traceparent)
            return HandlerSpan(self._sends, None, None, passed_on)
        text = envelope.saga_traceparent
        if text is not None and place is not None and trusted and envelope.saga_id is not None and is_unsampled(text):
            # The usual case where few are sampled: nothing is parsed, nothing derived.
            return self._unsampled(UnsampledSpan(text), SendSpan(text, None, text))
        saga_id: str | None = None
        saga_header: str | None = None
        others: tuple[Place, ...] = ()
        if not trusted:
            parent = None
            others = (place,) if place is not None else ()
        elif place is not None:
            saga_id = place.saga_id
            saga, saga_header = self._saga_of(envelope, place)
            if not saga.sampled:
                root = SpanContext(saga.trace_id, saga.root_id, True, UNSAMPLED)
                return self._unsampled(NonRecordingSpan(root), SendSpan(saga_header, None, saga_header))
            parent = SpanContext(saga.trace_id, span_id(place.namespace, saga_id, *place.path), True, SAMPLED)
            others = place.others
        else:
            parent = parse_traceparent(envelope.traceparent, envelope.tracestate)
            saga_header = envelope.saga_traceparent
            if parent is not None and not parent.trace_flags.sampled:
                passed_on = SendSpan(envelope.traceparent, envelope.tracestate, saga_header)
                return self._unsampled(NonRecordingSpan(parent), passed_on)
        span = tracer.start_span(
            f"process {delivery.topic}",
            set_span_in_context(NonRecordingSpan(parent) if parent is not None else INVALID_SPAN),
            SpanKind.CONSUMER,
            self._process_attributes(delivery, envelope, group, place, attempt, redelivered),
            [*_message_link(envelope), *_replay_link(envelope), *(_place_link(other) for other in others)],
        )
        return HandlerSpan(
            self._sends, span, set_span_in_context(span), None, saga_id=saga_id, saga_traceparent=saga_header
        )

    def send(
        self, topic: str, message_id: str, *, saga_id: str | None = None, parent: SpanContext | None = None
    ) -> SendSpan:
        """Open the span of one record to be sent: from here until `acknowledged`.

        Its context is fixed now, so the record can be built, stored in an outbox and published later. Without a sampled
        parent there is no span, and the parent's context is what the record carries.

        Args:
            topic: where to.
            message_id: the event's id.
            saga_id: the saga's public name with its run, if any.
            parent: the span it stands under; the current one by default. Inside a handler use `HandlerSpan.send`.
        """
        if parent is None:
            parent = get_current_span().get_span_context()
        return self._sends.open(topic, message_id, parent, saga_id=saga_id)

    def acknowledged(self, records: Iterable[Record]) -> None:
        """End the send spans of records that the broker has acknowledged; records of other processes are skipped."""
        self._sends.acknowledged(records)

    def emit(self, spans: Iterable[ReadableSpan]) -> None:
        """Hand ended spans (of `saga_spans`) to the exporters; emitting the same span twice is harmless."""
        for span in spans:
            for pipeline in self._pipelines:
                pipeline.on_end(span)

    def mark(self) -> tuple[int, ...]:
        """Note how much was handed over so far, for `has_left`."""
        return tuple(pipeline.accepted() for pipeline in self._pipelines)

    def has_left(self, mark: tuple[int, ...]) -> bool:
        """Tell whether everything up to a mark has left this process: exported, or lost and counted."""
        return all(pipeline.left() >= number for pipeline, number in zip(self._pipelines, mark, strict=True))

    @property
    def losses(self) -> tuple[Losses, ...]:
        """What became of the spans so far, per pipeline: for metrics and for `doctor`."""
        return tuple(pipeline.losses() for pipeline in self._pipelines)

    def flush(self, timeout: float = 5.0) -> bool:
        """Export what is queued; blocks at most `timeout` seconds, so never call it on an event loop."""
        return self._each(timeout, lambda pipeline, left: pipeline.flush(left))

    def close(self, timeout: float = 5.0) -> bool:
        """Export what is queued and stop; blocks at most about `timeout` seconds. False if a span was lost.

        Sends that nobody acknowledged end here: their records are committed and will be published.
        """
        self._sends.end_all()
        return self._each(timeout, lambda pipeline, left: pipeline.close(left))

    async def aclose(self, timeout: float = 5.0) -> bool:
        """Close from a coroutine: the waiting happens in a thread."""
        return await asyncio.to_thread(self.close, timeout)

    def _each(self, timeout: float, act: Callable[[Pipeline, float], bool]) -> bool:
        deadline = time.monotonic() + timeout
        results = [act(pipeline, max(0.05, deadline - time.monotonic())) for pipeline in self._pipelines]
        return all(results)

    def _unsampled(self, span: NonRecordingSpan, passed_on: SendSpan) -> HandlerSpan:
        return HandlerSpan(self._sends, None, set_span_in_context(span), passed_on)

    def _saga_of(self, envelope: Envelope, place: Place) -> tuple[SagaTrace, str]:
        """Give the saga's trace and the header that carries it on."""
        text = envelope.saga_traceparent
        saga = parse_saga_traceparent(text)
        root = None
        if saga is not None and text is not None:
            if envelope.saga_id is not None:
                return saga, text
            # Without its own saga-id the header may speak of another saga: the derived root tells.
            root = span_id(place.namespace, place.saga_id, *ROOT)
            if saga.root_id == root:
                return saga, text
        trace = trace_id(place.namespace, place.saga_id, place.epoch)
        sampled = self.sampling.decide(trace, is_sampled(envelope.traceparent))
        saga = SagaTrace(trace, root or span_id(place.namespace, place.saga_id, *ROOT), sampled)
        return saga, format_saga_trace(saga)

    def _process_attributes(
        self, delivery: Delivery, envelope: Envelope, group: str, place: Place | None, attempt: int, redelivered: bool
    ) -> dict[str, str | int]:
        key = (delivery.topic, delivery.partition, group)
        constant = self._constant.get(key)
        if constant is None:
            constant = self._constant[key] = {
                "messaging.system": SYSTEM,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": delivery.topic,
                "messaging.consumer.group.name": group,
                "messaging.destination.partition.id": str(delivery.partition),
            }
        attributes = dict(constant)
        attributes["messaging.kafka.offset"] = delivery.offset
        attributes["messaging.message.id"] = envelope.id
        if place is not None:
            attributes["messaging.message.conversation_id"] = place.saga_id
            attributes["saga.id"] = place.saga_id
            attributes["saga.type"] = place.saga_type
            if place.step:
                attributes["saga.step"] = place.step
                attributes["saga.step.kind"] = _STEP_KIND[place.kind]
        attributes["saga.attempt"] = attempt
        if attempt == 1:
            queued = self._clock() // 1_000 - delivery.timestamp
            if queued >= 0:  # else two clocks disagree, and the number would say nothing
                attributes["saga.queue_ms"] = queued
        if redelivered:
            attributes["saga.redelivered"] = True
        return attributes


class HandlerSpan:
    """One attempt of a handler; current while its `with` block runs, also across the awaits of its task.

    Args:
        sends: where outputs are opened.
        span: the attempt's span; None where it is not sampled or tracing is off.
        context: made current inside the block.
        passed_on: what outputs carry where there is no span.
        saga_id: the saga's public name with its run, if any.
        saga_traceparent: the header that outputs carry along.
    """

    __slots__ = ("_context", "_passed_on", "_saga_id", "_saga_traceparent", "_sends", "_span", "_token")

    def __init__(
        self,
        sends: Sends,
        span: Span | None,
        context: Context | None,
        passed_on: SendSpan | None,
        *,
        saga_id: str | None = None,
        saga_traceparent: str | None = None,
    ) -> None:
        self._sends = sends
        self._span = span
        self._context = context
        self._passed_on = passed_on
        self._saga_id = saga_id
        self._saga_traceparent = saga_traceparent
        self._token: Token[Context] | None = None

    @property
    def sampled(self) -> bool:
        """Whether the attempt has a span that will be exported."""
        return self._span is not None and self._span.get_span_context().trace_flags.sampled

    @property
    def span_id(self) -> str:
        """Its id as 16 hexadecimal digits; "" where no span will be exported."""
        if self._span is None:
            return ""
        context = self._span.get_span_context()
        return f"{context.span_id:016x}" if context.trace_flags.sampled else ""

    def __enter__(self) -> HandlerSpan:
        if self._context is not None:
            self._token = attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
            self._token = None
        if self._span is not None:
            if error is not None:
                mark_failed(self._span, error)
            self._span.end()

    def fail(self, error: BaseException | str) -> None:
        """Mark the attempt as failed inside the block, for a failure that does not leave it as an exception.

        Args:
            error: the error, or the name of its class; its text is not recorded.
        """
        if self._span is not None:
            mark_failed(self._span, error)

    def send(self, topic: str, message_id: str) -> SendSpan:
        """Open the span of one output, under this attempt; also after the block has ended.

        Args:
            topic: where to.
            message_id: the event's id.
        """
        if self._passed_on is not None:
            return self._passed_on
        assert self._span is not None
        return self._sends.open(
            topic,
            message_id,
            self._span.get_span_context(),
            saga_id=self._saga_id,
            saga_traceparent=self._saga_traceparent,
        )


def _replay_link(envelope: Envelope) -> list[Link]:
    """Link the run that failed, where a person has sent its event again from the dead letters."""
    value = next((value for name, value in envelope.extra if name == REPLAYED_TRACE), b"")
    context = parse_traceparent(value.decode(errors="replace"))
    return [] if context is None else [Link(context, {"saga.link": "replayed"})]


def _message_link(envelope: Envelope) -> list[Link]:
    creation = parse_traceparent(envelope.traceparent)
    return [Link(creation, {"saga.link": "message"})] if creation is not None else []


def _place_link(place: Place) -> Link:
    trace = trace_id(place.namespace, place.saga_id, place.epoch)
    context = SpanContext(trace, span_id(place.namespace, place.saga_id, *place.path), True, SAMPLED)
    return Link(context, {"saga.link": "saga"})
