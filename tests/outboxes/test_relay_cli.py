"""`saga relay` as one types it: what it says, how it ends, and that a kill at any point loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from choreo import Outbox
from choreo.events.envelope import Delivery
from choreo.events.local import LocalBroker
from choreo.saga.cli import exits
from tests.outboxes.system import Ordered, Paid, System
from tests.support.cli import Program, environment
from tests.support.console import Console, validate
from tests.support.otlp import OtlpSink
from tests.support.ports import free_ports


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Console(capsys, tmp_path / ".choreo")


async def _system(path: Path, *events: Ordered | Paid) -> System:
    system = await System.make(f"sqlite:{path}")
    await system.add(Outbox(source="shop"), *events)
    await system.database.close()
    return system


async def _sent(path: Path, topic: str) -> list[Delivery]:
    async with LocalBroker(path) as broker:
        return await broker.snapshot(topic) if topic in await broker.topics() else []


def _fill(path: Path, *events: Ordered | Paid) -> None:
    asyncio.run(_system(path, *events))


def test_the_statements_of_each_database_are_printed_and_work(saga: Console, tmp_path: Path) -> None:
    for backend in ("postgresql", "sqlite", "mysql"):
        done = saga("relay", "--ddl", backend, "--table", "shop_outbox")
        assert done.code == 0
        assert done.out.count("CREATE TABLE shop_outbox") == 2
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(saga("relay", "--ddl", "sqlite").out)
    Outbox(source="shop").add(connection, Ordered(number="1"))
    connection.commit()
    connection.close()
    done = saga("relay", "--database", "sqlite:shop.db", "--until-empty")
    assert (done.code, done.out) == (0, "1 published · 0 waiting · 1 relay\n")


def test_status_shows_what_waits(saga: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path / "shop.db", Ordered(number="1"), Ordered(number="2"), Paid(number="1"))
    monkeypatch.setenv("CHOREO_OUTBOX", "sqlite:shop.db")
    told = validate(saga("relay", "--status", "-o", "json").json, "saga.relay/v1")
    assert (told["waiting"], told["relays"], told["published"]) == (3, 0, None)
    assert [(each["topic"], each["waiting"]) for each in told["topics"]] == [("orders", 2), ("payments", 1)]
    done = saga("relay", "--status")
    assert done.out.startswith("3 waiting, the oldest for ")
    assert "  orders: 2 waiting" in done.out
    assert "no relay runs" in done.err
    told = validate(saga("relay", "--until-empty", "-o", "json").json, "saga.relay/v1")
    assert (told["waiting"], told["published"], told["lag_ms"]) == (0, 3, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], exits.USAGE, "whose outbox? name its database with --database or CHOREO_OUTBOX"),
        (["--database", "sqlite:nowhere.db"], exits.USAGE, "nowhere.db; name the system's own, or start the system"),
        (["--database", "oracle://x/y"], exits.USAGE, "is no database of an outbox; write postgresql://"),
        (["--database", "mysql://shop:secret@127.0.0.1:1/x"], exits.UNREACHABLE, "mysql://shop:***@127.0.0.1:1/x"),
        (["--database", "sqlite:empty.db"], exits.USAGE, "has no table choreo_event_outbox: make it with"),
        (["--database", "sqlite:empty.db", "--table", "a b"], exits.USAGE, "'a b' is no name for an outbox"),
        (["--database", "sqlite:empty.db", "--lease", "10ms"], exits.USAGE, "--lease 10ms: at least 1s"),
        (["--database", "sqlite:empty.db", "--batch", "0"], exits.USAGE, "--batch 0: 1 to 10,000"),
        (["--database", "sqlite:empty.db", "--keep", "soon"], exits.USAGE, "'soon' is not a"),
    ],
)
def test_what_is_wrong_gets_one_line(saga: Console, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    done = saga("relay", *arguments)
    assert done.code == code
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert "secret" not in done.err


@pytest.mark.parametrize(
    ("point", "copies"),
    [("outbox.before_send", 0), ("outbox.after_send", 1)],
    ids=["test_fault_05_before_the_send", "test_fault_07_after_the_acknowledgement"],
)
async def test_a_relay_that_is_killed_loses_nothing(tmp_path: Path, point: str, copies: int) -> None:
    """SIGKILL at the point; another takes over when the lease is over, and sends copies with the same id and bytes."""
    await _system(tmp_path / "shop.db", *(Ordered(number=str(number)) for number in range(6)))
    settings = environment(home=tmp_path / ".choreo", outbox=f"sqlite:{tmp_path / 'shop.db'}")
    command = ["saga", "relay", "--lease", "1s", "--batch", "3", "--until-empty", "-o", "json"]
    killed = Program(command, env={**settings, "CHOREO_CRASH_AT": f"{point}:2"}, folder=tmp_path, name="killed")
    heir = Program(command, env=settings, folder=tmp_path, name="heir")
    try:
        killed.start()
        assert killed.wait() == -9
        heir.start()
        assert heir.wait() == 0, heir.output
    finally:
        killed.close()
        heir.close()
    sent = await _sent(tmp_path / ".choreo" / "broker.db", "orders")
    by_key: dict[bytes | None, list[Delivery]] = {}
    for delivery in sent:
        by_key.setdefault(delivery.key, []).append(delivery)
    assert sorted(key or b"" for key in by_key) == [b"%d" % number for number in range(6)]
    assert sum(map(len, by_key.values())) == 6 + 3 * copies
    for found in by_key.values():
        assert len({(each.value, each.headers) for each in found}) == 1


async def test_a_relay_says_how_it_goes_and_ends_at_a_signal(tmp_path: Path) -> None:
    """Its lag goes out as a metric, too."""
    await _system(tmp_path / "shop.db", Ordered(number="1"))
    with OtlpSink() as sink:
        settings = environment(home=tmp_path / ".choreo", outbox=f"sqlite:{tmp_path / 'shop.db'}")
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.url
        settings["OTEL_METRIC_EXPORT_INTERVAL"] = "200"
        relay = Program(
            ["saga", "relay", "--every", "200ms", "-o", "jsonl"], env=settings, folder=tmp_path, name="relay"
        )
        try:
            relay.start()
            relay.until('"published":1')
            assert relay.stop() == 0
        finally:
            relay.close()
        assert sink.metrics == {"choreo.outbox.lag", "choreo.outbox.waiting", "choreo.outbox.published"}
    lines = [json.loads(line) for line in relay.output.splitlines() if line.startswith("{")]
    assert all(validate(line, "saga.relay/v1") for line in lines)
    assert (lines[-1]["published"], lines[-1]["waiting"]) == (1, 0)
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    leases = await system.database.read(lambda connection: connection.execute(system.tables.leases.select()).all())
    assert {row.owner for row in leases} == {None}
    await system.database.close()


async def test_a_relay_is_scraped_and_probed(tmp_path: Path) -> None:
    await _system(tmp_path / "shop.db", Ordered(number="1"), Ordered(number="2"))
    settings = environment(home=tmp_path / ".choreo", outbox=f"sqlite:{tmp_path / 'shop.db'}")
    [port] = free_ports(1)
    command = ["saga", "relay", "--health", str(port), "--every", "200ms", "-o", "jsonl"]
    relay = Program(command, env=settings, folder=tmp_path, name="relay")
    try:
        relay.start()
        relay.until('"published":2')
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60)
        assert relay.stop() == 0
    finally:
        relay.close()
    found = {each.name: each for family in text_string_to_metric_families(text) for each in family.samples}
    assert found["choreo_outbox_published_total"].value == 2
    assert found["choreo_outbox_waiting"].value == 0
    assert (ready.status_code, validate(ready.json(), "saga.health/v1")["ok"]) == (200, True)
