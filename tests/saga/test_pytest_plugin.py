"""The pytest plugin, in a scratch project of its own: options, the fixture, and that it keeps out of the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PLUGIN = "choreo.saga.pytest_plugin"

SHOP = """
from choreo import Event, Saga, Service, step
from choreo.saga.testing import explore

class Placed(Event, topic="orders", key="order_id"):
    order_id: str

class Reserved(Event, topic="stock", key="order_id"):
    order_id: str

stock = Service("stock")

@stock.on(Placed)
async def reserve(placed: Placed) -> Reserved:
    return Reserved(order_id=placed.order_id)

class Fulfilment(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, undo=None, within="1m")
"""


def run(folder: Path, code: str, *options: str, auto: bool = False) -> subprocess.CompletedProcess[str]:
    (folder / "test_shop.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n" if auto else "[pytest]\n")
    known = {each.name for each in entry_points(group="pytest11")}
    loaded = () if "choreo" in known else ("-p", PLUGIN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *loaded, *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


HARNESS = (
    SHOP
    + """
async def test_it_is_fulfilled(harness):
    async with harness(stock, Fulfilment) as shop:
        await shop.publish(Placed(order_id="1"))
        await shop.run()
        assert shop.saga("fulfilment/1").phase == "COMPLETED"
"""
)


@pytest.mark.parametrize("options", [("-p", "no:asyncio"), ()], ids=["without pytest-asyncio", "with it"])
def test_an_async_test_that_takes_harness_needs_no_mark(tmp_path: Path, options: tuple[str, ...]) -> None:
    ended = run(tmp_path, HARNESS, *options)
    assert "1 passed" in ended.stdout, ended.stdout


def test_pytest_asyncio_in_auto_mode_runs_it(tmp_path: Path) -> None:
    ended = run(tmp_path, HARNESS, auto=True)
    assert "1 passed" in ended.stdout, ended.stdout


EXPLORE = (
    SHOP
    + """
def test_it_is_explored():
    explored = explore(Fulfilment, [stock], events=[Placed(order_id="1")], seeds=3)
    print("runs:", explored.runs)
"""
)


def test_choreo_seeds_says_how_many_runs(tmp_path: Path) -> None:
    ended = run(tmp_path, EXPLORE, "-s", "--choreo-seeds=7")
    assert "runs: 7" in ended.stdout, ended.stdout


def test_choreo_seed_makes_one_run(tmp_path: Path) -> None:
    ended = run(tmp_path, EXPLORE, "-s", "--choreo-seed=2:e0:f0")
    assert "runs: 1" in ended.stdout, ended.stdout


def test_what_is_no_seed_is_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, EXPLORE, "--choreo-seed=lucky")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'lucky' is no seed" in ended.stderr


def test_a_failure_prints_the_line_that_runs_it_again(tmp_path: Path) -> None:
    code = (
        SHOP
        + """
def never_reserved(run):
    assert not run.sent(Reserved), "reserved"

def test_it_is_explored():
    explore(Fulfilment, [stock], events=[Placed(order_id="1")], seeds=3, always=never_reserved)
"""
    )
    ended = run(tmp_path, code)
    assert "always: reserved" in ended.stdout
    assert "1 failed" in ended.stdout


def test_a_project_that_does_not_use_it_loads_nothing_of_choreo(tmp_path: Path) -> None:
    code = """
import json, sys
def test_nothing():
    print(json.dumps(sorted(name for name in sys.modules if name.startswith(("choreo", "sqlalchemy", "pydantic")))))
"""
    ended = run(tmp_path, code, "-s")
    assert ended.returncode == 0, ended.stdout
    loaded = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("[")))
    assert loaded == ["choreo", "choreo.saga", "choreo.saga.asked", PLUGIN]
