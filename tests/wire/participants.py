"""Participants to be tested: a command that runs one, started, killed and started again on a broker.

`CHOREO_PARTICIPANT="./warehouse --verbose" .venv/bin/pytest tests/wire` tests one more, in whatever language.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.support.cache import cached
from tests.support.cli import Program, environment
from tests.support.go import go_version, run

SOURCE = Path(__file__).parent / "participant"
SESSION = 2
"""Seconds after which a killed participant's partitions are given to the next one."""
SHOP = Path(__file__).parent / "shop.py"


def go_participant() -> Path:
    """Give the program that is written in Go, built from its sources as they are now.

    Raises:
        Missing: Go is missing or too old.
    """
    version = go_version("which builds the participant of the conformance test")
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return cached(f"participant-{digest.hexdigest()[:12]}-{version}", _build) / "warehouse"


def _build(folder: Path) -> None:
    run("go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(folder / "warehouse"), ".", cwd=SOURCE)
    run("go", "vet", ".", cwd=SOURCE)


def _own() -> list[str]:
    return ["saga", "run", f"{SHOP}:warehouse"]


COMMANDS: dict[str, Callable[[], list[str]]] = {"choreo": _own, "go": lambda: [str(go_participant())]}
"""The command line of each participant that is tested."""

if os.environ.get("CHOREO_PARTICIPANT"):
    COMMANDS["given"] = lambda: shlex.split(os.environ["CHOREO_PARTICIPANT"])


class Participant:
    """One participant with topics, a consumer group and a folder of its own.

    Args:
        name: one of `COMMANDS`.
        bootstrap: the broker, `host:port`.
        folder: for its output and its store.
    """

    def __init__(self, name: str, bootstrap: str, folder: Path) -> None:
        self.prefix = f"w{uuid.uuid4().hex[:8]}."
        self.broker = f"kafka://{bootstrap}"
        self.home = folder / "home"
        self.home.mkdir()
        env = environment(broker=self.broker, topic_prefix=self.prefix, home=self.home, session=SESSION)
        self.program = Program(COMMANDS[name](), env=env, folder=folder, name=name)

    def restart(self, *, forgetful: bool = False) -> None:
        """Kill it and start it again.

        Args:
            forgetful: its store is lost meanwhile.
        """
        self.program.kill()
        if forgetful:
            shutil.rmtree(self.home)
            self.home.mkdir()
        self.program.start()
