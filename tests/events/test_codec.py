"""Bytes on the wire: Confluent framing, JSON, CloudEvents in structured mode, and classes of different age."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastavro import parse_schema, schemaless_writer
from pydantic import BaseModel, Field, field_validator

from choreo.events.codec import Codec, UnknownSchema, read_structured, subject_of, to_record
from choreo.events.envelope import AVRO, CLOUDEVENTS_JSON, JSON, Delivery, Envelope, read_envelope
from choreo.events.errors import DecodeError, EncodeError, LimitExceeded, MissingKey
from choreo.events.event import Event
from choreo.events.scan import MOST_VALUE_BYTES
from tests.support.registries import DictRegistry


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    total: Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
    note: str | None = None


class Noted(Event, topic="orders", key="order_id", format="json"):
    order_id: str
    ratio: float
    raw: bytes
    label: str = Field("", alias="labelText")


ORDER = OrderPlaced(order_id="4711", total=Decimal("19.90"))
# 0x00, schema id 1, then "4711", 1990 as two bytes of a decimal, and branch 0 of the note.
ORDER_BYTES = bytes.fromhex("00 00000001 08 34373131 04 07c6 00")


def frame(schema_id: int, schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    stream.write(b"\0" + schema_id.to_bytes(4, "big"))
    schemaless_writer(stream, parse_schema(schema), value)
    return stream.getvalue()


def record(*fields: dict[str, Any], name: str = "OrderPlaced") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "order_id", "type": "string"}, *fields]}


@pytest.fixture
def registry() -> DictRegistry:
    return DictRegistry()


@pytest.fixture
async def codec(registry: DictRegistry) -> Codec:
    codec = Codec(registry)
    await codec.prepare([OrderPlaced, Noted])
    return codec


async def learned(codec: Codec, registry: DictRegistry, schema: Any) -> int:
    schema_id = await registry.register("old", schema)
    await codec.learn(schema_id)
    return schema_id


async def test_the_bytes_are_the_confluent_wire_format(codec: Codec, registry: DictRegistry) -> None:
    assert codec.encode(ORDER) == ORDER_BYTES
    assert registry.subjects_ == {"orders-OrderPlaced": 1}
    assert codec.decode(OrderPlaced, ORDER_BYTES, AVRO) == ORDER


async def test_a_class_that_was_not_prepared_is_one_clear_line(registry: DictRegistry) -> None:
    with pytest.raises(EncodeError, match=r"OrderPlaced was not prepared; await codec.prepare"):
        Codec(registry).encode(ORDER)


async def test_an_unknown_schema_is_learned_once_and_then_read(codec: Codec, registry: DictRegistry) -> None:
    fresh = Codec(registry)
    with pytest.raises(UnknownSchema) as caught:
        fresh.decode(OrderPlaced, ORDER_BYTES, AVRO)
    assert caught.value.schema_id == 1
    with pytest.raises(UnknownSchema):
        fresh.decode_any(ORDER_BYTES, AVRO)
    for _ in range(3):
        await fresh.learn(1)
    assert registry.fetched == [1]
    assert fresh.decode(OrderPlaced, ORDER_BYTES, AVRO) == ORDER
    with pytest.raises(DecodeError, match="no schema has the id 99"):
        await fresh.learn(99)


async def test_an_older_class_reads_newer_events(codec: Codec, registry: DictRegistry) -> None:
    newer = record(
        {"name": "coupon", "type": ["null", "string"], "default": None},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
        {"name": "lines", "type": {"type": "array", "items": record({"name": "n", "type": "int"}, name="Line")}},
    )
    schema_id = await learned(codec, registry, newer)
    value = frame(schema_id, newer, {"order_id": "1", "coupon": "x", "total": Decimal("1.50"), "lines": []})
    assert codec.decode(OrderPlaced, value, AVRO) == OrderPlaced(order_id="1", total=Decimal("1.50"))


async def test_a_newer_class_reads_older_events(codec: Codec, registry: DictRegistry) -> None:
    class Newer(Event, topic="orders", key="order_id"):
        order_id: str
        amount: float
        coupon: str = "none"
        tags: list[str] = []

    older = record({"name": "amount", "type": "int"})
    schema_id = await learned(codec, registry, older)
    value = frame(schema_id, older, {"order_id": "1", "amount": 2})
    assert codec.decode(Newer, value, AVRO) == Newer(order_id="1", amount=2.0)


class Cat(BaseModel):
    name: str
    price: Decimal


class Dog(BaseModel):
    name: str
    price: Decimal


async def test_a_union_of_records_keeps_its_classes_across_versions(codec: Codec, registry: DictRegistry) -> None:
    class OnlyCat(Event, topic="pets", key="id"):
        id: str
        pet: Cat | None

    class CatOrDog(Event, topic="pets", key="id"):
        id: str
        pet: Dog | Cat | None

    await codec.prepare([OnlyCat, CatOrDog])
    cat = Cat(name="m", price=Decimal("1.10"))
    old = codec.decode(CatOrDog, codec.encode(OnlyCat(id="1", pet=cat)), AVRO)
    assert old.pet is not None and old.pet.name == "m"
    new = codec.decode(OnlyCat, codec.encode(CatOrDog(id="1", pet=cat)), AVRO)
    assert new.pet == cat and str(new.pet.price) == "1.1"
    with pytest.raises(DecodeError, match="holds a Dog, which the class does not know"):
        codec.decode(OnlyCat, codec.encode(CatOrDog(id="1", pet=Dog(name="rex", price=Decimal(1)))), AVRO)


async def test_aliases_are_for_json_and_names_for_avro(codec: Codec) -> None:
    class Aliased(Event, topic="t", key="id"):
        id: str
        label: str = Field(alias="labelText")

    await codec.prepare([Aliased])
    event = Aliased(id="1", labelText="x")
    assert codec.decode_any(codec.encode(event), AVRO) == {"id": "1", "label": "x"}
    assert codec.decode(Aliased, codec.encode(event), AVRO) == event
    assert codec.decode(Aliased, b'{"id": "1", "labelText": "x"}', JSON) == event


async def test_json_events_travel_as_json(codec: Codec) -> None:
    event = Noted(order_id="1", ratio=float("inf"), raw=b"\xff\x00", labelText="x")
    value = codec.encode(event)
    assert json.loads(value) == {"order_id": "1", "ratio": "Infinity", "raw": "_wA=", "labelText": "x"}
    assert codec.decode(Noted, value, JSON) == event
    assert codec.decode(Noted, value, "Application/JSON; charset=utf-8") == event
    assert codec.decode_any(value, "") == json.loads(value)


async def test_the_content_type_decides_and_not_the_class(codec: Codec) -> None:
    assert codec.decode(OrderPlaced, b'{"order_id": "4711", "total": "19.90"}', JSON) == ORDER
    assert codec.decode(OrderPlaced, b' {"order_id": "4711", "total": 19.9}', "") == ORDER
    assert codec.decode(OrderPlaced, ORDER_BYTES, "") == ORDER
    with pytest.raises(DecodeError, match="content type 'text/plain' is none of"):
        codec.decode(OrderPlaced, ORDER_BYTES, "text/plain")


STRUCTURED = {
    "specversion": "1.0",
    "id": "e-1",
    "type": "OrderPlaced",
    "source": "/legacy",
    "time": "2026-11-21T10:00:00+01:00",
    "datacontenttype": "application/json",
    "data": {"order_id": "4711", "total": "19.90"},
}


def structured(**changes: Any) -> bytes:
    return json.dumps({name: each for name, each in {**STRUCTURED, **changes}.items() if each is not None}).encode()


def received(value: bytes, content_type: str = CLOUDEVENTS_JSON, **headers: str) -> tuple[Envelope, bytes]:
    spelled = (("content-type", content_type.encode()), *((name, text.encode()) for name, text in headers.items()))
    return read_envelope(Delivery("orders", 0, 7, 1_000, b"4711", value, spelled)), value


async def test_structured_cloudevents_are_read(codec: Codec) -> None:
    assert codec.decode(OrderPlaced, structured(), f"{CLOUDEVENTS_JSON}; charset=UTF-8") == ORDER
    assert codec.decode_any(structured(), CLOUDEVENTS_JSON) == STRUCTURED["data"]
    envelope = read_structured(*received(structured(), f"{CLOUDEVENTS_JSON}; charset=UTF-8"))
    assert (envelope.id, envelope.type, envelope.source, envelope.key) == ("e-1", "OrderPlaced", "/legacy", "4711")
    assert envelope.time == 1_795_251_600_000_000
    assert read_structured(*received(structured(time=None))).time == 1_000_000


async def test_headers_win_over_structured_attributes_and_other_values_are_left_alone() -> None:
    assert read_structured(*received(structured(), ce_type="Other", ce_id="h")).id == "h"
    assert read_structured(*received(b"x", JSON)).type == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a CloudEvent of specversion 1.0"),
        (structured(specversion="0.3"), "not a CloudEvent of specversion 1.0"),
        (structured(type=None), "attributes id, type and source"),
        (structured(id=5), "attributes id, type and source"),
        (structured(time="yesterday"), "time is not an RFC 3339"),
        (structured(time=5), "time is not an RFC 3339"),
    ],
)
def test_a_malformed_cloudevent_is_refused(value: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_structured(*received(value))


@pytest.mark.parametrize(
    ("value", "content_type", "message"),
    [
        (b"", AVRO, "magic byte"),
        (b"\0\0\0\0", AVRO, "magic byte"),
        (b"\1" + ORDER_BYTES[1:], AVRO, "magic byte"),
        (ORDER_BYTES + b"\0", AVRO, "trailing bytes"),
        (ORDER_BYTES[:-1], AVRO, "ends too early"),
        (ORDER_BYTES[:6] + b"\xff\xff\xff\xff" + ORDER_BYTES[10:], AVRO, "not what its schema says"),
        (b"", JSON, "not a valid OrderPlaced"),
        (b"[" * 100_000, JSON, "not a valid OrderPlaced"),
        (b"[1]", JSON, "not a valid OrderPlaced"),
        (b'{"order_id": "1"}', JSON, "not a valid OrderPlaced: total: missing"),
        (structured(data=None), CLOUDEVENTS_JSON, "not a valid OrderPlaced"),
        (structured(data=None, data_base64="eA=="), CLOUDEVENTS_JSON, "not a valid OrderPlaced"),
        (b"[" * 100_000, CLOUDEVENTS_JSON, "not a valid OrderPlaced"),
    ],
)
async def test_bytes_that_are_no_event_are_refused(codec: Codec, value: bytes, content_type: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        codec.decode(OrderPlaced, value, content_type)
    assert codec.decode(OrderPlaced, ORDER_BYTES, AVRO) == ORDER
    # A second look, when the reader is compiled, is as strict as the first.
    with pytest.raises(DecodeError, match=message):
        codec.decode(OrderPlaced, value, content_type)


@pytest.mark.parametrize(
    ("value", "content_type", "message"),
    [
        (b"[1]", JSON, "not a record"),
        (b"{", JSON, "not JSON"),
        (b"[" * 100_000, JSON, "not JSON"),
        (b"{}", CLOUDEVENTS_JSON, "not a record"),
        (ORDER_BYTES + b"\0", AVRO, "trailing"),
        (ORDER_BYTES[:6] + b"\xff\xff\xff\xff" + ORDER_BYTES[10:], AVRO, "not what its schema says"),
        (b"\0", AVRO, "magic byte"),
    ],
)
async def test_without_a_class_it_is_as_strict(codec: Codec, value: bytes, content_type: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        codec.decode_any(value, content_type)
    assert codec.decode_any(ORDER_BYTES, AVRO) == {"order_id": "4711", "total": Decimal("19.90"), "note": None}


async def test_a_large_value_is_refused_before_it_is_looked_at(codec: Codec) -> None:
    for decode in (lambda value: codec.decode(OrderPlaced, value, JSON), lambda value: codec.decode_any(value, JSON)):
        with pytest.raises(LimitExceeded, match=f"at most {MOST_VALUE_BYTES}"):
            decode(b" " * (MOST_VALUE_BYTES + 1))


async def test_no_error_text_holds_a_value(codec: Codec, registry: DictRegistry) -> None:
    class Careful(Event, topic="t", key="id"):
        id: str
        attributes: dict[str, int] = {}
        pin: str = ""

        @field_validator("pin")
        @classmethod
        def _short(cls, value: str) -> str:
            if value == "key-secret":
                raise KeyError(value)
            if value:
                raise ValueError(f"bad pin {value}")
            return value

    schema = record(name="Careful") | {
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "pin", "type": "string"},
            {"name": "attributes", "type": {"type": "map", "values": "string"}},
        ]
    }
    schema_id = await learned(codec, registry, schema)
    for pin in ("secret", "key-secret", ""):
        value = frame(schema_id, schema, {"id": "1", "pin": pin, "attributes": {"secret": "secret"}})
        with pytest.raises(DecodeError) as caught:
            codec.decode(Careful, value, AVRO)
        assert "secret" not in str(caught.value) and caught.value.__suppress_context__
    with pytest.raises(DecodeError, match=r"not a valid Careful: attributes: int_parsing, pin: value_error$"):
        codec.decode(Careful, b'{"id": "1", "attributes": {"secret": "secret"}, "pin": "secret"}', JSON)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nonsense"}, "not an Avro schema"),
        (record({"name": "x" * 300_000, "type": "string"}), "longer than"),
        (record({"name": "a", "type": "OrderPlaced"}), "always contains itself"),
    ],
)
async def test_an_unusable_schema_is_refused_when_it_is_learned(
    codec: Codec, registry: DictRegistry, schema: Any, message: str
) -> None:
    schema_id = await registry.register("bad", schema)
    with pytest.raises(DecodeError, match=message):
        await codec.learn(schema_id)


async def test_a_deep_schema_is_refused_before_it_is_parsed(codec: Codec, registry: DictRegistry) -> None:
    schema: Any = "string"
    for _ in range(60):
        schema = {"type": "array", "items": schema}
    with pytest.raises(DecodeError, match="nests deeper"):
        await learned(
            codec, registry, record({"name": "deep", "type": {"type": "array", "items": schema}}) | {"x": [[[[]]]]}
        )


async def test_a_record_says_how_it_is_encoded(codec: Codec) -> None:
    def envelope(kind: str) -> Envelope:
        return Envelope("id-1", kind, "shop", 0, "4711")

    made = to_record(ORDER, envelope("OrderPlaced"), codec)
    assert (made.topic, made.key, made.value) == ("orders", b"4711", ORDER_BYTES)
    assert dict(made.headers)["content-type"] == b"application/avro"
    noted = to_record(Noted(order_id="1", ratio=0, raw=b""), envelope("Noted"), codec, topic="elsewhere")
    assert (noted.topic, dict(noted.headers)["content-type"]) == ("elsewhere", b"application/json")
    with pytest.raises(MissingKey):
        to_record(OrderPlaced(order_id="", total=Decimal(1)), envelope("OrderPlaced"), codec)


def test_a_subject_names_topic_and_type() -> None:
    assert subject_of("orders", "OrderPlaced") == "orders-OrderPlaced"
