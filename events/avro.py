"""From a pydantic class to its Avro schema (Apache Avro 1.12 specification); the table stands in `docs/events.md`.

A class is first read into a `Shape`, a small tree of what its values are, and the schema is written from that. What has
no mapping is an error where the class is defined, never a surprise when the first event is sent.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from fastavro import parse_schema
from fastavro.schema import SchemaParseException, UnknownType
from pydantic import (
    AwareDatetime,
    BaseModel,
    FutureDate,
    FutureDatetime,
    NaiveDatetime,
    PastDate,
    PastDatetime,
    RootModel,
)
from pydantic.fields import FieldInfo

from .errors import DefinitionError
from .secret import Secret, is_secret

Schema: TypeAlias = dict[str, Any]
Kind = Literal[
    "null", "boolean", "long", "double", "string", "bytes", "decimal", "date", "time", "timestamp", "uuid",
    "enum", "array", "map", "union", "record", "secret",
]  # fmt: skip

DECIMAL_PRECISION = 38
DECIMAL_SCALE = 9
"""Of a `Decimal` that says neither `max_digits` nor `decimal_places`: 29 digits before the point and 9 behind it."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_LEAVES: dict[object, tuple[Kind, Any]] = {
    bool: ("boolean", "boolean"),
    int: ("long", "long"),
    float: ("double", "double"),
    str: ("string", "string"),
    bytes: ("bytes", "bytes"),
    date: ("date", {"type": "int", "logicalType": "date"}),
    datetime: ("timestamp", {"type": "long", "logicalType": "timestamp-micros"}),
    time: ("time", {"type": "long", "logicalType": "time-micros"}),
    UUID: ("uuid", {"type": "string", "logicalType": "uuid"}),
    type(None): ("null", "null"),
    None: ("null", "null"),
}
_SPECIAL: dict[object, type] = {
    AwareDatetime: datetime, PastDatetime: datetime, FutureDatetime: datetime, PastDate: date, FutureDate: date,
}  # fmt: skip
_ARRAYS: tuple[object, ...] = (list, set, frozenset, Sequence)
_REMEDY = {
    timedelta: "use int (say, milliseconds)",
    NaiveDatetime: "use datetime; its values need a time zone",
    dict: "use dict[str, ...]",
    list: "say what it holds, e.g. list[str]",
    tuple: "use list[...], tuple[X, ...], or a nested pydantic model with a name for each place",
    Any: "name the types, e.g. int | str",
    object: "name the types, e.g. int | str",
}


@dataclass(frozen=True, slots=True)
class FieldShape:
    """A field of a record; `default` is an Avro default in a list of one, or None where there is none."""

    name: str
    shape: Shape
    default: list[Any] | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the values of one place are.

    Args:
        kind: which Avro type and logical type they become.
        where: the class and field, for messages.
        python: the class of the values (the model, the Enum, the container).
        avro: the schema of a leaf.
        items: of an array or a map; what a secret holds.
        branches: of a union.
        fields: of a record.
        bare: a `Decimal` without `decimal_places`: zeros at its end mean nothing.
    """

    kind: Kind
    where: str
    python: type
    avro: Any = None
    items: Shape | None = None
    branches: tuple[Shape, ...] = ()
    fields: tuple[FieldShape, ...] = ()
    bare: bool = False


def derive(model: type[BaseModel], type_name: str, *, sealed: bool = False) -> Schema:
    """Derive the Avro schema of an event class.

    Args:
        model: the class.
        type_name: the event's public type; with what Avro forbids replaced by `_` it names the record.
        sealed: secrets travel encrypted, as bytes.

    Raises:
        DefinitionError: naming the field without a mapping, and the remedy.
    """
    name = type_name if _FULL_NAME.fullmatch(type_name) else re.sub(r"[^A-Za-z0-9_]", "_", type_name)
    if name[0].isdigit():
        name = f"_{name}"
    schema: Schema = _write(shape_of(model), {}, name, sealed=sealed)
    return schema


def load_schema(given: Mapping[str, Any] | str, name: str) -> Schema:
    """Read a schema that a user wrote by hand.

    Raises:
        DefinitionError: it is not an Avro record schema.
    """
    try:
        schema = json.loads(given) if isinstance(given, str) else json.loads(json.dumps(given))
        parse_schema(schema)
    except (ValueError, TypeError, KeyError, SchemaParseException, UnknownType) as error:
        raise DefinitionError(f"{name}: schema= is not an Avro schema: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise DefinitionError(
            f'{name}: schema= must be a record; write {{"type": "record", "name": ..., "fields": [...]}}'
        )
    return schema


def shape_of(model: type[BaseModel]) -> Shape:
    """Read a class into its shape.

    Raises:
        DefinitionError: naming the field without a mapping, and the remedy.
    """
    return _record(model, ())


def shape_of_field(model: type[BaseModel], name: str) -> Shape:
    """Read one field's shape; DefinitionError as `shape_of`."""
    field = model.model_fields[name]
    return _shape(field.annotation, field.metadata, f"{model.__name__}.{name}", (model,))


