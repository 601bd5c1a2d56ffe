"""Compatibility: can new schemas read what older ones wrote, and the other way? (Avro specification, Schema Resolution)

Stricter than the specification in one point: a logical type may not change, since `long` and `timestamp-micros` have
the same bytes and another meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from .avro import Schema

T = TypeVar("T")

Level = Literal[
    "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE"
]  # fmt: skip
"""What must hold between a new schema and older ones; the words are those of the Confluent Schema Registry."""

_WIDENS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def check(level: Level, schema: Schema, older: Sequence[Schema]) -> list[str]:
    """Say why a subject may not get a schema; an empty list means that it may.

    Args:
        level: BACKWARD: it reads what the newest wrote; FORWARD: the newest reads what it writes; FULL: both;
            with _TRANSITIVE: the same of every older one.
        schema: the new one.
        older: those that the subject has, the oldest first.

    Returns:
        One sentence for each problem, as `check_backward`.
    """
    against = older if level.endswith("_TRANSITIVE") else older[-1:]
    problems: dict[str, None] = {}
    for each in reversed(against):
        if level.startswith(("BACKWARD", "FULL")):
            problems |= dict.fromkeys(check_backward(schema, each))
        if level.startswith(("FORWARD", "FULL")):
            problems |= dict.fromkeys(check_forward(schema, each))
    return list(problems)


def check_backward(reader: Schema, writer: Schema) -> list[str]:
    """Say why `reader` (new) cannot read what `writer` (old) wrote; an empty list means that it can.

    Args:
        reader: the new schema.
        writer: the schema of events that are already there.

    Returns:
        One sentence for each problem: the field, what changed, and the rule.
    """
    return _Check(reader, writer, forward=False).compare(reader, writer, _short(reader))


def check_forward(new: Schema, old: Schema) -> list[str]:
    """Say why classes with the `old` schema cannot read what the `new` one writes; else as `check_backward`."""
    return _Check(old, new, forward=True).compare(old, new, _short(old))


class _Check:
    """Compares a reader with a writer; `forward` where the writer is the newer one, which changes only the words."""

    def __init__(self, reader: Schema, writer: Schema, *, forward: bool) -> None:
        self._forward = forward
        self._readers: dict[str, Any] = {}
        self._writers: dict[str, Any] = {}
        _collect(reader, "", self._readers)
        _collect(writer, "", self._writers)
        self._within: set[tuple[str, str]] = set()

    def compare(self, reader: Any, writer: Any, where: str) -> list[str]:
        reader, writer = content(reader), content(writer)
        if isinstance(reader, str):
            reader = self._readers.get(reader, reader)
        if isinstance(writer, str):
            writer = self._writers.get(writer, writer)
        if isinstance(writer, list):
            problems = [self.compare(reader, branch, where) for branch in writer]
            return next((found for found in problems if found), [])
        if isinstance(reader, list):
            return self._any_branch(reader, writer, where)
        if _encrypted(reader) and _encrypted(writer):
            new, old = reader["encrypted"], writer["encrypted"]  # names within stand for themselves
            return _Check(new, old, forward=self._forward).compare(new, old, where)
        kind, was = _kind(reader), _kind(writer)
        if kind != was:
            plain = not _logical(reader) and not _logical(writer)
            return [] if plain and kind in _WIDENS.get(was, ()) else [self._changed(where, reader, writer)]
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            return self.compare(reader[inner], writer[inner], f"{where}[]")
        if kind in ("record", "enum", "fixed"):
            return self._named(reader, writer, where)
        return self._logical_problems(reader, writer, where)

    def _any_branch(self, reader: list[Any], writer: Any, where: str) -> list[str]:
        found: list[list[str]] = []
        for branch in reader:
            problems = self.compare(branch, writer, where)
            if not problems:
                return []
            if _short(self._readers.get(branch, branch) if isinstance(branch, str) else branch) == _short(writer):
                found.insert(0, problems)
        if found:
            return found[0]
        if self._forward:
            return [f"{where} may now be {_tell(writer)} (rule: no types are added, as older classes do not know them)"]
        return [
            f"{where} was {_tell(writer)}, which is no branch of it any more (rule: add types, never take one away)"
        ]

    def _named(self, reader: Mapping[str, Any], writer: Mapping[str, Any], where: str) -> list[str]:
        names = {_short(reader), *(alias.rpartition(".")[2] for alias in reader.get("aliases", ()))}
        if _short(writer) not in names:
            was, now = self._in_time(_short(reader), _short(writer))
            return [f"{where} was {was} and is now {now} (rule: a name stays, or is kept as an alias)"]
        if reader["type"] == "enum":
            gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if gone and "default" not in reader and self._forward:
                return [
                    f"{where} has {', '.join(gone)} added (rule: none are added, as older classes do not know them)"
                ]
            if gone and "default" not in reader:
                return [f"{where} lacks {', '.join(gone)} (rule: symbols are added, never taken away)"]
            return []
        if reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                was, now = self._in_time(reader["size"], writer["size"])
                return [f"{where} had {was} bytes and has now {now} (rule: a fixed size stays)"]
            return self._logical_problems(reader, writer, where)
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
            elif "default" not in field and self._forward:
                problems.append(
                    f"{name} is gone and had no default (rule: only a field with one may go, as older classes need it)"
                )
            elif "default" not in field:
                problems.append(f"{name} is new and has no default (rule: a new field needs one, to read older events)")
        self._within.discard(pair)
        return problems

    def _logical_problems(self, reader: Any, writer: Any, where: str) -> list[str]:
        mine, theirs = _logical(reader), _logical(writer)
        if mine == theirs == "decimal":
            if reader.get("scale", 0) != writer.get("scale", 0):
                was, now = self._in_time(reader.get("scale", 0), writer.get("scale", 0))
                return [f"{where} had {was} decimal places and has now {now} (rule: a decimal's scale stays)"]
            if reader["precision"] < writer["precision"]:
                was, now = self._in_time(reader["precision"], writer["precision"])
                rule = "grows, as older classes have no room" if self._forward else "shrinks"
                return [f"{where} had {was} digits and has now {now} (rule: a decimal's precision never {rule})"]
            return []
        if mine == theirs or (mine == "uuid" and theirs is None):
            return []
        return [self._changed(where, reader, writer)]

    def _changed(self, where: str, reader: Any, writer: Any) -> str:
        was, now = self._in_time(_tell(reader), _tell(writer))
        rule = "as older classes read it" if self._forward else "or widens as int, long, float, double; use a new field"
        return f"{where} was {was} and is now {now} (rule: a type stays, {rule})"

    def _in_time(self, reader: T, writer: T) -> tuple[T, T]:
        """Give what was and what is now."""
        return (reader, writer) if self._forward else (writer, reader)


def content(schema: Any) -> Any:
    """Look through encryption (`sealed.py`): readers open what is closed, and take what came in the clear."""
    if isinstance(schema, Mapping) and "encrypted" in schema:
        if schema["type"] == "bytes":
            return schema["encrypted"]
        if schema.get("fields"):  # all of a record, in its one field
            return content(schema["fields"][0]["type"])
    return schema


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
        for inner in ("items", "values", "type", "encrypted"):
            if isinstance(schema.get(inner), (dict, list)):
                _collect(schema[inner], namespace, named)


def _encrypted(schema: Any) -> bool:
    return isinstance(schema, dict) and "encrypted" in schema and schema["type"] == "bytes"


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
