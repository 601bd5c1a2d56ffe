"""A strict pass over Avro bytes *before* fastavro sees them.

fastavro decodes what it is told to. Measured: five bytes of `array<null>` become 20 million items, a count of 2^40 runs
for half a minute into MemoryError, a deep nest overflows the stack; and it accepts an enum index of -1, an over-long
number and trailing bytes in silence. So every value is walked once without building anything: lengths, counts, indexes,
depth and the last byte must be right. The walk is a loop over a flat list of operations, compiled once per schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .errors import DecodeError, LimitExceeded

MOST_VALUE_BYTES = 1_048_588
"""The largest value that is decoded: Kafka's default `message.max.bytes`."""
MOST_DEPTH = 100
"""How deep unions, arrays, maps and named records may nest in one value."""
MOST_VALUES = 250_000
"""How many values one event may decode to."""
MOST_EMPTY_ITEMS = 1_000
"""How long an array may be whose items take no bytes."""
_MOST_DIGITS = 1_000

Scanner: TypeAlias = Callable[[bytes, int], None]
_Op: TypeAlias = tuple[int, Any]
_Ops: TypeAlias = "tuple[_Op, ...] | list[_Op]"

# What the argument of each operation is: how many lengths in a row; (most bytes, largest last byte); bytes; branches;
# (operations of an item, its fewest bytes, its weight); symbols; nothing; most bytes; operations.
_BYTES, _VARINT, _SKIP, _UNION, _BLOCKS, _ENUM, _BOOLEAN, _DECIMAL, _CALL = range(9)
_CHUNK = 64
_TOP_BITS = 0x80_80_80_80_80_80_80_80_80
INT, LONG = (5, 0x0F), (10, 0x01)  # most bytes of a varint, and the largest last byte when all are used
PRIMITIVES: dict[str, list[_Op]] = {
    "null": [],
    "boolean": [(_BOOLEAN, None)],
    "int": [(_VARINT, INT)],
    "long": [(_VARINT, LONG)],
    "float": [(_SKIP, 4)],
    "double": [(_SKIP, 8)],
    "bytes": [(_BYTES, 1)],
    "string": [(_BYTES, 1)],
}
_SIZES = {"null": 0, "float": 4, "double": 8}


def compile_scanner(schema: Any) -> Scanner:
    """Compile the scanner of a writer's schema.

    Args:
        schema: as `fastavro.parse_schema` gives it.

    Returns:
        A function of (value, where the Avro bytes begin) that returns nothing and raises DecodeError or LimitExceeded.

    Raises:
        DecodeError: no value of this schema could be decoded safely.
    """
    compiler = _Compiler()
    _, weight = compiler.measure(schema)
    if weight > MOST_VALUES:
        raise DecodeError(f"the writer's schema makes more than {MOST_VALUES} values of no bytes")
    ops = tuple(compiler.compile(schema))

    def scan(value: bytes, start: int) -> None:
        try:
            end = _run(ops, value, start, 0, [MOST_VALUES])
        except IndexError:
            end = len(value) + 1
        if end != len(value):
            raise DecodeError("the value ends too early" if end > len(value) else "the value has trailing bytes")

    return scan


