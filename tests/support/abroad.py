"""Events as other systems write them, each in its own way, and the classes that read them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from choreo import Delivery, Envelope, Event, Foreign, header, value
from choreo.events.envelope import Record
from choreo.events.registry import SchemaRegistry


class Plain(Event, topic="abroad.plain", key="order_id", format="json"):
    order_id: str
    carrier: str = "post"


class Cloud(Event, topic="abroad.cloud", key="order_id", type="com.acme.shipped"):
    order_id: str
    carrier: str


class Legacy(Event, topic="abroad.avro", key="order_id"):
    order_id: str
    carrier: str
    weight: int = 1


def read_line(record: Delivery, envelope: Envelope) -> tuple[Event, Envelope] | None:
    """Read `SHIP|<id>|<time>|<order>|<carrier>`."""
    kind, id_, at, order, carrier = (record.value or b"").decode().split("|")
    if kind != "SHIP":
        return None
    when = int(datetime.fromisoformat(at).timestamp() * 1_000_000)
    return Line(order_id=order, carrier=carrier), replace(envelope, id=id_, time=when, source="mainframe")


class Line(Event, topic="abroad.lines", key="order_id", foreign=Foreign(decode=read_line)):
    order_id: str
    carrier: str


SPRING = Foreign(
    type=header("__TypeId__"), types={"com.acme.Events$Gone": "Sent"}, key=header("order"), id=header("message-id")
)


class Sent(Event, topic="abroad.spring", key="order_id", format="json", foreign=SPRING):
    order_id: str
    carrier: str


class Lost(Event, topic="abroad.spring", key="order_id", format="json", foreign=SPRING):
    order_id: str


NESTED = Foreign(type=value("meta.kind"), key=value("meta.order"), id=value("meta.id"), time=value("meta.at"))


class Nested(Event, topic="abroad.nested", key="order_id", format="json", type="nested.v1", foreign=NESTED):
    order_id: str
    body: dict[str, str]


class Cut(
    Event,
    topic="abroad.cut",
    key="order_id",
    format="json",
    foreign=Foreign(key=lambda record: (record.key or b"").decode().rpartition("-")[2]),
):
    order_id: str
    carrier: str


CLASSES: tuple[type[Event], ...] = (Plain, Cloud, Legacy, Line, Sent, Lost, Nested, Cut)
WRITER = {
    "type": "record",
    "name": "Legacy",
    "namespace": "com.erp",
    "fields": [
        {"name": "carrier", "type": "string"},
        {"name": "depot", "type": ["null", "int"]},
        {"name": "order_id", "type": "string"},
    ],
}


def json_bytes(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def avro_bytes(registry: SchemaRegistry, schema: dict[str, Any], datum: dict[str, Any]) -> bytes:
    """Write as a Confluent client does: magic byte, schema id, Avro."""
    schema_id = await registry.register(f"abroad.avro-{schema['name']}", schema)
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(schema), datum)
    return b"\x00" + schema_id.to_bytes(4, "big") + stream.getvalue()


async def foreign_records(
    registry: SchemaRegistry, order: str, at: datetime | None = None
) -> dict[type[Event], Record]:
    """Give one record of each kind about an order, none of them written with choreo's publisher."""
    when = (at or datetime(2026, 11, 21, 9, 0, tzinfo=UTC)).isoformat()
    key, body = order.encode(), json_bytes(order_id=order, carrier="dhl")
    attributes = {"specversion": "1.0", "id": f"c-{order}", "type": "com.acme.shipped", "source": "/erp", "time": when}
    structured = json_bytes(**attributes, partitionkey=order, data={"order_id": order, "carrier": "dhl"})
    avro = await avro_bytes(registry, WRITER, {"carrier": "dhl", "depot": 7, "order_id": order})
    meta = {"kind": "nested.v1", "order": order, "id": 1, "at": 1_763_715_600_000}
    typed = (("__TypeId__", b"com.acme.Events$Gone"), ("order", key), ("message-id", b"m-" + key))
    return {
        Plain: Record(Plain.spec().topic, None, body),
        Cloud: Record(Cloud.spec().topic, None, structured, (("content-type", b"application/cloudevents+json"),)),
        Legacy: Record(Legacy.spec().topic, key, avro),
        Line: Record(Line.spec().topic, None, f"SHIP|l-{order}|{when}|{order}|dhl".encode()),
        Sent: Record(Sent.spec().topic, b"\x00\x00\x00\xff", json_bytes(carrier="dhl"), typed),
        Nested: Record(Nested.spec().topic, b"other", json_bytes(meta=meta, body={"carrier": "dhl"})),
        Cut: Record(Cut.spec().topic, b"tenant-" + key, json_bytes(carrier="dhl")),
    }


def binary_cloud_event(order: str, **headers: str) -> Record:
    """Give a CloudEvent in binary mode, as JSON."""
    told = {
        "ce_specversion": "1.0",
        "ce_id": f"b-{order}",
        "ce_type": "com.acme.shipped",
        "ce_source": "/erp",
        **headers,
    }
    pairs = tuple((name, text.encode()) for name, text in {"content-type": "application/json", **told}.items())
    return Record(Cloud.spec().topic, order.encode(), json_bytes(order_id=order, carrier="ups"), pairs)
