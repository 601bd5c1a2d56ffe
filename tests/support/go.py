"""Programs that are built from their Go modules: no registry of images, no engine, sums checked by Go."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .parts import Missing

_OLDEST = (1, 24)


def go_version(purpose: str) -> str:
    """Give the version of the Go here, as `go1.24.6`; what is built depends on it.

    Args:
        purpose: what it is needed for, as in "which builds Docker Compose once".

    Raises:
        Missing: Go is missing or too old.
    """
    get = f"install Go {'.'.join(map(str, _OLDEST))} or newer, {purpose} (Debian: apt-get install golang-go)"
    if shutil.which("go") is None:
        raise Missing(get)
    shown = run("go", "env", "GOVERSION", cwd=Path("/"))
    numbers = re.match(r"go(\d+)\.(\d+)", shown)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise Missing(f"the Go here is too old; {get}")
    return shown.split()[0]


def build(
    module: str, package: str, program: Path, *, prefix: Sequence[str] = (), files: Mapping[str, str] | None = None
) -> None:
    """Build a program.

    Args:
        module: with its version, as `example.com/tool@v1.2.3`.
        package: within the module, as `./cmd`.
        program: where it goes; its folder is used for the sources meanwhile.
        prefix: put before the command that builds, as `nice`.
        files: what stands in some of its files instead, by their paths within the module.
    """
    found = json.loads(run("go", "mod", "download", "-json", module, cwd=program.parent))
    # The module cache is read-only and `go build` wants to be inside the main module: so a copy.
    source = program.parent / "source"
    shutil.copytree(found["Dir"], source, copy_function=shutil.copyfile)
    for path in (source, *source.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    for name, text in (files or {}).items():
        (source / name).chmod(0o644)
        (source / name).write_text(text)
    run(*prefix, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(program), package, cwd=source)
    shutil.rmtree(source)


def run(*command: str, cwd: Path) -> str:
    """Run a command of Go's, without cgo, and give its output."""
    environment = {**os.environ, "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()