class _Compiler:
    def __init__(self) -> None:
        self._bodies: dict[str, list[_Op]] = {}
        self._named: dict[str, Any] = {}
        self._measured: dict[str, tuple[int, int] | None] = {}

    def compile(self, schema: Any) -> list[_Op]:
        if isinstance(schema, list):
            return [(_UNION, tuple(tuple(self.compile(branch)) for branch in schema))]
        if isinstance(schema, str):
            if schema in PRIMITIVES:
                return PRIMITIVES[schema]
            return [(_CALL, self._bodies[schema])] if self.measure(schema)[0] else []
        match schema["type"]:
            case "record" | "error":
                # Written in place where it is defined; the same list serves every later reference by name.
                body = self._bodies[schema["name"]] = []
                for field in schema["fields"]:
                    body.extend(self.compile(field["type"]))
                body[:] = _merged(body)
                return body
            case "enum":
                ops: list[_Op] = [(_ENUM, len(schema["symbols"]))]
            case "fixed":
                ops = [(_SKIP, schema["size"])] if schema["size"] else []
            case "array":
                return [(_BLOCKS, (tuple(self.compile(schema["items"])), *self.measure(schema["items"])))]
            case "map":
                size, weight = self.measure(schema["values"])
                item = (PRIMITIVES["string"][0], *self.compile(schema["values"]))
                return [(_BLOCKS, (item, size + 1, weight + 1))]
            case "bytes" if schema.get("logicalType") == "decimal":
                return [(_DECIMAL, decimal_bytes(schema))]
            case inner:
                return self.compile(inner)
        if schema.get("logicalType") == "decimal":
            decimal_bytes(schema)
        self._bodies[schema["name"]] = ops
        return ops

    def measure(self, schema: Any) -> tuple[int, int]:
        """Give the fewest bytes of a value, and how many values are made of it without reading a count."""
        if isinstance(schema, list):
            return 1, 1 + max((self.measure(branch)[1] for branch in schema), default=0)
        if isinstance(schema, str):
            return (_SIZES.get(schema, 1), 1) if schema in PRIMITIVES else self._measure_named(schema)
        match schema["type"]:
            case "record" | "error":
                self._named[schema["name"]] = schema
                return self._measure_named(schema["name"])
            case "enum" | "fixed":
                self._measured[schema["name"]] = found = (schema.get("size", 1), 1)
                return found
            case ("array" | "map") as kind:
                self.measure(schema["items" if kind == "array" else "values"])
                return 1, 1
            case inner:
                return self.measure(inner)

    def _measure_named(self, name: str) -> tuple[int, int]:
        if name in self._measured:
            # None: inside itself. By way of a union, array or map each round takes a byte, so depth bounds it.
            return self._measured[name] or (1, 1)
        self._measured[name] = None
        if self._always_within(name, self._named[name], set()):
            raise DecodeError(f"the writer's schema has a record {name!r} that always contains itself")
        parts = [self.measure(field["type"]) for field in self._named[name]["fields"]]
        self._measured[name] = found = (sum(size for size, _ in parts), 1 + sum(weight for _, weight in parts))
        return found

    def _always_within(self, name: str, record: Mapping[str, Any], seen: set[str]) -> bool:
        for field in record["fields"]:
            inner = field["type"]
            if isinstance(inner, dict) and inner["type"] in ("record", "error"):
                self._named[inner["name"]] = inner
                inner = inner["name"]
            if inner == name:
                return True
            if isinstance(inner, str) and inner in self._named and inner not in seen:
                seen.add(inner)
                if self._always_within(name, self._named[inner], seen):
                    return True
        return False


def _merged(ops: list[_Op]) -> list[_Op]:
    merged: list[_Op] = []
    for op in ops:
        if merged and op[0] in (_SKIP, _BYTES) and merged[-1][0] == op[0]:
            op = (op[0], merged.pop()[1] + op[1])
        merged.append(op)
    return merged


def decimal_bytes(schema: Mapping[str, Any]) -> int:
    # A number of a million digits stalls the conversion to Decimal: no more bytes than the precision needs.
    precision = schema.get("precision")
    if not isinstance(precision, int) or not 0 < precision <= _MOST_DIGITS or schema.get("size", 0) > _MOST_DIGITS:
        raise DecodeError(f"the writer's schema has a decimal without a precision from 1 to {_MOST_DIGITS}")
    beyond: int = 10**precision
    return beyond.bit_length() // 8 + 1


