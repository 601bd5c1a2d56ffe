"""A process killed at any commit point and started again: nothing is lost, no effect in the store happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from choreo.events.database import Database
from choreo.events.local import LocalBroker
from choreo.events.settings import Settings
from tests.services.shop import OrderPlaced, Rig

PROGRAM = Path(__file__).with_name("crash_program.py")
COUNT = 40
POINTS = (
    "service.after_effect",
    "service.before_commit",
    "service.after_commit",
    "service.after_publish",
    "service.before_offsets",
)


async def _run(tmp_path: Path, kind: str, crash_at: str | None) -> int:
    """Run the program; the last run's clock is ahead, so that it need not wait for what the dead may be sending."""
    environment = dict(os.environ)
    environment.pop("CHOREO_CRASH_AT", None)
    if crash_at is not None:
        environment["CHOREO_CRASH_AT"] = crash_at
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(tmp_path / "broker.db"),
        f"sqlite:{tmp_path / 'service.db'}",
        kind,
        "0" if crash_at is not None else "60",
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(90):
        return await process.wait()


@pytest.mark.parametrize("kind", ["tx", "claim", "plain", "none"])
async def test_fault_08_09_a_killed_service_goes_on_where_it_was(tmp_path: Path, kind: str):
    points = [
        point for point in POINTS if kind != "none" or point not in ("service.before_commit", "service.after_commit")
    ]
    async with LocalBroker(tmp_path / "broker.db") as broker:
        rig = Rig(broker, Settings(home=tmp_path))
        await rig.prepare(partitions=2)
        number = 0
        for point in points:
            await rig.publish(*(OrderPlaced(order_id=str(number + n), number=number + n) for n in range(COUNT)))
            number += COUNT
            after = 7 if point == "service.after_effect" else 1
            assert await _run(tmp_path, kind, f"{point}:{after}") == -signal.SIGKILL, f"{point} was not reached"
        assert await _run(tmp_path, kind, None) == 0
        out = await rig.published("inventory")
        by_id = {each.envelope.id: each for each in out}
        assert sorted(each.event["number"] for each in by_id.values()) == list(range(number))  # none lost, ids stable
        for each in out:  # a copy has the same id and, with a store, the same bytes
            first = by_id[each.envelope.id]
            assert each.delivery.value == first.delivery.value
            if kind != "none":
                assert each.delivery.headers == first.delivery.headers
        assert await rig.all_committed("inventory", "orders")
        if kind == "tx":
            assert await _taken(tmp_path) == number
        else:
            effects = (tmp_path / "service.db.effects").read_text().split()
            assert set(effects) == {str(n) for n in range(number)}


async def _taken(tmp_path: Path) -> int:
    database = await Database.open(f"sqlite:{tmp_path / 'service.db'}")
    try:
        return await database.read(lambda connection: connection.execute(text("SELECT taken FROM stock")).scalar_one())
    finally:
        await database.close()
