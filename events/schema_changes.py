"""What is different between two schemas, field by field. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .avro import Schema
from .compatibility import content


@dataclass(frozen=True)
class Change:
    """One field that is different.

    Args:
        field: its path, e.g. `lines[].sku`; empty for the record itself.
        change: what happened to it.
        before, after: its type as text; None where it is not there.
    """

    field: str
    change: Literal["added", "removed", "changed"]
    before: str | None
    after: str | None


def changes(before: Schema, after: Schema) -> list[Change]:
    """List what is different, in the order of the newer schema, what was removed last of each record."""
    return list(_Comparison(before, after).compare(before, after, ""))


def spell(schema: Any) -> str:
    """Write a type in one short line: `decimal(12, 2)`, `null or string`, `Line[]`, `map of long`."""
    if isinstance(schema, list):
        return " or ".join(spell(branch) for branch in schema) or "nothing"
    if not isinstance(schema, Mapping):
        return str(schema).rpartition(".")[2]
    logical, kind = schema.get("logicalType"), schema["type"]
    if kind == "bytes" and "encrypted" in schema:
        return f"encrypted {spell(schema['encrypted'])}"
    if logical == "decimal":
        return f"decimal({schema.get('precision')}, {schema.get('scale', 0)})"
    if logical is not None:
        return str(logical)
    if kind == "array":
        inner = spell(schema["items"])
        return f"({inner})[]" if " or " in inner else f"{inner}[]"
    if kind == "map":
        return f"map of {spell(schema['values'])}"
    if kind == "enum":
        return f"{_name(schema)}({', '.join(schema['symbols'])})"
    if kind == "fixed":
        return f"{_name(schema)}({schema['size']} bytes)"
    return _name(schema) if kind in ("record", "error") else spell(kind)


class _Comparison:
    def __init__(self, before: Schema, after: Schema) -> None:
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}
        _collect(before, self._before)
        _collect(after, self._after)
        self._within: set[tuple[str, str]] = set()

    def compare(self, before: Any, after: Any, where: str) -> Iterator[Change]:
        before = self._before.get(before, before) if isinstance(before, str) else before
        after = self._after.get(after, after) if isinstance(after, str) else after
        if spell(before) != spell(after):
            yield Change(where, "changed", spell(before), spell(after))
        before, after = content(before), content(after)
        if isinstance(before, list) and isinstance(after, list):
            yield from self._branches(before, after, where)
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            if before["type"] == after["type"] == "array":
                yield from self.compare(before["items"], after["items"], f"{where}[]")
            elif before["type"] == after["type"] == "map":
                yield from self.compare(before["values"], after["values"], f"{where}{{}}")
            elif "fields" in before and "fields" in after:
                yield from self._records(before, after, where)

    def _branches(self, before: list[Any], after: list[Any], where: str) -> Iterator[Change]:
        known = {_name(self._before.get(each, each) if isinstance(each, str) else each): each for each in before}
        for branch in after:
            name = _name(self._after.get(branch, branch) if isinstance(branch, str) else branch)
            if name in known and spell(known[name]) == spell(branch):
                yield from self.compare(known[name], branch, where)

    def _records(self, before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> Iterator[Change]:
        pair = (_name(before), _name(after))
        if pair in self._within:
            return
        self._within.add(pair)
        old = {field["name"]: field for field in before["fields"]}
        for field in after["fields"]:
            path = f"{where}.{field['name']}" if where else field["name"]
            was = old.pop(field["name"], None)
            if was is None:
                yield Change(path, "added", None, _with_default(field))
            elif spell(was["type"]) == spell(field["type"]) and _with_default(was) != _with_default(field):
                yield Change(path, "changed", _with_default(was), _with_default(field))
            else:
                yield from self.compare(was["type"], field["type"], path)
        for name, field in old.items():
            yield Change(f"{where}.{name}" if where else name, "removed", _with_default(field), None)
        self._within.discard(pair)


def _with_default(field: Mapping[str, Any]) -> str:
    text = spell(field["type"])
    return f"{text} = {json.dumps(field['default'], ensure_ascii=False)}" if "default" in field else text


def _collect(schema: Any, named: dict[str, Any]) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, named)
    elif isinstance(schema, Mapping):
        if "name" in schema and schema["type"] in ("record", "error", "enum", "fixed"):
            named[_name(schema)] = named[str(schema["name"])] = schema
        for field in schema.get("fields", ()):
            _collect(field["type"], named)
        for inner in ("items", "values", "type", "encrypted"):
            if not isinstance(schema.get(inner), str):
                _collect(schema.get(inner), named)


def _name(schema: Any) -> str:
    found = schema.get("name", schema["type"]) if isinstance(schema, Mapping) else schema
    return str(found).rpartition(".")[2] if isinstance(found, str) else spell(found)
