"""A coordinator killed at any commit point and started again: each event is applied once, each command keeps its id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from sqlalchemy import func, select

from choreo.events.catalog import catalog_topics
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record, read_envelope
from choreo.events.ids import new_id
from choreo.events.local import LocalBroker
from choreo.events.registry import EmbeddedRegistry
from choreo.events.transport import TopicSpec
from choreo.saga.tables import history, saga
from tests.saga.stage import EVENTS, TOPICS, Declined, Placed, Reserved

ROOT = Path(__file__).parents[2]
COUNT = 60
POINTS = (
    "coordinator.in_transaction:4",
    "coordinator.before_commit:3",
    "coordinator.after_commit:2",
    "coordinator.before_commit:5",
    "coordinator.after_commit:1",
)


async def _run(tmp_path: Path, crash_at: str | None) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("CHOREO_CRASH_AT", None)
    if crash_at is not None:
        environment["CHOREO_CRASH_AT"] = crash_at
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.saga.crash_program",
        str(tmp_path / "broker.db"),
        f"sqlite:{tmp_path / 'saga.db'}",
        env=environment,
        cwd=tmp_path,
    )
    async with asyncio.timeout(90):
        return await process.wait()


async def test_fault_02_04_a_killed_coordinator_goes_on_where_it_was(tmp_path: Path) -> None:
    async with LocalBroker(tmp_path / "broker.db") as broker:
        names = (*TOPICS, *(f"{name}.dlq" for name in TOPICS))
        await broker.create_topics([*(TopicSpec(name, 2) for name in names), *catalog_topics()])
        codec = Codec(EmbeddedRegistry(broker))
        await codec.prepare(EVENTS)
        number = 0
        for crash_at in POINTS:
            records: list[Record] = []
            for n in range(number, number + COUNT):
                for event in (Placed(order_id=str(n)), Reserved(order_id=str(n)), Declined(order_id=str(n))):
                    made = Envelope(new_id(), event.spec().type, "test", 1_700_000_000_000_000 + len(records), str(n))
                    records.append(to_record(event, made, codec))
            number += COUNT
            await broker.send(records)
            assert await _run(tmp_path, crash_at) == -signal.SIGKILL, f"{crash_at} was not reached"
        assert await _run(tmp_path, None) == 0

        commands = [read_envelope(each) for each in await broker.snapshot("inventory.commands")]
        by_id = {each.id: each for each in commands}
        assert {each.key for each in by_id.values()} == {str(n) for n in range(number)}, "none is lost"
        assert len(by_id) == number, "a copy of a command has the id of the first"

    database = await Database.open(f"sqlite:{tmp_path / 'saga.db'}")
    per_saga = select(saga.c.type, saga.c.phase, saga.c.seq, func.count()).group_by(
        saga.c.type, saga.c.phase, saga.c.seq
    )
    counted = await database.read(lambda connection: [tuple(row) for row in connection.execute(per_saga)])
    assert sorted(counted) == [("past", "COMPENSATED", 3, number), ("undoing", "COMPENSATING", 3, number)]
    rows = await database.read(
        lambda connection: connection.execute(select(func.count()).select_from(history)).scalar()
    )
    assert rows == 6 * number
    await database.close()