def canonical(schema: Any) -> str:
    """Write a schema as text that is equal for equal schemas: sorted names, no spaces."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def _record(model: type[BaseModel], within: tuple[type, ...]) -> Shape:
    if model in within:
        raise DefinitionError(
            f"{model.__name__} contains itself, so its events have no bounded size; "
            "write a flat list whose items name their parent"
        )
    fields = []
    for name, field in model.model_fields.items():
        where = f"{model.__name__}.{name}"
        if not _NAME.fullmatch(name):
            raise DefinitionError(f"{where}: not an Avro name; use ASCII letters, digits and '_'")
        shape = _shape(field.annotation, field.metadata, where, (*within, model))
        shape, default = _with_default(shape, field)
        fields.append(FieldShape(name, shape, default))
    return Shape("record", model.__name__, model, fields=tuple(fields))


def _shape(annotation: Any, metadata: Sequence[Any], where: str, within: tuple[type, ...]) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], [*metadata, *arguments[1:]], where, within)
    for alias in ("__value__", "__supertype__"):  # `type X = ...` and NewType
        if hasattr(annotation, alias):
            return _shape(getattr(annotation, alias), metadata, where, within)
    if origin in (Union, types.UnionType):
        return _union(arguments, metadata, where, within)
    if is_secret(annotation):
        if not arguments:
            raise DefinitionError(f"{where}: a secret of what? write Secret[str]")
        return Shape("secret", where, Secret, items=_shape(arguments[0], metadata, where, within))
    if origin is Literal:
        return _literal(arguments, where)
    if origin in _ARRAYS or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        return Shape("array", where, _container(origin), items=_shape(arguments[0], (), where, within))
    if origin in (dict, Mapping) and arguments[0] is str:
        return Shape("map", where, dict, items=_shape(arguments[1], (), where, within))
    if annotation is Decimal:
        return _decimal(metadata, where)
    leaf = _SPECIAL.get(annotation, annotation)
    if leaf in _LEAVES:
        kind, avro = _LEAVES[leaf]
        return Shape(kind, where, leaf or type(None), avro)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _enum(annotation, where)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not issubclass(annotation, RootModel):
        return _record(annotation, within)
    remedy = _REMEDY.get(origin or annotation, "use one of the types of docs/events.md or a nested pydantic model")
    name = getattr(annotation, "__name__", str(annotation))
    raise DefinitionError(f'{where}: {name} has no Avro mapping; {remedy}, or format="json" for this event')


def _container(origin: Any) -> type:
    return origin if origin in (list, set, frozenset, tuple) else list


def _decimal(metadata: Iterable[Any], where: str) -> Shape:
    digits, places = _limits(metadata)
    if places is None:
        # max_digits alone lets the point stand anywhere: room for all digits before it, and for some behind.
        scale = DECIMAL_SCALE if digits is None else min(DECIMAL_SCALE, digits)
        precision = DECIMAL_PRECISION if digits is None else digits + scale
    else:
        scale, precision = places, max(places, DECIMAL_PRECISION if digits is None else digits)
    avro = {"type": "bytes", "logicalType": "decimal", "precision": max(precision, 1), "scale": scale}
    return Shape("decimal", where, Decimal, avro, bare=places is None)


def _limits(metadata: Iterable[Any]) -> tuple[int | None, int | None]:
    digits = places = None
    for item in metadata:
        if isinstance(item, FieldInfo):
            inner_digits, inner_places = _limits(item.metadata)
        else:
            inner_digits, inner_places = getattr(item, "max_digits", None), getattr(item, "decimal_places", None)
        digits, places = inner_digits or digits, inner_places if inner_places is not None else places
    return digits, places


def _union(arguments: Sequence[Any], metadata: Sequence[Any], where: str, within: tuple[type, ...]) -> Shape:
    branches: list[Shape] = []
    for argument in arguments:
        shape = _shape(argument, metadata, where, within)
        branches.extend(shape.branches if shape.kind == "union" else [shape])
    seen: dict[str, Shape] = {}
    if len({branch.kind for branch in branches} - {"null"}) > 1 and any(branch.kind == "secret" for branch in branches):
        raise DefinitionError(f"{where}: a secret may only stand beside None; write Secret[X | Y]")
    if any(branch.kind == "secret" and _inner(branch).kind == "union" for branch in branches):
        raise DefinitionError(f"{where}: a union within a secret within a union; write Secret[X | Y | None]")
    for branch in branches:
        # Avro tells an enum from a string; Python, after reading, does not.
        wire = "string" if branch.kind == "enum" else wire_name(branch)
        if wire in seen:
            raise DefinitionError(
                f"{where}: {branch.python.__name__} and {seen[wire].python.__name__} are both written as Avro "
                f"{wire!r}, so a reader could not tell them apart; use one of them, or a model around each"
            )
        seen[wire] = branch
    # Avro readers and tools expect null first (`["null", X]`); a default moves its branch to the front later.
    branches.sort(key=lambda branch: branch.kind != "null")
    return Shape("union", where, object, branches=tuple(branches))


def wire_name(shape: Shape) -> str:
    """Name a branch of a union as Avro tells them apart: by the unnamed type, or by the record's or enum's name."""
    if shape.kind in ("array", "map"):
        return shape.kind
    if shape.kind == "secret":
        return f"secret {shape.where}"
    if shape.kind in ("record", "enum"):
        return record_name(shape.python)
    return str(shape.avro["type"] if isinstance(shape.avro, dict) else shape.avro)


def record_name(python: type) -> str:
    """Name a nested record or enum after its class; what Avro forbids (`Box[int]`) becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", python.__name__)


