"""Docker Compose itself, to judge `compose/compose.yaml`: built from its Go module; that needs no Docker engine."""

from __future__ import annotations

from pathlib import Path

from .cache import cached
from .go import build, go_version

VERSION = "v2.40.3"


def compose_binary() -> Path:
    """Give the program `docker-compose`, built if it is not cached.

    Raises:
        Missing: Go is missing or too old.
    """
    version = go_version("which builds Docker Compose once")
    return cached(f"compose-{VERSION}-{version}", _build) / "docker-compose"


def _build(folder: Path) -> None:
    build(f"github.com/docker/compose/v2@{VERSION}", "./cmd", folder / "docker-compose")
