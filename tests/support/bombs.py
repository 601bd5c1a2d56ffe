"""What crashes, stalls or misleads a plain Avro or JSON reader: bytes, and schemas that strangers might register."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from choreo.events.envelope import AVRO, CLOUDEVENTS_JSON, JSON


@dataclass(frozen=True)
class Bomb:
    """A value that must become a dead letter.

    Args:
        name: for the test's id.
        value: Avro after the schema's id, or the whole value where there is no schema.
        reason: what the dead letter's message must say.
        schema: the writer's.
        content_type: of the record.
        error: the class of the error.
    """

    name: str
    value: bytes
    reason: str
    schema: dict[str, Any] | None = None
    content_type: str = AVRO
    error: str = "DecodeError"


def varint(number: int) -> bytes:
    """Spell a number as Avro does."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def record(*types: Any) -> dict[str, Any]:
    """Make a schema whose first field is the order's number."""
    fields = [{"name": "order_id", "type": "string"}]
    fields.extend({"name": f"f{i}", "type": each} for i, each in enumerate(types))
    return {"type": "record", "name": "OrderPlaced", "fields": fields}


def _nested(levels: int) -> dict[str, Any]:
    schema: Any = "null"
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return record(schema)


_TREE = {"type": "record", "name": "Tree", "fields": [{"name": "children", "type": {"type": "array", "items": "Tree"}}]}
_LIST = {"type": "record", "name": "List", "fields": [{"name": "next", "type": ["null", "List"]}]}
_SELF = {"type": "record", "name": "Self", "fields": [{"name": "itself", "type": "Self"}]}
_NULLS = {"type": "array", "items": "null"}
_STRINGS = {"type": "array", "items": "string"}
_EMPTY = {"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}
_ENUM = {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}
_UNION = ["null", "string"]
_DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
_HUGE = {**_DECIMAL, "precision": 10**9}
_DATE = {"type": "int", "logicalType": "date"}
LIMIT = "LimitExceeded"
_K = b"\x06bad"  # the order's number

BOMBS = (
    Bomb(
        "nest-of-5000-arrays",
        _K + varint(1) * 5_000 + b"\0" * 5_001,
        "nests deeper than 100",
        record(_TREE),
        error=LIMIT,
    ),
    Bomb("nest-of-5000-unions", _K + varint(1) * 5_000 + b"\0", "nests deeper than 100", record(_LIST), error=LIMIT),
    Bomb("nulls-2-to-the-40", _K + varint(2**40) + b"\0", "items of no bytes", record(_NULLS), error=LIMIT),
    Bomb("nulls-20-million", _K + varint(20_000_000) + b"\0", "items of no bytes", record(_NULLS), error=LIMIT),
    Bomb(
        "nulls-in-many-blocks", _K + varint(1_000) * 400_000 + b"\0", "than 250000 values", record(_NULLS), error=LIMIT
    ),
    Bomb(
        "nulls-negative-count",
        _K + varint(-(2**40)) + varint(0) + b"\0",
        "items of no bytes",
        record(_NULLS),
        error=LIMIT,
    ),
    Bomb("empty-records-2-to-the-40", _K + varint(2**40) + b"\0", "items of no bytes", record(_EMPTY), error=LIMIT),
    Bomb("strings-2-to-the-40", _K + varint(2**40) + b"\0", "a count is larger than the bytes", record(_STRINGS)),
    Bomb(
        "count-of-zero-in-two-bytes", _K + b"\x80\0" + varint(2**40) + b"\0", "shortest form", record(_STRINGS, _NULLS)
    ),
    Bomb("length-2-to-the-40", varint(2**40) + b"x", "ends too early", record()),
    Bomb("negative-length", varint(-1) + b"x", "a length is negative", record()),
    Bomb("enum-index-minus-1", _K + varint(-1), "an enum's index names no symbol", record(_ENUM)),
    Bomb("union-index-minus-1", _K + varint(-1), "a union's index names no branch", record(_UNION)),
    Bomb("union-index-beyond", _K + varint(7), "a union's index names no branch", record(_UNION)),
    Bomb("over-long-number", _K + b"\xff" * 100 + b"\1", "larger than its type allows", record("long")),
    Bomb("trailing-bytes", _K + b"more", "trailing bytes", record()),
    Bomb("torn", b"\x06ba", "ends too early", record()),
    Bomb("decimal-of-a-million-digits", _K + varint(500_000) + b"\1" * 500_000, "than its precision", record(_DECIMAL)),
    Bomb("text-that-is-no-utf-8", b"\x04\xff\xfe", "not what its schema says", record()),
    Bomb("day-beyond-the-calendar", _K + varint(2**31 - 1), "not what its schema says", record(_DATE)),
    Bomb("schema-that-contains-itself", _K, "always contains itself", record(_SELF)),
    Bomb("schema-of-200-levels", _K, "schema nests deeper than 64", _nested(200)),
    Bomb("schema-with-a-decimal-of-a-billion-digits", _K, "decimal without a precision", record(_HUGE)),
    Bomb("schema-that-is-none", _K, "not an Avro schema", record("nothing")),
    Bomb("no-magic-byte", b"\1\0\0\0\1x", "does not begin with magic byte 0"),
    Bomb("no-bytes", b"", "does not begin with magic byte 0"),
    Bomb("json-nest-of-5000", b'{"order_id":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "", content_type=JSON),
    Bomb("json-nest-that-is-open", b'{"order_id":' * 80_000, "", content_type=JSON),
    Bomb("json-number-of-900000-digits", b'{"order_id":"1","number":' + b"9" * 900_000 + b"}", "", content_type=JSON),
    Bomb("structured-without-attributes", b'{"specversion":"1.0","data":{}}', "", content_type=CLOUDEVENTS_JSON),
    Bomb("unknown-content-type", b"<xml/>", "content type", content_type="application/xml"),
)
