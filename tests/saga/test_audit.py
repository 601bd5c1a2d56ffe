"""The audit: one chain whoever writes, and no change of it that goes unseen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, update

from choreo.events.database import Database
from choreo.saga import audit
from choreo.saga.audit import Wanted, Who
from choreo.saga.cli import exits
from choreo.saga.tables import HEAD, metadata
from choreo.saga.tables import audit as table
from tests.saga.stage import Placed, Stage
from tests.support.console import Console, validate

ANN = Who("ann", "desk-1", "cli")


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(store_url)
    await opened.ensure_schema("saga", metadata, HEAD)
    yield opened
    await opened.close()


def _write(number: int) -> Any:
    def write(connection: Connection) -> None:
        audit.record(
            connection, "cancel", ANN, outcome="applied", target=f"order/{number}", reason="ill", details={"n": number}
        )

    return write


async def _verdict(database: Database, head: str = "") -> audit.Verdict:
    return await database.read(lambda c: audit.verify(audit.chain(c), head=head))


async def test_writers_at_once_make_one_chain(database: Database) -> None:
    await asyncio.gather(*(database.write(_write(number)) for number in range(20)))
    verdict = await _verdict(database)
    assert (verdict.rows, verdict.broken) == (20, None)
    assert (await _verdict(database, verdict.head)).broken is None


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (update(table).where(table.c.seq == 3).values(by="bob"), 3),
        (update(table).where(table.c.seq == 2).values(outcome="refused"), 2),
        (update(table).where(table.c.seq == 4).values(hash="0" * 64), 4),
        (update(table).where(table.c.seq == 4).values(sealed=None), 4),
        (delete(table).where(table.c.seq == 1), 1),
        (delete(table).where(table.c.seq == 3), 3),
    ],
)
async def test_a_row_that_was_changed_or_taken_out_is_named(database: Database, change: Any, broken: int) -> None:
    for number in range(1, 6):
        await database.write(_write(number))
    await database.write(lambda c: c.execute(change))
    verdict = await _verdict(database)
    assert verdict.broken is not None
    assert verdict.broken.seq == broken


async def test_a_changed_reason_is_named_and_a_row_put_in_at_the_end_too(database: Database) -> None:
    await database.write(_write(1))
    await database.write(_write(2))

    def forge(connection: Connection) -> None:
        row = audit.find(connection, 1)
        assert row is not None and row.sealed is not None
        sealed = json.loads(row.sealed) | {"reason": "well"}
        connection.execute(update(table).where(table.c.seq == 1).values(sealed=json.dumps(sealed)))

    await database.write(forge)
    assert (await _verdict(database)).broken == audit.Broken(1, "its reason or details were changed")

    def append(connection: Connection) -> None:
        row = audit.find(connection, 2)
        assert row is not None
        connection.execute(insert(table), {**row._asdict(), "seq": 3})

    await database.write(append)
    told = (await _verdict(database)).broken
    assert told is not None and told.seq == 1


async def test_an_end_that_was_cut_off_shows_to_who_kept_the_head(database: Database) -> None:
    for number in range(3):
        await database.write(_write(number))
    head = (await _verdict(database)).head
    await database.write(lambda c: c.execute(delete(table).where(table.c.seq == 3)))
    assert (await _verdict(database)).broken is None  # nobody who sees the chain alone can tell
    told = (await _verdict(database, head)).broken
    assert told is not None and told.seq == 3


async def test_what_is_erased_leaves_the_chain_whole_and_only_an_erasure_may(database: Database) -> None:
    for number in range(3):
        await database.write(_write(number))

    def erase(connection: Connection) -> None:
        rows = audit.erase(connection, ["order/1"])
        assert rows == [2]
        audit.record(connection, audit.ERASE, ANN, outcome="done", reason="art. 17", details={"rows": rows})

    await database.write(erase)
    verdict = await _verdict(database)
    assert (verdict.rows, verdict.erased, verdict.broken) == (4, 1, None)
    row = await database.read(lambda c: audit.find(c, 2))
    assert row is not None
    assert (row.target, row.reason, dict(row.details)) == ("order/1", "", {})


async def test_a_command_is_audited_when_it_is_asked_and_when_it_is_answered(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await stage.until(lambda found: "order/1" in found)
    await stage.ask("cancel", saga_id="order/1", reason="the customer asked")
    await stage.ask("cancel", saga_id="order/2", reason="a slip of the pen")
    rows = await stage.database.read(lambda c: audit.read(c, Wanted(unfolded=True)))
    assert [(row.action, row.target, row.outcome) for row in rows] == [
        ("cancel", "order/2", "refused"),
        ("cancel", "order/2", "asked"),
        ("cancel", "order/1", "applied"),
        ("cancel", "order/1", "asked"),
    ]
    assert {row.by for row in rows} == {"ann"}
    assert [row.reason for row in rows][-1] == "the customer asked"
    folded = await stage.database.read(lambda c: audit.read(c, Wanted()))
    assert [row.outcome for row in folded] == ["refused", "applied"]
    assert len(await stage.database.read(lambda c: audit.read(c, Wanted(target="1")))) == 1
    assert len(await stage.database.read(lambda c: audit.read(c, Wanted(target="order")))) == 2
    assert (await _verdict(stage.database)).broken is None


async def test_no_payload_of_a_start_stands_in_the_audit(sqlite_stage: Stage) -> None:
    await sqlite_stage.start()
    data = {"order_id": "7", "total": 4_711}
    await sqlite_stage.ask("start", saga_id="order/7", type="order", event="tests.Placed", data=data)
    rows = await sqlite_stage.database.read(lambda c: audit.read(c, Wanted(unfolded=True)))
    assert not any("4711" in (row.sealed or "") for row in rows)


async def test_the_command_line_lists_shows_verifies_and_exports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    path = tmp_path / "saga.db"
    opened = await Database.open(f"sqlite:{path}")
    await opened.ensure_schema("saga", metadata, HEAD)
    for number in range(1, 4):
        await opened.write(_write(number))

    async def saga(*arguments: object) -> Any:
        return await asyncio.to_thread(Console(capsys, tmp_path), "audit", *arguments, "--store", f"sqlite:{path}")

    listed = await saga("list", "-o", "json")
    assert [validate(row, "saga.audit/v1")["seq"] for row in listed.json] == [3, 2, 1]
    assert "ann on desk-1 by cli" in (await saga("list", "order/2")).out
    assert "hash " in (await saga("show", "2")).out
    assert (await saga("show", "9")).code == exits.NOT_FOUND
    held = await saga("verify", "-o", "json")
    assert (held.code, validate(held.json, "saga.audit-verified/v1")["rows"]) == (exits.OK, 3)
    assert (await saga("export", tmp_path / "audit.jsonl")).code == exits.OK
    assert (await saga("verify", "--file", tmp_path / "audit.jsonl", "--head", held.json["head"])).code == exits.OK
    await opened.write(lambda c: c.execute(update(table).where(table.c.seq == 2).values(by="bob")))
    broken = await saga("verify")
    assert (broken.code, "row 2" in broken.out) == (exits.ERROR, True)
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    (tmp_path / "forged.jsonl").write_text("\n".join([lines[0], lines[1].replace("ann", "bob"), lines[2]]))
    assert "row 2" in (await saga("verify", "--file", tmp_path / "forged.jsonl")).out
    (tmp_path / "no.jsonl").write_text("{}\n")
    assert (await saga("verify", "--file", tmp_path / "no.jsonl")).code == exits.USAGE
    await opened.close()