def _run(ops: _Ops, data: bytes, at: int, depth: int, left: list[int]) -> int:
    """Walk the operations from `at` and give where they end; IndexError means that the bytes ended first."""
    for code, argument in ops:  # the common ones first: this loop is the price of safety
        if code == _BYTES:
            for _ in range(argument):
                number = data[at]
                if number > 0x7F:
                    number, at = varint(data, at, LONG)
                else:
                    at += 1
                if number & 1:
                    raise DecodeError("a length is negative")
                at += number >> 1
            continue
        number = data[at]
        at += 1
        if code == _VARINT:
            if number > 0x7F:
                # Only its end matters: the first byte without the top bit, found in one go.
                ends = ~int.from_bytes(data[at : at + 9], "little") & _TOP_BITS
                more = (ends & -ends).bit_length() >> 3
                at += more
                if not more or more >= argument[0] or (more == argument[0] - 1 and data[at - 1] > argument[1]):
                    raise DecodeError("a number is larger than its type allows")
        elif code == _SKIP:
            at += argument - 1
        elif code == _UNION:
            if number > 0x7F:
                number, at = varint(data, at - 1, INT)
            if number & 1 or number >> 1 >= len(argument):
                raise DecodeError("a union's index names no branch")
            branch = argument[number >> 1]
            if branch:
                if depth >= MOST_DEPTH:
                    raise LimitExceeded(f"the value nests deeper than {MOST_DEPTH}")
                at = _run(branch, data, at, depth + 1, left)
        elif code == _BLOCKS:
            if number:
                if depth >= MOST_DEPTH:
                    raise LimitExceeded(f"the value nests deeper than {MOST_DEPTH}")
                at = _blocks(argument, data, at - 1, depth + 1, left)
        elif code == _ENUM:
            if number > 0x7F:
                number, at = varint(data, at - 1, INT)
            if number & 1 or number >> 1 >= argument:
                raise DecodeError("an enum's index names no symbol")
        elif code == _BOOLEAN:
            if number > 1:
                raise DecodeError("a boolean is neither 0 nor 1")
        elif code == _DECIMAL:
            if number > 0x7F:
                number, at = varint(data, at - 1, LONG)
            if number & 1 or number >> 1 > argument:
                raise DecodeError("a decimal is longer than its precision")
            at += number >> 1
        else:
            if depth >= MOST_DEPTH:
                raise LimitExceeded(f"the value nests deeper than {MOST_DEPTH}")
            at = _run(argument, data, at - 1, depth + 1, left)
    return at


def _blocks(argument: tuple[tuple[_Op, ...], int, int], data: bytes, at: int, depth: int, left: list[int]) -> int:
    """Walk the blocks of an array or a map: each a count (negative: with its size in bytes) and the items, until 0."""
    ops, smallest, weight = argument
    while True:
        number = data[at]
        if not number:
            return at + 1
        if number < 0x80:
            at += 1
        else:
            number, at = varint(data, at, LONG)
            if not number:  # 0 in two bytes is the end to fastavro: from here on it would read other things than we did
                raise DecodeError("a count is not written in its shortest form")
        count, block_end = number >> 1, None
        if number & 1:
            count += 1
            size, at = varint(data, at, LONG)
            if size & 1:
                raise DecodeError("a block's size is negative")
            block_end = at + (size >> 1)
        if count * smallest > len(data) - at:
            raise DecodeError("a count is larger than the bytes that are left")
        if not smallest and count > MOST_EMPTY_ITEMS:
            raise LimitExceeded(f"an array of {count} items of no bytes; at most {MOST_EMPTY_ITEMS} are read")
        left[0] -= count * weight
        if left[0] < 0:
            raise LimitExceeded(f"the value holds more than {MOST_VALUES} values")
        if len(ops) == 1 and ops[0][0] == _SKIP:
            at += count * int(ops[0][1])
        elif len(ops) == 1 and ops[0][0] == _BYTES:
            at = _run([(_BYTES, count * ops[0][1])], data, at, depth, left)
        else:
            while count > 0:  # repeating the operations saves a call per item
                at = _run(ops * min(count, _CHUNK), data, at, depth, left)
                count -= _CHUNK
        if block_end is not None and at != block_end:
            raise DecodeError("a block's size is not that of its items")


def varint(data: bytes, at: int, most: tuple[int, int]) -> tuple[int, int]:
    """Read a varint as it stands (not un-zigzagged) and give it with where it ends."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number, shift, start = byte & 0x7F, 7, at
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if at - start + 1 >= most[0]:
            raise DecodeError("a number is larger than its type allows")
    if at - start + 1 == most[0] and byte > most[1]:
        raise DecodeError("a number is larger than its type allows")
    return number, at + 1
