"""`saga schedules` over a store with a running coordinator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo import Saga, cron, step
from choreo.saga.cli import exits
from tests.saga.stage import Placed, Reserved, Stage
from tests.support.console import Console, validate


class Nightly(Saga, start=Placed, key="order_id", schedule=cron("0 2 * * *", tz="Europe/Berlin")):
    write = step(done=Reserved, undo=None, within="1h")


@pytest.fixture
async def saga(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Console]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Nightly,)) as stage:
        await stage.start()
        yield Console(capsys, tmp_path)


async def test_schedules_are_listed_paused_and_resumed(saga: Console) -> None:
    shown = await asyncio.to_thread(saga, "schedules")
    assert shown.code == exits.OK
    assert "nightly" in shown.out
    assert "0 2 * * *" in shown.out
    assert "Europe/Berlin" in shown.out
    done = await asyncio.to_thread(saga, "schedules", "pause", "nightly", "--reason", "audit")
    assert done.out == "pause-schedule nightly: the schedule of nightly is paused\n"
    (told,) = (await asyncio.to_thread(saga, "schedules", "-o", "json")).json
    validate(told, "saga.schedule/v1")
    assert (told["paused"], told["reason"], told["next_at"]) == (True, "audit", None)
    assert "paused by" in (await asyncio.to_thread(saga, "schedules")).out
    assert (await asyncio.to_thread(saga, "schedules", "pause", "nightly", "--reason", "x")).code == exits.NOT_ALLOWED
    assert (await asyncio.to_thread(saga, "schedules", "resume", "nightly")).code == exits.OK
    (told,) = (await asyncio.to_thread(saga, "schedules", "-o", "json")).json
    assert told["next_at"] is not None


async def test_a_type_without_a_schedule_is_not_found(saga: Console) -> None:
    done = await asyncio.to_thread(saga, "schedules", "resume", "order")
    assert done.code == exits.NOT_FOUND
    assert "nightly has one" in done.err
