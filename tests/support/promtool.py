"""`promtool`, Prometheus' own judge of its configuration and rules: built from its Go module; that needs no engine.

Of the service discoveries, nine tenths of what would be compiled, it has the one that `compose/prometheus` uses: which
ones are built in is said in `plugins/`, for whoever builds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from .cache import cached
from .go import build, go_version
from .parts import Missing

VERSION = "v0.305.0"
"""Of the Go module: it is release 3.5.0."""

_PLUGINS = """package plugins

import _ "github.com/prometheus/prometheus/discovery/dns"
"""


def promtool() -> Path:
    """Give the program, built if it is not cached: two to five minutes of a core, at low priority.

    Raises:
        Missing: Go is missing or too old.
    """
    return _binary(_build)


def cached_promtool() -> Path:
    """Give the program if it was built before: a test must not take minutes.

    Raises:
        Missing: it was not, or Go is missing or too old.
    """
    return _binary(_refuse)


def _binary(fill: Callable[[Path], None]) -> Path:
    version = go_version("which builds promtool once")
    return cached(f"promtool-{VERSION}-{version}", fill) / "promtool"


def _build(folder: Path) -> None:
    sys.stdout.write("promtool is being built, once: two to five minutes\n")
    sys.stdout.flush()
    build(
        f"github.com/prometheus/prometheus@{VERSION}",
        "./cmd/promtool",
        folder / "promtool",
        prefix=("nice", "-n", "10"),
        files={"plugins/plugins.go": _PLUGINS},
    )


def _refuse(folder: Path) -> None:
    raise Missing("it is not built yet; `make parts` builds it once, in two to five minutes")
