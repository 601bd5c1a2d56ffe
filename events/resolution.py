"""What stands between a writer's schema and a class beside the values: aliases, default symbols, and units that lack.

Values are read with the writer's schema and validated by the class, field by field under one name. Two things need
more: a class's own schema (`schema=`) may rename fields and symbols, and a number may have no unit where the class has
a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .avro import Schema, Shape, record_name
from .errors import DecodeError

_UNITS = {
    "timestamp": ("timestamp-millis", "timestamp-micros", "local-timestamp-millis", "local-timestamp-micros"),
    "date": ("date",),
    "time": ("time-millis", "time-micros"),
}


def renames(schema: Schema) -> bool:
    """Say whether a class's schema reads what others wrote under other names: aliases, or an enum's default symbol."""
    return any("aliases" in part or (part.get("type") == "enum" and "default" in part) for part in _parts(schema))


def require_units(shape: Shape, writer: Any) -> None:
    """Refuse a writer's plain number where the class has a time: pydantic would guess seconds or milliseconds.

    Args:
        shape: of the class.
        writer: the writer's schema, as fastavro has parsed it.

    Raises:
        DecodeError: naming the field.
    """
    named = {str(part["name"]): part for part in _parts(writer) if "name" in part and "type" in part}
    _require(shape, writer, named)


def _require(shape: Shape, writer: Any, named: Mapping[str, Any]) -> None:
    if isinstance(writer, str):
        writer = named.get(writer, writer)
    if isinstance(writer, list):
        for branch in writer:
            _require(shape, branch, named)
        return
    if shape.kind == "union":
        others = [branch for branch in shape.branches if branch.kind != "null"]
        if len(others) == 1:
            _require(others[0], writer, named)
        elif isinstance(writer, Mapping):
            name = str(writer.get("name", "")).rpartition(".")[2]
            for branch in others:
                if branch.kind == "record" and record_name(branch.python) == name:
                    _require(branch, writer, named)
        return
    kind = writer["type"] if isinstance(writer, Mapping) else writer
    if shape.kind in _UNITS:
        logical = writer.get("logicalType") if isinstance(writer, Mapping) else None
        if kind in ("int", "long", "float", "double") and logical not in _UNITS[shape.kind]:
            raise DecodeError(
                f"{shape.where} is a {shape.python.__name__}, and its writer's schema says {logical or kind}: a number "
                "whose unit is not known"
            )
    elif shape.kind == "record" and isinstance(writer, Mapping) and "fields" in writer:
        theirs = {field["name"]: field["type"] for field in writer["fields"]}
        for field in shape.fields:
            if field.name in theirs:
                _require(field.shape, theirs[field.name], named)
    elif shape.items is not None and kind == shape.kind:
        _require(shape.items, writer["items" if kind == "array" else "values"], named)


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, list):
        for branch in schema:
            yield from _parts(branch)
    elif isinstance(schema, Mapping):
        yield schema
        for field in schema.get("fields", ()):
            yield from _parts(field)
        for inner in ("items", "values", "type"):
            if isinstance(schema.get(inner), (Mapping, list)):
                yield from _parts(schema[inner])
