"""The measurements are run by people; what is tested here is that a run stands whatever becomes of one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from choreo.benchmarks import child, environments, figures
from choreo.benchmarks.environments import environment, pinned
from choreo.benchmarks.equipment import Equipment, Failed, measure
from choreo.benchmarks.plan import CASES, Case, Group, Peer
from choreo.benchmarks.processes import cpu_seconds, peak_memory
from tests.support.parts import Missing

LOOP, BATCH = (next(case for case in CASES if case.name == name) for name in ("by-hand-headers", "faststream-batch"))


def measured(speed: float, **more: object) -> dict[str, object]:
    return {"count": 10, "seconds": 1.0, "cpu": 0.1, "servers": 0.0, "memory": 50.0, "more": more} | {
        "per_second": speed, "cpu_us_each": 10.0, "servers_us_each": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["benchmarks", "benchmarks.growth", "benchmarks.wide", "benchmarks.footprint"])
def test_a_checkout_in_which_nobody_has_tested_can_measure(name: str) -> None:
    program = f"""
import runpy, sys
sys.modules["pytest"] = None
sys.argv[1:] = ["--help"]
runpy.run_module({name!r}, {{}}, "__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_row_has_a_measurement_and_a_name_of_its_own() -> None:
    assert {case.run for case in CASES} <= child.CASES.keys()
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.against for case in CASES} - {None} <= {case.name for case in CASES}


def test_every_peer_has_pins() -> None:
    assert all(pinned(peer)[0].isdigit() for peer in get_args(Peer))


def test_a_ratio_is_taken_within_a_round_and_leaves_out_those_that_failed() -> None:
    rounds = {LOOP.name: [measured(100), None, measured(400)], BATCH.name: [measured(50), measured(1), measured(100)]}
    found = figures.summary(BATCH, rounds, {LOOP.name: "it stumbled"})
    assert found["ratio"] == {"to": LOOP.name, "min": 0.25, "median": 0.38, "max": 0.5}
    assert (found["min"], found["median"], found["max"]) == (1, 50, 100)
    assert figures.summary(LOOP, rounds, {LOOP.name: "it stumbled"})["failed"] == "it stumbled"


def test_a_row_that_was_never_measured_says_why_and_the_others_stand() -> None:
    rounds = {LOOP.name: [measured(100)], BATCH.name: [None]}
    failures = {BATCH.name: "it cannot be installed"}
    drawn = figures.tables(
        {"figures": {case.name: figures.summary(case, rounds, failures) for case in (LOOP, BATCH)}}
    ).splitlines()
    assert drawn[2].startswith("| loop by hand, 8 headers | 100 | **100** | 100 | 1 |")
    assert drawn[3] == "| FastStream, batch: it cannot be installed | – | – | – | – | – | – |"


@pytest.mark.parametrize("group", get_args(Group))
def test_every_table_has_as_many_cells_in_a_row_as_in_its_head(group: Group) -> None:
    cases = [case for case in CASES if case.group == group]
    rounds = {case.name: [measured(100, p50_ms=1.5, p99_ms=20.4)] for case in cases[:-1]} | {cases[-1].name: [None]}
    found = {case.name: figures.summary(case, rounds, {cases[-1].name: "it stumbled"}) for case in cases}
    lines = figures.tables({"figures": found}).splitlines()
    assert len(lines) == 2 + len(cases)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_measurement_that_fails_ends_with_its_reason(tmp_path: Path) -> None:
    stray: Case = replace(LOOP, run="nothing", kafka=False)
    with pytest.raises(Failed, match="KeyError: 'nothing'"):
        measure(stray, "stray", Equipment(tmp_path), tmp_path, 1)
    assert not (tmp_path / "stray").exists()


def test_packages_that_cannot_be_installed_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_CACHE", str(tmp_path))
    monkeypatch.setattr(environments.sys, "executable", shutil.which("false"))
    with pytest.raises(Missing, match=r"^the packages of faust could not be installed: no reason given$"):
        environment("faust")
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_and_its_children_cost_is_known() -> None:
    assert (cpu_seconds([os.getpid()]) > 0) is Path("/proc").is_dir()
    assert cpu_seconds([]) == 0
    assert peak_memory([os.getpid()]) >= 2 * 10
