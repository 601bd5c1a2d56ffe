"""What travels: records as a broker sees them, and the envelope that their headers spell.

On the wire an envelope is CloudEvents 1.0 in Kafka binary mode (`ce_*` headers, Kafka protocol binding §3.2) and the
saga and trace headers of `docs/wire.md`. Reading one costs no payload decoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .clock import from_rfc3339, to_rfc3339
from .errors import DecodeError, LimitExceeded
from .ids import derived_id

Headers = tuple[tuple[str, bytes], ...]

MOST_HEADERS = 64
MOST_HEADER_BYTES = 8_192
"""Limits checked before anything is parsed; the trace headers have limits of their own in `tracing`."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(slots=True, unsafe_hash=True)  # frozen ones take four times as long to make, and each event makes one
class Record:
    """A record to be sent; it is not changed once it is made.

    Args:
        topic: where to.
        key: its bytes decide the partition (murmur2, as Java's default); None spreads.
        value: the payload; None is a tombstone.
        headers: names with bytes, in order.
        timestamp: milliseconds since the epoch; None lets the broker's client take now.
        partition: only to override the key's own.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int | None = None
    partition: int | None = None

    def size(self) -> int:
        """Give its size in bytes as limits count it: key, value, header names and values."""
        size = len(self.key or b"") + len(self.value or b"")
        for name, value in self.headers:
            size += len(name) + len(value)
        return size


class Delivery(NamedTuple):
    """A record as it was read: `offset` within its partition, `timestamp` in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def place(self) -> TopicPartition:
        """The partition that it was read from."""
        return TopicPartition(self.topic, self.partition)


AVRO = "application/avro"
JSON = "application/json"
CLOUDEVENTS_JSON = "application/cloudevents+json"


@dataclass(slots=True)
class Envelope:
    """What is known of an event without its payload.

    Args:
        id: unique; a copy of the event has the same one.
        type: the event type's public name.
        source: who says it.
        time: when it happened in the business, microseconds since the epoch.
        key: the business key, as text.
        content_type: how the value is encoded.
        causation_id: id of the event that led to this one.
        saga_id: public name of the saga that it belongs to, e.g. `fulfilment/4711`, without the run.
        saga_type, saga_run, saga_step, saga_occurrence, saga_attempt, saga_version: where in that saga.
        saga_depth: on what begins or undoes a saga within another, how deep that one is nested.
        undoes: on an undo command, ids of the events that may have triggered the step.
        traceparent, tracestate, baggage, saga_traceparent: trace context as received; parsed by `tracing`.
        extra: headers that are none of ours, kept in order.
        value: in place of the record's value, where a decoder of the user has read that: JSON.
    """

    id: str
    type: str
    source: str
    time: int
    key: str
    content_type: str = AVRO
    causation_id: str | None = None
    saga_id: str | None = None
    saga_type: str | None = None
    saga_run: int | None = None
    saga_step: str | None = None
    saga_occurrence: str | None = None
    saga_attempt: int | None = None
    saga_version: int | None = None
    saga_depth: int | None = None
    undoes: tuple[str, ...] = ()
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None
    saga_traceparent: str | None = None
    extra: Headers = field(default=())
    value: bytes | None = None


# Where the text of each header is kept while an envelope is read.
_PLACES = {
    name: place
    for place, name in enumerate(
        (
            "ce_specversion",
            "ce_id",
            "ce_type",
            "ce_source",
            "ce_time",
            "content-type",
            "causation-id",
            "saga-id",
            "saga-type",
            "saga-run",
            "saga-step",
            "saga-occurrence",
            "saga-attempt",
            "saga-version",
            "saga-depth",
            "undoes",
            "traceparent",
            "tracestate",
            "baggage",
            "saga-traceparent",
        )
    )
}
_NOTHING: list[str | None] = [None] * len(_PLACES)
RESERVED = frozenset(_PLACES)
# A malformed trace header is ignored, never an error (W3C Trace Context §3.2.2); two of one kind count as malformed.
_LENIENT = frozenset(("traceparent", "tracestate", "baggage", "saga-traceparent"))
_SPEC_VERSION = ("ce_specversion", b"1.0")


