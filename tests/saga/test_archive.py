"""`saga archive`: ended sagas go with their history into an archive; at every moment they are somewhere whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.events.envelope import TopicPartition
from choreo.saga import archiving, audit, difference, recorded, store
from choreo.saga.instance import Instance, Parent
from choreo.saga.tables import HEAD, history, metadata, saga, sent
from choreo.saga.words import Phase
from tests.saga.stage import Declined, Paid, Placed, Released, Reserved, Stage
from tests.support.console import Console, validate

ROOT = Path(__file__).parents[2]
DAY = 86_400 * SECOND
FAR = 10_000 * DAY


async def _counts(database: Database) -> dict[str, int]:
    def count(connection: Any) -> dict[str, int]:
        tables = {"sagas": saga, "history": history, "sent": sent}
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in tables.items()
        }

    return await database.read(count)


async def _orders(stage: Stage, *orders: str) -> None:
    """Run orders to their ends: those with an odd number are undone."""
    for order in orders:
        odd = int(order) % 2
        await stage.publish(Placed(order_id=order), Reserved(order_id=order))
        await stage.publish(Declined(order_id=order) if odd else Paid(order_id=order))
        if odd:
            await stage.publish(Released(order_id=order))
    await stage.until(
        lambda all_: all(f"order/{each}" in all_ and all_[f"order/{each}"].phase.ended for each in orders)
    )
    await stage.settled()


async def _archive(stage: Stage, path: Path, which: archiving.Which | None = None) -> archiving.Archived:
    which = which if which is not None else archiving.Which(stage.now + FAR)
    archive = await archiving.open_archive(f"sqlite:{path}", stage.database)
    try:
        archiver = archiving.Archiver(stage.database, archive, which)
        for phase in which.phases:
            assert await archiver.phase(phase, lambda _: True)
    finally:
        await archive.close()
    return archiver.done


async def _differing(database: Database) -> list[str]:
    """Fold what an archive holds again; nothing may be missing."""
    known = await database.read(lambda c: recorded.definitions_of(c, "order"))
    page = await database.read(lambda c: recorded.page(c, recorded.Which(), most=10_000))
    assert not [each.instance.id for each in page if each.forgotten]
    return [each.instance.id for each in page if difference.recorded(each, known) is not None]


async def test_what_is_archived_is_whole_there_and_a_tombstone_here(store_url: str, tmp_path: Path) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await _orders(stage, "1", "2", "3", "4")
        await stage.publish(Placed(order_id="6"), Reserved(order_id="6"))
        await stage.until(lambda all_: "order/6" in all_)
        await stage.settled()
        before = await _counts(stage.database)
        done = await _archive(stage, tmp_path / "archive.db")
        assert (done.sagas, done.rows, done.children, done.changed) == (4, 2 * 3 + 2 * 4, 0, 0)
        assert await _counts(stage.database) == {"sagas": 5, "history": 2, "sent": 0}
        archive = await Database.open(f"sqlite:{tmp_path / 'archive.db'}")
        assert await _counts(archive) == {"sagas": 4, "history": before["history"] - 2, "sent": before["sent"]}
        assert await _differing(archive) == []
        await archive.close()
        assert await _archive(stage, tmp_path / "archive.db") == archiving.Archived(), "there is no second time"
        # The open one ends as if nothing had been, and goes the next time.
        await stage.publish(Paid(order_id="6"))
        await stage.until(lambda all_: all_["order/6"].phase is Phase.COMPLETED)
        await stage.settled()
        assert (await _archive(stage, tmp_path / "archive.db")).sagas == 1


async def test_row_5_what_comes_late_for_an_archived_saga_begins_nothing_and_goes_to_the_archive_as_well(
    store_url: str, tmp_path: Path
) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await _orders(stage, "1", "2")
        ids = await stage.publish(Placed(order_id="7"))
        await stage.publish(Reserved(order_id="7"), Paid(order_id="7"))
        await stage.until(lambda all_: "order/7" in all_ and all_["order/7"].phase.ended)
        await stage.settled()
        await _archive(stage, tmp_path / "archive.db")
        commands = len(await stage.sent("inventory.commands"))
        await stage.publish(Placed(order_id="7"), id=ids[0])  # the same event again; its inbox row has gone
        await stage.publish(Placed(order_id="2"), Reserved(order_id="1"))
        await stage.settled()
        assert {name: each.phase for name, each in (await stage.instances()).items()} == {
            "order/1": Phase.COMPENSATED,
            "order/2": Phase.COMPLETED,
            "order/7": Phase.COMPLETED,
        }
        assert len(await stage.sent("inventory.commands")) == commands
        done = await _archive(stage, tmp_path / "archive.db")
        assert done.changed == 0
        assert (await _counts(stage.database))["history"] == 0
        archive = await Database.open(f"sqlite:{tmp_path / 'archive.db'}")
        assert await _differing(archive) == []
        await archive.close()


async def test_open_and_failed_sagas_and_children_of_open_parents_stay_whole(store_url: str, tmp_path: Path) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await _orders(stage, "1", "2", "4")
        await stage.publish(Placed(order_id="5"))
        await stage.until(lambda all_: "order/5" in all_)
        await stage.settled()
        await stage.stop()
        stage.verified = False

        def change(connection: Any) -> None:
            connection.execute(saga.update().where(saga.c.id == "order/1").values(phase="FAILED"))
            state = connection.execute(select(saga.c.state).where(saga.c.id == "order/2")).scalar_one()
            child = Instance.from_json(state)
            child.parent = Parent("order/5", "pack")
            connection.execute(saga.update().where(saga.c.id == "order/2").values(state=child.to_json()))

        await stage.database.write(change)
        done = await _archive(stage, tmp_path / "archive.db")
        assert (done.sagas, done.children) == (1, 1)
        left = await stage.database.read(lambda c: set(c.execute(select(history.c.saga_id)).scalars()))
        assert left == {"order/1", "order/2", "order/5"}

        def end(connection: Any) -> None:
            connection.execute(saga.update().where(saga.c.id == "order/5").values(phase="COMPLETED"))

        await stage.database.write(end)
        assert (await _archive(stage, tmp_path / "archive.db")).sagas == 2, "the child goes once its parent has ended"


async def test_a_saga_that_changes_between_copy_and_removal_stays_whole(store_url: str, tmp_path: Path) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await _orders(stage, "2", "4")
        which = archiving.Which(stage.now + FAR)
        copied = await stage.database.read(lambda c: archiving.bundle(c, which, "COMPLETED", (0, "")))
        await stage.publish(Paid(order_id="2"))  # of which the saga takes note
        await stage.settled()
        gone = await stage.database.write(lambda c: archiving.remove(c, copied))
        assert gone == {"order/4"}
        done = await _archive(stage, tmp_path / "archive.db")
        assert (done.sagas, done.rows) == (1, 4)


async def test_it_goes_by_type_phase_and_age_in_small_steps(
    sqlite_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = sqlite_stage
    monkeypatch.setattr(archiving, "PAGE", 7)
    monkeypatch.setattr(archiving, "ROWS", 10)
    await stage.start()
    await _orders(stage, *(str(number) for number in range(40)))
    middle = stage.now
    stage.now += DAY
    await _orders(stage, *(str(number) for number in range(40, 50)))
    path = tmp_path / "archive.db"
    assert await _archive(stage, path, archiving.Which(stage.now + FAR, types=("parcel",))) == archiving.Archived()
    assert (await _archive(stage, path, archiving.Which(stage.now + FAR, phases=("CANCELLED",)))).sagas == 0
    assert (await _archive(stage, path, archiving.Which(middle + 1, phases=("COMPENSATED",)))).sagas == 20
    assert (await _archive(stage, path, archiving.Which(middle + 1, types=("order",)))).sagas == 20
    assert (await _archive(stage, path)).sagas == 10
    archive = await Database.open(f"sqlite:{path}")
    assert (await _counts(archive))["sagas"] == 50
    assert await _differing(archive) == []
    await archive.close()


async def test_an_archive_is_nobodys_store_and_of_one_installation(store_url: str, tmp_path: Path) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await _orders(stage, "2")
        with pytest.raises(archiving.ConfigurationError, match="the store itself"):
            await archiving.open_archive(store_url, stage.database)
        path = tmp_path / "archive.db"
        await _archive(stage, path)
        read = await Database.open(f"sqlite:{tmp_path / 'other.db'}")
        await read.ensure_schema("saga", metadata, HEAD)
        place = TopicPartition("orders", 0)
        await read.write(lambda c: store.save_positions(c, "coordinator", {place: 1}, {place: 1}))
        await read.close()
        with pytest.raises(archiving.ConfigurationError, match="the store of a coordinator"):
            await archiving.open_archive(f"sqlite:{tmp_path / 'other.db'}", stage.database)
        archive = await Database.open(f"sqlite:{path}")
        await archive.write(lambda c: c.exec_driver_sql("UPDATE choreo_definition SET hash = 'another'"))
        await archive.close()
        with pytest.raises(archiving.StoreMismatch, match="another installation"):
            await _archive(stage, path)


def _saga(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "choreo", *arguments],
        env={**kept, "CHOREO_HOME": str(home), **environment},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_killed_between_copy_and_removal_nothing_is_lost_and_the_next_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}") as stage:
        stage.now -= 2 * DAY
        await stage.start()
        await _orders(stage, *(str(number) for number in range(12)))
        await stage.stop()
        stage.verified = False
    path = tmp_path / "archive.db"
    command = ("archive", "--older-than", "1d", "--to", str(path), "-y")
    killed = _saga(tmp_path, *command, CHOREO_CRASH_AT="archive.copied:2")
    await asyncio.to_thread(killed.communicate)
    assert killed.returncode == -signal.SIGKILL
    database, archive = await Database.open(f"sqlite:{tmp_path / 'saga.db'}"), await Database.open(f"sqlite:{path}")
    here = await database.read(lambda c: set(c.execute(select(history.c.saga_id)).scalars()))
    there = await archive.read(lambda c: set(c.execute(select(saga.c.id)).scalars()))
    assert here & there, "killed when they were in both"
    assert here | there == {f"order/{number}" for number in range(12)}, "and none was in neither"
    again = _saga(tmp_path, *command, "-o", "json")
    out, err = await asyncio.to_thread(again.communicate)
    assert again.returncode == 0, err
    assert validate(json.loads(out), "saga.archived/v1")["sagas"] == len(here)
    assert (await _counts(database))["history"] == 0
    assert (await _counts(archive))["sagas"] == 12
    assert await _differing(archive) == []
    told = await database.read(lambda c: [(row.action, row.outcome) for row in audit.chain(c)])
    assert told == [("archive", "asked"), ("archive", "asked"), ("archive", "done")]
    await database.close()
    await archive.close()
    # Whatever looks at a store can be asked of the archive.
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    console = Console(capsys, tmp_path)

    def ask(*arguments: str) -> Any:
        done = console(*arguments, "--store", f"sqlite:{path}", "-o", "json")
        assert done.code == 0, done.err
        return done.json

    assert len(await asyncio.to_thread(ask, "list", "--all")) == 12
    assert (await asyncio.to_thread(ask, "status", "order/3"))["phase"] == "COMPENSATED"
    assert len(await asyncio.to_thread(ask, "history", "order/3", "--payloads")) == 4
    assert (await asyncio.to_thread(ask, "replay", "--verify", "--all"))["verified"] == 12


async def test_ctrl_c_ends_it_after_its_present_step(tmp_path: Path) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}") as stage:
        stage.now -= 2 * DAY
        await stage.start()
        await _orders(stage, *(str(number) for number in range(6)))
        await stage.stop()
        stage.verified = False
    command = ("archive", "--older-than", "1d", "--to", str(tmp_path / "archive.db"), "-y", "-o", "json")
    # Stopped where it would be killed, so that the signal comes in the middle of a step.
    process = _saga(tmp_path, *command, CHOREO_CRASH_AT="archive.copied:1:STOP")
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = await asyncio.to_thread(process.communicate)
    told = validate(json.loads(out), "saga.archived/v1")
    assert (process.returncode, told["state"], told["sagas"]) == (130, "interrupted", 3), err
    database = await Database.open(f"sqlite:{tmp_path / 'saga.db'}")
    assert (await _counts(database))["history"] == 3 * 4
    await database.close()


def test_the_command_says_what_would_go_and_refuses_what_must_stay(looking: Console, tmp_path: Path) -> None:
    to = tmp_path / "archive.db"
    told = validate(looking("archive", "--older-than", "1ms", "--to", to, "--dry-run", "-o", "json").json)
    assert (told["state"], told["sagas"]) == ("dry-run", 0)
    assert {each["phase"] for each in told["due"]} >= {"COMPLETED", "COMPENSATED"}
    assert not to.exists()
    none = looking("archive", "--older-than", "900d", "--to", to)
    assert (none.code, none.out) == (0, "")
    assert none.err == "no saga that ended more than 900d ago has a history here: nothing to archive\n"
    done = looking("archive", "--older-than", "1ms", "--to", to)
    assert done.code == 2 and "say -y" in done.err
    done = looking("archive", "--older-than", "1ms", "--to", to, "--phase", "failed")
    assert done.code == 2 and "FAILED" in done.err
    assert looking("archive", "--older-than", "soon", "--to", to).code == 2
    assert not to.exists()


async def test_what_is_erased_is_erased_in_archives_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    path = tmp_path / "archive.db"
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}") as stage:
        await stage.start()
        await _orders(stage, "1", "3")
        await _archive(stage, path)
        console = Console(capsys, tmp_path)
        told = await asyncio.to_thread(console, "history", "order/1")
        assert "the history of order/1 is gone: CHOREO_RETENTION is over, or saga archive took it" in told.err
        command = ("erase", "order/1", "--reason", "art. 17", "-y", "--archive", str(path), "-o", "json")
        tried = await asyncio.to_thread(console, *command, "--dry-run")
        assert validate(tried.json, "saga.erased/v1")["archives"] == 1
        done = await asyncio.to_thread(console, *command)
        assert validate(done.json, "saga.erased/v1")["archives"] == 1, done.err
        again = await asyncio.to_thread(console, *command)
        assert validate(again.json, "saga.erased/v1")["archives"] == 0
        assert (await asyncio.to_thread(console, "erase", "order/1", "--reason", "x", "--archive", "none.db")).code == 9
    archive = await Database.open(f"sqlite:{path}")
    values = await archive.read(
        lambda c: c.execute(
            select(history.c.saga_id, history.c.value, sent.c.id).join_from(
                history, sent, sent.c.saga_id == history.c.saga_id, isouter=True
            )
        ).all()
    )
    assert {row.saga_id for row in values if row.value is not None} == {"order/3"}
    assert {row.saga_id for row in values if row.id is not None} == {"order/3"}
    await archive.close()
