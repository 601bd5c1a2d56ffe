"""A writer's schema, from a registry that strangers write to: checked, parsed, and ready to read by."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader

from .avro import Schema, canonical
from .errors import DecodeError, LimitExceeded
from .keys import Keys
from .quick import compile_reader
from .scan import PRIMITIVES, Scanner, compile_scanner
from .sealed import WHOLE, find_places
from .secret import masked

MOST_SCHEMA_CHARACTERS = 262_144
MOST_SCHEMA_DEPTH = 64

HEAD = 5
"""Bytes before an Avro value: magic byte and schema id."""


class WriterSchema:
    """A writer's schema, checked, parsed and with its scanner.

    Args:
        schema: as the registry has it.

    Raises:
        DecodeError: it is no Avro schema, or too large.
    """

    def __init__(self, schema: Schema) -> None:
        _check_schema(schema)
        try:
            self.parsed: Any = parse_schema(schema)
        except Exception:
            raise DecodeError("the writer's schema is not an Avro schema") from None
        self.scan: Scanner = compile_scanner(self.parsed)
        self._quick = compile_reader(self.parsed)
        self.tagged = _has_record_union(self.parsed)
        try:
            self.places = find_places(self.parsed)
        except Exception:
            raise DecodeError("the writer's schema of what is encrypted is not an Avro schema") from None
        self.secrets = secrets_of(schema)

    def read(self, value: bytes, keys: Keys | None, type_: str, id_: str) -> Any:
        """Read a value to plain Python values.

        Args:
            value: with its head.
            keys: that decrypt; None masks what is encrypted or secret.
            type_, id_: of the event.

        Raises:
            DecodeError, LimitExceeded
        """
        try:
            found = self.plain(value)
            if keys is None:
                return masked(found if self.places is None else self.places.mask(found), self.secrets)
            return found if self.places is None else self.places.open(found, keys, type_, id_)
        except (DecodeError, LimitExceeded):
            raise
        except Exception:
            raise DecodeError("the value is not what its schema says") from None

    def plain(self, value: bytes) -> Any:
        """Read a value as it lies there: nothing is decrypted or masked.

        Raises:
            DecodeError, LimitExceeded: the bytes are not safe to read.
            Exception: of fastavro's: they are not what the schema says.
        """
        if self._quick is not None:
            try:
                return self._quick(value, HEAD)
            except Exception:  # noqa: S110 - whether it is wrong, and how, the two passes below say
                pass
        self.scan(value, HEAD)
        stream = BytesIO(value)
        stream.seek(HEAD)
        return schemaless_reader(stream, self.parsed, None)


def _check_schema(schema: Any) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MOST_SCHEMA_DEPTH:
            raise DecodeError(f"the writer's schema nests deeper than {MOST_SCHEMA_DEPTH}")
        inner: list[Any] = []
        for part in level:
            inner.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())
        level = inner
    if len(canonical(schema)) > MOST_SCHEMA_CHARACTERS:
        raise DecodeError(f"the writer's schema is longer than {MOST_SCHEMA_CHARACTERS} characters")


def secrets_of(schema: Any) -> tuple[str, ...]:
    """List where a writer's schema says that secrets are; all of an event of which everything is encrypted."""
    if isinstance(schema, dict) and schema.get("encrypted") == WHOLE:
        return (WHOLE,)
    found = schema.get("secret") if isinstance(schema, dict) else None
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()


def _has_record_union(schema: Any) -> bool:
    if isinstance(schema, list):
        # A name stands for a record or an enum: fastavro tags only where two records meet, so extra ones are harmless.
        named = [branch for branch in schema if not isinstance(branch, str) or branch not in PRIMITIVES]
        return len(named) > 1 or any(_has_record_union(branch) for branch in schema)
    if isinstance(schema, dict):
        inner = [field["type"] for field in schema.get("fields", ())]
        within = ("items", "values", "type", "encrypted")
        inner.extend(schema[name] for name in within if isinstance(schema.get(name), (dict, list)))
        return any(_has_record_union(part) for part in inner)
    return False
