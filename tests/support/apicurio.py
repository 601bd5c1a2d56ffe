"""A real schema registry (Apicurio, in memory) on loopback, fetched once by Maven.

From the checkout's root, `python -m tests.support.apicurio` prints its URL and runs until its input closes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import httpx

from .cache import cached
from .kafka import GET_MAVEN, require_java
from .parts import Missing
from .ports import free_ports
from .server import Server, run_by_hand

VERSION = "3.0.9"
"""The newest that runs on Java 17."""

_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy"
"""Newer ones read the artifact's parent too, which is not published."""

_START_SECONDS = 180


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


class ApicurioServer(Server):
    """One registry that keeps its schemas in memory, with compatibility BACKWARD for every subject.

    Args:
        home: what `apicurio_home` gives.
    """

    def __init__(self, home: Path) -> None:
        super().__init__("Apicurio", "choreo-apicurio-")
        self._home = home
        (self.port,) = free_ports(1)

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
        self.launch(["java", *options, *address, "-jar", program], self._answers, seconds=_START_SECONDS)

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


if __name__ == "__main__":
    run_by_hand("Apicurio", lambda: ApicurioServer(apicurio_home()), lambda server: server.url)
