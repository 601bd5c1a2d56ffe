"""Fixtures of the whole suite.

Shared helpers live in `tests/support` and are imported as `tests.support.*`: pytest's importlib mode makes `tests` a
namespace package. It must not get an `__init__.py`, which would make it part of the package at the checkout's root.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import parts
from tests.support.apicurio import ApicurioServer, apicurio_home
from tests.support.jaeger import JaegerServer, cached_jaeger
from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.mariadb import MariaDBServer, mariadb_programs
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import running

# A case that takes longer than Hypothesis' 200 ms is a busy machine, and says nothing of what is tested.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell starts what runs in its background with SIGINT ignored, which every program that a test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


PATIENCES = (
    "alerting._SURVEY",
    "cli.observing._ASK",
    "cli.observing._CONNECT",
    "cli.observing._SURVEY",
    "cli.suggesting.PATIENCE",
    "door._ASK",
    "web.acting._PATIENCE",
    "web.records._PATIENCE",
    "web.sources._PATIENCE",
)
"""Where people are told after some seconds that a broker or a store does not answer: a busy machine takes longer."""


@pytest.fixture(scope="session", autouse=True)
def _patient() -> Iterator[None]:
    """Wait longer than a person would for brokers and stores; a test of an impatient one sets its own limit."""
    with pytest.MonkeyPatch.context() as patch:
        for place in PATIENCES:
            patch.setattr(f"choreo.saga.{place}", 60.0)
        patch.setattr("choreo.services.health.PATIENCE", 60.0)
        patch.setattr("choreo.services.probes._PATIENCE", 60.0)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Count, in the run's last lines, what did not run for want of a real part."""
    yield
    for line in parts.count_skipped(terminalreporter.getreports("skipped")):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget how a command of an earlier test has set up logging, and how wide the terminal of the run is."""
    structlog.reset_defaults()  # what was standard error then is closed by now
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, one for the whole run."""
    yield from running("PostgreSQL", lambda: PostgresServer(postgres_programs()))


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """A real MariaDB server, one for the whole run."""
    yield from running("MariaDB", lambda: MariaDBServer(mariadb_programs()))


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> Iterator[str]:
    """The URL of a fresh, empty MariaDB database."""
    url = mariadb_server.create_database()
    yield url
    mariadb_server.drop_database(url)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """A real Apache Kafka, one for the whole run; a test that kills the broker starts its own."""
    yield from running("Apache Kafka", lambda: KafkaServer(kafka_jars()))


@pytest.fixture
def kafka_bootstrap(kafka_server: KafkaServer) -> str:
    """The address of a real Apache Kafka, `host:port`; use fresh topic and group names."""
    return kafka_server.bootstrap


@pytest.fixture(scope="session")
def apicurio() -> Iterator[ApicurioServer]:
    """A real schema registry, one for the whole run: use subjects that no other test uses."""
    yield from running("Apicurio Registry", lambda: ApicurioServer(apicurio_home()))


@pytest.fixture(scope="session")
def jaeger() -> Iterator[JaegerServer]:
    """A real Jaeger, one for the whole run: use a saga key or a namespace that no other test uses."""
    yield from running("Jaeger", lambda: JaegerServer(cached_jaeger()))


@pytest.fixture(params=["memory", "local", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a broker: the test runs once in memory, once on a fresh file and once on the shared Kafka."""
    if request.param == "kafka":
        return f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    return f"local:{tmp_path / 'broker.db'}" if request.param == "local" else f"memory:{uuid.uuid4().hex}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh store: the test runs once on a SQLite file and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))
