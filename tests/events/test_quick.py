"""The usual Avro values are read in one pass, and always as the scan and fastavro together would read them."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.events.errors import DecodeError, LimitExceeded
from choreo.events.quick import compile_reader
from choreo.events.scan import MOST_VALUES, compile_scanner
from tests.support import avro
from tests.support.avro import PLAIN, plain, record

STRINGS = {"type": "array", "items": "string"}


SCHEMA = record(
    *PLAIN,
    {"type": "string", "avro.java.string": "String"},
    {"type": "enum", "name": "E", "symbols": [f"S{number}" for number in range(70)]},
    {"type": "fixed", "name": "F", "size": 3},
    ["null", "string", "E"],
    {"type": "array", "items": record("double", "F", STRINGS, name="Pair")},
    {"type": "map", "values": STRINGS},
    {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 3},
    "Pair",
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "int", "logicalType": "date"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "array", "items": "long"},
    {"type": "string", "logicalType": "nobody-knows"},
)
pairs = st.fixed_dictionaries(
    {
        "f0": st.floats(allow_nan=False),
        "f1": st.binary(min_size=3, max_size=3),
        "f2": st.lists(st.text(max_size=70), max_size=70),
    }
)
values = st.fixed_dictionaries(
    {
        **plain(),
        "f7": st.text(max_size=100),
        "f8": st.integers(0, 63).map(lambda number: f"S{number}"),
        "f9": st.binary(min_size=3, max_size=3),
        "f10": st.none() | st.text(max_size=5).map(lambda text: ("string", text)) | st.just(("E", "S1")),
        "f11": st.lists(pairs, max_size=3),
        "f12": st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=3), max_size=5), max_size=3),
        "f13": st.decimals(-(10**20), 10**20, places=3),
        "f14": pairs,
        "f15": st.datetimes(timezones=st.just(UTC)),
        "f16": st.dates(),
        "f17": st.uuids(),
        "f18": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=70),
        "f19": st.text(max_size=5),
    }
)
PARSED = parse_schema(SCHEMA)


def written(value: Any, schema: Any = PARSED) -> bytes:
    return avro.written(value, schema)


def in_two_passes(data: bytes, schema: Any = PARSED) -> Any:
    compile_scanner(schema)(data, 0)
    return schemaless_reader(io.BytesIO(data), schema, None)


def quickly(data: bytes, schema: Any = PARSED) -> Any:
    """Read a value at once; None where that is left to the two passes."""
    read = compile_reader(schema)
    assert read is not None
    try:
        return read(data, 0)
    except Exception:
        return None


@given(value=values)
@settings(max_examples=80, deadline=None)
def test_what_fastavro_writes_is_read_as_fastavro_reads_it(value: Any) -> None:
    data = written(value)
    found = quickly(data)
    assert found is not None
    assert found == in_two_passes(data)
    assert quickly(data + b"\0") is None
    assert quickly(data[:-1]) is None


@given(value=values, where=st.floats(0, 1), byte=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_read_as_in_two_passes_or_left_to_them(value: Any, where: float, byte: int) -> None:
    data = bytearray(written(value))
    data[int(where * (len(data) - 1))] = byte
    found = quickly(bytes(data))
    # As text: NaN equals NaN there.
    assert found is None or repr(found) == repr(in_two_passes(bytes(data)))


@given(data=st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_as_in_two_passes_or_left_to_them(data: bytes) -> None:
    small = parse_schema(record("int", ["null", "long"], STRINGS, {"type": "map", "values": "boolean"}, name="Small"))
    found = quickly(data, small)
    assert found is None or found == in_two_passes(data, small)


def test_logical_types_are_what_fastavro_makes_of_them() -> None:
    value = {
        "f0": None, "f1": True, "f2": 1, "f3": 2, "f4": 0.5, "f5": 0.25, "f6": b"b", "f7": "t", "f8": "S63",
        "f9": b"abc", "f10": ("E", "S1"), "f11": [], "f12": {}, "f13": Decimal("1.250"),
        "f14": {"f0": 1.0, "f1": b"xyz", "f2": ["a"]}, "f15": datetime(2026, 11, 22, tzinfo=UTC),
        "f16": date(2026, 11, 22), "f17": UUID(int=7), "f18": [-1], "f19": "as it is",
    }  # fmt: skip
    assert quickly(written(value)) == {**value, "f10": "S1"}


@pytest.mark.parametrize(
    "schema",
    [
        record("long", ["null", "R"]),
        {"type": "array", "items": "null"},
        {"type": "array", "items": record(name="Empty")},
    ],
    ids=["a record within itself", "nothing as items", "empty records as items"],
)
def test_unusual_schemas_are_left_to_the_two_passes(schema: Any) -> None:
    assert compile_reader(parse_schema(schema)) is None


def test_a_deep_schema_is_left_to_the_two_passes() -> None:
    schema: Any = "string"
    for _ in range(30):
        schema = {"type": "array", "items": schema}
    assert compile_reader(parse_schema(schema)) is None


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ("string", b"\x01"),
        ("string", b"\x06ab"),
        ("string", b"\x02\xff"),
        ("boolean", b"\x02"),
        ("int", b"\xff\xff\xff\xff\x1f"),
        ("long", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
        (["null", "string"], b"\x01"),
        (["null", "string"], b"\x04"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x01"),
        (STRINGS, b"\x80\x00"),
        (STRINGS, b"\xfe\xff\xff\xff\xff\xff\x0f\x02a\x00"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2}, b"\x06\x00\x00\x01"),
    ],
)
def test_what_is_wrong_is_never_read(schema: Any, data: bytes) -> None:
    parsed = parse_schema(schema)
    assert quickly(data, parsed) is None
    with pytest.raises((DecodeError, LimitExceeded, UnicodeDecodeError)):
        in_two_passes(data, parsed)


def test_a_block_with_its_size_is_left_to_the_two_passes() -> None:
    data = b"\x01\x04\x02a\x00"
    assert quickly(data, parse_schema(STRINGS)) is None
    assert in_two_passes(data, parse_schema(STRINGS)) == ["a"]


def test_more_values_than_the_limit_are_left_to_the_scan_which_refuses_them() -> None:
    schema = parse_schema({"type": "array", "items": record("boolean", "boolean", "boolean", name="Flags")})
    flags = {"f0": True, "f1": True, "f2": True}
    assert quickly(written([flags] * 100, schema), schema) == [flags] * 100
    many = written([flags] * (MOST_VALUES // 4 + 1), schema)
    assert quickly(many, schema) is None
    with pytest.raises(LimitExceeded):
        in_two_passes(many, schema)


def test_a_symbol_of_two_bytes_is_left_to_the_two_passes() -> None:
    schema = parse_schema({"type": "enum", "name": "E", "symbols": [f"S{number}" for number in range(70)]})
    assert quickly(written("S64", schema), schema) is None
    assert in_two_passes(written("S64", schema), schema) == "S64"
