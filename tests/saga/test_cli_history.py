"""`saga history`: every input with what it changed and said, and when a pager shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from choreo.saga.cli import exits
from choreo.saga.cli.paging import pager
from tests.saga.shelf import CANCELLED, COMPENSATED, FAILED
from tests.support.cli import SAGA, environment
from tests.support.console import Console, validate
from tests.support.terminal import in_terminal


def test_every_input_is_told_with_what_it_changed(looking: Console) -> None:
    rows = [validate(each, "saga.history/v1") for each in looking("history", COMPENSATED, "-o", "json").json]
    assert [each["type"] for each in rows] == ["Placed", "Reserved", "Declined", "Released"]
    assert all("payload" not in each for each in rows)
    assert looking("history", COMPENSATED, "-o", "id").out.split() == [each["event_id"] for each in rows]
    done = looking("history", COMPENSATED)
    lines = done.out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["Placed", "Reserved", "Declined", "Released"]
    assert "charge FAILED" in lines[3]
    assert "orders/" in lines[1]
    assert done.err == f"4 of 4 inputs of {COMPENSATED}\n"


def test_what_a_person_said_stands_there(looking: Console) -> None:
    rows = looking("history", CANCELLED, "-o", "json").json
    assert "the customer asked" in [validate(each)["said"] for each in rows]
    assert "the customer asked" in looking("history", CANCELLED).out


def test_it_can_be_of_one_step_and_of_the_newest(looking: Console) -> None:
    rows = looking("history", COMPENSATED, "--step", "charge", "-o", "jsonl").out.splitlines()
    assert [json.loads(row)["type"] for row in rows] == ["Reserved", "Declined"]
    assert len(looking("history", COMPENSATED, "--last", "1", "-o", "json").json) == 1
    assert looking("history", COMPENSATED, "--last", "0").code == exits.USAGE
    assert looking("history", "nosuch/1").code == exits.NOT_FOUND


def test_payloads_are_shown_when_asked_and_why_they_cannot_be(looking: Console) -> None:
    """The schemas of this store's events were in a broker that is gone."""
    rows = [validate(each) for each in looking("history", FAILED, "--payloads", "-o", "json").json]
    assert {each["payload"] is None for each in rows} == {True}
    assert any("there is no broker at" in (each["payload_error"] or "") for each in rows)
    assert "it cannot be read" in looking("history", FAILED, "--payloads").out


@pytest.mark.parametrize("width", [50, 70, 100, 140])
def test_long_changes_are_wrapped_not_cut(looking: Console, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = looking("history", COMPENSATED)
    assert max(map(len, done.out.splitlines())) <= width
    words = " ".join(done.out.split())
    for each in ("FAILED", "COMPENSATING", "COMPENSATED"):
        assert each in words


@pytest.mark.parametrize(
    ("environ", "command"),
    [
        ({}, []),
        ({"PAGER": "less -R"}, ["less", "-R"]),
        ({"PAGER": "less", "SAGA_PAGER": "more"}, ["more"]),
        ({"PAGER": "less", "SAGA_PAGER": ""}, []),
    ],
)
def test_sagas_own_pager_counts_more_than_everybodys(environ: dict[str, str], command: list[str]) -> None:
    assert pager(environ) == command


def test_only_what_is_long_goes_to_the_pager_and_only_on_a_terminal(shelf_home: Path, tmp_path: Path) -> None:
    script = tmp_path / "pager"
    script.write_text("#!/bin/sh\necho PAGED\nexec cat\n")
    script.chmod(0o755)
    env = {**environment(home=shelf_home), "SAGA_PAGER": str(script), "TERM": "xterm", "LANG": "C.UTF-8"}
    command = [SAGA, "history", COMPENSATED, "--no-pager"]
    assert "PAGED" in in_terminal(command[:-1], env, rows=4)
    assert "PAGED" not in in_terminal(command[:-1], env, rows=40)
    assert "PAGED" not in in_terminal(command, env, rows=4)
    seen = in_terminal(command[:-1], {**env, "SAGA_PAGER": str(tmp_path / "gone")}, rows=4)
    assert "cannot be run" in seen
    assert "Declined" in seen
    assert shutil.which("cat")
