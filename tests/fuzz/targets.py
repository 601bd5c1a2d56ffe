"""What strangers may send, as functions of bytes: each raises only when a promise of ours is broken.

The promises: whatever the bytes are, reading them gives a value or an `EventError`; what the scan lets pass fastavro
reads to its last byte; what was read can be written again and is then the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from io import BytesIO
from typing import Any
from uuid import UUID

from fastavro import schemaless_reader
from pydantic import BaseModel, Field

from choreo import Event, Secret
from choreo.events.avro import Schema
from choreo.events.codec import Codec, read_structured
from choreo.events.envelope import (
    AVRO,
    CLOUDEVENTS_JSON,
    JSON,
    RESERVED,
    Delivery,
    Envelope,
    read_envelope,
    write_headers,
)
from choreo.events.errors import DecodeError, EventError
from choreo.events.keys import Keys
from choreo.events.quick import compile_reader
from choreo.services.dead_letters import Failure, dead_letter
from choreo.services.letters import read_letter, redrive
from choreo.tracing.headers import (
    format_traceparent,
    format_tracestate,
    parse_saga_traceparent,
    parse_traceparent,
    usable_baggage,
)
from tests.support.registries import DictRegistry


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Part(BaseModel):
    name: str
    price: Decimal = Field(max_digits=9, decimal_places=2)


class Note(BaseModel):
    text: str
    at: time | None = None


class Everything(Event, topic="fuzz", key="id"):
    id: UUID
    number: int
    weight: float
    ready: bool
    raw: bytes
    amount: Decimal
    day: date
    at: datetime
    clock: time
    colour: Colour
    parts: list[Part]
    notes: dict[str, Note]
    either: Part | Note | int | None = None
    words: set[str] = set()


class Closed(Event, topic="fuzz", key="id", encrypted="secrets"):
    id: str
    card: Secret[str]
    parts: list[Secret[Part]] = []
    codes: dict[str, Secret[int] | None] = {}


class Whole(Event, topic="fuzz", key="id", encrypted=True):
    id: str
    parts: list[Part] = []


TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [
        {"name": "value", "type": "long"},
        {"name": "children", "type": {"type": "array", "items": "Tree"}},
        {"name": "next", "type": ["null", "Tree"]},
        {"name": "nothing", "type": {"type": "array", "items": "null"}},
        {"name": "size", "type": {"type": "fixed", "name": "F", "size": 3}},
        {"name": "any", "type": ["null", "boolean", "int", "float", "bytes", {"type": "map", "values": ["null", "F"]}]},
        {"name": "price", "type": {"type": "fixed", "name": "P", "size": 5, "logicalType": "decimal", "precision": 9}},
        {"name": "millis", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "local", "type": ["null", {"type": "long", "logicalType": "local-timestamp-micros"}]},
        {"name": "duration", "type": ["null", {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}]},
        {"name": "uuid", "type": ["null", {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}]},
    ],
}

_REGISTRY = DictRegistry()
_CODEC = Codec(_REGISTRY, Keys({"k": b"k" * 32}))


async def _prepare() -> None:
    await _CODEC.prepare([Everything])
    await _CODEC.learn(await _REGISTRY.register("tree", TREE))
    await _CODEC.prepare([Closed, Whole])


asyncio.run(_prepare())


def decode(data: bytes) -> None:
    """Decode bytes as an event, under the schemas and content types of the first byte."""
    if not data:
        return
    kind, value = data[0] % 5, data[1:]
    if kind < 2:
        _decode_avro(b"\x00\x00\x00\x00" + bytes([kind + 1]) + value)
        return
    content_type = (JSON, CLOUDEVENTS_JSON, AVRO)[kind - 2] if data[0] < 250 else ""
    for read in (
        lambda: _CODEC.decode(Everything, value, content_type),
        lambda: _CODEC.decode_any(value, content_type),
    ):
        try:
            read()
        except EventError:
            pass


def _decode_avro(value: bytes) -> None:
    try:
        _CODEC.decode_any(value, AVRO)
    except EventError:
        pass
    _agree(_CODEC._known[value[4]], value)
    try:
        event = _CODEC.decode(Everything, value, AVRO)
    except EventError:
        return
    again = _CODEC.encode(event)
    assert _CODEC.encode(_CODEC.decode(Everything, again, AVRO)) == again


def _agree(writer: Any, value: bytes) -> None:
    """What the scan lets pass must be read by fastavro to the last byte, or be refused for its meaning."""
    given = _quickly(writer, value)
    try:
        writer.scan(value, 5)
    except EventError:
        assert given is None
        return
    stream = BytesIO(value)
    stream.seek(5)
    try:
        found = schemaless_reader(stream, writer.parsed, None)
    except (UnicodeDecodeError, OverflowError, ValueError, ArithmeticError):
        assert given is None
        return  # a text that is no UTF-8, a day beyond the calendar
    assert stream.tell() == len(value)
    assert given is None or repr(given) == repr(found)  # as text: NaN equals NaN there


def _quickly(writer: Any, value: bytes) -> Any:
    try:
        return compile_reader(writer.parsed)(value, 5)  # type: ignore[misc] # None where it takes no such schema
    except Exception:
        return None


def encrypted(data: bytes) -> None:
    """Decode what is said to be encrypted, in Avro and in JSON; the first byte says as what."""
    if not data:
        return
    cls: type[Event] = (Closed, Whole)[data[0] & 1]
    value, content_type = data[1:], JSON
    if data[0] & 2:
        value, content_type = b"\x00\x00\x00\x00" + bytes([3 + (data[0] & 1)]) + value, AVRO
    for read in (
        lambda: _CODEC.decode(cls, value, content_type, id_="1"),
        lambda: _CODEC.decode_any(value, content_type, cls.__name__, "1"),
        lambda: _CODEC.decode_any(value, content_type, cls.__name__, "1", mask=True),
    ):
        try:
            read()
        except EventError:
            pass


def schema(data: bytes) -> None:
    """Learn a writer's schema, then decode bytes with it; both come from strangers."""
    text, _, value = data.partition(b"\xff")
    made: Any
    if text[:1] == b"!":
        made = _Grammar(text[1:]).type(0)
    else:
        try:
            made = json.loads(text)
        except (ValueError, RecursionError):
            return
    if not isinstance(made, dict):
        made = {"type": made}
    codec = Codec(_REGISTRY)
    try:
        codec._learned(1, made)
    except DecodeError:
        return
    record = b"\x00\x00\x00\x00\x01" + value[:100_000]
    for read in (lambda: codec.decode(Everything, record, AVRO), lambda: codec.decode_any(record, AVRO)):
        try:
            read()
        except EventError:
            pass
    _agree(codec._known[1], record)


