"""Writing the usual Avro values, as fastavro would: compiled once for a schema, where that walks it for every value.

What stands here takes only values of exactly the type that the schema names, as a validated model has them; it gives up
on all else, and fastavro follows, with its conversions and its errors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from fastavro.write import LOGICAL_WRITERS

Writer: TypeAlias = Callable[[Any], bytes]
"""Writes a value; raises anything where it gives up."""

_Step: TypeAlias = Callable[[list[bytes], Any], None]
"""Adds a value to the parts of what is written."""

_MOST_DEPTH = 24
_DOUBLE = struct.Struct("<d").pack
_SHORT = [bytes((number << 1,)) for number in range(64)]


class _Unusual(Exception):
    """fastavro is to look at it."""


def compile_writer(schema: Any, head: bytes) -> Writer | None:
    """Compile the writer of a schema; None where its values are not of the usual kind.

    Args:
        schema: as `fastavro.parse_schema` gives it.
        head: stands before each value.
    """
    try:
        write = _Compiler().step(schema, 0)
    except _Unusual:
        return None

    def whole(value: Any) -> bytes:
        parts = [head]
        write(parts, value)
        return b"".join(parts)

    return whole


class _Compiler:
    def __init__(self) -> None:
        self._named: dict[str, _Step] = {}

    def step(self, schema: Any, depth: int) -> _Step:
        if depth > _MOST_DEPTH:
            raise _Unusual
        if isinstance(schema, list):
            return self._optional(schema, depth)
        if isinstance(schema, str):
            found = _PLAIN.get(schema) or self._named.get(schema)
            if found is None:  # within itself
                raise _Unusual
            return found
        match schema["type"]:
            case "record":
                write = _record([(each["name"], self.step(each["type"], depth + 1)) for each in schema["fields"]])
            case "enum":
                write = _enum({symbol: _varint(index << 1) for index, symbol in enumerate(schema["symbols"])})
            case "array" if schema["items"] == "string":
                return _strings
            case "array":
                return _array(self.step(schema["items"], depth + 1))
            case "map":
                return _map(self.step(schema["values"], depth + 1))
            case str() as inner if inner in _PLAIN:
                write = _PLAIN[inner]
            case _:
                raise _Unusual
        if "logicalType" in schema:
            write = _logical(write, schema)
        if "name" in schema:
            self._named[schema["name"]] = write
        return write

    def _optional(self, branches: list[Any], depth: int) -> _Step:
        """Write what may be missing; where there is more to choose from, fastavro chooses."""
        if len(branches) != 2 or "null" not in branches:
            raise _Unusual
        absent = branches.index("null")
        write = self.step(branches[1 - absent], depth + 1)
        missing, present = _SHORT[absent], _SHORT[1 - absent]

        def optional(parts: list[bytes], value: Any) -> None:
            if value is None:
                parts.append(missing)
            else:
                parts.append(present)
                write(parts, value)

        return optional


def _varint(number: int) -> bytes:
    """Spell a number that is not negative."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _null(parts: list[bytes], value: Any) -> None:
    if value is not None:
        raise _Unusual


def _boolean(parts: list[bytes], value: Any) -> None:
    if value.__class__ is not bool:
        raise _Unusual
    parts.append(b"\x01" if value else b"\x00")


def _whole(bits: int) -> _Step:
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def whole(parts: list[bytes], value: Any) -> None:
        if value.__class__ is not int or not lowest <= value <= highest:
            raise _Unusual
        parts.append(_SHORT[value] if 0 <= value < 64 else _varint((value << 1) ^ (value >> 63)))

    return whole


def _double(parts: list[bytes], value: Any) -> None:
    if value.__class__ is not float:
        raise _Unusual
    parts.append(_DOUBLE(value))


def _bytes(parts: list[bytes], value: Any) -> None:
    if value.__class__ is not bytes:
        raise _Unusual
    size = len(value)
    parts.append(_SHORT[size] if size < 64 else _varint(size << 1))
    parts.append(value)


def _string(parts: list[bytes], value: Any) -> None:
    if value.__class__ is not str:
        raise _Unusual
    raw = value.encode()
    size = len(raw)
    parts.append(_SHORT[size] if size < 64 else _varint(size << 1))
    parts.append(raw)


def _strings(parts: list[bytes], values: Any) -> None:
    if values.__class__ is not list:
        raise _Unusual
    if values:
        parts.append(_varint(len(values) << 1))
        for value in values:  # as `_string`, without a call for each
            if value.__class__ is not str:
                raise _Unusual
            raw = value.encode()
            size = len(raw)
            parts.append(_SHORT[size] if size < 64 else _varint(size << 1))
            parts.append(raw)
    parts.append(b"\x00")


def _array(write: _Step) -> _Step:
    def array(parts: list[bytes], values: Any) -> None:
        if values.__class__ is not list:
            raise _Unusual
        if values:
            parts.append(_varint(len(values) << 1))
            for value in values:
                write(parts, value)
        parts.append(b"\x00")

    return array


def _map(write: _Step) -> _Step:
    def mapping(parts: list[bytes], values: Any) -> None:
        if values.__class__ is not dict:
            raise _Unusual
        if values:
            parts.append(_varint(len(values) << 1))
            for key, value in values.items():
                _string(parts, key)
                write(parts, value)
        parts.append(b"\x00")

    return mapping


def _enum(symbols: dict[str, bytes]) -> _Step:
    def enum(parts: list[bytes], value: Any) -> None:
        if value.__class__ is not str:
            raise _Unusual
        parts.append(symbols[value])

    return enum


def _record(fields: list[tuple[str, _Step]]) -> _Step:
    steps = tuple(fields)

    def record(parts: list[bytes], values: Any) -> None:
        if values.__class__ is not dict:
            raise _Unusual
        for name, write in steps:
            write(parts, values[name])

    return record


def _logical(write: _Step, schema: Any) -> _Step:
    """Write a value as fastavro converts its logical type; one that it does not know is written as it is."""
    convert = LOGICAL_WRITERS.get(f"{schema['type']}-{schema['logicalType']}")
    if convert is None:
        return write
    return lambda parts, value: write(parts, convert(value, schema))


_PLAIN: dict[str, _Step] = {
    "null": _null,
    "boolean": _boolean,
    "int": _whole(32),
    "long": _whole(64),
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}
