"""Logs as JSON: every line of a process is one object, and says which event, saga and trace it is about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import environment, saga

_SHOP = """
import logging
import structlog

from choreo import Context, Event, Saga, Service, step
from choreo.events.errors import Permanent


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str
    card: str


class Charge(Event, topic="payments.commands", key="order_id"):
    order_id: str
    card: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str


class Sale(Saga, start=Ordered, key="order_id"):
    charge = step(send=Charge, done=Charged, undo=None, within="1h")


payment = Service("payment")


@payment.on(Charge)
def charge(command: Charge, context: Context) -> Charged:
    structlog.get_logger("shop").warning("by structlog")
    logging.getLogger("shop").critical("by the standard library")
    context.log.warning("by the context")
    if command.order_id == "2":
        raise Permanent("the card is torn")
    return Charged(order_id=command.order_id)
"""

_TOLD = """
import json
import logging
import sys

import structlog

from choreo.saga.cli.logs import configure
from choreo.saga.cli.shell import Shell


class Written:
    def __init__(self):
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)

    def flush(self):
        pass

    def isatty(self):
        return False


sys.stderr = written = Written()
configure(Shell())
structlog.get_logger("shop").warning("by structlog")
logging.getLogger("shop").critical("by the standard library")
print(json.dumps(written.pieces))
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "shop.py").write_text(_SHOP)
    env = environment(home=folder / "home", log="json")
    first = saga("run", str(folder / "shop.py"), "--until-idle", env=env)  # from now on orders are taken
    assert first.returncode == 0, first.stderr
    for number in ("1", "2"):
        event = json.dumps({"order_id": number, "card": "4242-4242"})
        asked = saga("publish", f"{folder / 'shop.py'}:Ordered", "--data", event, env=env)
        assert asked.returncode == 0, asked.stderr
    done = saga("run", str(folder / "shop.py"), "--until-idle", env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4242-4242" not in done.stderr  # payloads are nobody's business
    hints = ("nothing is left to do", "0 of", "1 of", "2 of")
    return [json.loads(line) for line in done.stderr.splitlines() if line and not line.startswith(hints)]


def _of(lines: list[dict[str, Any]], said: str, key: str) -> dict[str, Any]:
    [line] = [each for each in lines if each["event"] == said and each.get("saga_id") == f"sale/{key}"]
    return line


@pytest.mark.parametrize("said", ["by structlog", "by the standard library", "by the context"])
def test_what_a_handler_logs_says_whose_run_it_comes_from(lines: list[dict[str, Any]], said: str) -> None:
    first, second = _of(lines, said, "1"), _of(lines, said, "2")
    assert first["service"] == second["service"] == "payment"
    assert first["handler"] == second["handler"] == "charge"
    assert first["event_id"] != second["event_id"]
    assert len(first["trace_id"]) == len(second["trace_id"]) == 32
    assert first["trace_id"] != second["trace_id"]
    assert len(first["span_id"]) == 16
    assert first["level"] in ("warning", "critical")
    assert first["timestamp"].endswith("Z")


def test_what_choreo_says_of_a_failure_has_the_same_ids(lines: list[dict[str, Any]]) -> None:
    inside, outside = _of(lines, "by the context", "2"), _of(lines, "event goes to the dead letters", "2")
    names = ("service", "handler", "event_id", "saga_id", "trace_id")
    assert {name: outside[name] for name in names} == {name: inside[name] for name in names}


def test_every_line_is_an_object_with_a_time_and_a_level(lines: list[dict[str, Any]]) -> None:
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp"} <= line.keys(), line


@pytest.mark.parametrize("log", ["json", ""])
def test_a_line_is_written_at_once_as_another_thread_may_log_in_between(tmp_path: Path, log: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TOLD],
        check=True,
        capture_output=True,
        text=True,
        env=environment(home=tmp_path, log=log),
    )
    pieces = json.loads(done.stdout)
    assert len(pieces) == 2
    assert all(piece.endswith("\n") and piece.count("\n") == 1 for piece in pieces)
