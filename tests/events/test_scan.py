"""Crafted Avro bytes are refused before fastavro sees them, and good ones never are."""

from __future__ import annotations

from typing import Any

import pytest
from fastavro import parse_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.events.errors import DecodeError, LimitExceeded
from choreo.events.scan import MOST_EMPTY_ITEMS, MOST_VALUES, Scanner, compile_scanner
from tests.support import avro
from tests.support.avro import PLAIN, plain, record


def scanner(schema: Any) -> Scanner:
    return compile_scanner(parse_schema(schema))


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [
        {"name": "value", "type": "long"},
        {"name": "children", "type": {"type": "array", "items": "Tree"}},
        {"name": "next", "type": ["null", "Tree"]},
    ],
}
SCHEMA = record(
    *PLAIN,
    "string",
    {"type": "enum", "name": "E", "symbols": ["A", "B"]},
    {"type": "fixed", "name": "F", "size": 3},
    ["null", "string", "E"],
    {"type": "array", "items": record("double", "F", name="Pair")},
    {"type": "map", "values": {"type": "array", "items": "string"}},
    {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 3},
    "Pair",
    TREE,
    {"type": "array", "items": "null"},
)
pairs = st.fixed_dictionaries({"f0": st.floats(allow_nan=False), "f1": st.binary(min_size=3, max_size=3)})
trees: st.SearchStrategy[Any] = st.deferred(
    lambda: st.fixed_dictionaries(
        {
            "value": st.integers(-(2**63), 2**63 - 1),
            "children": st.lists(trees, max_size=1),
            "next": st.none()
            | st.fixed_dictionaries({"value": st.just(1), "children": st.just([]), "next": st.none()}),
        }
    )
)
values = st.fixed_dictionaries(
    {
        **plain(),
        "f7": st.text(max_size=100),
        "f8": st.sampled_from("AB"),
        "f9": st.binary(min_size=3, max_size=3),
        "f10": st.none() | st.text(max_size=5).map(lambda text: ("string", text)) | st.just(("E", "A")),
        "f11": st.lists(pairs, max_size=130),
        "f12": st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=3), max_size=100), max_size=3),
        "f13": st.decimals(-(10**20), 10**20, places=3),
        "f14": pairs,
        "f15": trees,
        "f16": st.lists(st.none(), max_size=3),
    }
)
SCAN = scanner(SCHEMA)
PARSED = parse_schema(SCHEMA)


def written(value: Any, schema: Any = PARSED) -> bytes:
    return avro.written(value, schema)


@given(value=values)
@settings(max_examples=80, deadline=None)
def test_what_fastavro_writes_is_accepted_and_one_byte_more_or_less_is_not(value: Any) -> None:
    data = written(value)
    SCAN(data, 0)
    SCAN(b"head!" + data, 5)
    with pytest.raises(DecodeError, match="trailing"):
        SCAN(data + b"\0", 0)
    with pytest.raises((DecodeError, LimitExceeded)):
        SCAN(data[:-1], 0)


