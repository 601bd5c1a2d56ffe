"""Programs from Debian's packages for the tests, without installing anything on the system.

What `apt-get` would install for a package is downloaded and unpacked into the cache, and run from there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from .cache import cached
from .parts import Missing

_DOWNLOAD_SECONDS = 300
_CHANGED = re.compile(r"^Inst (\S+) .*?\((\S+) ", re.MULTILINE)


def unpacked(name: str, package: str, program: str) -> Path:
    """Give the folder of a package with all that it needs here, downloaded if it is not cached.

    Args:
        name: in the cache; system and machine are added.
        package: Debian's.
        program: a path within it that must be there then.

    Raises:
        Missing: this is no Debian, or apt cannot give the packages.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(f"there is no {tool}: it comes from Debian's package {package}")
    return cached(f"{name}-{platform.machine()}-{_release()}", lambda folder: _download(folder, package, program))


def libraries(home: Path) -> str:
    """Give the folders of an unpacked package's libraries, as `LD_LIBRARY_PATH`."""
    found = [*sorted(home.glob("usr/lib/*-linux-gnu")), *sorted(home.glob("lib/*-linux-gnu"))]
    found += sorted({library.parent for folder in found for library in folder.glob("*/*.so*")})  # e.g. pulseaudio's
    return ":".join(str(folder) for folder in found)


def _release() -> str:
    """Name the system that the packages are for: they need its C library."""
    lines = Path("/etc/os-release").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    return re.sub(r"[^a-z0-9.]", "", f"{known.get('ID', '')}{known.get('VERSION_ID', '')}".lower())


def _download(folder: Path, package: str, program: str) -> None:
    wanted = _closure(package)
    if not wanted and os.geteuid() == 0:
        _apt("update")  # a new machine has no lists of packages
        wanted = _closure(package)
    if not wanted:
        raise Missing(f"apt knows no {package}; run `apt-get update`" + ("" if os.geteuid() == 0 else " as root"))
    files = folder / "packages"
    files.mkdir()
    # apt's own sandbox user may not write into the cache of whoever runs this.
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    try:
        _apt(*options, "download", *wanted, cwd=files)
    except Missing:
        if os.geteuid() != 0:
            raise
        _apt("update")  # the lists are older than what the server still has
        _apt(*options, "download", *_closure(package), cwd=files)
    for each in sorted(files.iterdir()):
        done = subprocess.run(["dpkg", "-x", str(each), str(folder)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"{each.name} cannot be unpacked: {done.stderr.strip()[-300:]}")
    shutil.rmtree(files)
    if not (folder / program).exists():
        raise Missing(f"Debian's package {package} holds no {program}")


def _closure(package: str) -> list[str]:
    """The packages, with versions, that this system lacks to run it."""
    done = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", "--reinstall", package],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return [f"{name}={version}" for name, version in _CHANGED.findall(done.stdout)]


def _apt(*arguments: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=_DOWNLOAD_SECONDS,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"`apt-get {arguments[0]}` took more than {_DOWNLOAD_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise Missing(f"apt-get failed: {' '.join(lines)[:300]}")
