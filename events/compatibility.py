"""BACKWARD compatibility: can a new schema read what an older one wrote? (Avro specification, "Schema Resolution")

Stricter than the specification in one point: a logical type may not change, since `long` and `timestamp-micros` have
the same bytes and another meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .avro import Schema

_WIDENS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def check_backward(reader: Schema, writer: Schema) -> list[str]:
    """Say why `reader` (new) cannot read what `writer` (old) wrote; an empty list means that it can.

    Args:
        reader: the new schema.
        writer: the schema of events that are already there.

    Returns:
        One sentence for each problem: the field, what changed, and the rule.
    """
    return _Check(reader, writer).compare(reader, writer, _short(reader))


class _Check:
    def __init__(self, reader: Schema, writer: Schema) -> None:
        self._readers: dict[str, Any] = {}
        self._writers: dict[str, Any] = {}
        _collect(reader, "", self._readers)
        _collect(writer, "", self._writers)
        self._within: set[tuple[str, str]] = set()

    def compare(self, reader: Any, writer: Any, where: str) -> list[str]:
        if isinstance(reader, str):
            reader = self._readers.get(reader, reader)
        if isinstance(writer, str):
            writer = self._writers.get(writer, writer)
        if isinstance(writer, list):
            problems = [self.compare(reader, branch, where) for branch in writer]
            return next((found for found in problems if found), [])
        if isinstance(reader, list):
            return self._any_branch(reader, writer, where)
        kind, was = _kind(reader), _kind(writer)
        if kind != was:
            plain = not _logical(reader) and not _logical(writer)
            return [] if plain and kind in _WIDENS.get(was, ()) else [_changed(where, reader, writer)]
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            return self.compare(reader[inner], writer[inner], f"{where}[]")
        if kind in ("record", "enum", "fixed"):
            return self._named(reader, writer, where)
        return _logical_problems(reader, writer, where)

    def _any_branch(self, reader: list[Any], writer: Any, where: str) -> list[str]:
        found: list[list[str]] = []
        for branch in reader:
            problems = self.compare(branch, writer, where)
            if not problems:
                return []
            if _short(self._readers.get(branch, branch) if isinstance(branch, str) else branch) == _short(writer):
                found.insert(0, problems)
        return (
            found[0]
            if found
            else [
                f"{where} was {_tell(writer)}, which is no branch of it any more (rule: add types, never take one away)"
            ]
        )

    def _named(self, reader: Mapping[str, Any], writer: Mapping[str, Any], where: str) -> list[str]:
        names = {_short(reader), *(alias.rpartition(".")[2] for alias in reader.get("aliases", ()))}
        if _short(writer) not in names:
            return [
                f"{where} was {_short(writer)} and is now {_short(reader)} (rule: a name stays, or is kept as an alias)"
            ]
        if reader["type"] == "enum":
            gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if gone and "default" not in reader:
                return [f"{where} lacks {', '.join(gone)} (rule: symbols are added, never taken away)"]
            return []
        if reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                return [f"{where} had {writer['size']} bytes and has now {reader['size']} (rule: a fixed size stays)"]
            return _logical_problems(reader, writer, where)
        pair = (reader["name"], writer["name"])
        if pair in self._within:
            return []
        self._within.add(pair)
        old = {field["name"]: field for field in writer["fields"]}
        problems: list[str] = []
        for field in reader["fields"]:
            name = f"{where}.{field['name']}"
            before = next((old[each] for each in (field["name"], *field.get("aliases", ())) if each in old), None)
            if before is not None:
                problems.extend(self.compare(field["type"], before["type"], name))
            elif "default" not in field:
                problems.append(f"{name} is new and has no default (rule: a new field needs one, to read older events)")
        self._within.discard(pair)
        return problems


def _collect(schema: Any, namespace: str, named: dict[str, Any]) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, namespace, named)
    elif isinstance(schema, dict):
        if "name" in schema and schema.get("type") in ("record", "enum", "fixed", "error"):
            space, _, short = str(schema["name"]).rpartition(".")
            namespace = space or schema.get("namespace", namespace)
            named[short] = schema
            named[f"{namespace}.{short}"] = schema
        for field in schema.get("fields", ()):
            _collect(field["type"], namespace, named)
        for inner in ("items", "values", "type"):
            if isinstance(schema.get(inner), (dict, list)):
                _collect(schema[inner], namespace, named)


def _logical_problems(reader: Any, writer: Any, where: str) -> list[str]:
    now, was = _logical(reader), _logical(writer)
    if now == was == "decimal":
        if reader.get("scale", 0) != writer.get("scale", 0):
            before, after = writer.get("scale", 0), reader.get("scale", 0)
            return [f"{where} had {before} decimal places and has now {after} (rule: a decimal's scale stays)"]
        if reader["precision"] < writer["precision"]:
            before, after = writer["precision"], reader["precision"]
            return [f"{where} had {before} digits and has now {after} (rule: a decimal's precision never shrinks)"]
        return []
    if now == was or (now == "uuid" and was is None):
        return []
    return [_changed(where, reader, writer)]


def _changed(where: str, reader: Any, writer: Any) -> str:
    return (
        f"{where} was {_tell(writer)} and is now {_tell(reader)} "
        "(rule: a type stays, or widens as int, long, float, double; use a new field)"
    )


def _kind(schema: Any) -> str:
    while isinstance(schema, dict):
        schema = schema["type"]
    return str(schema)


def _logical(schema: Any) -> str | None:
    return schema.get("logicalType") if isinstance(schema, dict) else None


def _short(schema: Any) -> str:
    name = schema.get("name", _kind(schema)) if isinstance(schema, dict) else schema
    return str(name).rpartition(".")[2]


def _tell(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(_tell(branch) for branch in schema)
    if isinstance(schema, dict) and schema["type"] in ("record", "enum", "fixed"):
        return f"{schema['type']} {_short(schema)}"
    return _logical(schema) or _kind(schema)
