"""Schemas as files: a folder with one `<subject>.avsc` each, kept in version control beside the code."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, unquote

from .avro import Schema, canonical, load_schema
from .compatibility import Level
from .errors import ConfigurationError, DecodeError, DefinitionError
from .registry import RegisteredSchema, content_id, objections, refused

SUFFIX = ".avsc"


class FolderRegistry:
    """A registry for programs that check schemas before anything runs: no broker, no server.

    A subject has one version here, its file; older ones are in the history of the version control.

    Args:
        folder: made when the first schema is registered.
        compatibility: what must hold between a new schema and the one that is there.
    """

    def __init__(self, folder: Path, compatibility: Level = "BACKWARD") -> None:
        self._folder = folder
        self._compatibility = compatibility

    async def register(self, subject: str, schema: Schema) -> int:
        """Check compatibility, then write the file; as `SchemaRegistry.register`."""
        there = self._read(subject)
        if there is None or canonical(there.schema) != canonical(schema):
            problems = await self.objections(subject, schema)
            if problems:
                raise refused(subject, self._compatibility, problems)
            self._write(subject, schema)
        return content_id(canonical(schema))

    async def fetch(self, schema_id: int) -> Schema:
        """Give the schema of an id, which is derived from its content as in the embedded registry."""
        for subject in await self.subjects():
            found = self._read(subject)
            if found is not None and found.id == schema_id:
                return found.schema
        raise DecodeError(f"no schema has the id {schema_id} in the folder {self._folder}", schema_id=schema_id)

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the subject's schema, or None."""
        return self._read(subject)

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """Give the subject's one schema, or none."""
        found = self._read(subject)
        return [] if found is None else [found]

    async def subjects(self) -> list[str]:
        """Name all subjects, sorted."""
        return sorted(unquote(path.name.removesuffix(SUFFIX)) for path in self._folder.glob(f"*{SUFFIX}"))

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """Say why a schema would be refused; as `SchemaRegistry.objections`."""
        return objections(self._compatibility, schema, await self.history(subject))

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, subject: str) -> Path:
        return self._folder / f"{quote(subject, safe='')}{SUFFIX}"

    def _read(self, subject: str) -> RegisteredSchema | None:
        path = self._path(subject)
        if not path.is_file():
            return None
        schema = read_schema(path)
        return RegisteredSchema(content_id(canonical(schema)), schema, 1)

    def _write(self, subject: str, schema: Schema) -> None:
        path = self._path(subject)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".new")
            scratch.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
            scratch.replace(path)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from None


def read_schema(path: Path) -> Schema:
    """Read a record schema from a file.

    Raises:
        ConfigurationError: it cannot be read, or holds none.
    """
    try:
        return load_schema(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except (DefinitionError, RecursionError):
        raise ConfigurationError(f"{path} is not an Avro record schema") from None
