"""Docker Compose itself, to judge `compose/compose.yaml`: built from its Go module; that needs no Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from .cache import cached
from .parts import Missing

VERSION = "v2.40.3"
_MODULE = f"github.com/docker/compose/v2@{VERSION}"
_GET_GO = "install Go 1.24 or newer, which builds Docker Compose once (Debian: apt-get install golang-go)"
_OLDEST_GO = (1, 24)


def compose_binary() -> Path:
    """Give the program `docker-compose`, built if it is not cached.

    Raises:
        Missing: Go is missing or too old.
    """
    if shutil.which("go") is None:
        raise Missing(_GET_GO)
    shown = _run("go", "env", "GOVERSION", cwd=Path("/"))
    numbers = re.match(r"go(\d+)\.(\d+)", shown)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_GO:
        raise Missing(f"the Go here is too old; {_GET_GO}")
    return cached(f"compose-{VERSION}-{shown.split()[0]}", _build) / "docker-compose"


def _build(folder: Path) -> None:
    found = json.loads(_run("go", "mod", "download", "-json", _MODULE, cwd=folder))
    # The module cache is read-only and `go build` wants to be inside the main module: so a copy.
    source = folder / "source"
    shutil.copytree(found["Dir"], source, copy_function=shutil.copyfile)
    for path in source.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    source.chmod(0o755)
    _run("go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(folder / "docker-compose"), "./cmd", cwd=source)
    shutil.rmtree(source)


def _run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()
