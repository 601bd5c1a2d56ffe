"""Erasing: what was said goes, that it was stays, nobody is told whom it was about, and the audit still holds."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from choreo.events.clock import SECOND, system_clock
from choreo.events.database import Database
from choreo.saga import alerting, audit, erasure, recorded
from choreo.saga.alerts import Alert
from choreo.saga.cli import exits
from choreo.services import inbox
from tests.saga.stage import Declined, Order, Paid, Placed, Released, Reserved, Stage
from tests.support.console import Console, validate

SECRET = "Kunigunde"


async def _ended(stage: Stage) -> None:
    """One saga that was undone, with a name in every payload."""
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1", reservation=SECRET))
    await stage.publish(Declined(order_id="1"))
    await stage.until(lambda found: "order/1" in found and found["order/1"].phase == "COMPENSATING")
    await stage.publish(Released(order_id="1"))
    await stage.until(lambda found: found["order/1"].phase == "COMPENSATED")
    await stage.ask("cancel", saga_id="order/1", reason=f"{SECRET} called")


async def _texts(stage: Stage) -> str:
    """Everything that the store holds, as text."""

    def dump(connection: Any) -> str:
        found = []
        for table in erasure.saga.metadata.sorted_tables:
            found += [repr(tuple(row)) for row in connection.execute(table.select())]
        return "\n".join(found)

    return await stage.database.read(dump)


async def test_payloads_and_reasons_go_and_types_times_and_outcome_stay(stage: Stage) -> None:
    await stage.start()
    await _ended(stage)
    assert SECRET in await _texts(stage)
    before = await stage.history("order/1")
    told = await stage.ask("erase", key="1", type="", reason="art. 17")
    assert (told.state, "1 saga" in told.result) == ("applied", True)
    assert SECRET not in await _texts(stage)
    after = await stage.history("order/1")
    assert [(row.seq, row.event_id, row.type, row.at, row.verdict) for row in before] == [
        (row.seq, row.event_id, row.type, row.at, row.verdict) for row in after
    ]
    assert all(row.value is None for row in after)
    instance = (await stage.instances())["order/1"]
    assert (instance.phase, instance.erased is not None) == ("COMPENSATED", True)
    verdict = await stage.database.read(lambda c: audit.verify(audit.chain(c)))
    assert (verdict.broken, verdict.erased) == (None, 2)


async def test_an_erasure_is_audited_without_the_key_and_a_second_one_finds_nothing(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="k-4711-k"), Reserved(order_id="k-4711-k"), Paid(order_id="k-4711-k"))
    await stage.until(lambda found: any(each.phase == "COMPLETED" for each in found.values()))
    await stage.ask("erase", key="k-4711-k", type="order", reason="art. 17")
    again = await stage.ask("erase", key="k-4711-k", type="order", reason="art. 17")
    assert (again.state, again.result) == ("applied", "there is nothing, or nothing any more")
    rows = await stage.database.read(lambda c: list(audit.chain(c)))
    assert [row.action for row in rows] == ["erase"] * 4
    assert not any("4711" in repr(row) for row in rows)
    assert rows[1].details["key"] == erasure.hashed("order", "k-4711-k")
    [asked, _] = await stage.database.read(
        lambda c: c.execute(erasure.command.select().order_by(erasure.command.c.at)).all()
    )
    assert "4711" not in asked.arguments


async def test_an_open_saga_is_refused_for_its_commands_are_made_of_what_it_has_seen(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1", reservation=SECRET))
    await stage.until(lambda found: "order/1" in found)
    told = await stage.ask("erase", key="1", type="", reason="art. 17")
    assert (told.state, "order/1 is RUNNING" in told.result) == ("refused", True)
    assert SECRET in await _texts(stage)


async def test_what_is_parked_for_the_key_goes_too_and_other_keys_keep_theirs(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Reserved(order_id="1", reservation=SECRET), Reserved(order_id="2", reservation="r2"))
    await stage.settled()
    await stage.ask("erase", key="1", type="", reason="art. 17")
    text = await _texts(stage)
    assert SECRET not in text
    assert "r2" in text


async def test_what_alerts_say_of_the_saga_goes_and_that_there_were_some_stays(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await _ended(stage)
    about = Alert("a-1", "Late", "order/1", "order", "1", None, "Timeout", f"{SECRET} waits", 5, (SECRET,))
    other = about._replace(id="a-2", saga="order/2", key="2", summary="somebody waits", remedies=())
    await stage.database.write(lambda connection: alerting.note(connection, [about, other]))
    await stage.ask("erase", key="1", type="", reason="art. 17")
    text = await _texts(stage)
    assert SECRET not in text
    assert "a-1" in text
    assert "somebody waits" in text


async def test_a_replay_says_erased_and_claims_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")
    now = system_clock() - 60 * SECOND
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Order,), now=now) as stage:
        await stage.start()
        await _ended(stage)

        async def saga(*arguments: object) -> Any:
            return await asyncio.to_thread(Console(capsys, tmp_path), *arguments)

        dry = await saga("erase", "--key", "1", "--reason", "art. 17", "--dry-run", "-o", "json")
        counts = validate(dry.json, "saga.erased/v1")
        assert (counts["state"], counts["sagas"], counts["events"], counts["commands"]) == ("dry-run", 1, 5, 1)
        assert SECRET in await _texts(stage)
        assert (await saga("erase", "--key", "1", "--reason", " ")).code == exits.USAGE
        assert (await saga("erase", "1", "--reason", "x")).code == exits.USAGE
        assert (await saga("erase", "--key", "1", "--reason", "x")).code == exits.USAGE  # nobody to ask
        service = await Database.open(f"sqlite:{tmp_path / 'inventory.db'}")
        await service.ensure_schema("services", inbox.metadata, inbox.HEAD)
        ids = await stage.database.read(lambda c: erasure.event_ids(c, "", "1"))
        row = {"event_id": ids[0], "handler": "h", "state": "done", "at": 1, "answer": SECRET}
        await service.write(lambda c: c.execute(inbox.inbox.insert(), row))
        await service.close()
        done = await saga("erase", "order/1", "--reason", "art. 17", "-y", "-o", "json")
        assert (done.code, validate(done.json, "saga.erased/v1")["services"]) == (exits.OK, 1)
        with sqlite3.connect(tmp_path / "inventory.db") as connection:
            assert connection.execute("SELECT state, answer FROM choreo_inbox").fetchall() == [("done", None)]
        verified = await saga("replay", "--verify", "--all", "-o", "json")
        assert (verified.code, verified.json["erased"], verified.json["differing"]) == (exits.OK, 1, 0)
        assert "erased" in (await saga("replay", "order/1")).err
        told = validate((await saga("status", "order/1", "--history", "-o", "json")).json, "saga.status/v1")
        assert told["erased_at"] is not None
        assert "erased" in (await saga("status", "order/1")).out
        assert len(await stage.database.read(lambda c: recorded.page(c, recorded.Which()))) == 1
