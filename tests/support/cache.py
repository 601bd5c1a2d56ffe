"""Downloads that outlive a checkout: built in a temporary folder, then renamed, so a broken one is never seen."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_home() -> Path:
    """The folder of all cached downloads; it may be deleted at any time."""
    configured = os.environ.get("CHOREO_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "choreo-dev"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Give the folder `name` of the cache, made by `build` if it is not there.

    Args:
        name: states everything that the content depends on, versions above all.
        build: fills the empty folder that it is given; when it raises, nothing is kept.
    """
    home = cache_home()
    place = home / name
    if place.is_dir():
        return place
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=home))
    try:
        build(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(place)
        except OSError:
            if not place.is_dir():  # otherwise another run was faster: its result is as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return place
