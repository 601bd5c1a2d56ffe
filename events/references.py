"""A schema that names types of other subjects, made one that stands by itself.

A registry may keep a named type once and let schemas refer to it (Confluent's `references`). Everything here reads
self-contained schemas, so each definition is put where its name stands first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .avro import Schema
from .errors import DecodeError

_PLAIN = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
_NAMED = ("record", "error", "enum", "fixed")
MOST_REFERENCES = 200
"""How many schemas one may refer to, directly and by others."""


def inline(schema: Any, others: Iterable[Schema]) -> Any:
    """Put the definitions of other schemas where their names stand first; every name is then written in full.

    Args:
        schema: refers to named types of the others.
        others: self-contained schemas.

    Raises:
        DecodeError: a name stands for nothing.
    """
    known: dict[str, Any] = {}
    for other in others:
        _define(_in_full(other, ""), known)
    whole = _in_full(schema, "")
    own: dict[str, Any] = {}
    _define(whole, own)
    return _placed(whole, known, own, set())


def _in_full(schema: Any, namespace: str) -> Any:
    """Write every name with its namespace, as the Avro specification resolves it ("Names")."""
    if isinstance(schema, str):
        return schema if schema in _PLAIN or "." in schema or not namespace else f"{namespace}.{schema}"
    if isinstance(schema, list):
        return [_in_full(branch, namespace) for branch in schema]
    if not isinstance(schema, dict) or "type" not in schema:
        raise DecodeError("a schema of the registry is not an Avro schema")
    full = dict(schema)
    if schema["type"] in _NAMED:
        name = str(schema.get("name", ""))
        space = name.rpartition(".")[0] or schema.get("namespace", namespace)
        full["name"] = name if "." in name or not space else f"{space}.{name}"
        full.pop("namespace", None)
        namespace = str(space)
    else:
        full["type"] = _in_full(schema["type"], namespace) if schema["type"] not in ("array", "map") else schema["type"]
    for inner in ("items", "values"):
        if inner in schema:
            full[inner] = _in_full(schema[inner], namespace)
    if "fields" in schema:
        full["fields"] = [{**field, "type": _in_full(field["type"], namespace)} for field in schema["fields"]]
    return full


def _define(schema: Any, known: dict[str, Any]) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _define(branch, known)
    elif isinstance(schema, dict):
        if schema["type"] in _NAMED:
            known.setdefault(schema["name"], schema)
        for inner in ("type", "items", "values"):
            _define(schema.get(inner), known)
        for field in schema.get("fields", ()):
            _define(field["type"], known)


def _placed(schema: Any, known: dict[str, Any], own: dict[str, Any], seen: set[str]) -> Any:
    """Walk in the order of the text: the first mention of a name carries its definition, later ones the name."""
    if isinstance(schema, list):
        return [_placed(branch, known, own, seen) for branch in schema]
    if isinstance(schema, str):
        if schema in _PLAIN or schema in seen or schema in own:
            return schema
        if schema not in known:
            raise DecodeError(f"a schema of the registry names the type {schema[:100]!r}, which is defined nowhere")
        return _placed(known[schema], known, own, seen)
    if schema["type"] in _NAMED:
        if schema["name"] in seen:
            return schema["name"]
        seen.add(schema["name"])
        # A name without a namespace must not take on that of what it stands in now.
        placed = schema if "." in schema["name"] else {**schema, "namespace": ""}
    else:
        placed = dict(schema)
        if not isinstance(schema["type"], str) or schema["type"] not in ("array", "map"):
            placed["type"] = _placed(schema["type"], known, own, seen)
    placed = dict(placed)
    for inner in ("items", "values"):
        if inner in schema:
            placed[inner] = _placed(schema[inner], known, own, seen)
    if "fields" in schema:
        placed["fields"] = [{**field, "type": _placed(field["type"], known, own, seen)} for field in schema["fields"]]
    return placed
