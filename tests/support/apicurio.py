"""A real schema registry (Apicurio, in memory) on loopback, fetched once by Maven.

From the checkout's root, `python -m tests.support.apicurio` prints its URL and runs until its input closes.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from .cache import cached
from .kafka import GET_MAVEN, require_java
from .parts import Missing
from .ports import free_ports
from .watchdog import Watchdog

VERSION = "3.0.9"
"""The newest that runs on Java 17."""

_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy"
"""Newer ones read the artifact's parent too, which is not published."""

_START_SECONDS = 90


def apicurio_home() -> Path:
    """Give the folder of the registry's program, fetched if it is not cached.

    Raises:
        Missing: Java is missing or too old; or the program is not cached and Maven is missing.
    """
    require_java()
    return cached(f"apicurio-{VERSION}", _fetch)


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise Missing(GET_MAVEN)
    done = subprocess.run(
        ["mvn", "-q", "-B", _PLUGIN, f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={folder}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch Apicurio:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()


class ApicurioServer:
    """One registry that keeps its schemas in memory, with compatibility BACKWARD for every subject.

    Args:
        home: what `apicurio_home` gives.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.root = Path(tempfile.mkdtemp(prefix="choreo-apicurio-"))
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    @property
    def url(self) -> str:
        """The base URL of its Confluent-compatible API, for `CHOREO_REGISTRY`."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def start(self) -> None:
        """Start it; returns when it answers."""
        (program,) = self._home.glob("*-runner.jar")
        # A small heap and the quick compiler: it lives for minutes.
        options = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        address = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}"]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["java", *options, *address, "-jar", str(program)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                start_new_session=True,
            )
        self._watchdog = Watchdog(self.process.pid, self.root)
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Apicurio did not start:\n{(self.root / 'log').read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it; there is nothing to keep."""
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        shutil.rmtree(self.root, ignore_errors=True)

    def _answers(self) -> bool:
        """Whether it takes the rule that Confluent's server has from the beginning, and this one has not."""
        try:
            answer = httpx.put(
                f"{self.url}/config",
                content=json.dumps({"compatibility": "BACKWARD"}),
                headers={"content-type": "application/vnd.schemaregistry.v1+json"},
                timeout=2,
                trust_env=False,
            )
        except httpx.HTTPError:
            return False
        return answer.status_code == 200


def main() -> None:
    """Run a registry until the input closes."""
    server = ApicurioServer(apicurio_home())
    try:
        server.start()
        print(server.url, flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(f"Apicurio is missing: {missing}")
