"""9,999 real orders, from the file to the list of sagas, counted twice: by choreo, and straight from the file."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support import parts
from tests.support.cli import environment, saga

pytestmark = [pytest.mark.olist, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
MODULE = ROOT / "examples" / "olist" / "marketplace.py"
STEPS = {
    "approve": "order_approved_at",
    "carrier": "order_delivered_carrier_date",
    "deliver": "order_delivered_customer_date",
}


@pytest.fixture(scope="module")
def orders() -> Path:
    """The file of orders; it is not part of the project."""
    path = Path(os.environ.get("CHOREO_OLIST") or ROOT.parent / "shared" / "data" / "olist" / "orders.csv.gz")
    if not path.exists():
        parts.missing(
            "the file of Olist orders", f"name it with CHOREO_OLIST, not {path} (see examples/olist/README.md)"
        )
    return path


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The settings of an empty home: on the embedded broker, then on Kafka, whose topics are made first."""
    if request.param == "embedded":
        return environment(home=tmp_path)
    given = environment(
        home=tmp_path,
        broker=f"kafka://{request.getfixturevalue('kafka_bootstrap')}",
        topic_prefix=f"olist-{uuid4().hex[:8]}.",
    )
    made = saga("topics", "apply", f"{MODULE}:Marketplace", env=given)
    assert made.returncode == 0, made.stderr
    return given


def rows(orders: Path) -> Iterator[dict[str, str]]:
    with gzip.open(orders, "rt", newline="") as file:
        yield from csv.DictReader(file)


def events_of(row: dict[str, str]) -> int:
    happened = ["order_purchase_timestamp", *STEPS.values()]
    return sum(bool(row[column]) for column in happened) + (row["order_status"] in ("canceled", "unavailable"))


def where(row: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Say by hand where an order is: its phase, and the state of each step."""
    done = [bool(row[column]) for column in STEPS.values()]
    if all(done):
        return "COMPLETED", dict.fromkeys(STEPS, "DONE")
    first = done.index(False)  # what the order waits for; steps that came too early are done all the same
    given_up = row["order_status"] in ("canceled", "unavailable")
    there, after = ("FAILED", "SKIPPED") if given_up else ("WAITING", "PENDING")
    states = ["DONE" if done[i] else there if i == first else after for i in range(len(done))]
    return "FAILED" if given_up else "RUNNING", dict(zip(STEPS, states, strict=True))


def test_one_saga_for_each_order_and_the_counts_agree(orders: Path, env: dict[str, str]) -> None:
    read = list(rows(orders))
    published = saga("publish", f"{MODULE}:events", orders, "-o", "json", env=env)
    assert published.returncode == 0, published.stderr
    told = json.loads(published.stdout)
    assert (told["rows"], told["published"]) == (len(read), sum(map(events_of, read)))

    again = saga("publish", f"{MODULE}:events", orders, "-o", "json", env=env)
    assert json.loads(again.stdout)["published"] == 0, "the same file sends nothing new"

    ran = saga("run", f"{MODULE}:Marketplace", "--until-idle", env=env, timeout=300)
    assert ran.returncode == 0, ran.stderr

    listed = saga("list", "--type", "marketplace", "-o", "json", "--all", "--limit", 20000, "--full", env=env)
    sagas = {each["key"]: each for each in json.loads(listed.stdout)}
    expected = {row["order_id"]: where(row) for row in read}
    assert sagas.keys() == expected.keys()
    assert len(sagas) == len(read) == 9_999 or os.environ.get("CHOREO_OLIST")

    by_phase = Counter(each["phase"] for each in sagas.values())
    assert by_phase == Counter(phase for phase, _ in expected.values())
    by_step = Counter((step["name"], step["state"]) for each in sagas.values() for step in each["steps"])
    assert by_step == Counter(place for _, states in expected.values() for place in states.items())
    found = {key: (each["phase"], {s["name"]: s["state"] for s in each["steps"]}) for key, each in sagas.items()}
    assert [key for key in expected if found[key] != expected[key]] == []

    plain = saga("list", "--type", "marketplace", "-o", "json", "--all", "--limit", 20000, env=env)
    waiting = Counter((each["phase"], each["step"]) for each in json.loads(plain.stdout))
    by_hand = ((phase, next((s for s in STEPS if states[s] == "WAITING"), None)) for phase, states in expected.values())
    assert waiting == Counter(by_hand)


def test_deliveries_later_than_the_published_estimate_are_as_many_as_the_file_says(
    orders: Path, tmp_path: Path
) -> None:
    """Ruling R16: the past is judged by its own times; counted straight from the file, by nothing of choreo's."""

    def at(text: str) -> datetime:
        return datetime.strptime(text, "%m/%d/%Y %H:%M")

    late = [
        at(row["order_delivered_customer_date"]) - at(row["order_estimated_delivery_date"])
        for row in rows(orders)
        if row["order_delivered_customer_date"] and row["order_estimated_delivery_date"]
    ]
    env = environment(home=tmp_path)
    done = saga("track", f"{MODULE}:Marketplace", f"{MODULE}:events", orders, "-o", "json", env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    deliver = next(step for step in told["steps"] if step["name"] == "deliver")
    assert deliver["late"] == sum(each > timedelta(0) for each in late)
    assert told["sagas"] == sum(1 for _ in rows(orders))
    assert told["events"] == sum(map(events_of, rows(orders)))
    assert told["end_at"] < "2019", "nothing of it happened by our clock"
    for each in told["judged"]:  # docs/cli.md says so: a little more than chance, where everything is as it always was
        assert 0.03 < each["beyond_p95"] / each["count"] < 0.08
        assert 0.005 < each["beyond_p99"] / each["count"] < 0.025

    again = saga("track", f"{MODULE}:Marketplace", f"{MODULE}:events", orders, "-o", "json", env=env, timeout=300)
    second = json.loads(again.stdout)
    assert second["already"] == second["events"]
    assert {**second, "already": 0, "judged": told["judged"]} == told
    assert second["judged"] == [], "what was known before is judged once"
