"""A coordinator killed at any commit point and started again: each event is applied once, each command keeps its id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from sqlalchemy import Select, func, select

from choreo.events.catalog import catalog_topics
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record, read_envelope
from choreo.events.event import Event
from choreo.events.ids import new_id
from choreo.events.local import LocalBroker
from choreo.events.registry import EmbeddedRegistry
from choreo.events.transport import TopicSpec
from choreo.saga.tables import history, saga
from tests.saga.stage import EVENTS, TOPICS, Declined, Placed, Reserved

ROOT = Path(__file__).parents[2]
COUNT = 60
POINTS = (
    "coordinator.before_transaction:3",
    "coordinator.in_transaction:4",
    "coordinator.before_commit:3",
    "coordinator.after_commit:2",
    "coordinator.before_commit:5",
    "coordinator.after_commit:1",
)


async def _start(tmp_path: Path, crash_at: str | None, ahead: int = 0) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("CHOREO_CRASH_AT", None)
    if crash_at is not None:
        environment["CHOREO_CRASH_AT"] = crash_at
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.saga.crash_program",
        str(tmp_path / "broker.db"),
        f"sqlite:{tmp_path / 'saga.db'}",
        str(ahead),
        env=environment,
        cwd=tmp_path,
    )


async def _run(tmp_path: Path, crash_at: str | None, ahead: int = 0) -> int:
    process = await _start(tmp_path, crash_at, ahead)
    async with asyncio.timeout(90):
        return await process.wait()


async def test_fault_01_02_04_a_killed_coordinator_goes_on_where_it_was(tmp_path: Path) -> None:
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
    counted = await database.read(lambda c: [tuple(row) for row in c.execute(_phases())])
    assert sorted(counted) == [("past", "COMPENSATED", number), ("undoing", "COMPENSATING", number)]
    applied = await database.read(lambda c: [tuple(row) for row in c.execute(_events_of_sagas())])
    assert len(applied) == 2 * number
    assert {count for _, count in applied} == {3}, "each event was applied once; a resend by the clock is no event"
    await database.close()


def _phases() -> Select[tuple[str, str, int]]:
    return select(saga.c.type, saga.c.phase, func.count()).group_by(saga.c.type, saga.c.phase)


def _events_of_sagas() -> Select[tuple[str, int]]:
    query = select(history.c.saga_id, func.count()).where(history.c.kind == "event")
    return query.group_by(history.c.saga_id)


async def _placed(broker: LocalBroker, *events: type[Event], count: int = COUNT) -> None:
    names = (*TOPICS, *(f"{name}.dlq" for name in TOPICS))
    await broker.create_topics([*(TopicSpec(name, 2) for name in names), *catalog_topics()])
    codec = Codec(EmbeddedRegistry(broker))
    await codec.prepare(EVENTS)
    records = []
    for n in range(count):
        for cls in events:
            made = Envelope(new_id(), cls.spec().type, "test", 1_700_000_000_000_000 + len(records), str(n))
            records.append(to_record(cls.model_validate({"order_id": str(n)}), made, codec))
    await broker.send(records)


async def _undone_once(broker: LocalBroker, tmp_path: Path, count: int, inputs: int) -> None:
    """Each saga of `undoing` has asked for one undo under one id, and has read so many inputs."""
    commands = [read_envelope(each) for each in await broker.snapshot("inventory.commands")]
    assert {each.key for each in commands} == {str(n) for n in range(count)}, "none is lost"
    assert len({each.id for each in commands}) == count, "a copy of a command has the id of the first"
    database = await Database.open(f"sqlite:{tmp_path / 'saga.db'}")
    found = await database.read(
        lambda c: [tuple(row) for row in c.execute(select(saga.c.phase, saga.c.seq).where(saga.c.type == "undoing"))]
    )
    await database.close()
    assert found == [("COMPENSATING", inputs)] * count


async def test_fault_11_a_coordinator_that_dies_while_it_fires_timers_fires_each_once(tmp_path: Path) -> None:
    async with LocalBroker(tmp_path / "broker.db") as broker:
        await _placed(broker, Placed, Reserved, count=20)
        assert await _run(tmp_path, None) == 0
        for place in ("before_transaction", "in_transaction", "before_commit", "after_commit"):
            assert await _run(tmp_path, f"coordinator.{place}:1", ahead=60) == -signal.SIGKILL
        assert await _run(tmp_path, None, ahead=60) == 0
        await _undone_once(broker, tmp_path, 20, inputs=3)


async def test_fault_14_a_coordinator_that_was_frozen_beyond_its_session_does_nothing_twice(tmp_path: Path) -> None:
    """It freezes between its commit and all that follows; another takes over; then it goes on."""
    async with LocalBroker(tmp_path / "broker.db") as broker:
        await _placed(broker, Placed, Reserved, Declined)
        zombie = await _start(tmp_path, "coordinator.after_commit:1:STOP")
        try:
            async with asyncio.timeout(60):
                while _state(zombie.pid) != "T":
                    await asyncio.sleep(0.05)
            assert await _run(tmp_path, None) == 0, "the other one does all the work"
            await _undone_once(broker, tmp_path, COUNT, inputs=3)
            zombie.send_signal(signal.SIGCONT)
            async with asyncio.timeout(60):
                assert await zombie.wait() == 0
        finally:
            if zombie.returncode is None:
                zombie.kill()
                await zombie.wait()
        await _undone_once(broker, tmp_path, COUNT, inputs=3)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
