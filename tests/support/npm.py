"""Packages of npm for the tests: fetched as an archive, never installed and never run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .parts import Missing

_PATIENCE = 300


def packed(package: str, folder: Path) -> Path:
    """Fetch a package's archive into a folder.

    Args:
        package: name@version.
        folder: of the cache.

    Raises:
        Missing: npm is missing, or its registry does not answer.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"npm is not installed (it fetches {package} once)")
    try:
        done = subprocess.run(
            [npm, "pack", package, "--silent", "--pack-destination", str(folder)],
            check=False, capture_output=True, text=True, timeout=_PATIENCE, cwd=folder,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Missing(f"npm did not fetch {package} within {_PATIENCE} s") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise Missing(f"npm could not fetch {package}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return archives[0]
