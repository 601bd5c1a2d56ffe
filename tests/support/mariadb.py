"""A real MariaDB server for the tests, from Debian's packages.

Nothing is installed on the system: what `apt-get` would install for the server is downloaded and unpacked into the
cache, and the server is run from there.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pymysql

from .cache import cached
from .parts import Missing
from .server import Server

PACKAGE = "mariadb-server-core"
_START_SECONDS = 60
_DOWNLOAD_SECONDS = 300
_CHANGED = re.compile(r"^Inst (\S+) .*?\((\S+) ", re.MULTILINE)
_SETTINGS = (
    "--no-defaults",
    "--skip-networking",
    "--skip-name-resolve",
    "--innodb-flush-log-at-trx-commit=0",  # the tests kill our processes, never this one
    "--innodb-buffer-pool-size=32M",
    "--default-time-zone=+05:45",  # nothing of ours may depend on the server's zone
    "--character-set-server=latin1",  # nor on its character set
)


class MariaDBServer(Server):
    """One server on a Unix socket in a temporary folder.

    Args:
        home: the folder of the unpacked packages, what `mariadb_programs` gives.
    """

    def __init__(self, home: Path) -> None:
        super().__init__("MariaDB", "choreo-maria-")
        self._home = home
        self._counter = itertools.count(1)

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self.root / "socket"

    def start(self) -> None:
        """Make the data folder and start the server; returns when it answers."""
        user = ["--user=root"] if os.geteuid() == 0 else []  # it refuses root unless told
        share = self._home / "usr/share/mysql"
        data = self.root / "data"
        data.mkdir()
        with (self.root / "log").open("ab") as log:
            # What Debian's own script would do; it looks for its files where the packages are installed.
            made = b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\n" + b"".join(
                (share / name).read_bytes()
                for name in ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
            )
            subprocess.run(
                [*self._command(), *user, "--bootstrap", "--skip-grant-tables"],
                check=True,
                input=made,
                stdout=log,
                stderr=log,
                env=self._environment(),
                timeout=_START_SECONDS,
            )
        command = [*self._command(), *user, f"--socket={self.path}", "--skip-grant-tables"]
        self.launch(command, self._answers, seconds=_START_SECONDS, env=self._environment())

    def create_database(self) -> str:
        """Make a new, empty database; give its URL."""
        name = f"t{next(self._counter)}"
        self._sql(f"CREATE DATABASE {name}")
        return f"mysql://root@localhost/{name}?unix_socket={quote(str(self.path))}"

    def drop_database(self, url: str) -> None:
        """Drop the database of a URL."""
        self._sql(f"DROP DATABASE IF EXISTS {url.partition('localhost/')[2].partition('?')[0]}")

    def _sql(self, statement: str) -> None:
        with pymysql.connect(unix_socket=str(self.path), user="root") as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def _command(self) -> list[str]:
        return [
            str(self._home / "usr/sbin/mariadbd"),
            *_SETTINGS,
            f"--datadir={self.root / 'data'}",
            f"--tmpdir={self.root}",
            f"--pid-file={self.root / 'pid'}",
            f"--lc-messages-dir={self._home / 'usr/share/mysql/english'}",
            f"--character-sets-dir={self._home / 'usr/share/mysql/charsets'}",
            f"--plugin-dir={self._home / 'usr/lib/mysql/plugin'}",
        ]

    def _environment(self) -> dict[str, str]:
        libraries = [str(folder) for folder in sorted(self._home.glob("usr/lib/*-linux-gnu"))]
        libraries += [str(folder) for folder in sorted(self._home.glob("lib/*-linux-gnu"))]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def mariadb_programs() -> Path:
    """Give the folder of the unpacked server, downloaded if it is not cached.

    Raises:
        Missing: this is no Debian, or apt cannot give the packages.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program}: its server comes from Debian's package {PACKAGE}")
    return cached(f"mariadb-{platform.machine()}-{_release()}", _download)


def _release() -> str:
    """Name the system that the packages are for: they need its C library."""
    lines = Path("/etc/os-release").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    return re.sub(r"[^a-z0-9.]", "", f"{known.get('ID', '')}{known.get('VERSION_ID', '')}".lower())


def _download(folder: Path) -> None:
    wanted = _closure()
    if not wanted and os.geteuid() == 0:
        _apt("update")  # a new machine has no lists of packages
        wanted = _closure()
    if not wanted:
        raise Missing(f"apt knows no {PACKAGE}; run `apt-get update`" + ("" if os.geteuid() == 0 else " as root"))
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
        _apt(*options, "download", *_closure(), cwd=files)
    for package in sorted(files.iterdir()):
        done = subprocess.run(["dpkg", "-x", str(package), str(folder)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"{package.name} cannot be unpacked: {done.stderr.strip()[-300:]}")
    shutil.rmtree(files)
    if not (folder / "usr/sbin/mariadbd").exists():
        raise Missing(f"Debian's package {PACKAGE} holds no mariadbd")


def _closure() -> list[str]:
    """The packages, with versions, that this system lacks to run the server."""
    done = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", "--reinstall", PACKAGE],
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
