"""What `saga doctor` says of an installation that works, and of one that does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from choreo.events import outbox
from choreo.events.database import Database
from choreo.events.settings import load_settings
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect
from choreo.saga.cli import exits
from choreo.saga.cli.verdicts import github, junit
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.doctor import Finding, Seen, examine
from choreo.saga.queries import Brakes
from choreo.saga.store import save_definition
from choreo.saga.surroundings import Surroundings
from choreo.saga.tables import HEAD, metadata
from tests.saga.stage import Order
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


def test_missing_topics_are_created_by_fix_once_somebody_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_store_without_topics(tmp_path))
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    console = Console(capsys, tmp_path)
    before = console("doctor", "--only", "topics", "-o", "json")
    assert (before.code, _verdicts(before.json)) == (exits.ERROR, {"topics": "failure"})
    refused = console("doctor", "--fix")
    assert refused.code != exits.OK
    assert "create inventory, inventory.commands, orders, payments with 4 partitions each" in refused.err
    mended = console("doctor", "--only", "topics", "--fix", "-y")
    assert (mended.code, "are needed are there" in mended.out) == (exits.OK, True)
    assert "created inventory" in mended.err
    assert "nothing that can be mended" in console("doctor", "--only", "topics", "--fix").err


def test_findings_speak_to_continuous_integration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.delenv("CHOREO_STORE", raising=False)
    console = Console(capsys, tmp_path)
    done = console("doctor", "--only", "kafka,store,topics,config", "-o", "junit")
    suite = ElementTree.fromstring(done.out)
    assert (done.code, suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (exits.ERROR, "4", "2", "1")
    assert [case.get("classname") for case in suite if case.find("failure") is not None] == [
        "doctor.store",
        "doctor.broker",
    ]
    told = console("doctor", "--only", "kafka,config", "-o", "github")
    [line] = told.out.splitlines()
    assert line.startswith("::error title=saga doctor, broker::there is no broker at ")
    assert github([Finding("clock", "warning", "50 % off\nor so", "mend it")]) == [
        "::warning title=saga doctor, clock::50 %25 off%0Aor so fix: mend it"
    ]
    warned = junit([Finding("clock", "warning", "off", "mend it")], strict=True)
    assert 'failures="1"' in warned[1]
    assert 'failures="0"' in junit([Finding("clock", "warning", "off", "mend it")], strict=False)[1]


async def _store_without_topics(home: Path) -> None:
    """A store that knows a saga, on a broker that has none of its topics."""
    database = await Database.open(f"sqlite:{home / 'saga.db'}")
    await database.ensure_schema("events", outbox.metadata, outbox.HEAD)
    await database.ensure_schema("saga", metadata, HEAD)
    await database.write(lambda c: save_definition(c, Order.definition(), 1, 1))
    await database.close()
    settings = load_settings(home=str(home))
    async with connect(settings.broker_url, settings) as transport:
        await transport.create_topics([TopicSpec("choreo.catalog", 1, compacted=True)])


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