class _Grammar:
    """A schema spelled by bytes, so that most inputs are schemas."""

    _PLAIN = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
    _LOGICAL = (
        "decimal",
        "date",
        "time-millis",
        "time-micros",
        "timestamp-millis",
        "timestamp-micros",
        "uuid",
        "duration",
    )

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)
        self._names = 0

    def byte(self) -> int:
        return next(self._data, 0)

    def type(self, depth: int) -> Any:
        kind = self.byte() % 16
        if kind < 8 or depth > 6:
            return self._PLAIN[kind % 8]
        name = f"N{self._names}"
        match kind:
            case 8:
                return {"type": "array", "items": self.type(depth + 1)}
            case 9:
                return {"type": "map", "values": self.type(depth + 1)}
            case 10:
                return [self.type(depth + 1) for _ in range(self.byte() % 5)]
            case 11:
                self._names += 1
                return {"type": "enum", "name": name, "symbols": [f"S{i}" for i in range(self.byte() % 4)]}
            case 12:
                self._names += 1
                return {"type": "fixed", "name": name, "size": self.byte() % 20, **self._logical()}
            case 13:
                return {"type": self._PLAIN[self.byte() % 8], **self._logical()}
            case 14:
                return f"N{self.byte() % 8}"
        self._names += 1
        fields = [{"name": f"f{i}", "type": self.type(depth + 1)} for i in range(self.byte() % 6)]
        return {"type": "record", "name": name, "fields": fields}

    def _logical(self) -> Schema:
        pick = self.byte() % 12
        if pick >= len(self._LOGICAL):
            return {}
        extra = {"precision": self.byte(), "scale": self.byte()} if pick == 0 else {}
        return {"logicalType": self._LOGICAL[pick], **extra}


_NAMES = (
    *sorted(RESERVED),
    *("dlq-service", "dlq-handler", "dlq-error", "dlq-message", "dlq-attempts", "dlq-topic", "dlq-partition"),
    *("dlq-offset", "dlq-time", "dlq-value", "replay-id", "replay-count", "replay-traceparent", "undo-empty", "x"),
)


