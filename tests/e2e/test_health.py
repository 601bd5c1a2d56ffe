"""`saga run --health` as a user has it, and the health check of the containers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cli import Program, environment, saga
from tests.support.console import validate
from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.server import running

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "quickstart" / "shop.py"


@pytest.fixture
def kafka() -> Iterator[KafkaServer]:
    """A broker of its own, to be killed."""
    yield from running("Apache Kafka", lambda: KafkaServer(kafka_jars()))


@pytest.mark.kafka
@pytest.mark.slow
def test_without_its_broker_a_process_is_live_and_not_ready_until_that_is_back(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    env = environment(home=tmp_path, broker=f"kafka://{kafka.bootstrap}", session=6)
    program = Program(["saga", "run", SHOP, "--health", "0", "--create-topics"], env=env, folder=tmp_path, name="run")
    program.start()
    try:
        program.until("health 127.0.0.1:")
        found = re.search(r"health (127\.0\.0\.1:\d+)", program.output)
        assert found is not None
        with httpx.Client(base_url=f"http://{found[1]}", timeout=30) as client:
            _until(client, 200)
            kafka.kill()
            body = _until(client, 503)
            assert [part["broker"] for part in body["parts"]] == [False] * len(body["parts"])
            assert all("the broker does not answer" in " ".join(part["why"]) for part in body["parts"])
            assert client.get("/healthz").status_code == 200
            kafka.start()
            body = _until(client, 200)
            assert {part["lag"] for part in body["parts"]} == {0}
        assert program.stop() == 0
    finally:
        program.close()


def _until(client: httpx.Client, status: int) -> Any:
    """Ask until every part says the same."""
    end = time.monotonic() + 120
    while True:
        answer = client.get("/readyz")
        body = validate(answer.json(), "saga.health/v1")
        if answer.status_code == status and {part["ready"] for part in body["parts"]} == {status == 200}:
            return body
        assert time.monotonic() < end, body
        time.sleep(0.1)


def _check(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compose" / "healthy.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment(health=address), check=False)


def test_a_process_tells_when_it_is_ready_and_the_containers_check_asks_it(tmp_path: Path) -> None:
    env = environment(home=tmp_path)
    program = Program(["saga", "run", SHOP, "--health", "0"], env=env, folder=tmp_path, name="run")
    program.start()
    try:
        program.until("health 127.0.0.1:")
        found = re.search(r"health (127\.0\.0\.1:\d+)", program.output)
        assert found is not None
        with httpx.Client(base_url=f"http://{found[1]}", timeout=30) as client:
            body = _until(client, 200)
            assert body["ok"]
            assert "coordinator" in {part["kind"] for part in body["parts"]}
        ready = _check(found[1])
        assert ready.returncode == 0 and "is ready" in ready.stdout, ready.stdout
        taken = saga("run", SHOP, "--health", found[1], env=environment(home=tmp_path / "other"))
        assert taken.returncode == 2
        assert taken.stderr.startswith(f"error: health: cannot listen on {found[1]}: ")
        assert program.stop() == 0
        assert _check(found[1]).returncode == 1
    finally:
        program.close()
