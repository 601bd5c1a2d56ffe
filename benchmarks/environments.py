"""Where peers run: an environment for each, with its pins (`peers/*.txt`), made once and kept in the cache."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.cache import cached
from tests.support.npm import packed
from tests.support.parts import Missing

RESTATE = "1.7.12"
"""The version of Restate's server."""
_PINS = Path(__file__).parent / "peers"
_PATIENCE = 600


def environment(peer: str) -> Path:
    """Give the Python that has a peer's packages, installed if they are not cached.

    Args:
        peer: the name of its pins.

    Raises:
        Missing: its packages cannot be installed here.
    """
    pins = _PINS / f"{peer}.txt"
    known = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        _run(peer, [sys.executable, "-m", "venv", str(folder)])
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        _run(peer, [*install, "--requirement", str(pins)])

    return cached(f"peer-{peer}-{known}", build) / "bin" / "python"


def pinned(peer: str) -> str:
    """Give the version of a peer: the first one that its pins name."""
    lines = (_PINS / f"{peer}.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if "==" in line)


def restate_server() -> Path:
    """Give the program `restate-server`, fetched from npm if it is not cached.

    Raises:
        Missing: npm is missing, or has no server for this machine.
    """
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"restate-server-{platform.system().lower()}-{machine}"

    def build(folder: Path) -> None:
        with tarfile.open(packed(f"@restatedev/{name}@{RESTATE}", folder)) as archive:
            archive.extractall(folder, filter="data")

    return cached(f"{name}-{RESTATE}", build) / "package" / "bin" / "restate-server"


def _run(peer: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"the packages of {peer} could not be installed within {_PATIENCE} s") from None
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise Missing(f"the packages of {peer} could not be installed: {reason}")
