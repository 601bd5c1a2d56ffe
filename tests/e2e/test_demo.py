"""`saga demo` as somebody types it first: it proves itself, and what it says to type next works."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from choreo.saga.demo.events import ANVIL, CRASHES, DECLINED, PIANO, UNICORN, OrderPlaced
from choreo.saga.demo.traffic import Mix, traffic
from tests.support.cli import environment, saga

ORDERS = 60
ENV = environment(demo_orders=ORDERS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A finished demo: its folder, its output, and its hints."""
    home = tmp_path_factory.mktemp("demo") / "a home"
    done = saga("demo", "--home", home, env=ENV)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return home, done.stdout, done.stderr


def expected(placed: OrderPlaced) -> str | None:
    """The step that fails, if one must."""
    if placed.article == UNICORN:
        return None  # the first one gets what there is
    by_article = {ANVIL: "book", PIANO: "book"}
    by_card = {DECLINED: "charge", CRASHES: "charge"}
    return by_article.get(placed.article) or by_card.get(placed.card) or ""


def test_every_order_ends_as_its_trouble_says(demo: tuple[Path, str, str]) -> None:
    done = saga("list", "--all", "--limit", 1000, "-o", "json", "--home", demo[0], env=ENV)
    phases = {each["key"]: each["phase"] for each in json.loads(done.stdout)}
    placed = [each.event for each in traffic(Mix(orders=ORDERS))]
    assert phases.keys() == {event.order_id for event in placed}
    for event in placed:
        wanted = expected(event)
        if wanted:
            assert phases[event.order_id] == "COMPENSATED", event
        elif wanted == "":
            # A machine that is busy elsewhere may let a healthy order pass a limit, which is then undone: never lost.
            assert phases[event.order_id] in ("COMPLETED", "COMPENSATED"), event
    unicorns = Counter(phases[event.order_id] for event in placed if event.article == UNICORN)
    assert unicorns == {"COMPLETED": 1, "COMPENSATED": len([e for e in placed if e.article == UNICORN]) - 1}


def test_it_shows_outcomes_proof_status_and_trace(demo: tuple[Path, str, str]) -> None:
    out = demo[1]
    for claim in ("sagas", "orders", "stock", "money", "parcels", "receipts"):
        assert f"✔  {claim}" in out
    assert "✖  " not in out
    assert "because   " in out, "one order's status"
    assert "compensate " in out, "one order's trace"


def test_what_it_says_to_type_next_works_as_typed(demo: tuple[Path, str, str]) -> None:
    lines = demo[2].partition("\nnext\n")[2].splitlines()
    commands = [shlex.split(line.strip().partition("   ")[0]) for line in lines if line.strip().startswith("saga ")]
    assert [command[1] for command in commands] == ["list", "status", "trace", "ignored"]
    for command in commands:
        done = saga(*command[1:], env=ENV)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_events_that_came_twice_are_told(demo: tuple[Path, str, str]) -> None:
    done = saga("ignored", "-o", "json", "--home", demo[0], env=ENV)
    reasons = Counter(each["reason"] for each in json.loads(done.stdout)["ignored"] if each["saga_type"])
    assert "duplicate" in reasons


def test_looking_again_changes_nothing_and_other_orders_are_refused(demo: tuple[Path, str, str]) -> None:
    again = saga("demo", "--home", demo[0], "--keep", "-o", "json", env=ENV)
    told = json.loads(again.stdout)
    assert again.returncode == 0
    assert told["schema"] == "saga.demo/v1"
    assert told["orders"] == sum(each["orders"] for each in told["outcomes"]) == ORDERS
    assert all(check["holds"] for check in told["proof"])
    other = saga("demo", "--home", demo[0], "--keep", "--orders", 61, env=ENV)
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1
    assert f"holds a finished demo of {ORDERS} orders with seed 4711" in other.stderr


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear diary")
    done = saga("demo", "--home", tmp_path, env=ENV)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path} holds something that is no demo; name an empty folder with --home"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_proof_that_fails_says_so_in_one_line_and_ends_with_1(demo: tuple[Path, str, str], tmp_path: Path) -> None:
    import shutil
    import sqlite3

    home = tmp_path / "spoilt"
    shutil.copytree(demo[0], home)
    with sqlite3.connect(home / "payment.db") as connection:
        connection.execute("DELETE FROM ledger WHERE kind = 'refunded'")
    connection.close()
    done = saga("demo", "--home", home, "--keep", "-q", env=ENV)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the proof fails: money: ")
    assert done.stderr.count("\n") == 1
