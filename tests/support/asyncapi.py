"""The official JSON schema of AsyncAPI 3.0, from the package in which its makers publish it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from .cache import cached
from .parts import Missing, missing

VERSION = "6.11.1"
PACKAGE = f"@asyncapi/specs@{VERSION}"
_PATIENCE = 300


def asyncapi_schemas() -> Path:
    """Give the folder of the schemas, fetched with npm if they are not cached.

    Raises:
        Missing: npm is missing, or its registry does not answer.
    """
    return cached(f"asyncapi-specs-{VERSION}", _fetch)


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"npm is not installed (it fetches {PACKAGE} once)")
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)],
            check=False, capture_output=True, text=True, timeout=_PATIENCE, cwd=folder,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Missing(f"npm did not fetch {PACKAGE} within {_PATIENCE} s") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise Missing(f"npm could not fetch {PACKAGE}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    with tarfile.open(archives[0]) as archive:
        member = archive.extractfile("package/schemas/3.0.0.json")
        assert member is not None
        (folder / "3.0.0.json").write_bytes(member.read())
    archives[0].unlink()


@cache
def asyncapi_validator() -> Draft7Validator:
    """Give the validator of AsyncAPI 3.0 documents; without the schema the test ends."""
    try:
        schema: Any = json.loads((asyncapi_schemas() / "3.0.0.json").read_text())
    except Missing as reason:
        missing("AsyncAPI's JSON schema", str(reason))
    return Draft7Validator(schema)