def headers(data: bytes) -> None:
    """Read the headers of a record, and what follows from them: dead letters, replays, trace contexts."""
    fields = data.split(b"\xfe")
    value, key = fields[0], (None if len(fields) < 2 or fields[1] == b"~" else fields[1])
    spelled = tuple(
        (_NAMES[field[0] % len(_NAMES)] if field[0] < 250 else field[1:9].decode("latin-1"), field[1:])
        for field in fields[2:]
        if field
    )
    delivery = Delivery("orders", 0, 7, 1_700_000_000_000, key, value, spelled)
    letter = read_letter(delivery)
    redrive(letter, "r", b"{}")
    failure = Failure("service", "handler", ValueError("text"), 1, dead=True, now=1_700_000_000_000_000, event=None)
    read_letter(delivery._replace(headers=dead_letter(delivery, failure).headers))
    try:
        envelope = read_envelope(delivery)
    except EventError:
        return
    _trace(envelope)
    again = read_envelope(delivery._replace(headers=write_headers(envelope)))
    assert again == envelope, (again, envelope)
    try:
        structured = read_structured(envelope, value)
    except EventError:
        return
    write_headers(structured)


def _trace(envelope: Envelope) -> None:
    context = parse_traceparent(envelope.traceparent, envelope.tracestate)
    if context is not None:
        again = parse_traceparent(format_traceparent(context), format_tracestate(context.trace_state))
        assert again is not None
        assert (again.trace_id, again.span_id) == (context.trace_id, context.span_id)
        assert list(again.trace_state.items()) == list(context.trace_state.items())
    parse_saga_traceparent(envelope.saga_traceparent)
    usable_baggage(envelope.baggage)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decode": decode,
    "encrypted": encrypted,
    "schema": schema,
    "headers": headers,
}


def seeds(target: str) -> list[bytes]:
    """Give well-formed inputs to begin from."""
    part = Part(name="bolt", price=Decimal("1.25"))
    events = [
        Everything(
            id=UUID(int=7), number=-1, weight=0.5, ready=True, raw=b"\x00\xff", amount=Decimal("19.9"),
            day=date(2026, 11, 21), at=datetime.fromisoformat("2026-11-21T09:02:11.402001+01:00"),
            clock=time(9, 2, 11, 5), colour=Colour.GREEN, parts=[part], notes={"a": Note(text="x", at=time(1))},
            either=either, words={"a", "b"},
        )
        for either in (part, Note(text="é"), 2**40, None)
    ]  # fmt: skip
    if target == "decode":
        avro = [_CODEC.encode(event)[5:] for event in events]
        plain = [event.model_dump_json().encode() for event in events]
        wrapped = [b'{"specversion":"1.0","id":"1","type":"T","source":"s","data":' + text + b"}" for text in plain]
        tree = b"\x02\x00\x00\x00abc\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"
        return [
            *(b"\x00" + each for each in avro),
            *(b"\x02" + each for each in plain),
            *(b"\x03" + each for each in wrapped),
            b"\x01" + tree,
        ]
    if target == "encrypted":
        closed = Closed(id="1", card=Secret("4"), parts=[Secret(part)], codes={"a": Secret(7), "b": None})
        both: tuple[Event, ...] = (closed, Whole(id="1", parts=[part]))
        plain = [
            b'{"id":"1","card":"4","parts":[{"name":"a","price":"1"}],"codes":{"a":7}}',
            b'{"id":"1","card":{"$encrypted":"a2V5"},"parts":[{"$encrypted":"AQFr"}]}',
            b'{"$encrypted":"AQFrAAAA"}',
        ]
        return [
            *(bytes([2 + number]) + _CODEC.encode(event, "1")[5:] for number, event in enumerate(both)),
            *(bytes([number & 1]) + text for number, text in enumerate(plain)),
        ]
    if target == "schema":
        texts = [json.dumps(each).encode() for each in (Everything.spec().schema, TREE)]
        return [
            *(text + b"\xff" + _CODEC.encode(events[0])[5:] for text in texts),
            b"!\x0f\x03\x08\x02\x0a\x03\x00\x07\x03\xff",
        ]
    envelope = Envelope("id", "T", "s", 1_700_000_000_000_000, "k", causation_id="c", saga_id="s/1", saga_run=2)
    envelope.undoes, envelope.traceparent, envelope.tracestate = ("a", "b"), f"00-{'1' * 32}-{'2' * 16}-01", "a=b"
    named = [bytes([_NAMES.index(name)]) + text for name, text in write_headers(envelope)]
    return [b"\xfe".join([b"{}", b"k", *named])]
