"""A schema registry in a dict, for tests of what stands above it."""

from __future__ import annotations

from choreo.events.avro import Schema, canonical
from choreo.events.errors import DecodeError
from choreo.events.registry import RegisteredSchema


class DictRegistry:
    """Gives schemas the ids 1, 2, 3 ...; refuses nothing. `fetched` counts what was asked for."""

    def __init__(self) -> None:
        self.schemas: dict[str, int] = {}
        self.by_id: dict[int, Schema] = {}
        self.subjects_: dict[str, int] = {}
        self.fetched: list[int] = []

    async def register(self, subject: str, schema: Schema) -> int:
        schema_id = self.schemas.setdefault(canonical(schema), len(self.schemas) + 1)
        self.by_id[schema_id] = schema
        self.subjects_[subject] = schema_id
        return schema_id

    async def fetch(self, schema_id: int) -> Schema:
        self.fetched.append(schema_id)
        if schema_id not in self.by_id:
            raise DecodeError(f"no schema has the id {schema_id}")
        return self.by_id[schema_id]

    async def latest(self, subject: str) -> RegisteredSchema | None:
        schema_id = self.subjects_.get(subject)
        return None if schema_id is None else RegisteredSchema(schema_id, self.by_id[schema_id], 1)

    async def history(self, subject: str) -> list[RegisteredSchema]:
        newest = await self.latest(subject)
        return [] if newest is None else [newest]

    async def subjects(self) -> list[str]:
        return sorted(self.subjects_)

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        return []

    async def close(self) -> None: ...
