"""Reading the usual Avro values in one pass, in place of the scan and fastavro's own.

What stands here takes only what is plain: it gives up, and the two passes follow, on whatever is unusual in the schema
(a record within itself) or in the bytes (a block with its size, a number of too many bytes, text that is no UTF-8). So
no error is told here, and what a value is stays with `scan` and fastavro: where this gives a value, they give the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from fastavro.read import LOGICAL_READERS

from .scan import INT, LONG, MOST_VALUES, decimal_bytes, varint

Reader: TypeAlias = Callable[[bytes, int], Any]
"""Reads the value that begins at a place of the bytes and ends with them; raises anything where it gives up."""

_MOST_DEPTH = 24
_DOUBLE, _FLOAT = struct.Struct("<d").unpack_from, struct.Struct("<f").unpack_from

_Step: TypeAlias = Callable[[bytes, int], tuple[Any, int]]


class _Unusual(Exception):
    """The scan and fastavro are to look at it."""


class _Part(NamedTuple):
    """How a part of a value is read.

    Args:
        read: gives what begins at a place, and where it ends.
        fewest: bytes that it takes at least.
        weight: how many values it makes without reading a count.
        growth: how many values each of its bytes may make at most, by the counts within.
    """

    read: _Step
    fewest: int
    weight: int = 1
    growth: int = 0


def compile_reader(schema: Any) -> Reader | None:
    """Compile the reader of a writer's schema; None where its values are not of the usual kind.

    Args:
        schema: as `fastavro.parse_schema` gives it, and one that `compile_scanner` takes.
    """
    try:
        part = _Compiler().part(schema, 0)
    except _Unusual:
        return None
    read = part.read
    longest = MOST_VALUES // max(1, part.growth)  # so that no count needs to be added up

    def whole(value: bytes, start: int) -> Any:
        if len(value) > longest:
            raise _Unusual
        found, end = read(value, start)
        if end != len(value):
            raise _Unusual
        return found

    return whole


class _Compiler:
    def __init__(self) -> None:
        self._named: dict[str, _Part] = {}

    def part(self, schema: Any, depth: int) -> _Part:
        if depth > _MOST_DEPTH:
            raise _Unusual
        if isinstance(schema, list):
            return _union([self.part(branch, depth + 1) for branch in schema])
        if isinstance(schema, str):
            found = _PLAIN.get(schema) or self._named.get(schema)
            if found is None:  # within itself
                raise _Unusual
            return found
        match schema["type"]:
            case "record" | "error":
                fields = [(each["name"], self.part(each["type"], depth + 1)) for each in schema["fields"]]
                part = _record(fields)
            case "enum":
                part = _Part(_enum(tuple(schema["symbols"])), 1)
            case "fixed":
                part = _Part(_fixed(schema["size"]), schema["size"])
            case "array" if schema["items"] == "string":
                return _Part(_strings, 1, 1, 1)
            case "array":
                return _array(self.part(schema["items"], depth + 1))
            case "map":
                return _map(self.part(schema["values"], depth + 1))
            case str() as inner if inner in _PLAIN:
                part = _PLAIN[inner]
            case _:
                raise _Unusual
        if "logicalType" in schema:
            part = _logical(part, schema)
        if "name" in schema:
            self._named[schema["name"]] = part
        return part


def _null(_: bytes, at: int) -> tuple[None, int]:
    return None, at


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    byte = data[at]
    if byte > 1:
        raise _Unusual
    return byte == 1, at + 1


def _whole(most: tuple[int, int]) -> _Step:
    def whole(data: bytes, at: int) -> tuple[int, int]:
        number = data[at]
        if number < 0x80:
            at += 1
        elif (byte := data[at + 1]) < 0x80:
            number += (byte << 7) - 0x80
            at += 2
        else:
            number, at = varint(data, at, most)
        return (number >> 1) ^ -(number & 1), at

    return whole


def _float(data: bytes, at: int) -> tuple[float, int]:
    return _FLOAT(data, at)[0], at + 4


def _double(data: bytes, at: int) -> tuple[float, int]:
    return _DOUBLE(data, at)[0], at + 8


# A slice beyond the end is shorter than it should be: then the place is beyond the end too, which the last look finds.


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size = data[at]
    at += 1
    if size > 0x7F or size & 1:
        size, at = _size(data, at - 1)
    end = at + (size >> 1)
    return data[at:end], end


def _string(data: bytes, at: int) -> tuple[str, int]:
    raw, end = _bytes(data, at)
    return raw.decode(), end


def _size(data: bytes, at: int) -> tuple[int, int]:
    size, at = varint(data, at, LONG)
    if size & 1:
        raise _Unusual
    return size, at


def _count(data: bytes, at: int) -> tuple[int, int]:
    count, at = _size(data, at)
    if not count:  # 0 has one form only
        raise _Unusual
    return count, at


def _strings(data: bytes, at: int) -> tuple[list[str], int]:
    found: list[str] = []
    while count := data[at]:
        at += 1
        if count > 0x7F or count & 1:
            count, at = _count(data, at - 1)
        for _ in range(count >> 1):  # as `_string`, without a call for each
            size = data[at]
            at += 1
            if size > 0x7F or size & 1:
                size, at = _size(data, at - 1)
            end = at + (size >> 1)
            found.append(data[at:end].decode())
            at = end
    return found, at + 1


def _array(items: _Part) -> _Part:
    if not items.fewest:
        raise _Unusual
    read = items.read

    def array(data: bytes, at: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        while count := data[at]:
            at += 1
            if count > 0x7F or count & 1:
                count, at = _count(data, at - 1)
            for _ in range(count >> 1):
                item, at = read(data, at)
                found.append(item)
        return found, at + 1

    return _Part(array, 1, 1, items.growth + items.weight)


def _map(values: _Part) -> _Part:
    read = values.read

    def mapping(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while count := data[at]:
            at += 1
            if count > 0x7F or count & 1:
                count, at = _count(data, at - 1)
            for _ in range(count >> 1):
                key, at = _string(data, at)
                found[key], at = read(data, at)
        return found, at + 1

    return _Part(mapping, 1, 1, values.growth + values.weight + 1)


def _union(branches: list[_Part]) -> _Part:
    reads = [branch.read for branch in branches]

    def union(data: bytes, at: int) -> tuple[Any, int]:
        index = data[at]
        if index & 0x81:  # negative, or of two bytes; too large is an IndexError
            raise _Unusual
        return reads[index >> 1](data, at + 1)

    weight = 1 + max((branch.weight for branch in branches), default=0)
    return _Part(union, 1, weight, sum(branch.growth for branch in branches))


def _enum(symbols: tuple[str, ...]) -> _Step:
    def enum(data: bytes, at: int) -> tuple[str, int]:
        index = data[at]
        if index & 0x81:
            raise _Unusual
        return symbols[index >> 1], at + 1

    return enum


def _fixed(size: int) -> _Step:
    def fixed(data: bytes, at: int) -> tuple[bytes, int]:
        return data[at : at + size], at + size

    return fixed


def _record(fields: list[tuple[str, _Part]]) -> _Part:
    steps = tuple((name, part.read) for name, part in fields)

    def record(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        for name, read in steps:
            found[name], at = read(data, at)
        return found, at

    parts = [part for _, part in fields]
    weight = 1 + sum(part.weight for part in parts)
    return _Part(record, sum(part.fewest for part in parts), weight, sum(part.growth for part in parts))


def _logical(part: _Part, schema: Any) -> _Part:
    """Read a part as fastavro reads its logical type; one that it does not know is read as it is."""
    kind = f"{schema['type']}-{schema['logicalType']}"
    convert = LOGICAL_READERS.get(kind)
    if convert is None:
        return part
    read = part.read
    most = decimal_bytes(schema) if kind == "bytes-decimal" else None

    def logical(data: bytes, at: int) -> tuple[Any, int]:
        raw, end = read(data, at)
        if most is not None and len(raw) > most:
            raise _Unusual
        return convert(raw, schema, None), end

    return part._replace(read=logical)


_PLAIN = {
    "null": _Part(_null, 0),
    "boolean": _Part(_boolean, 1),
    "int": _Part(_whole(INT), 1),
    "long": _Part(_whole(LONG), 1),
    "float": _Part(_float, 4),
    "double": _Part(_double, 8),
    "bytes": _Part(_bytes, 1),
    "string": _Part(_string, 1),
}
