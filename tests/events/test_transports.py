"""Opening a broker by its address: what each form means, and one clear line for a wrong one."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from choreo.events.clock import SECOND
from choreo.events.envelope import Record
from choreo.events.errors import BrokerUnreachable, CommitRefused, ConfigurationError
from choreo.events.kafka_security import parse_address, security_options
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec
from choreo.events.transports import Prefixed, connect

HERE = Settings()


@pytest.mark.parametrize(
    "url",
    ["", "orders", "redis://host", "memory://x", "local:", "local:///x", "kafka:host:9092", "kafka://", "kafka://h:x"],
)
def test_a_wrong_address_says_how_to_write_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write (kafka|memory|local)"):
        connect(url, HERE)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="CHOREO_KAFKA_PASSWORD") as refused:
        connect("kafka://user:s3cret@127.0.0.1:9092", HERE)
    assert "s3cret" not in str(refused.value)


def test_the_address_is_shown_as_given(tmp_path: Path) -> None:
    for url in ("memory:shop", f"local:{tmp_path}/broker.db", "kafka://127.0.0.1:9092,localhost:9093"):
        assert connect(url, HERE).url == url


def test_a_prefix_in_the_settings_wraps_any_broker() -> None:
    assert isinstance(connect("memory:", Settings(topic_prefix="staging.")), Prefixed)


def test_other_brokers_do_not_load_kafkas_client() -> None:
    program = (
        "import sys; from choreo.events.transports import connect; connect('memory:'); connect('local:x'); "
        "sys.exit('aiokafka' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_a_named_broker_in_memory_outlives_its_connections_and_the_unnamed_does_not() -> None:
    for url, kept in (("memory:kept-by-name", True), ("memory:", False)):
        async with connect(url, HERE) as one:
            await one.create_topics([TopicSpec("orders", 1)])
            async with connect(url, HERE) as two:
                await two.send([Record("orders", b"k", b"v")])
            assert len(await one.snapshot("orders")) == 1
        async with connect(url, HERE) as later:
            assert list(await later.topics()) == (["orders"] if kept else [])


async def test_a_connection_that_is_not_open_says_so() -> None:
    with pytest.raises(ConfigurationError, match="not open; use `async with"):
        await connect("memory:", HERE).topics()


async def test_the_dead_are_dropped_by_the_injected_clock_alone() -> None:
    now = 0
    async with MemoryBroker(clock=lambda: now, session=30) as broker:
        await broker.create_topics([TopicSpec("orders", 2)])
        one = await broker.subscribe("group", ["orders"])
        two = await broker.subscribe("group", ["orders"])
        for _ in range(20):
            await one.poll(most=1, timeout=0)
            await two.poll(most=1, timeout=0)
        (left,), (right,) = one.assignment(), two.assignment()
        await two.kill()  # type: ignore[attr-defined]
        now = 30 * SECOND - 1
        for _ in range(20):
            await one.poll(most=1, timeout=0)
        assert one.assignment() == {left}
        now = 30 * SECOND
        for _ in range(20):
            await one.poll(most=1, timeout=0)
        assert one.assignment() == {left, right}
        with pytest.raises(CommitRefused):
            await two.commit({right: 1})


async def test_the_settings_say_how_long_the_dead_keep_their_work(tmp_path: Path) -> None:
    async with connect(f"local:{tmp_path}/broker.db", Settings(session=0.2)) as broker:
        await broker.create_topics([TopicSpec("orders", 2)])
        dead = await broker.subscribe("group", ["orders"])
        await dead.poll(most=1, timeout=0)
        await dead.kill()  # type: ignore[attr-defined]
        heir = await broker.subscribe("group", ["orders"])
        async with asyncio.timeout(9):  # the default session is longer
            while not heir.assignment():
                await heir.poll(most=1, timeout=0.05)


async def test_a_publisher_in_another_thread_wakes_the_reader() -> None:
    async with MemoryBroker() as broker:
        await broker.create_topics([TopicSpec("orders", 1)])
        consumer = await broker.subscribe("group", ["orders"])
        polling = asyncio.create_task(consumer.poll(most=1, timeout=60))
        await asyncio.sleep(0.1)
        thread = threading.Thread(target=lambda: asyncio.run(broker.send([Record("orders", b"k", b"v")])))
        thread.start()
        assert len(await asyncio.wait_for(polling, 60)) == 1
        thread.join()


# -- Kafka's address and security --------------------------------------------------------------------------------------


def test_several_brokers_and_ipv6_are_understood() -> None:
    assert parse_address("kafka://a:1,b, [::1]:9093,[::1]/") == ["a:1", "b:9092", "[::1]:9093", "[::1]:9092"]


@pytest.mark.parametrize("host", ["localhost:9092", "127.0.0.1:9092", "[::1]:9092"])
def test_plaintext_is_for_loopback(host: str) -> None:
    assert security_options([host], HERE) == {"security_protocol": "PLAINTEXT"}


def test_plaintext_to_another_machine_must_be_allowed() -> None:
    with pytest.raises(ConfigurationError, match=r"kafka.internal:9092 would not be encrypted.*ALLOW_PLAINTEXT=true"):
        connect("kafka://127.0.0.1:9092,kafka.internal:9092", HERE)
    allowed = Settings(kafka_allow_plaintext=True)
    assert security_options(["kafka.internal:9092"], allowed)["security_protocol"] == "PLAINTEXT"


def test_a_login_is_encrypted_and_complete() -> None:
    login = {"kafka_user": "choreo", "kafka_password": "s3cret"}
    options = security_options(["far:9092"], Settings(kafka_security="SASL_SSL", **login))  # type: ignore[arg-type]
    context = options.pop("ssl_context")
    assert context.check_hostname and context.verify_mode.name == "CERT_REQUIRED"
    assert options == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "choreo",
        "sasl_plain_password": "s3cret",
    }
    with pytest.raises(ConfigurationError, match="not be encrypted"):
        security_options(["far:9092"], Settings(kafka_security="SASL_PLAINTEXT", **login))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kafka_security": "TLS"}, "CHOREO_KAFKA_SECURITY is 'TLS'; it must be one of"),
        ({"kafka_security": "SASL_SSL"}, "SASL_SSL needs CHOREO_KAFKA_USER and CHOREO_KAFKA_PASSWORD"),
        ({"kafka_security": "SASL_SSL", "kafka_mechanism": "GSSAPI"}, "CHOREO_KAFKA_MECHANISM is 'GSSAPI'"),
        ({"kafka_security": "SSL", "kafka_ca": Path("missing.pem")}, "CHOREO_KAFKA_CA missing.pem cannot be used"),
        ({"kafka_security": "SSL", "kafka_certificate": Path("no.pem")}, "CHOREO_KAFKA_CERTIFICATE no.pem"),
    ],
)
def test_a_wrong_security_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        security_options(["far:9092"], Settings(**settings))  # type: ignore[arg-type]


async def test_an_unreachable_kafka_gets_one_line_and_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(BrokerUnreachable, match=rf"127.0.0.1:{port} \(.*refused.*\): is it running.*CHOREO_BROKER"):
            async with connect(f"kafka://127.0.0.1:{port}", HERE):
                pass
    assert not [record for record in caplog.records if record.name.startswith("aiokafka")]


async def test_a_kafka_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreo.events.kafka.CONNECT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BrokerUnreachable, match="no answer in time"):
            async with connect(f"kafka://127.0.0.1:{silent.getsockname()[1]}", HERE):
                pass
