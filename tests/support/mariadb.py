"""A real MariaDB server for the tests, from Debian's packages (`debian`)."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pymysql

from .debian import libraries, unpacked
from .server import Server

PACKAGE = "mariadb-server-core"
_START_SECONDS = 180
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
        return {**os.environ, "LD_LIBRARY_PATH": libraries(self._home)}


def mariadb_programs() -> Path:
    """Give the folder of the unpacked server, downloaded if it is not cached.

    Raises:
        Missing: this is no Debian, or apt cannot give the packages.
    """
    return unpacked("mariadb", PACKAGE, "usr/sbin/mariadbd")
