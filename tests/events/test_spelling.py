"""The usual Avro values are written as fastavro writes them, and all others are left to it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from fastavro import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.spelling import compile_writer
from tests.support.avro import record, written

HEAD = b"\x00\x00\x00\x00\x07"
STRINGS = {"type": "array", "items": "string"}
PAIR = record("double", STRINGS, name="Pair")
MANY = [f"S{number}" for number in range(70)]

SCHEMA: Any = parse_schema(
    record(
        "null",
        "boolean",
        "int",
        "long",
        "double",
        "bytes",
        {"type": "string", "avro.java.string": "String"},
        {"type": "enum", "name": "E", "symbols": MANY},
        ["null", "string"],
        ["E", "null"],
        {"type": "array", "items": PAIR},
        {"type": "map", "values": STRINGS},
        ["null", "Pair"],
        {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 3},
        {"type": "long", "logicalType": "timestamp-micros"},
        {"type": "int", "logicalType": "date"},
        {"type": "string", "logicalType": "uuid"},
        {"type": "array", "items": "long"},
        ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        {"type": "string", "logicalType": "nobody-knows"},
    )
)
texts = st.text(st.characters(codec="utf-8"), max_size=80)
pairs = st.fixed_dictionaries({"f0": st.floats(allow_nan=False), "f1": st.lists(texts, max_size=70)})
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
values = st.fixed_dictionaries(
    {
        "f0": st.none(),
        "f1": st.booleans(),
        "f2": st.integers(-(2**31), 2**31 - 1),
        "f3": st.integers(-(2**63), 2**63 - 1),
        "f4": st.floats(allow_nan=False),
        "f5": st.binary(max_size=300),
        "f6": texts,
        "f7": st.sampled_from(MANY),
        "f8": st.none() | texts,
        "f9": st.none() | st.sampled_from(MANY),
        "f10": st.lists(pairs, max_size=3),
        "f11": st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3),
        "f12": st.none() | pairs,
        "f13": st.decimals(-(10**20), 10**20, places=3),
        "f14": moments,
        "f15": st.dates(),
        "f16": st.uuids(),
        "f17": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "f18": st.none() | moments,
        "f19": texts,
    }
)


@given(values)
def test_a_usual_value_has_the_bytes_that_fastavro_gives_it(value: dict[str, Any]) -> None:
    write = compile_writer(SCHEMA, HEAD)
    assert write is not None
    assert write(value) == HEAD + written(value, SCHEMA)


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("string", b"bytes"),
        ("string", Colour.RED),
        ("string", "\ud800"),
        ("long", True),
        ("long", 2**63),
        ("long", 1.0),
        ("int", 2**31),
        ("double", 1),
        ("bytes", bytearray(b"1")),
        ("boolean", 1),
        ("null", 0),
        (STRINGS, ("a",)),
        (STRINGS, [1]),
        ({"type": "array", "items": "long"}, (1,)),
        ({"type": "map", "values": "long"}, {1: 1}),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, "b"),
        (["null", "string"], ("string", "tagged")),
        ({"type": "long", "logicalType": "timestamp-micros"}, "no time"),
    ],
)
def test_a_value_of_another_type_is_left_to_fastavro(schema: Any, value: Any) -> None:
    write = compile_writer(parse_schema(record(schema)), HEAD)
    assert write is not None
    with pytest.raises(Exception):
        write({"f0": value})
    with pytest.raises(Exception):
        write({})


@pytest.mark.parametrize(
    "schema",
    [
        ["null", "string", "long"],
        ["string", "long"],
        ["null"],
        "float",
        {"type": "fixed", "name": "F", "size": 3},
        ["null", "R"],
    ],
)
def test_a_schema_that_leaves_a_choice_or_is_rare_is_left_to_fastavro(schema: Any) -> None:
    assert compile_writer(parse_schema(record(schema)), HEAD) is None


def test_logical_values_are_converted_as_fastavro_does() -> None:
    schema: Any = parse_schema(
        record(
            {"type": "int", "logicalType": "date"},
            {"type": "string", "logicalType": "uuid"},
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        )
    )
    value = {"f0": date(2026, 11, 22), "f1": UUID(int=7), "f2": Decimal("-12.34")}
    write = compile_writer(schema, b"")
    assert write is not None
    assert write(value) == written(value, schema)
