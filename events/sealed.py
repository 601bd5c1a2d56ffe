"""What of an event travels encrypted: found by its schema, sealed after it was laid out, opened before it is read.

In an Avro schema such a place is `{"type": "bytes", "encrypted": <schema of what is within>}`; in JSON it is an object
`{"$encrypted": "<base64>"}`. So a reader needs no class to know, and an event that began its life in the clear is read
like any other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeAlias

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic_core import from_json, to_json

from .avro import Schema
from .errors import DecodeError
from .keys import Keys
from .scan import compile_scanner
from .secret import MARK, MASK

Path: TypeAlias = tuple[str, ...]
Apply: TypeAlias = Callable[["Place", Any, Path], Any]
Walker: TypeAlias = Callable[[Any, Path, Apply], Any]

SEALED = "$encrypted"
"""The one key of the JSON object that holds an encrypted value."""
WHOLE = "sealed"
"""The one field of a record of which everything is encrypted."""
_JSON_MARK = f'"{SEALED}"'.encode()


class Place:
    """One place of a schema that travels encrypted."""

    def __init__(self, schema: Any) -> None:
        self._schema: Any = parse_schema(schema)
        self._scan = compile_scanner(self._schema)

    def write(self, value: Any) -> bytes:
        """Write what is within as Avro."""
        stream = BytesIO()
        schemaless_writer(stream, self._schema, value)
        return stream.getvalue()

    def read(self, plain: bytes, *, tagged: bool) -> Any:
        """Read what is within; with the names of records where several may meet."""
        self._scan(plain, 0)
        if tagged:
            return schemaless_reader(BytesIO(plain), self._schema, None, True, True)
        return schemaless_reader(BytesIO(plain), self._schema, None)


class Places:
    """The places of a schema that travel encrypted.

    Args:
        walk: applies a function at each of them.
        fields: the same for each field of the record.
        whole: everything is encrypted, as the only field.
    """

    def __init__(self, walk: Walker, fields: dict[str, Walker], whole: bool) -> None:
        self._walk = walk
        self.fields = fields
        self.whole = whole

    def seal(self, datum: Any, keys: Keys, type_: str, id_: str) -> Any:
        """Encrypt a datum's places."""
        return self._walk({WHOLE: datum} if self.whole else datum, (), _sealing(keys, type_, id_))

    def try_field(self, name: str, value: Any) -> Any:
        """Write what is within one field, without encrypting it: to find out which one does not fit."""
        walk = self.fields.get(name)
        return value if walk is None else walk(value, (name,), lambda place, inner, path: place.write(inner))

    def open(self, datum: Any, keys: Keys, type_: str, id_: str, *, tagged: bool = False) -> Any:
        """Decrypt a datum's places.

        Raises:
            DecodeError: a key is missing, or something was changed or moved.
        """

        def apply(place: Place, value: Any, path: Path) -> Any:
            return place.read(keys.open(value, type_, id_, path), tagged=tagged)

        found = self._walk(datum, (), apply)
        return found[WHOLE] if self.whole else found

    def sealed(self, datum: Any) -> list[bytes]:
        """List what stands encrypted in a datum."""
        found: list[bytes] = []
        self._walk(datum, (), lambda place, value, path: found.append(value))
        return found

    def mask(self, datum: Any) -> Any:
        """Put the mask at a datum's places."""
        return self._walk(datum, (), lambda place, value, path: MASK)


def _sealing(keys: Keys, type_: str, id_: str) -> Apply:
    return lambda place, value, path: keys.seal(place.write(value), type_, id_, path)


def wrapped(schema: Schema) -> Schema:
    """Make the schema of an event of which everything is encrypted; its default lets it follow one in the clear."""
    field = {"name": WHOLE, "type": {"type": "bytes", "encrypted": schema}, "default": ""}
    return {"type": "record", "name": schema["name"], "fields": [field], "encrypted": WHOLE}


def find_places(schema: Any) -> Places | None:
    """Find what of a record's schema travels encrypted; None where nothing does."""
    named: dict[str, Any] = {}
    walk = _walker(schema, named)
    if walk is None:
        return None
    fields = {
        field["name"]: found for field in schema["fields"] if (found := _walker(field["type"], named)) is not None
    }
    return Places(walk, fields, schema.get("encrypted") == WHOLE)