def _literal(choices: Sequence[Any], where: str) -> Shape:
    for python in (str, int):
        if all(type(choice) is python for choice in choices):
            kind, avro = _LEAVES[python]
            return Shape(kind, where, python, avro)
    raise DefinitionError(
        f"{where}: a Literal needs choices that are all str or all int; use an Enum or a union of types"
    )


def _enum(python: type[Enum], where: str) -> Shape:
    values = [member.value for member in python]
    if values and all(isinstance(value, str) for value in values):
        if all(_NAME.fullmatch(value) for value in values):
            return Shape("enum", where, python, {"type": "enum", "name": record_name(python), "symbols": values})
        return Shape("string", where, python, "string")
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return Shape("long", where, python, "long")
    raise DefinitionError(f"{where}: the values of {python.__name__} must be all str or all int")


def _with_default(shape: Shape, field: FieldInfo) -> tuple[Shape, list[Any] | None]:
    if field.is_required():
        return shape, None
    value: Any = field.default
    if field.default_factory is not None:
        if field.default_factory not in (list, dict, set, frozenset, tuple):
            # uuid4, now: a new value each time, which a schema cannot hold.
            return shape, None
        value = field.get_default(call_default_factory=True, validated_data={})
    if shape.kind != "union":
        return shape, _default(shape, value)
    for branch in shape.branches:
        default = _default(branch, value)
        if default is not None:
            # The default of a union must be of its first branch (Avro specification, "Complex Types").
            rest = tuple(other for other in shape.branches if other is not branch)
            return Shape("union", shape.where, object, branches=(branch, *rest)), default
    return shape, None


