"""Past events through a saga that only watches: time is that of the events (ruling R16)."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from choreo import Dated, Event, Saga, step
from choreo.saga.cli import exits
from choreo.saga.instance import Instance
from tests.support.console import Console, validate

BEGIN = datetime(2017, 10, 2, tzinfo=UTC)


class Bought(Event, topic="shop", key="order_id"):
    order_id: str
    promised: datetime


class Packed(Event, topic="shop", key="order_id"):
    order_id: str


class Delivered(Event, topic="post", key="order_id"):
    order_id: str


class Delivery(Saga, start=Bought, key="order_id"):
    pack = step(done=Packed, within="1d", undo=None)
    deliver = step(after=pack, done=Delivered, within="30d", undo=None, due="promised")


def past(row: dict[str, str]) -> Dated:
    """A row is an event: order, what happened, and after how many hours."""
    at = BEGIN + timedelta(hours=float(row["hour"]))
    kind = {"bought": Bought, "packed": Packed, "delivered": Delivered}[row["what"]]
    fields = {"promised": BEGIN + timedelta(days=3 if at < BEGIN + timedelta(days=9) else 30)} if kind is Bought else {}
    return Dated(kind(order_id=row["order"], **fields), at)


def undated(row: dict[str, str]) -> Event:
    return Packed(order_id=row["order"])


EVENTS = [
    ("fine", "bought", 0),
    ("fine", "packed", 23),
    ("fine", "delivered", 72),  # to the minute
    ("late", "bought", 1),
    ("late", "packed", 2),
    ("late", "delivered", 73),
    ("lost", "bought", 2),
    ("lost", "packed", 27),  # a day and an hour after its turn
    ("open", "bought", 500),
    ("open", "packed", 501),
    ("never", "bought", 3),
    ("never", "packed", 4),
    ("edge", "bought", 10),
    ("edge", "packed", 34),  # due at the very time: the timer is first
]


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    return Console(capsys, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "past.csv"
    rows = [f"{order},{what},{hour}" for order, what, hour in EVENTS]
    path.write_text("\n".join(["order,what,hour", *reversed(rows)]) + "\n")  # the order of the rows plays no part
    return path


def tracked(saga: Console, file: Path, *options: str, target: str = "Delivery", mapping: str = "past") -> object:
    done = saga("track", f"{__file__}:{target}", f"{__file__}:{mapping}", file, "-o", "json", *options)
    assert done.code == exits.OK, done.err
    return validate(done.json, "saga.tracked/v1")


def test_ruling_16_limits_of_the_past_pass_when_they_did_and_not_by_our_clock(saga: Console, file: Path) -> None:
    told = tracked(saga, file)
    assert told["phases"] == {"COMPLETED": 2, "FAILED": 2, "RUNNING": 2}  # type: ignore[index]
    listed = {each["key"]: each for each in saga("list", "-o", "json", "--full", "--all").json}
    states = {key: {s["name"]: s["state"] for s in each["steps"]} for key, each in listed.items()}
    assert states["fine"] == {"pack": "DONE", "deliver": "DONE"}
    assert states["edge"]["pack"] == states["lost"]["pack"] == "DONE", "a late success, behind the limit"
    assert listed["edge"]["phase"] == listed["lost"]["phase"] == "FAILED"
    assert listed["edge"]["cause"]["error_class"] == "Timeout"
    assert listed["edge"]["cause"]["at"] == "2017-10-03T10:00:00.000Z", "the limit's own time"
    assert listed["fine"]["started_at"] == "2017-10-02T00:00:00.000Z"
    assert listed["fine"]["ended_at"] == "2017-10-05T00:00:00.000Z"
    assert states["never"]["deliver"] == "WAITING", "its limit passes after the last event of all"
    assert listed["never"]["next_due_at"] == "2017-11-01T04:00:00.000Z"


def test_the_report_counts_what_was_late_and_by_how_much(saga: Console, file: Path) -> None:
    told = tracked(saga, file, "--dry-run")
    _, deliver = told["steps"]  # type: ignore[index]
    assert (deliver["late"], deliver["missed"]) == (1, 1), "late came, never did not; open is not due yet"
    assert deliver["lateness"] == {"p50_ms": 3_600_000, "p95_ms": 3_600_000, "max_ms": 3_600_000}
    assert deliver["took"]["max_ms"] == 71 * 3_600_000
    assert not (saga.home / "saga.db").exists(), "nothing of a dry run stays"
    text = saga("track", f"{__file__}:Delivery", f"{__file__}:past", file, "--dry-run").out
    assert text.splitlines()[:2] == ["14 events", "6 sagas · 2 completed · 2 failed · 2 running · 4 late"]
    assert "1 (and 1 not yet)" in text


def test_a_second_run_adds_nothing_and_one_that_was_interrupted_goes_on(saga: Console, file: Path) -> None:
    whole = file.read_text()
    file.write_text("\n".join(whole.splitlines()[:1] + whole.splitlines()[8:]) + "\n")
    part = tracked(saga, file)
    assert part["events"] == 7  # type: ignore[index]
    file.write_text(whole)
    every = tracked(saga, file)
    assert (every["events"], every["already"]) == (14, 7)  # type: ignore[index]
    again = tracked(saga, file)
    assert (again["events"], again["already"]) == (14, 14)  # type: ignore[index]
    for figures in (every, again):
        del figures["already"]  # type: ignore[attr-defined]
    assert every == again
    assert saga("replay", "--verify", "--all").code == exits.OK
    assert saga("ignored", "-o", "json").json["ignored"] == []


def test_what_is_in_the_topics_is_tracked_as_if_it_were_a_file(saga: Console, file: Path) -> None:
    assert saga("topics", "apply", f"{__file__}:Delivery").code == exits.OK
    assert saga("publish", f"{__file__}:past", file).code == exits.OK
    done = saga("track", f"{__file__}:Delivery", "--from-beginning", "-o", "json", "--dry-run")
    assert done.code == exits.OK, done.err
    told = done.json
    del told["malformed"]
    of_file = tracked(saga, file, "--dry-run")
    del of_file["malformed"]  # type: ignore[attr-defined]
    assert told == of_file


def test_events_without_a_time_are_refused_and_so_is_a_saga_that_is_live(saga: Console, file: Path) -> None:
    done = saga("track", f"{__file__}:Delivery", f"{__file__}:undated", file, "--dry-run")
    assert done.code == exits.USAGE
    assert "undated gives events without a time; let it give Dated(event, at)" in done.err
    assert saga("track", f"{__file__}:Delivery").code == exits.USAGE
    assert saga("run", f"{__file__}:Delivery", "--until-idle").code == exits.OK
    done = saga("track", f"{__file__}:Delivery", f"{__file__}:past", file)
    assert done.code == exits.NOT_ALLOWED
    assert "delivery is live in" in done.err
    tracked(saga, file, "--dry-run")


def test_the_state_of_a_tracked_saga_says_that_nothing_of_it_is_traced(saga: Console, file: Path) -> None:
    tracked(saga, file)
    assert saga("track", f"{__file__}:Delivery", f"{__file__}:past", file, "-o", "id").out == ""
    import sqlite3

    rows = sqlite3.connect(saga.home / "saga.db").execute("SELECT state, traced, ended_at FROM choreo_saga").fetchall()
    assert len(rows) == 6
    assert not any(Instance.from_json(state).sampled for state, _, _ in rows)
    assert all(traced for _, traced, ended_at in rows if ended_at is not None), "no coordinator emits them later"
    assert json.loads(rows[0][0])["version"] == 1
