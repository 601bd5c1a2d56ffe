"""A deployment that rolls over, with real processes: the new version's sagas meet a process that lacks their code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Program, environment, saga

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

SHOP = """
from choreo import Event, Saga, step

class Placed(Event, topic="orders", key="order_id"):
    order_id: str

class Reserved(Event, topic="inventory", key="order_id"):
    order_id: str

class Declined(Event, topic="payments", key="order_id"):
    order_id: str

class Paid(Event, topic="payments", key="order_id"):
    order_id: str

class Release(Event, topic="inventory.commands", key="order_id"):
    order_id: str

class Released(Event, topic="inventory", key="order_id"):
    order_id: str

class Order(Saga, start=Placed, key="order_id", version={version}):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="10m")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="{within}")
"""


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.close()


def _until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_fault_49_a_rollback_under_running_sagas_pauses_them_until_their_code_is_back(
    postgres_url: str, tmp_path: Path, programs: list[Program]
) -> None:
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    old.write_text(SHOP.format(version=1, within="10m"))
    new.write_text(SHOP.format(version=2, within="1h"))
    env = environment(home=tmp_path / "home", store=postgres_url)

    def run(path: Path, name: str) -> Program:
        program = Program(["saga", "run", f"{path}:Order"], env=env, folder=tmp_path, name=name)
        programs.append(program)
        program.start()
        program.until("running")
        return program

    def publish(kind: str) -> None:
        done = saga("publish", f"{new}:{kind}", "--data", json.dumps({"order_id": "4711"}), env=env)
        assert done.returncode == 0, done.stderr

    def status() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(saga("status", "4711", "-o", "json", env=env).stdout or "{}")
        return told

    first = run(new, "new")
    publish("Placed")
    _until(lambda: status().get("phase") == "RUNNING")
    first.kill()
    run(old, "old")
    publish("Reserved")
    publish("Declined")
    _until(lambda: status()["phase"] == "COMPENSATING")
    text = saga("status", "4711", env=env).stdout
    assert "version 2 of order is loaded nowhere; run it with `saga run`" in text
    found = {each["version"]: each for each in json.loads(saga("versions", "-o", "json", env=env).stdout)}
    assert found[2]["keeps"] == ["new sagas begin under it", "1 open", "1 paused"]

    run(new, "new-again")  # beside the old one
    _until(lambda: "Paused" not in [each["type"] for each in status()["conditions"]])
    publish("Released")
    _until(lambda: status()["phase"] == "COMPENSATED")
    told = json.loads(saga("status", "4711", "--history", "-o", "json", env=env).stdout)
    assert [each["kind"] for each in told["history"]] == ["event", "event", "event", "paused", "released", "event"]
    assert saga("replay", "--verify", "--all", env=env).returncode == 0
