"""A real Apache Kafka (KRaft, one node) on loopback, from jars that Maven fetches once.

From the checkout's root, `python -m tests.support.kafka` prints the bootstrap address and runs until its input closes.
"""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

from .cache import cached
from .parts import Missing
from .ports import free_ports
from .server import Server, run_by_hand

_POM = Path(__file__).with_name("kafka-pom.xml")
_START_SECONDS = 180
_OLDEST_JAVA = 17
_GET_JAVA = "install a Java runtime, version 17 or newer (Debian: apt-get install default-jre-headless)"
GET_MAVEN = "install Maven, which fetches the jars once (Debian: apt-get install maven)"

_LOGGING = """<Configuration><Appenders><Console name="console"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console>
</Appenders><Loggers><Root level="WARN"><AppenderRef ref="console"/></Root></Loggers></Configuration>
"""


def kafka_jars() -> Path:
    """Give the folder of Kafka's jars, fetched if they are not cached.

    Raises:
        Missing: Java is missing or too old; or the jars are not cached and Maven is missing.
    """
    require_java()
    found = re.search(r"<kafka\.version>(.+)</kafka\.version>", _POM.read_text())
    assert found is not None
    return cached(f"kafka-{found[1]}", _fetch)


def require_java() -> None:
    """Look for a Java that is new enough.

    Raises:
        Missing: there is none.
    """
    if shutil.which("java") is None:
        raise Missing(_GET_JAVA)
    shown = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', shown)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        raise Missing(f"the Java here is too old; {_GET_JAVA}")


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise Missing(GET_MAVEN)
    options = [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", _POM, "dependency:copy-dependencies", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch Kafka:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


class KafkaServer(Server):
    """One broker with an empty log; topics are not created by themselves, and nothing is ever deleted by age.

    Args:
        jars: the folder that `kafka_jars` gives.
        settings: server properties beside and above our own.
    """

    def __init__(self, jars: Path, **settings: object) -> None:
        super().__init__("Kafka", "choreo-kafka-")
        self._jars = jars
        self.port, controller = free_ports(2)
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.root / "data",
            "auto.create.topics.enable": "false",
            "num.partitions": 4,
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,  # tests wait for the sessions of the dead
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "log.retention.ms": -1,  # the real orders of our tests are years old
            **settings,
        }
        self._config = self.root / "server.properties"
        self._config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        (self.root / "log4j2.xml").write_text(_LOGGING)

    @property
    def bootstrap(self) -> str:
        """The address, `127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the broker, or start it again on the same port and data after `kill`; returns when it listens."""
        if not (self.root / "data").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
            command = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config))
            done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.root)
            if done.returncode:
                raise RuntimeError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")
        self.launch(self._java("kafka.Kafka", str(self._config)), self._listens, seconds=_START_SECONDS)

    def _java(self, main: str, *arguments: str) -> list[str]:
        # A small heap and the quick compiler: a broker for tests lives for minutes.
        options = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        logging = f"-Dlog4j2.configurationFile={self.root / 'log4j2.xml'}"
        return ["java", *options, logging, "-cp", f"{self._jars}/*", main, *arguments]

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True


if __name__ == "__main__":
    run_by_hand("Apache Kafka", lambda: KafkaServer(kafka_jars()), lambda server: server.bootstrap)
