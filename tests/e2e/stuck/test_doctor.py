"""What `saga doctor` says of an installation that works, and of one that does not."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from choreo.events import outbox
from choreo.events.codec import subject_of
from choreo.events.database import Database
from choreo.events.envelope import TopicPartition
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.events.transport import GroupInfo, TopicInfo, TopicSpec
from choreo.events.transports import connect
from choreo.saga import presence
from choreo.saga.cli import doctor as cli_doctor
from choreo.saga.cli import exits
from choreo.saga.cli.verdicts import github, junit
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.doctor import Finding, Schemas, Seen, examine
from choreo.saga.presence import Standing
from choreo.saga.queries import Brakes
from choreo.saga.store import save_definition
from choreo.saga.surroundings import Surroundings
from choreo.saga.tables import HEAD, metadata
from choreo.tracing.probe import Probed
from tests.e2e.stuck.desk import Delivery, Desk, Ordered, stock
from tests.saga.stage import Order
from tests.support.apicurio import ApicurioServer
from tests.support.cli import environment, saga
from tests.support.console import Console, validate
from tests.support.jaeger import JaegerServer
from tests.support.otlp import OtlpSink
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
        traces=Probed("http://localhost:4318", "refused"),
        schemas=Schemas("http://localhost:8081", 0, "it does not answer"),
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


async def test_it_tells_who_reads_what_how_quickly_it_decides_and_since_when_a_service_is_gone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "EVERY", 0.2)
    services = await desk.run(stock())
    coordinator = await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    told = await _doctor(desk, "coordinator", lambda told: "p99" in told)
    assert "1 in group" in told
    over = await _doctor(desk, "broker", lambda told: "it answers" in told)
    assert ("over PLAINTEXT; 1 broker, " in over) == desk.settings.broker_url.startswith("kafka:")
    schemas = await _doctor(desk, "schemas", lambda told: "all that sagas and services use are compatible" in told)
    assert re.match(r"the broker keeps them; [1-9]\d* subjects, all", schemas)
    owned = re.search(r"(\d+) of (\d+) partitions owned", told)
    assert owned is not None
    assert owned[1] == owned[2]
    assert re.search(r"reads .*, orders/0, .*; decision delay p50 .*, p99 ", told)
    await _doctor(desk, "groups", lambda told: "1 of 1 services have live members" in told)
    database = await Database.open(desk.settings.store_url)
    try:
        while "stock" not in await database.read(presence.last_seen):
            await asyncio.sleep(0.05)
    finally:
        await database.close()
    await services.stop()
    await desk.publish(Ordered(order_id="4712"))
    wanted = r"service stock has no live member, none since \d\d:\d\d; 1 events? waits? for it"
    told = await _doctor(desk, "groups", lambda told: re.search(wanted, told) is not None)
    await coordinator.stop()
    told = await _doctor(desk, "coordinator", lambda told: "0 in group" in told)
    assert "reads" not in told, "who has stopped says nothing any more"


async def test_a_schema_that_breaks_its_readers_is_named(desk: Desk) -> None:
    await desk.run(stock())
    await desk.publish(Ordered(order_id="4711"))
    schema = Ordered.spec().schema
    assert schema is not None
    lenient = desk.settings.model_copy(update={"compatibility": "NONE"})
    async with connect(desk.settings.broker_url, desk.settings) as transport:
        registry = open_registry(lenient, transport)
        more = [*schema["fields"], {"name": "total", "type": "long"}]
        await registry.register(subject_of("orders", "Ordered"), {**schema, "fields": more})
        await registry.close()
    told = await _doctor(desk, "schemas", lambda told: "breaks its readers" in told)
    assert "the newest schema of orders-Ordered breaks its readers: " in told
    assert "total" in told


async def _doctor(desk: Desk, area: str, until: Callable[[str], bool]) -> str:
    """Ask about an area until it says so; give its sentences."""
    told = ""
    for _ in range(300):
        done = await asyncio.to_thread(desk.console, "doctor", "--only", area, "-o", "json")
        told = "\n".join(each["sentence"] for each in validate(done.json, "saga.doctor/v1")["findings"])
        if until(told):
            return told
        await asyncio.sleep(0.2)
    raise AssertionError(told)


def test_a_partition_that_nobody_reads_is_named_and_who_reads_what() -> None:
    definition = Definition("order", 1, "id", ("Placed",), (), topics={"Placed": "orders"})
    around = Surroundings(
        coordinators="choreo",
        topics={"orders": TopicInfo("orders", 3)},
        groups={"choreo": GroupInfo("choreo", ("one", "two"), {})},
    )
    standings = [
        Standing("one", 1, frozenset({TopicPartition("orders", 0)}), 20, 18_000, 2_500_000),
        Standing("two", 1, frozenset(), 0, None, None),
        Standing("killed", 1, frozenset({TopicPartition("orders", 1)}), 20, 1, 1),
    ]
    seen = replace(_fine(), definitions=[definition], around=around, standings=standings)
    found = [each for each in examine(seen) if each.area == "coordinator"]
    assert [each.verdict for each in found] == ["warning", "ok", "ok"]
    assert found[0].sentence == (
        "2 in group 'choreo', 0 events unread, 1 of 3 partitions owned; nobody reads orders/1, orders/2"
    )
    assert found[1].sentence == "one reads orders/0; decision delay p50 18ms, p99 2.5s"
    assert found[2].sentence == "two reads nothing: it stands by; it has decided nothing yet"
    [before] = [each for each in examine(replace(seen, standings=[])) if each.area == "coordinator"]
    assert "none has said yet what it reads" in before.sentence


def test_the_configuration_names_its_context_and_counts_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choreo.toml").write_text('[contexts.dev]\nhome = "here"\nwebhook_secret = "whsec_hush"\n')
    console = Console(capsys, tmp_path)
    done = console("doctor", "--only", "config", "--context", "dev")
    assert "context dev of choreo.toml, broker local:here" in done.out
    assert "; 1 secret set" in done.out
    assert "hush" not in done.out


def test_a_backup_is_a_whole_store_and_doctor_says_how_old_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_store_without_topics(tmp_path))
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    console = Console(capsys, tmp_path)
    assert "SQLite, WAL, schema 00" in console("doctor", "--only", "store").out
    assert "no backup is known (saga store backup)" in console("doctor", "--only", "store").out
    copy = tmp_path / "copy.db"
    tried = validate(console("store", "backup", copy, "--dry-run", "-o", "json").json, "saga.backup/v1")
    assert (tried["at"], copy.exists()) == (None, False)
    done = validate(console("store", "backup", copy, "-o", "json").json, "saga.backup/v1")
    assert done["bytes"] == copy.stat().st_size
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db"], "nothing else lies beside it"
    assert "last backup" in console("doctor", "--only", "store").out
    assert "store backup" in console("audit", "list").out
    assert console("versions", "--store", f"sqlite:{copy}").code == exits.OK, "it is a store"
    again = console("store", "backup", copy)
    assert (again.code, "replaces nothing" in again.err) == (exits.USAGE, True)
    assert console("store", "backup").code == exits.USAGE
    noted = validate(console("store", "backup", "--made-by", "our nightly script", "-o", "json").json)
    assert (noted["file"], noted["by_means_of"]) == (None, "our nightly script")


@pytest.mark.postgres
def test_a_store_on_postgresql_is_backed_up_by_its_own_means_and_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    async def make() -> None:
        database = await Database.open(postgres_url)
        await database.ensure_schema("events", outbox.metadata, outbox.HEAD)
        await database.ensure_schema("saga", metadata, HEAD)
        await database.close()

    asyncio.run(make())
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_STORE", postgres_url)
    console = Console(capsys, tmp_path)
    refused = console("store", "backup", tmp_path / "copy.db")
    assert (refused.code, "pg_dump" in refused.err) == (exits.USAGE, True)
    assert console("store", "backup", "--made-by", "pg_dump").code == exits.OK
    told = console("doctor", "--only", "store").out
    assert re.search(r"PostgreSQL [\d.]+, schema \d+, .* [kM]B, last backup", told)


@pytest.mark.jaeger
def test_a_probe_span_is_sent_and_looked_for_in_jaeger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, jaeger: JaegerServer
) -> None:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli_doctor, "_SHOWN", 60.0)
    console = Console(capsys, tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp)
    told = console("doctor", "--only", "traces")
    assert (told.code, "nobody looked for it" in told.out) == (exits.OK, True)
    monkeypatch.setenv("CHOREO_JAEGER", jaeger.url)
    told = console("doctor", "--only", "traces", "--strict")
    assert (told.code, "the probe span was found in Jaeger after" in told.out) == (exits.OK, True)
    monkeypatch.setattr(cli_doctor, "_SHOWN", 1.0)
    with OtlpSink() as elsewhere:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", elsewhere.url)
        told = console("doctor", "--only", "traces", "--strict")
        assert (told.code, "has not shown it within" in told.out) == (exits.ERROR, True)
        elsewhere.answer = 400
        told = console("doctor", "--only", "traces", "--strict")
        assert (told.code, "it did not take the probe span" in told.out) == (exits.ERROR, True)


def _fine() -> Seen:
    """What the doctor sees where nothing is there, and nothing is wrong."""
    return Seen("", None, "", {}, 0, Brakes(False, False), [], [], 0, (0, 0), (0, 0), 0, Surroundings(), {}, None)


def _verdicts(told: Mapping[str, Any]) -> dict[str, str]:
    return {each["area"]: each["verdict"] for each in told["findings"]}