def write_headers(envelope: Envelope) -> Headers:
    """Spell an envelope as headers, each name once, always in the same order."""
    headers: list[tuple[str, bytes]] = [
        _SPEC_VERSION,
        ("ce_id", envelope.id.encode()),
        ("ce_type", envelope.type.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_time", to_rfc3339(envelope.time).encode()),
        ("content-type", envelope.content_type.encode()),
    ]
    if envelope.causation_id is not None:
        headers.append(("causation-id", envelope.causation_id.encode()))
    _append_saga(headers, envelope, envelope.saga_step, envelope.saga_occurrence, envelope, envelope.baggage)
    if envelope.saga_attempt is not None:
        headers.append(("saga-attempt", b"%d" % envelope.saga_attempt))
    if envelope.saga_version is not None:
        headers.append(("saga-version", b"%d" % envelope.saga_version))
    if envelope.saga_depth is not None:
        headers.append(("saga-depth", b"%d" % envelope.saga_depth))
    if envelope.undoes:
        headers.append(("undoes", ",".join(envelope.undoes).encode()))
    headers.extend(envelope.extra)
    return tuple(headers)


class TraceContext(Protocol):
    """What a record carries of its traces: an envelope as it was received, or the span of a send."""

    traceparent: str | None
    tracestate: str | None
    saga_traceparent: str | None


def _append_saga(
    headers: list[tuple[str, bytes]],
    saga: Envelope,
    step: str | None,
    occurrence: str | None,
    trace: TraceContext,
    baggage: str | None,
) -> None:
    # Written out: a loop over the names would cost twice as much, and this is done for every event.
    if saga.saga_id is not None:
        headers.append(("saga-id", saga.saga_id.encode()))
    if saga.saga_type is not None:
        headers.append(("saga-type", saga.saga_type.encode()))
    if step is not None:
        headers.append(("saga-step", step.encode()))
    if occurrence is not None:
        headers.append(("saga-occurrence", occurrence.encode()))
    if trace.traceparent is not None:
        headers.append(("traceparent", trace.traceparent.encode()))
    if trace.tracestate is not None:
        headers.append(("tracestate", trace.tracestate.encode()))
    if baggage is not None:
        headers.append(("baggage", baggage.encode()))
    if trace.saga_traceparent is not None:
        headers.append(("saga-traceparent", trace.saga_traceparent.encode()))
    if saga.saga_run is not None:
        headers.append(("saga-run", b"%d" % saga.saga_run))


class Heading:
    """The headers of events of one type and one source that answer others: what they share is spelled once.

    It gives what `write_headers` would give for an `Envelope` of the same values.

    Args:
        type_, source, content_type: of the events.
        extra: headers behind those of each answer.
    """

    __slots__ = ("_content_type", "_extra", "_source", "_type")

    def __init__(self, type_: str, source: str, content_type: str, extra: Headers = ()) -> None:
        self._extra = extra
        self._type = ("ce_type", type_.encode())
        self._source = ("ce_source", source.encode())
        self._content_type = ("content-type", content_type.encode())

    def answer(
        self,
        id_: str,
        time: int,
        cause: Envelope,
        step: str | None,
        occurrence: str | None,
        trace: TraceContext,
        extra: Headers,
    ) -> Headers:
        """Spell an answer's headers.

        Args:
            id_, time: of the event.
            cause: the event that it answers: it belongs to the same saga.
            step, occurrence: where in that saga.
            trace: its traces: the span of its send, or the cause.
            extra: headers behind those of the envelope.
        """
        headers: list[tuple[str, bytes]] = [
            _SPEC_VERSION,
            ("ce_id", id_.encode()),
            self._type,
            self._source,
            ("ce_time", to_rfc3339(time).encode()),
            self._content_type,
            ("causation-id", cause.id.encode()),
        ]
        _append_saga(headers, cause, step, occurrence, trace, None)  # baggage is never passed on
        headers += extra
        headers += self._extra
        return tuple(headers)


def read_envelope(delivery: Delivery) -> Envelope:
    """Read the envelope of a record from its headers and key; the payload stays as it is.

    A record without CloudEvents headers (a foreign producer's) gets an id derived from its place, its type is the empty
    string, its source is the topic and its time the record's timestamp.

    Raises:
        LimitExceeded: too many or too large headers.
        DecodeError: a reserved header twice, text that is not UTF-8, a number or time that is none.
    """
    headers = delivery.headers
    if len(headers) > MOST_HEADERS:
        raise LimitExceeded(f"{len(headers)} headers, at most {MOST_HEADERS} are read")
    known: list[str | None] = _NOTHING[:]
    extra: list[tuple[str, bytes]] = []
    size = 0
    for name, value in headers:
        size += len(name) + len(value or b"")
        place = _PLACES.get(name)
        if place is None:
            extra.append((name, value))
            continue
        if known[place] is not None:
            if name in _LENIENT:
                known[place] = ""
                continue
            raise DecodeError(f"header {name!r} stands twice")
        try:
            known[place] = value.decode()
        except (UnicodeDecodeError, AttributeError):
            if name in _LENIENT:
                known[place] = ""
                continue
            raise DecodeError(f"header {name!r} is not UTF-8 text") from None
    if size > MOST_HEADER_BYTES:
        raise LimitExceeded(f"headers of {size} bytes, at most {MOST_HEADER_BYTES} are read")
    try:
        key = delivery.key.decode() if delivery.key is not None else ""
    except UnicodeDecodeError:
        raise DecodeError("the record's key is not UTF-8 text") from None
    (
        _, id_, type_, source, time, content_type, causation_id, saga_id, saga_type, run, step, occurrence, attempt,
        version, depth, undoes, traceparent, tracestate, baggage, saga_traceparent,
    ) = known  # fmt: skip
    try:
        moment = from_rfc3339(time) if time is not None else delivery.timestamp * 1_000
    except ValueError:
        raise DecodeError(f"header 'ce_time' is not an RFC 3339 time: {(time or '')[:40]!r}") from None
    return Envelope(
        id_ or derived_id("record", delivery.topic, str(delivery.partition), str(delivery.offset)),
        type_ or "",
        source or delivery.topic,
        moment,
        key,
        content_type or "",
        causation_id,
        saga_id,
        saga_type,
        None if run is None else _number("saga-run", run),
        step,
        occurrence,
        None if attempt is None else _number("saga-attempt", attempt),
        None if version is None else _number("saga-version", version),
        None if depth is None else _number("saga-depth", depth),
        tuple(undoes.split(",")) if undoes else (),
        traceparent or None,
        tracestate or None,
        baggage or None,
        saga_traceparent or None,
        tuple(extra),
    )


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise DecodeError(f"header {name!r} is not a whole number: {text[:20]!r}")
    return int(text)
