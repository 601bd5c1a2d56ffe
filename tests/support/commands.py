"""The commands of `compose/compose.yaml`: what the containers run, so that the tests can run exactly that."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

COMPOSE_FILE = Path(__file__).parent.parent.parent / "compose" / "compose.yaml"


def compose_commands() -> dict[str, list[str]]:
    """The command line of each container of ours, by the name of its service, as `["saga", "run", ...]`."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return {
        name: shlex.split(service["command"])
        for name, service in services.items()
        if service["image"].startswith("choreo:")
    }
