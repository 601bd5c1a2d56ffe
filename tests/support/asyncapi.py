"""The official JSON schema of AsyncAPI 3.0, from the package in which its makers publish it."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from .cache import cached
from .npm import packed
from .parts import Missing, missing

VERSION = "6.11.1"
PACKAGE = f"@asyncapi/specs@{VERSION}"


def asyncapi_schemas() -> Path:
    """Give the folder of the schemas, fetched with npm if they are not cached.

    Raises:
        Missing: npm is missing, or its registry does not answer.
    """
    return cached(f"asyncapi-specs-{VERSION}", _fetch)


def _fetch(folder: Path) -> None:
    archive_file = packed(PACKAGE, folder)
    with tarfile.open(archive_file) as archive:
        member = archive.extractfile("package/schemas/3.0.0.json")
        assert member is not None
        (folder / "3.0.0.json").write_bytes(member.read())
    archive_file.unlink()


@cache
def asyncapi_validator() -> Draft7Validator:
    """Give the validator of AsyncAPI 3.0 documents; without the schema the test ends."""
    try:
        schema: Any = json.loads((asyncapi_schemas() / "3.0.0.json").read_text())
    except Missing as reason:
        missing("AsyncAPI's JSON schema", str(reason))
    return Draft7Validator(schema)
