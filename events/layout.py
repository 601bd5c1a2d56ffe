"""How the values of a class lie in an Avro record: converters, compiled once per class and only where they are needed.

fastavro takes most Python values as they are. What it would get wrong is converted here: a datetime without a zone (it
would assume this machine's), a Decimal that does not fit (it would write what no reader gives back), a union of records
(it would guess), an Enum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from enum import Enum
from operator import attrgetter
from typing import Any, TypeAlias

from fastavro import parse_schema
from pydantic import BaseModel

from .avro import Schema, Shape, wire_name
from .errors import DefinitionError

Converter: TypeAlias = Callable[[Any], Any]


class Unwritable(ValueError):
    """A value has no exact place in its Avro type; the text names no value."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a class lies in Avro.

    Args:
        write: turns an instance into what fastavro writes.
        fields: the same for each field, given the instance; to find out which one does not fit.
        read: turns what fastavro read into what pydantic takes; None: as it is.
        models: the nested classes by record name, each with its `read`.
        aliased: a field has an alias, so pydantic must be told to look for names.
    """

    write: Converter
    fields: Mapping[str, Converter]
    read: Converter | None
    models: Mapping[str, tuple[type[BaseModel], Converter | None]]
    aliased: bool


def bind(shape: Shape, schema: Schema) -> Layout:
    """Compile the converters between a class and an Avro schema.

    Args:
        shape: the class.
        schema: its derived schema, or one written by hand.

    Raises:
        DefinitionError: the schema has no place for a field or needs one that the class lacks.
    """
    binder = _Binder()
    parsed: Any = parse_schema(schema)
    write, read = binder.record(shape, parsed)
    types = {field["name"]: field["type"] for field in parsed["fields"]}
    fields = {field.name: _field(field.name, binder.value(field.shape, types[field.name])[0]) for field in shape.fields}
    return Layout(write, fields, read, binder.models, binder.aliased)


def _field(name: str, write: Converter | None) -> Converter:
    return lambda model: getattr(model, name) if write is None else write(getattr(model, name))


class _Binder:
    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self.models: dict[str, tuple[type[BaseModel], Converter | None]] = {}
        self.aliased = False

    def record(self, shape: Shape, schema: Any) -> tuple[Converter, Converter | None]:
        model = shape.python
        assert issubclass(model, BaseModel)
        self.aliased |= any(field.validation_alias is not None for field in model.model_fields.values())
        places = {field["name"]: field for field in schema["fields"]}
        writers: list[tuple[str, Converter]] = []
        readers: list[tuple[str, Converter]] = []
        for field in shape.fields:
            place = places.pop(field.name, None)
            if place is None:
                raise DefinitionError(
                    f"{field.shape.where}: schema= has no such field, so its value would be lost; add it"
                )
            write, read = self.value(field.shape, place["type"])
            if write is not None:
                writers.append((field.name, write))
            if read is not None:
                readers.append((field.name, read))
        for name, place in places.items():
            if "default" not in place:
                raise DefinitionError(
                    f"{shape.where}: schema= has a field {name!r} that the class lacks; give it a default"
                )
        record = _read_fields(readers) if readers else None
        self.models[schema["name"].rpartition(".")[2]] = (model, record)
        return _write_fields(writers) if writers else attrgetter("__dict__"), record

    def value(self, shape: Shape, schema: Any) -> tuple[Converter | None, Converter | None]:
        if isinstance(schema, str):
            schema = self.named.get(schema, schema)
        elif isinstance(schema, dict) and "name" in schema:
            self.named[schema["name"]] = schema
        if shape.kind == "union":
            return self.union(shape.branches, schema if isinstance(schema, list) else [schema], shape)
        if shape.kind == "secret" and (not isinstance(schema, list) or _inner(shape).kind == "union"):
            return self.secret(shape, schema)
        if isinstance(schema, list):
            return self.union((shape,), schema, shape)
        avro = schema["type"] if isinstance(schema, dict) else schema
        if shape.kind == "record" and avro == "record":
            return self.record(shape, schema)
        if shape.items is not None and avro == shape.kind:
            write, read = self.value(shape.items, schema["items" if avro == "array" else "values"])
            return (_write_map if avro == "map" else _write_array)(shape, write), _read_items(read)
        return self.leaf(shape, avro, schema if isinstance(schema, dict) else {})

    def secret(self, shape: Shape, schema: Any) -> tuple[Converter, Converter | None]:
        write, read = self.value(_inner(shape), _within(schema))
        return (_reveal if write is None else lambda secret: write(secret.reveal())), read

    def leaf(self, shape: Shape, avro: str, schema: Mapping[str, Any]) -> tuple[Converter | None, Converter | None]:
        enum = attrgetter("value") if issubclass(shape.python, Enum) else None
        match shape.kind, avro, schema.get("logicalType"):
            case "decimal", ("bytes" | "fixed"), "decimal":
                return _exact(schema["precision"], schema.get("scale", 0)), _plain if shape.bare else None
            case "timestamp", "long", ("timestamp-micros" | "timestamp-millis") as logical:
                return _aware if logical == "timestamp-micros" else _aware_millis, None
            case "time", "long", "time-micros":
                return _zoneless, None
            case "time", "int", "time-millis":
                return _zoneless_millis, None
            case ("date", "int", "date") | ("uuid", "string", "uuid"):
                return None, None
            case "uuid", "string", None:
                return str, None
            case "enum", "enum", _ if set(shape.avro["symbols"]) <= set(schema["symbols"]):
                return enum, None
            case "long", "int", None:
                return _int(enum), None
            case ("enum", "string", None) | ("string", "string", None) | ("long", "long", None):
                return enum, None
            case ("null", "null", _) | ("boolean", "boolean", _) | ("bytes", "bytes", None):
                return None, None
            case "double", ("double" | "float"), None:
                return None, None
        raise _misfit(shape, schema or avro)

    def union(
        self, shapes: tuple[Shape, ...], schemas: list[Any], whole: Shape
    ) -> tuple[Converter | None, Converter | None]:
        tagged: list[tuple[Shape, str, Converter | None]] = []
        readers: list[Converter] = []
        for shape in shapes:
            schema = self.branch(shape, schemas)
            write, read = self.value(shape, schema)
            tagged.append((shape, _tag(schema), write))
            if read is not None:
                readers.append(read)
        plain = [entry for entry in tagged if entry[0].kind != "null"]
        nested = any(_kind(shape, tag) in ("record", "array", "map") for shape, tag, _ in plain)
        # One plain type beside null is what fastavro tells apart by itself; a tag names the branch in all other cases.
        if len(plain) == 1 and len(schemas) <= 2 and not nested:
            write = plain[0][2]
            return (None if write is None else _optional(write)), (_first_read(readers) if readers else None)
        return _choose(plain), _first_read(readers) if readers else None

    def branch(self, shape: Shape, schemas: list[Any]) -> Any:
        for schema in schemas if shape.kind != "secret" else ():
            named = self.named.get(schema, schema) if isinstance(schema, str) else schema
            avro = named["type"] if isinstance(named, dict) else named
            name = named["name"].rpartition(".")[2] if isinstance(named, dict) and "name" in named else avro
            if name == wire_name(shape):
                return schema
        for schema in schemas:
            try:
                self.value(shape, schema)
            except DefinitionError:
                continue
            return schema
        raise _misfit(shape, schemas)


def _misfit(shape: Shape, schema: Any) -> DefinitionError:
    if isinstance(schema, Mapping):
        schema = " ".join(str(schema[name]) for name in ("type", "logicalType", "name") if name in schema)
    return DefinitionError(f"{shape.where}: schema= says {schema}, which cannot hold {shape.python.__name__}")


def _tag(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    return str(schema["name"] if schema["type"] in ("record", "enum", "fixed", "error") else schema["type"])


def _inner(shape: Shape) -> Shape:
    assert shape.items is not None
    return shape.items


def _kind(shape: Shape, tag: str) -> str:
    if shape.kind != "secret":
        return shape.kind
    return tag if tag == "bytes" else _inner(shape).kind  # encrypted, or as what it holds


def _within(schema: Any) -> Any:
    return schema["encrypted"] if isinstance(schema, dict) and "encrypted" in schema else schema


def _reveal(secret: Any) -> Any:
    return secret.reveal()


def _write_fields(writers: list[tuple[str, Converter]]) -> Converter:
    def write(model: Any) -> dict[str, Any]:
        values = dict(model.__dict__)
        for name, convert in writers:
            values[name] = convert(values[name])
        return values

    return write


def _read_fields(readers: list[tuple[str, Converter]]) -> Converter:
    def read(values: Any) -> Any:
        if type(values) is dict:
            for name, convert in readers:
                if name in values:
                    values[name] = convert(values[name])
        return values

    return read


def _write_array(shape: Shape, write: Converter | None) -> Converter | None:
    if shape.python in (set, frozenset):
        # A set has no order: one is chosen, so that equal events have equal bytes.
        return lambda values: [write(item) if write else item for item in sorted(values, key=repr)]
    return None if write is None else lambda values: [write(item) for item in values]


def _write_map(_: Shape, write: Converter | None) -> Converter | None:
    return None if write is None else lambda values: {key: write(item) for key, item in values.items()}


def _read_items(read: Converter | None) -> Converter | None:
    if read is None:
        return None

    def convert(values: Any) -> Any:
        if type(values) is list:
            return [read(item) for item in values]
        if type(values) is dict:
            return {key: read(item) for key, item in values.items()}
        return values

    return convert


def _optional(write: Converter) -> Converter:
    return lambda value: None if value is None else write(value)


def _first_read(readers: list[Converter]) -> Converter:
    # Each leaves alone what is not of its kind, so they may run one after another.
    def read(value: Any) -> Any:
        for convert in readers:
            value = convert(value)
        return value

    return readers[0] if len(readers) == 1 else read


def _choose(branches: list[tuple[Shape, str, Converter | None]]) -> Converter:
    exact = {shape.python: (tag, write) for shape, tag, write in branches}
    loose = [(_accepts(shape), tag, write) for shape, tag, write in branches]

    def choose(value: Any) -> Any:
        if value is None:
            return None
        found = exact.get(type(value))
        if found is None:
            found = next(((tag, write) for types, tag, write in loose if isinstance(value, types)), None)
            if found is None:
                raise Unwritable("is of none of its declared types")
        tag, write = found
        return (tag, value if write is None else write(value))

    return choose


def _accepts(shape: Shape) -> tuple[type, ...]:
    if shape.kind == "array":
        return (list, tuple, set, frozenset)
    return (float, int) if shape.kind == "double" else (shape.python,)


def _exact(precision: int, scale: int) -> Converter:
    context = Context(prec=precision, traps=[Inexact, InvalidOperation])
    quantum = Decimal((0, (1,), -scale))

    def exact(value: Decimal) -> Decimal:
        try:
            return value.quantize(quantum, context=context)
        except DecimalException:
            raise Unwritable(
                f"does not fit in {precision} digits with {scale} behind the point without rounding; "
                "declare Field(max_digits=..., decimal_places=...)"
            ) from None

    return exact


def _int(value_of: Converter | None) -> Converter:
    def small(value: Any) -> Any:
        number = value if value_of is None else value_of(value)
        if not -(2**31) <= number < 2**31:  # fastavro writes it all the same, and no other reader takes it
            raise Unwritable("does not fit in 32 bits")
        return number

    return small


_WIDE = Context(prec=1_000)


def _plain(value: Any) -> Any:
    if type(value) is not Decimal:
        return value
    value = value.normalize(_WIDE)
    return value if value.as_tuple().exponent <= 0 else value.quantize(Decimal(1), context=_WIDE)


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise Unwritable("is a time without a zone; give it one, e.g. datetime.now(UTC)")
    return value


def _aware_millis(value: datetime) -> datetime:
    if value.microsecond % 1_000:
        raise Unwritable("has microseconds, and its schema keeps milliseconds")
    return _aware(value)


def _zoneless(value: time) -> time:
    if value.tzinfo is not None:
        raise Unwritable("is a time of day with a zone, which Avro cannot keep; use a datetime")
    return value


def _zoneless_millis(value: time) -> time:
    if value.microsecond % 1_000:
        raise Unwritable("has microseconds, and its schema keeps milliseconds")
    return _zoneless(value)