@given(data=st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_accepted_or_refused_but_never_crash(data: bytes) -> None:
    try:
        SCAN(data, 0)
    except (DecodeError, LimitExceeded):
        pass


@given(value=values, where=st.floats(0, 1), byte=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_never_crashes(value: Any, where: float, byte: int) -> None:
    data = bytearray(written(value))
    data[int(where * (len(data) - 1))] = byte
    try:
        SCAN(bytes(data), 0)
    except (DecodeError, LimitExceeded):
        pass


STRINGS = {"type": "array", "items": "string"}
NULLS = {"type": "array", "items": "null"}


@pytest.mark.parametrize(
    ("schema", "data", "message"),
    [
        (record("string"), varint(-1), "a length is negative"),
        (record("bytes"), varint(-(2**62)), "a length is negative"),
        (record("string"), varint(2**40) + b"x", "ends too early"),
        (record("string"), b"", "ends too early"),
        (record("double"), b"1234567", "ends too early"),
        (record("long"), b"\xff" * 9 + b"\x02", "a number is larger"),
        (record("long"), b"\xff" * 100 + b"\x01", "a number is larger"),
        (record("int"), b"\xff\xff\xff\xff\x10", "a number is larger"),
        (record("int"), b"\xff\xff\xff\xff\xff\x01", "a number is larger"),
        (record("string"), b"\xff" * 10 + b"\x01", "a number is larger"),
        (record("long"), b"\xff\xff", "ends too early"),
        (record("boolean"), b"\x02", "a boolean is neither"),
        (record({"type": "enum", "name": "E", "symbols": ["A"]}), varint(-1), "an enum's index"),
        (record({"type": "enum", "name": "E", "symbols": ["A"]}), varint(1), "an enum's index"),
        (record({"type": "enum", "name": "E", "symbols": ["A"]}), varint(1000), "an enum's index"),
        (record(["null", "string"]), varint(-1), "a union's index"),
        (record(["null", "string"]), varint(2), "a union's index"),
        (record(["null", "string"]), varint(100), "a union's index"),
        (record(STRINGS), varint(2**40) + b"\0", "a count is larger"),
        (record(STRINGS), varint(-(2**63)) + varint(0) + b"\0", "a count is larger"),
        (record(STRINGS), varint(-1) + varint(-5) + b"\0\0", "a block's size is negative"),
        (record(STRINGS), varint(-1) + varint(3) + b"\x02a\0", "a block's size is not"),
        (record(STRINGS), varint(1) + b"\x02a", "ends too early"),
        # Found by fuzzing: fastavro takes 0 in two bytes for the end, and would read the rest as something else.
        (
            record(STRINGS, NULLS),
            b"\x80\x00" + varint(1) + b"\x02a\0" + b"\0",
            "a count is not written in its shortest",
        ),
        (record({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}), b"\x0a12345", "a decimal is"),
        (record(NULLS), varint(2**40) + b"\0", "items of no bytes"),
        (record(NULLS), varint(-(2**40)) + varint(0) + b"\0", "items of no bytes"),
        (record(NULLS), varint(MOST_EMPTY_ITEMS + 1) + b"\0", "items of no bytes"),
        (record({"type": "array", "items": record("null", name="Empty")}), varint(2**30) + b"\0", "items of no bytes"),
        (
            record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
            varint(2**30) + b"\0",
            "items of no bytes",
        ),
        (TREE, (varint(1) + varint(1)) * 101 + b"\0" * 300, "nests deeper than 100"),
        (TREE, (varint(1) + varint(0) + varint(1)) * 101 + b"\0" * 300, "nests deeper than 100"),
    ],
)
def test_a_bomb_is_refused_at_once(schema: Any, data: bytes, message: str) -> None:
    scan = scanner(schema)
    with pytest.raises((DecodeError, LimitExceeded), match=message):
        scan(data, 0)


def test_empty_items_in_many_blocks_share_one_budget() -> None:
    scan = scanner(record(NULLS))
    block = varint(MOST_EMPTY_ITEMS)
    scan(block * (MOST_VALUES // MOST_EMPTY_ITEMS) + b"\0", 0)
    with pytest.raises(LimitExceeded, match=f"more than {MOST_VALUES} values"):
        scan(block * (MOST_VALUES // MOST_EMPTY_ITEMS + 1) + b"\0", 0)


def test_small_items_of_many_values_share_the_budget_too() -> None:
    wide = record("boolean", *["null"] * 300, name="Wide")
    scan = scanner(record({"type": "array", "items": wide}))
    scan(varint(500) + b"\1" * 500 + b"\0", 0)
    with pytest.raises(LimitExceeded, match=f"more than {MOST_VALUES} values"):
        scan(varint(1000) + b"\1" * 1000 + b"\0", 0)


def test_a_union_of_many_branches_has_indexes_of_two_bytes() -> None:
    names = [record("null", name=f"N{number}") for number in range(70)]
    scan = scanner(record([*names[:-1], record("string", name="Last")]))
    scan(varint(69) + b"\x02a", 0)
    scan(varint(64), 0)
    with pytest.raises(DecodeError, match="a union's index"):
        scan(varint(70), 0)
    with pytest.raises(DecodeError, match="a union's index"):
        scan(varint(-70), 0)


def test_blocks_with_their_size_are_accepted() -> None:
    scan = scanner(record(STRINGS, {"type": "map", "values": "long"}))
    scan(varint(-2) + varint(4) + b"\x02a\x02b" + b"\0" + varint(-1) + varint(3) + b"\x02k\x04" + b"\0", 0)


def test_a_decimal_takes_what_its_precision_needs() -> None:
    scan = scanner(record({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}))
    scan(b"\x04\x7f\xff", 0)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "record", "name": "A", "fields": [{"name": "a", "type": "A"}]}, "'A' that always contains itself"),
        (
            record({"type": "record", "name": "B", "fields": [{"name": "r", "type": "R"}]}),
            "'R' that always contains itself",
        ),
        (record({"type": "bytes", "logicalType": "decimal", "precision": 10**9}), "a decimal without a precision"),
        (
            record({"type": "fixed", "name": "D", "size": 10**6, "logicalType": "decimal", "precision": 9}),
            "a decimal without a precision",
        ),
    ],
)
def test_a_schema_without_safe_values_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        scanner(schema)


def test_a_schema_that_unfolds_without_bytes_is_refused() -> None:
    inner: Any = record("null", "null", name="L0")
    for level in range(1, 30):
        inner = record(inner, inner["name"], name=f"L{level}")
    with pytest.raises(DecodeError, match="values of no bytes"):
        scanner(inner)


def test_deep_but_allowed_trees_pass() -> None:
    scanner(TREE)((varint(1) + varint(1)) * 40 + varint(1) + b"\0\0" + b"\0\0" * 40, 0)