def _default(shape: Shape, value: Any) -> list[Any] | None:
    """Write a default as Avro spells it, in a list of one; None where it cannot be spelled."""
    if isinstance(value, Enum):
        value = value.value if isinstance(value, shape.python) else ...
    match shape.kind, value:
        case ("null", None) | ("boolean", bool()) | ("string" | "enum", str()):
            return [value]
        case "long", int() if not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return [value]
        case "double", (int() | float()) if not isinstance(value, bool) and value - value == 0:
            return [float(value)]
        case "bytes", bytes():
            return [value.decode("latin-1")]
        case "uuid", UUID():
            return [str(value)]
        case "decimal", Decimal() if value.is_finite():
            unscaled = value.scaleb(shape.avro["scale"], Context(prec=1_000))
            if unscaled != unscaled.to_integral_value():
                return None
            number = int(unscaled)
            return [number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True).decode("latin-1")]
        case "timestamp", datetime() if value.tzinfo is not None:
            return [(value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)]
        case "date", date() if not isinstance(value, datetime):
            return [(value - date(1970, 1, 1)).days]
        case "time", time() if value.tzinfo is None:
            return [((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond]
        case "array", (list() | tuple() | set() | frozenset()):
            items = [_default(_inner(shape), item) for item in value]
            return None if None in items else [[item[0] for item in items if item]]
        case "map", dict():
            entries = {key: _default(_inner(shape), item) for key, item in value.items()}
            return None if None in entries.values() else [{key: item[0] for key, item in entries.items() if item}]
        case "record", BaseModel() if type(value) is shape.python:
            members = {field.name: _default(field.shape, getattr(value, field.name)) for field in shape.fields}
            return None if None in members.values() else [{name: item[0] for name, item in members.items() if item}]
        case "union", _:
            return _default(shape.branches[0], value)
    return None


def _inner(shape: Shape) -> Shape:
    assert shape.items is not None
    return shape.items


def _write(shape: Shape, named: dict[str, type], name: str | None = None, *, sealed: bool = False) -> Any:
    if shape.kind in ("record", "enum"):
        name = name or record_name(shape.python)
        if not _FULL_NAME.fullmatch(name):
            raise DefinitionError(f"{shape.where}: {name!r} is not an Avro name; give the class an ASCII name")
        if named.get(name) is shape.python:
            return name
        if name in named:
            raise DefinitionError(
                f"{shape.where}: two classes are called {name!r}; Avro needs a name for each, rename one"
            )
        named[name] = shape.python
    match shape.kind:
        case "array":
            return {"type": "array", "items": _write(_inner(shape), named, sealed=sealed)}
        case "map":
            return {"type": "map", "values": _write(_inner(shape), named, sealed=sealed)}
        case "union":
            return [_write(branch, named, sealed=sealed) for branch in shape.branches]
        case "secret" if sealed:  # what is within stands alone: it is written and read by itself
            return {"type": "bytes", "encrypted": _write(_inner(shape), {})}
        case "secret":
            return _write(_inner(shape), named)
        case "record":
            fields = []
            for field in shape.fields:
                entry = {"name": field.name, "type": _write(field.shape, named, sealed=sealed)}
                if field.default is not None:
                    entry["default"] = field.default[0]
                fields.append(entry)
            return {"type": "record", "name": name, "fields": fields}
        case _:
            return dict(shape.avro) if isinstance(shape.avro, dict) else shape.avro
