"""Fetch the real parts of the suite before it starts, so that the tests do not wait for downloads.

From the checkout's root: `python -m tests.support.fetch`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.wire.participants import go_participant

from .apicurio import apicurio_home
from .asyncapi import asyncapi_schemas
from .browser import axe_script, chromium_home
from .compose import compose_binary
from .jaeger import jaeger_binary
from .kafka import kafka_jars
from .mariadb import mariadb_programs
from .parts import Missing
from .postgres import postgres_programs
from .promtool import promtool
from .shells import fish_home, zsh_home

PARTS: dict[str, Callable[[], Path]] = {
    "Apache Kafka": kafka_jars,
    "PostgreSQL": postgres_programs,
    "MariaDB": mariadb_programs,
    "Docker Compose": compose_binary,
    "Jaeger": jaeger_binary,
    "promtool": promtool,
    "AsyncAPI's JSON schema": asyncapi_schemas,
    "Apicurio Registry": apicurio_home,
    "the participant in Go": go_participant,
    "Chromium": chromium_home,
    "axe-core": axe_script,
    "zsh": zsh_home,
    "fish": fish_home,
}


def main() -> int:
    """Fetch all parts at the same time; one line for each."""
    with ThreadPoolExecutor() as threads:
        results = list(threads.map(_fetch, PARTS))
    return 1 if os.environ.get("CI") and not all(results) else 0


def _fetch(part: str) -> bool:
    began = time.monotonic()
    try:
        PARTS[part]()
    except Missing as missing:
        _say(f"{part} is missing: {missing}; its tests will not run")
        return False
    _say(f"{part} is ready ({time.monotonic() - began:.1f} s)")
    return True


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")  # in one piece: several threads speak
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
