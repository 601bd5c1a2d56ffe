"""Avro schemas and values to read: every plain type, and how fastavro writes them."""

from __future__ import annotations

import io
from typing import Any

from fastavro import schemaless_writer
from hypothesis import strategies as st

PLAIN = ("null", "boolean", "int", "long", "float", "double", "bytes")
"""The types of the first fields of a record of everything; those of `plain`."""


def record(*types: Any, name: str = "R") -> dict[str, Any]:
    """Make a record's schema, with fields `f0`, `f1` and so on."""
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": each} for i, each in enumerate(types)]}


def plain() -> dict[str, st.SearchStrategy[Any]]:
    """Give values of the fields of `PLAIN`."""
    return {
        "f0": st.none(),
        "f1": st.booleans(),
        "f2": st.integers(-(2**31), 2**31 - 1),
        "f3": st.integers(-(2**63), 2**63 - 1),
        "f4": st.floats(width=32, allow_nan=False),
        "f5": st.floats(allow_nan=False),
        "f6": st.binary(max_size=300),
    }


def written(value: Any, schema: Any) -> bytes:
    """Write a value as fastavro does; the schema is a parsed one."""
    stream = io.BytesIO()
    schemaless_writer(stream, schema, value)
    return stream.getvalue()