def _walker(schema: Any, named: dict[str, Any]) -> Walker | None:
    if isinstance(schema, str):
        return named.get(schema.rpartition(".")[2])
    if isinstance(schema, list):
        return _branches(schema, named)
    type_ = schema["type"]
    if type_ == "bytes" and "encrypted" in schema:
        place = Place(schema["encrypted"])
        return lambda value, path, apply: apply(place, value, path)
    if type_ in ("array", "map"):
        return _items(_walker(schema["items" if type_ == "array" else "values"], named))
    if type_ == "record":
        # Records do not contain themselves where something is encrypted, so a name is known once its record is read.
        found = named[schema["name"].rpartition(".")[2]] = _members(
            {field["name"]: inner for field in schema["fields"] if (inner := _walker(field["type"], named)) is not None}
        )
        return found
    return _walker(type_, named) if isinstance(type_, (dict, list)) else None


def _members(inner: dict[str, Walker]) -> Walker | None:
    if not inner:
        return None

    def members(value: Any, path: Path, apply: Apply) -> Any:
        changed = {name: walk(value[name], (*path, name), apply) for name, walk in inner.items() if name in value}
        return {**value, **changed}

    return members


def _items(walk: Walker | None) -> Walker | None:
    if walk is None:
        return None

    def items(value: Any, path: Path, apply: Apply) -> Any:
        if isinstance(value, dict):
            return {name: walk(item, (*path, name), apply) for name, item in value.items()}
        return [walk(item, (*path, str(index)), apply) for index, item in enumerate(value)]

    return items


def _branches(schemas: list[Any], named: dict[str, Any]) -> Walker | None:
    found = {_branch_name(schema): walk for schema in schemas if (walk := _walker(schema, named)) is not None}
    if not found:
        return None
    only = next(iter(found.values()))
    plain = len([schema for schema in schemas if schema != "null"]) == 1

    def branch(value: Any, path: Path, apply: Apply) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            walk = found.get(value[0].rpartition(".")[2])
            return value if walk is None else (value[0], walk(value[1], path, apply))
        if plain or isinstance(value, (bytes, dict)):
            return only(value, path, apply)
        return value

    return branch


def _branch_name(schema: Any) -> str:
    name = schema if isinstance(schema, str) else schema.get("name", schema["type"])
    return str(name).rpartition(".")[2]


# -- JSON -------------------------------------------------------------------------------------------------------------


def seal_json(data: Any, keys: Keys, type_: str, id_: str, *, whole: bool) -> bytes:
    """Write an event's JSON with its marked secrets (`Showing.MARKED`), or all of it, encrypted."""
    if whole:
        return to_json(_sealed(_walk_json(data, (), MARK, lambda value, _: value), (), keys, type_, id_))
    return to_json(_walk_json(data, (), MARK, lambda value, path: _sealed(value, path, keys, type_, id_)))


def open_json(value: bytes, keys: Keys, type_: str, id_: str, *, within: Path = ()) -> bytes:
    """Decrypt what is encrypted in a JSON value; a value without such is given back as it is.

    Args:
        value: JSON text.
        keys: that decrypt.
        type_, id_: of the event.
        within: where the event stands in the value.

    Raises:
        DecodeError: a key is missing, or something was changed or moved.
    """
    if _JSON_MARK not in value:
        return value
    return to_json(open_tree(_tree(value), keys, type_, id_, within=within))


def open_tree(data: Any, keys: Keys, type_: str, id_: str, *, within: Path = ()) -> Any:
    """Decrypt what is encrypted in a JSON value that was read already."""

    def opened(text: Any, path: Path) -> Any:
        try:
            sealed = base64.urlsafe_b64decode(text)
        except (ValueError, TypeError):
            raise DecodeError(f"{type_} has an encrypted value that is not base64") from None
        return _tree(keys.open(sealed, type_, id_, path[len(within) :]))

    return _walk_json(data, (), SEALED, opened)


def mask_json(data: Any) -> Any:
    """Put the mask where something is encrypted."""
    return _walk_json(data, (), SEALED, lambda value, path: MASK)


def _tree(value: bytes) -> Any:
    try:
        return from_json(value)
    except ValueError:
        raise DecodeError("the value is not JSON") from None


def _sealed(value: Any, path: Path, keys: Keys, type_: str, id_: str) -> dict[str, str]:
    return {SEALED: base64.urlsafe_b64encode(keys.seal(to_json(value), type_, id_, path)).decode()}


def _walk_json(value: Any, path: Path, mark: str, apply: Callable[[Any, Path], Any]) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and mark in value:
            inner = value[mark]
            return apply(_walk_json(inner, path, mark, lambda found, _: found) if mark == MARK else inner, path)
        return {name: _walk_json(inner, (*path, name), mark, apply) for name, inner in value.items()}
    if isinstance(value, list):
        return [_walk_json(inner, (*path, str(index)), mark, apply) for index, inner in enumerate(value)]
    return value
