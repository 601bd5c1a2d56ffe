"""The schemas of a run, known to every process from the beginning."""

from __future__ import annotations

from ....events.avro import Schema, canonical
from ....events.errors import DecodeError
from ....events.registry import RegisteredSchema, content_id


class KnownSchemas:
    """A registry in memory that outlives runs: the same code has the same schemas in each of them."""

    def __init__(self) -> None:
        self._by_id: dict[int, Schema] = {}
        self._subjects: dict[str, list[int]] = {}

    async def register(self, subject: str, schema: Schema) -> int:
        """See `SchemaRegistry.register`; every schema is taken."""
        schema_id = content_id(canonical(schema))
        self._by_id[schema_id] = schema
        ids = self._subjects.setdefault(subject, [])
        if schema_id not in ids:
            ids.append(schema_id)
        return schema_id

    async def fetch(self, schema_id: int) -> Schema:
        """See `SchemaRegistry.fetch`."""
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise DecodeError(f"no schema has the id {schema_id}", schema_id=schema_id) from None

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """See `SchemaRegistry.latest`."""
        return next(reversed(await self.history(subject)), None)

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """See `SchemaRegistry.history`."""
        ids = self._subjects.get(subject, [])
        return [RegisteredSchema(each, self._by_id[each], number) for number, each in enumerate(ids, start=1)]

    async def subjects(self) -> list[str]:
        """See `SchemaRegistry.subjects`."""
        return sorted(self._subjects)

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """See `SchemaRegistry.objections`: there are none."""
        return []

    async def close(self) -> None:
        """Nothing is held."""
