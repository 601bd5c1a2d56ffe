"""Docker Compose itself reads `compose/compose.yaml`; that needs no engine and pulls nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from choreo.events.database import Database
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect
from choreo.saga.web.visitors import Role, Tokens, Visitor
from tests.support import parts
from tests.support.commands import COMPOSE_FILE, compose_commands
from tests.support.compose import compose_binary
from tests.support.jaeger import CONFIG, VERSION
from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.compose
FOLDER = COMPOSE_FILE.parent
ONCE = {"topics", "orders"}
"""Services that end by themselves."""


@pytest.fixture(scope="module")
def docker_compose() -> Path:
    try:
        return compose_binary()
    except parts.Missing as missing:
        parts.missing("Docker Compose", str(missing))


def _read(docker_compose: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("POSTGRES_PASSWORD", "WEB_TOKEN")}
    command = [docker_compose, "--file", COMPOSE_FILE, *options, "--profile", "*", "config", "--format", "json"]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=FOLDER.parent, env=environment)


@pytest.fixture(scope="module")
def config(docker_compose: Path) -> dict[str, Any]:
    done = _read(docker_compose, "--env-file", str(FOLDER / ".env.example"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no warnings"
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def test_it_holds_the_shop_and_what_it_needs(config: dict[str, Any]) -> None:
    services = {"order", "inventory", "payment", "shipping", "notification", "fraud"}
    assert services | {"kafka", "postgres", "jaeger", "topics", "coordinator"} <= set(config["services"])
    assert config["services"]["coordinator"]["deploy"]["replicas"] == 2


def test_every_port_is_on_loopback(config: dict[str, Any]) -> None:
    ports = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_every_image_is_pinned_to_a_version(config: dict[str, Any]) -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    images = [service["image"] for service in config["services"].values()]
    images += re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(images) > len(config["services"])
    for image in images:
        assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+(-[a-z-]+)?(@sha256:[0-9a-f]{64})?", image), image


def test_everything_that_runs_on_is_checked_and_restarted(config: dict[str, Any]) -> None:
    for name, service in config["services"].items():
        if name in ONCE:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
            assert service["restart"] == "unless-stopped", name


def test_containers_of_ours_can_do_little(config: dict[str, Any]) -> None:
    for name in compose_commands():
        service = config["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
    last_stage = (FOLDER / "Dockerfile").read_text().rpartition("FROM ")[2]
    assert re.search(r"^USER \d+$", last_stage, re.MULTILINE)


def test_a_worker_starts_only_after_what_it_needs(config: dict[str, Any]) -> None:
    for name, service in config["services"].items():
        if service["image"].startswith("choreo:") and name not in ONCE and name != "web":
            conditions = {other: needed["condition"] for other, needed in service["depends_on"].items()}
            assert conditions == {
                "kafka": "service_healthy",
                "postgres": "service_healthy",
                "topics": "service_completed_successfully",
            }


def test_the_web_view_starts_after_the_coordinator_and_lets_nobody_in_without_the_token(config: dict[str, Any]) -> None:
    web = config["services"]["web"]
    assert {other: each["condition"] for other, each in web["depends_on"].items()} == {"coordinator": "service_healthy"}
    example = re.search(r"^WEB_TOKEN=(\S+)$", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    assert example is not None
    tokens = Tokens(web["environment"]["CHOREO_WEB_TOKENS"])
    assert tokens.visitor(example[1]) == Visitor("compose", Role.ADMIN)
    links = json.loads((FOLDER / "jaeger-links.json").read_text())["linkPatterns"]
    [port] = web["ports"]
    assert {each["url"].partition("/sagas/")[0] for each in links} == {f"http://127.0.0.1:{port['published']}"}


def test_each_service_has_a_database_of_its_own(config: dict[str, Any]) -> None:
    made = set(re.findall(r'^CREATE DATABASE "?(\w+)"?;', (FOLDER / "databases.sql").read_text(), re.MULTILINE))
    services = {
        name
        for name, argv in compose_commands().items()
        if argv[1] in ("run", "-m") and name not in (*ONCE, "coordinator")
    }
    assert services <= made
    assert config["services"]["postgres"]["environment"]["POSTGRES_DB"] == "saga"


def test_jaeger_runs_as_in_the_tests_and_is_where_spans_are_sent(config: dict[str, Any]) -> None:
    jaeger = config["services"]["jaeger"]
    (volume,) = jaeger["volumes"]
    assert (Path(volume["source"]), volume["read_only"]) == (CONFIG, True)
    assert jaeger["command"] == ["--config", volume["target"]]
    assert jaeger["image"].endswith(":2.13.0"), f"it is the release that the module {VERSION} is"
    assert VERSION == "v1.76.0"
    ports = set(re.findall(r":-(\d+)}", CONFIG.read_text()))
    assert {str(port["target"]) for port in jaeger["ports"]} <= ports
    sent_to = {
        (service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"], service["environment"]["OTEL_EXPORTER_OTLP_PROTOCOL"])
        for name, service in config["services"].items()
        if name in compose_commands()
    }
    assert sent_to == {("http://jaeger:4317", "grpc")}
    assert (
        'grpc: {endpoint: "${env:JAEGER_LISTEN_HOST:-127.0.0.1}:${env:JAEGER_OTLP_GRPC_PORT:-4317}"}'
        in CONFIG.read_text()
    )
    assert jaeger["healthcheck"]["test"][-1] == "http://127.0.0.1:13133/status"


def test_without_a_password_it_stops_in_one_line(docker_compose: Path) -> None:
    done = _read(docker_compose, "--env-file", os.devnull)
    assert done.returncode != 0
    assert "set it in compose/.env" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_secret_stands_in_the_file() -> None:
    text = COMPOSE_FILE.read_text()
    values = re.findall(r"PASSWORD: (\S+)", text) + re.findall(r"://\w+:(\S.*)@", text)
    values += re.findall(r"TOKENS: \w+:\w+=(\S+)", text)
    assert len(values) > 3
    for value in values:
        assert value.startswith(("${POSTGRES_PASSWORD", "${WEB_TOKEN")), value
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names == set(re.findall(r"^(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE))


@pytest.mark.kafka
async def test_a_real_kafka_starts_with_the_settings_of_the_file(
    config: dict[str, Any], kafka_server: KafkaServer
) -> None:
    """A broker of its own (the fixture only says whether there is one), with other ports and another folder."""
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in config["services"]["kafka"]["environment"].items()
    }
    ports = {}
    for inside in ("9092", "9093", "19092"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports[inside] = str(free.getsockname()[1])
    for name in ("listeners", "advertised.listeners", "controller.quorum.voters"):
        moved = re.sub(r":(\d+)", lambda port: f":{ports[port[1]]}", settings[name])
        settings[name] = moved.replace("//:", "//127.0.0.1:").replace("kafka:", "127.0.0.1:")
    del settings["log.dirs"]

    server = KafkaServer(kafka_jars(), **settings)
    server.port = int(ports["9092"])
    try:
        server.start()
        async with connect(f"kafka://{server.bootstrap}") as transport:
            assert await transport.create_topics([TopicSpec("orders", partitions=2)]) == ["orders"]
            assert "orders" in await transport.topics()
    finally:
        server.stop()


@pytest.mark.postgres
async def test_postgres_makes_the_databases(postgres_server: PostgresServer) -> None:
    server = PostgresServer(postgres_server.programs)
    try:
        server.start()
        server.run_file(FOLDER / "databases.sql")
        for name in re.findall(r'"?(\w+)"?;', (FOLDER / "databases.sql").read_text()):
            database = await Database.open(server.url(name))
            assert await database.read(lambda connection: connection.execute(text("SELECT 1")).scalar_one()) == 1
            await database.close()
    finally:
        server.stop()
