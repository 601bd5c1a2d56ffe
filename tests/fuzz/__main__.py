"""One fuzzer: `python -m tests.fuzz TARGET FOLDER [libFuzzer options]` looks for bytes that break a promise.

FOLDER keeps what was found interesting, and an input that broke something as `crash-...`; `python -m tests.fuzz TARGET
FILE` runs that one again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["choreo.events", "choreo.services.letters", "choreo.tracing.headers"]):
    from .targets import TARGETS, seeds


def main() -> None:
    """Run libFuzzer; it ends the process."""
    name, place, *options = sys.argv[1:]
    folder = Path(place)
    if not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(name)):
            (folder / f"seed-{number}").write_bytes(seed)
    found = folder.parent if folder.is_file() else folder
    arguments = [sys.argv[0], place, f"-artifact_prefix={found}/", "-timeout=20", "-rss_limit_mb=1500", *options]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
