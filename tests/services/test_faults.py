"""Rows of the fault matrix that concern services and have no better place: each test makes the fault really happen."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from choreo.events.database import Database
from choreo.events.local import LocalBroker
from choreo.events.settings import Settings
from choreo.services.context import Transaction
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, StockReserved, idle, until

PROGRAM = Path(__file__).with_name("crash_program.py")
FULL = Path(__file__).with_name("full_program.py")
tables = MetaData()
stock = Table("stock", tables, Column("item", String(20), primary_key=True), Column("taken", Integer, nullable=False))


def _counting(store: str) -> Service:
    """Each event is counted in the service's own table: twice handled would be seen."""
    service = Service("inventory", store=store, tables=tables)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        taken = await tx.execute(update(stock).values(taken=stock.c.taken + 1))
        if not taken.rowcount:
            await tx.execute(insert(stock).values(item="book", taken=1))
        return StockReserved(order_id=order.order_id, number=order.number)

    return service


async def _taken(store: str) -> int:
    database = await Database.open(store)
    try:
        return await database.read(
            lambda connection: int(connection.execute(text("SELECT taken FROM stock")).scalar_one())
        )
    finally:
        await database.close()


async def test_fault_03_a_commit_whose_outcome_nobody_knows_is_looked_up(rig: Rig, store, monkeypatch):
    """The connection breaks after the commit was done, or before it was: either way everything counts once."""
    real, breaks = AsyncConnection.commit, [0]
    began = []

    async def commit(connection: AsyncConnection) -> None:
        began.append(1)
        if len(began) % 3 == 0 and breaks[0] < 6:
            breaks[0] += 1
            if breaks[0] % 2:
                await real(connection)
            else:
                await connection.rollback()
            raise DBAPIError("COMMIT", {}, OSError("the connection broke"), connection_invalidated=True)
        await real(connection)

    service = _counting(store)
    await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(10)))
    async with rig.worker(service) as worker:
        await idle(worker)
        monkeypatch.setattr(AsyncConnection, "commit", commit)
        for part in range(1, 6):
            await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(part * 10, part * 10 + 10)))
            await idle(worker)
        monkeypatch.undo()
    found = await rig.published("inventory")
    assert sorted({each.event["number"] for each in found}) == list(range(60))
    assert len({each.envelope.id for each in found}) == 60
    assert await _taken(store) == 60


async def test_fault_10_a_service_that_dies_while_its_partitions_are_revoked_has_committed_nothing_too_far(tmp_path):
    store = f"sqlite:{tmp_path / 'service.db'}"
    async with LocalBroker(tmp_path / "broker.db", session=1) as broker:
        rig = Rig(broker, Settings(home=tmp_path))
        await rig.prepare(partitions=2)
        await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(60)))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            str(tmp_path / "broker.db"),
            store,
            "slow",
            "0",
            env={**os.environ, "CHOREO_CRASH_AT": "service.in_revoke:1"},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:

            async def joined() -> bool:
                return bool((await broker.group("inventory")).members)

            await until(joined)
            async with rig.worker(_counting(store)) as worker:  # its coming takes partitions from the other
                assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL, "the point was not reached"
                await idle(worker)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = await rig.published("inventory")
        assert sorted({each.event["number"] for each in found}) == list(range(60))
        assert len({each.envelope.id for each in found}) == 60
        assert await _taken(store) == 60


async def test_fault_34_35_a_database_that_cuts_every_connection_again_and_again_loses_nothing(rig: Rig, postgres_url):
    service = _counting(postgres_url)
    number, cuts = 0, 0
    async with rig.worker(service) as worker:
        await rig.publish(OrderPlaced(order_id="first", number=0))
        await idle(worker)
        database = await Database.open(postgres_url)

        async def cut() -> bool:
            nonlocal cuts
            found = await database.read(lambda connection: int(connection.execute(text(kill)).scalar_one()))
            cuts += found
            return found > 0

        kill = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            for _ in range(8):
                await rig.publish(*(OrderPlaced(order_id=str(number + n), number=number + n) for n in range(1, 26)))
                number += 25
                await asyncio.sleep(0.05)
                await until(cut)  # the worker may have none just now
        finally:
            await database.close()
        await idle(worker)
    assert cuts >= 8
    assert worker.counters.dead == 0
    found = await rig.published("inventory")
    assert len({each.envelope.id for each in found}) == number + 1
    assert await _taken(postgres_url) == number + 1


async def test_fault_39_a_store_that_a_stranger_locks_for_a_while_is_waited_for(rig: Rig, store):
    service = _counting(store)
    async with rig.worker(service) as worker:
        await rig.publish(OrderPlaced(order_id="first"))
        await idle(worker)
        stranger = sqlite3.connect(store.removeprefix("sqlite:"), isolation_level=None)
        stranger.execute("BEGIN EXCLUSIVE")
        await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(20)))
        await asyncio.sleep(0.5)
        assert worker.counters.handled == 1
        stranger.execute("ROLLBACK")
        stranger.close()
        await idle(worker)
    assert (worker.counters.handled, worker.counters.dead) == (21, 0)
    assert await _taken(store) == 21


async def test_fault_39_a_store_that_is_locked_for_longer_than_anybody_waits_is_named_and_tried_again(
    rig: Rig, store, monkeypatch
):
    monkeypatch.setattr("choreo.events.database.BUSY", 100)
    service = _counting(store)
    with structlog.testing.capture_logs() as logs:
        async with rig.worker(service) as worker:
            await rig.publish(OrderPlaced(order_id="first"))
            await idle(worker)
            stranger = sqlite3.connect(store.removeprefix("sqlite:"), isolation_level=None)
            stranger.execute("BEGIN EXCLUSIVE")
            await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(20)))
            await until(lambda: any("database is locked" in str(entry.get("error")) for entry in logs))
            assert worker.counters.handled == 1
            stranger.execute("ROLLBACK")
            stranger.close()
            await idle(worker)
    assert (worker.counters.handled, worker.counters.dead) == (21, 0)
    assert await _taken(store) == 21


@pytest.mark.parametrize("room", ["disk", "pages"])
def test_fault_40_a_disk_that_is_full_is_waited_for_and_nothing_is_lost_or_damaged(tmp_path: Path, room: str) -> None:
    """On a file system of its own, of 8 MB, where one may mount that; and with SQLite giving the file no more room."""
    disk, root = tmp_path / "disk", Path(__file__).parents[2]
    disk.mkdir()
    command = [sys.executable, str(FULL), str(disk)]
    mount = f"mount -t tmpfs -o size=8m tmpfs {shlex.quote(str(disk))}"
    may = subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode == 0
    if room == "disk" and may:
        command = ["unshare", "-rm", "sh", "-c", f"{mount} && exec {shlex.join(command)}"]
    else:
        command.append("pages")
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, env=env, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("before") < 60, "it was full before the end"
    assert told == {"handled": 60, "dead": 0, "kept": 60, "integrity": "ok"}


async def test_fault_45_a_thousand_copies_of_an_event_have_one_effect(rig: Rig, store):
    service = _counting(store)
    made = rig.record(OrderPlaced(order_id="1", number=7))
    async with rig.worker(service) as worker:
        for _ in range(4):
            await rig.broker.send([made] * 250)
            await idle(worker)
    assert (worker.counters.handled, worker.counters.duplicates) == (1, 999)
    assert (len(await rig.published("inventory")), await _taken(store)) == (1, 1)
