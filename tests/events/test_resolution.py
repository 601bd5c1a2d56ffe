"""What stands between a writer's schema and a class: other names, and numbers without a unit."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from fastavro import parse_schema, schemaless_writer
from pydantic import BaseModel

from choreo import Event
from choreo.events.codec import Codec
from choreo.events.envelope import AVRO
from choreo.events.errors import DecodeError
from tests.support.registries import DictRegistry


def record(*fields: Any, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": each, "type": type_} for each, type_ in fields]}


async def read(cls: type[Event], schema: Any, value: Any) -> Any:
    """Read what a stranger writes under a schema of its own."""
    from io import BytesIO

    registry = DictRegistry()
    codec = Codec(registry)
    schema_id = await registry.register("theirs", schema)
    await codec.learn(schema_id)
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(schema), value)
    return codec.decode(cls, b"\x00" + schema_id.to_bytes(4, "big") + stream.getvalue(), AVRO)


class Line(BaseModel):
    at: time


class Booked(Event, topic="bookings", key="id"):
    id: str
    at: datetime
    day: date | None = None
    lines: list[Line] = []
    by_name: dict[str, Line] = {}


MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MOMENT = datetime(2026, 11, 21, 9, 2, 11, 402_000, tzinfo=UTC)


@pytest.mark.parametrize("schema", [MICROS, MILLIS, ["null", MILLIS], "string"])
async def test_a_moment_is_exact_in_whatever_unit_its_writer_says(schema: Any) -> None:
    value = MOMENT.isoformat() if schema == "string" else MOMENT
    assert (await read(Booked, record(("id", "string"), ("at", schema)), {"id": "1", "at": value})).at == MOMENT


@pytest.mark.parametrize(
    ("fields", "value", "message"),
    [
        ([("at", "long")], {"at": 1_700_000_000}, "Booked.at is a datetime, and its writer's schema says long"),
        ([("at", "double")], {"at": 1.7e9}, "Booked.at is a datetime, and its writer's schema says double"),
        ([("at", ["null", "long"])], {"at": 7}, "Booked.at is a datetime"),
        ([("at", MICROS), ("day", "int")], {"at": MOMENT, "day": 86_400}, "Booked.day is a date, and .* says int"),
        (
            [("at", MICROS), ("lines", {"type": "array", "items": record(("at", "int"), name="Line")})],
            {"at": MOMENT, "lines": [{"at": 7}]},
            "Line.at is a time, and its writer's schema says int",
        ),
        (
            [("at", MICROS), ("by_name", {"type": "map", "values": record(("at", "int"), name="Line")})],
            {"at": MOMENT, "by_name": {"x": {"at": 7}}},
            "Line.at is a time",
        ),
    ],
)
async def test_a_number_without_a_unit_is_no_time(fields: Any, value: Any, message: str) -> None:
    """pydantic takes it for seconds or milliseconds, by its size."""
    with pytest.raises(DecodeError, match=message):
        await read(Booked, record(("id", "string"), *fields), {"id": "1", **value})


class Colour(Enum):
    RED = "RED"
    OTHER = "OTHER"


class Painted(
    Event,
    topic="paint",
    key="id",
    schema={
        "type": "record",
        "name": "Painted",
        "aliases": ["Coloured"],
        "fields": [
            {"name": "id", "type": "string", "aliases": ["number", "code"]},
            {
                "name": "colour",
                "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "OTHER"], "default": "OTHER"},
            },
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        ],
    },
):
    id: str
    colour: Colour
    price: Decimal


@pytest.mark.parametrize("name", ["id", "number", "code"])
async def test_a_schema_of_ones_own_reads_older_names_and_unknown_symbols(name: str) -> None:
    colours = {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}
    price = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    theirs = record((name, "string"), ("more", "long"), ("colour", colours), ("price", price), name="Coloured")
    for written, told in (("RED", Colour.RED), ("GREEN", Colour.OTHER)):
        value = {name: "1", "more": 7, "colour": written, "price": Decimal("1.20")}
        assert await read(Painted, theirs, value) == Painted(id="1", colour=told, price=Decimal("1.20"))


async def test_what_cannot_be_resolved_is_refused_and_not_guessed() -> None:
    with pytest.raises(DecodeError, match="not what its schema says"):
        await read(Painted, record(("name", "string"), name="Coloured"), {"name": "x"})


async def test_a_uuid_is_read_however_it_was_written() -> None:
    class Named(Event, topic="names", key="id"):
        id: UUID

    for schema in ("string", {"type": "string", "logicalType": "uuid"}):
        value = str(UUID(int=7)) if schema == "string" else UUID(int=7)
        assert (await read(Named, record(("id", schema)), {"id": value})).id == UUID(int=7)
