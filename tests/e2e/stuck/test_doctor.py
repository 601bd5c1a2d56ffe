"""What `saga doctor` says of an installation that works, and of one that does not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from choreo.saga.cli import exits
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.doctor import Finding, Seen, examine
from choreo.saga.queries import Brakes
from choreo.saga.surroundings import Surroundings
from tests.support.apicurio import ApicurioServer
from tests.support.cli import environment, saga
from tests.support.console import Console, validate
from tests.support.ports import free_ports

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


def test_before_anything_ran_it_says_what_to_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    console = Console(capsys, tmp_path)
    done = console("doctor", "-o", "json")
    assert done.code == exits.ERROR
    verdicts = _verdicts(validate(done.json, "saga.doctor/v1"))
    assert (verdicts["store"], verdicts["broker"], verdicts["groups"]) == ("failure", "failure", "unknown")
    assert console("doctor", "--only", "config,traces").code == exits.OK
    assert "the areas are" in console("doctor", "--only", "moon").err


@pytest.mark.registry
def test_a_schema_registry_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, apicurio: ApicurioServer
) -> None:
    console = Console(capsys, tmp_path)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_REGISTRY", apicurio.url)
    done = console("doctor", "--only", "schemas")
    assert (done.code, f"{apicurio.url} answers; " in done.out) == (exits.OK, True)
    monkeypatch.setenv("CHOREO_REGISTRY", f"http://127.0.0.1:{free_ports(1)[0]}")
    done = console("doctor", "--only", "schemas", "-o", "json")
    assert (done.code, _verdicts(validate(done.json, "saga.doctor/v1"))) == (exits.ERROR, {"schemas": "failure"})


@pytest.mark.slow
def test_after_a_run_it_names_the_services_that_are_gone(tmp_path: Path) -> None:
    env = environment(home=tmp_path)
    assert saga("publish", "shop.py:OrderPlaced", "orders.csv", env=env, cwd=QUICKSTART).returncode == 0
    assert saga("run", "shop.py", "--until-idle", env=env, cwd=QUICKSTART).returncode == 0
    done = saga("doctor", env=env)
    assert done.returncode == exits.ERROR  # nobody runs any more
    assert "✖  coordinator  0 in group" in done.stdout
    assert "service payment has no live member" in done.stdout


def test_findings_name_what_mends_them() -> None:
    plan = StepPlan("pay", 0, ("Paid",))
    definition = Definition("order", 1, "id", ("Placed",), (plan,), topics={"Placed": "orders", "Paid": "payments"})
    seen = Seen(
        settings="",
        store=None,
        store_url="",
        phases={"RUNNING": 2, "COMPLETED": 3},
        waiting=1,
        brakes=Brakes(True, True),
        definitions=[definition],
        nowhere=[("order", 2)],
        parked=4,
        outbox=(7, 60_000_000),
        queued=(1, 60_000_000),
        skew=5_000_000,
        around=Surroundings(coordinators="choreo"),
        letters={"orders.dlq": 3},
        traces=("http://localhost:4318", "refused"),
        registry=("http://localhost:8081", 0, "it does not answer"),
    )
    found = examine(seen)
    told = " / ".join(f"{each.sentence} -> {each.fix}" for each in found)
    for wanted in (
        "5 sagas, 2 open",
        "7 events wait in the outbox",
        "1 saga waits for a person -> saga list --waiting-for-person",
        "timers are held",
        "all compensation is stopped -> saga resume",
        "missing: orders, payments -> saga topics apply MODULE",
        "0 in group 'choreo'",
        "version 2 of order has open sagas",
        "it does not answer -> events wait until the registry answers",
        "open dead letters: orders.dlq 3 -> saga dlq list",
        "differ by",
    ):
        assert wanted in told
    assert all(
        isinstance(each, Finding) and (each.fix is not None or each.verdict in ("ok", "unknown")) for each in found
    )


def _verdicts(told: Mapping[str, Any]) -> dict[str, str]:
    return {each["area"]: each["verdict"] for each in told["findings"]}
