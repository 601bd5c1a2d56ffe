"""What the past says of the present: `Slow` in every view, the rate of false alarms, and where the time goes."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from choreo.events.clock import SECOND
from choreo.saga.bottlenecks import bottlenecks
from choreo.saga.cli import exits
from choreo.saga.cli.bursts import BURST, folded_bursts
from choreo.saga.queries import SagaRow
from tests.saga.test_backfill import Delivery
from tests.support.console import Console, validate

HERE = "tests.saga.test_backfill"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine weeks of orders, packed within about two hours; in the last one within about six. One is still open."""
    chance, rows = Random(3), ["order,what,hour"]
    for number in range(900):
        hour = number * 9 * 168 / 900
        took = chance.lognormvariate(0.7, 0.4) * (3 if hour > 8 * 168 else 1)
        rows += [
            f"{number},bought,{hour:.3f}",
            f"{number},packed,{hour + took:.3f}",
            f"{number},delivered,{hour + took + 20 + chance.expovariate(0.2):.3f}",
        ]
    rows += ["open,bought,1600", "open,packed,1601"]
    path = tmp_path_factory.mktemp("past") / "past.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def saga(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(home))
    return Console(capsys, home)


@pytest.fixture
def tracked(saga: Console, home: Path, past: Path) -> dict[str, Any]:
    """The report of the first run; later tests of this module find its store."""
    done = saga("track", f"{HERE}:{Delivery.__name__}", f"{HERE}:past", past, "-o", "json")
    assert done.code == exits.OK, done.err
    told: dict[str, Any] = validate(done.json, "saga.tracked/v1")
    return told


def test_tracking_says_how_often_the_past_was_exceeded_and_a_second_run_counts_nothing_twice(
    saga: Console, past: Path, tracked: dict[str, Any]
) -> None:
    judged = {each["step"]: each for each in tracked["judged"]}
    assert judged.keys() == {"pack", "deliver", None}
    steady = judged["deliver"]  # nothing has changed there: what is beyond is chance
    assert 0.01 < steady["beyond_p95"] / steady["count"] < 0.10
    assert steady["beyond_p99"] / steady["count"] < 0.04
    assert judged["pack"]["beyond_p95"] / judged["pack"]["count"] > 0.10
    known = saga("bottlenecks", "-o", "json").json
    again = saga("track", f"{HERE}:{Delivery.__name__}", f"{HERE}:past", past, "-o", "json").json
    assert again["judged"] == []
    assert saga("bottlenecks", "-o", "json").json == known
    drawn = saga("track", f"{HERE}:{Delivery.__name__}", f"{HERE}:past", past, "--dry-run")
    assert "BEYOND 95 %" in drawn.out


@pytest.mark.usefixtures("tracked")
def test_bottlenecks_tell_where_time_goes_and_what_has_become_slower(saga: Console) -> None:
    done = saga("bottlenecks", "-o", "json", "--weeks", 2)
    found = {each["step"]: validate(each, "saga.bottleneck/v1") for each in done.json}
    assert sum(each["share"] for each in found.values()) == pytest.approx(1, abs=0.001)
    assert done.json[0]["step"] == "deliver"
    assert found["pack"]["trend"] > 0.5
    assert abs(found["deliver"]["trend"]) < 0.1
    assert saga("bottlenecks", "-o", "json", "--type", "nothing").json == []
    drawn = saga("bottlenecks")
    assert "TREND" in drawn.out
    assert "durations in 2 steps" in drawn.err
    assert saga("bottlenecks", "--weeks", 0).code == exits.USAGE


@pytest.mark.usefixtures("tracked")
def test_a_saga_that_takes_longer_than_usual_says_so_with_the_numbers_in_every_view(saga: Console) -> None:
    told = validate(saga("status", "open", "-o", "json").json, "saga.status/v1")
    slow = [each for each in told["conditions"] if each["type"] == "Slow"]
    assert {each["step"] for each in slow} == {None, "deliver"}
    assert all(each["reason"] == "P99" and "usually done in" in each["message"] for each in slow)
    assert {each["step"]: each["slow"] for each in told["forecast"]} == {None: "P99", "deliver": "P99"}
    drawn = saga("status", "open").out
    assert "usually   done in" in drawn
    assert "deliver done in 23h" in " ".join(drawn.split())
    why = validate(saga("why", "open", "-o", "json").json, "saga.why/v1")
    assert [each["code"] for each in why["reasons"]].count("Slow") == 2
    assert "usually" in saga("why", "open").out
    assert saga("list", "--condition", "Slow", "--open", "-o", "id").out.split() == ["delivery/open"]
    row = saga("list", "--open", "-o", "json").json[0]
    assert "Slow" in row["conditions"]
    ended = saga("list", "--condition", "slow", "--state", "completed", "--all", "-o", "json").json
    assert 0 < len(ended) < 300
    grouped = saga("list", "--condition", "Slow", "--group-by", "state", "-o", "json").json
    assert {each["value"]: each["count"] for each in grouped} == {"COMPLETED": len(ended), "RUNNING": 1}


def test_without_any_past_there_are_no_bottlenecks() -> None:
    assert bottlenecks([], 4) == []


def test_a_burst_of_one_error_is_one_line_with_its_count() -> None:
    def row(number: int, at: int, error: str | None = "Declined") -> SagaRow:
        return SagaRow(f"order/{number}", "order", str(number), 1, 1, "COMPENSATED", None, error, (), 0, at, at, at)

    hour = 3_600 * SECOND
    burst = [row(number, number * SECOND) for number in range(BURST)]
    assert folded_bursts(burst) == {"order/0": burst}
    assert folded_bursts(burst[1:]) == {}, "a few are shown as they are"
    assert folded_bursts([row(number, number * SECOND, None) for number in range(9)]) == {}
    spread = [row(number, number * hour * 2) for number in range(9)]
    assert folded_bursts(spread) == {}, "hours apart they are no burst"
    assert folded_bursts([*burst, row(77, 0, "Timeout")]) == {"order/0": burst}
