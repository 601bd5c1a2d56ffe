"""`saga pause`, `resume`, `retry`, `skip` and batches, over a store with a coordinator beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from choreo import Retry, Saga, step
from choreo.events.clock import SECOND, system_clock
from choreo.saga import audit, jobs
from choreo.saga.cli import exits
from choreo.saga.tables import command
from choreo.saga.words import Phase, StepState
from tests.saga.stage import Paid, Placed, Refused, Release, Released, Reserved, Stage, header
from tests.support.console import Console, Done, validate


class Shipping(Saga, start=Placed, key="order_id", type="order"):
    reserve = step(done=Reserved, undo=None, within="30s")
    charge = step(after=reserve, done=Paid, undo=None, pivot=True, within="30s")
    ship = step(
        after=charge, send=Release, done=Released, failed=Refused, undo=None, within="10m", retry=Retry(attempts=1)
    )


class Desk:
    """A running coordinator, and the command line over its store."""

    def __init__(self, stage: Stage, saga: Console) -> None:
        self.stage = stage
        self._saga = saga

    async def saga(self, *arguments: object) -> Done:
        """Run a command beside the coordinator."""
        return await asyncio.to_thread(self._saga, *arguments)

    async def failed(self, *orders: str) -> None:
        """Let the last step of these orders fail."""
        for each in orders:
            events = Placed(order_id=each), Reserved(order_id=each), Paid(order_id=each), Refused(order_id=each)
            await self.stage.publish(*events)
        names = [f"order/{each}" for each in orders]
        await self.stage.until(lambda found: all(_ship(found, name) is StepState.FAILED for name in names))


def _ship(found: Any, name: str) -> StepState | None:
    return found[name].steps["ship"].state if name in found else None


@pytest.fixture
async def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")
    live = any(
        word in request.node.name for word in ("many", "resumed_and_aborted")
    )  # the command line's clock must be the coordinator's
    now = system_clock() - (0 if live else 3_600 * SECOND)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Shipping,), now=now, live=live) as stage:
        await stage.start()
        yield Desk(stage, Console(capsys, tmp_path))


async def test_a_paused_saga_says_who_paused_it_when_and_why_and_goes_on_when_it_is_resumed(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found)
    done = await desk.saga("pause", "1", "--reason", "the bank is down")
    assert (done.code, done.out) == (exits.OK, "pause order/1: order/1 is RUNNING, paused\n")
    told = validate((await desk.saga("status", "1", "-o", "json")).json, "saga.status/v1")
    assert told["paused"]["reason"] == "the bank is down"
    assert told["paused"]["timers"] == 1
    shown = (await desk.saga("status", "1")).out
    assert "PAUSED" in shown and "the bank is down" in shown
    assert "PAUSED" in (await desk.saga("list")).out
    why = validate((await desk.saga("why", "1", "-o", "json")).json, "saga.why/v1")
    assert "paused it" in str(why) and "the bank is down" in str(why) and "saga resume order/1" in str(why)
    await desk.stage.publish(Reserved(order_id="1"), Paid(order_id="1"))
    await desk.stage.until(lambda found: found["order/1"].steps["charge"].state is StepState.DONE)
    desk.stage.now += 900 * SECOND
    await desk.stage.settled()
    assert (await desk.stage.sent("inventory.commands")) == []
    assert (await desk.saga("resume", "1")).code == exits.OK
    assert len(await desk.stage.eventually_sent("inventory.commands", 1)) == 1
    again = await desk.saga("resume", "1")
    assert (again.code, "it is not paused" in again.err) == (exits.NOT_ALLOWED, True)


async def test_a_failed_step_is_tried_again_under_a_new_id_and_the_saga_ends(desk: Desk) -> None:
    await desk.failed("1")
    tried = await desk.saga("retry", "1", "--dry-run")
    assert "Release goes out" in tried.out
    assert (await desk.saga("retry", "1", "--from", "ship")).code == exits.USAGE
    assert (await desk.saga("retry", "1", "--from", "ship", "--reason", "mended")).code == exits.OK
    first, second = await desk.stage.eventually_sent("inventory.commands", 2)
    assert header(first, "ce_id") != header(second, "ce_id")
    assert header(second, "saga-attempt") == "2"
    await desk.stage.publish(Released(order_id="1"))
    await desk.stage.until(lambda found: found["order/1"].phase is Phase.COMPLETED)
    refused = await desk.saga("retry", "1")
    assert (refused.code, "COMPLETED already" in refused.err) == (exits.NOT_ALLOWED, True)


async def test_a_saga_goes_on_without_a_step_that_is_skipped_for_a_reason(desk: Desk) -> None:
    await desk.failed("1")
    assert (await desk.saga("skip", "1", "ship")).code == exits.USAGE
    assert "is the pivot" in (await desk.saga("skip", "1", "charge", "--reason", "x")).err
    assert "it has reserve, charge, ship" in (await desk.saga("skip", "1", "nosuch", "--reason", "x")).err
    assert (await desk.saga("skip", "1", "ship", "--reason", "sent by hand")).code == exits.OK
    found = await desk.stage.until(lambda found: found["order/1"].phase is Phase.COMPLETED)
    assert found["order/1"].steps["ship"].state is StepState.DEGRADED


async def test_many_sagas_are_one_batch_with_an_id_and_each_is_asked_once(desk: Desk) -> None:
    orders = [str(number) for number in range(1, 8)]
    await desk.failed(*orders)
    assert (await desk.saga("retry", "--type", "order", "--reason", "x")).code == exits.USAGE  # nobody to ask
    dry = await desk.saga("retry", "--type", "order", "--dry-run", "-o", "json")
    assert len([validate(row, "saga.tried/v1") for row in dry.json]) == 7
    done = await desk.saga(
        "retry", "--type", "order", "--error", "refused", "--rate", "200", "--reason", "mended", "-y", "-o", "json"
    )
    told = validate(done.json, "saga.batch/v1")
    assert (done.code, told["state"], told["applied"], told["refused"]) == (exits.OK, "done", 7, 0)
    assert len(await desk.stage.eventually_sent("inventory.commands", 14)) == 14
    asked = select(func.count()).select_from(command)
    assert await desk.stage.database.read(lambda c: c.execute(asked).scalar_one()) == 7
    listed = await desk.saga("batch", "list", "-o", "json")
    assert [row["id"] for row in listed.json] == [told["id"]]
    items = (await desk.saga("batch", "show", told["id"], "--items", "-o", "json")).json["items"]
    assert [(each["target"], each["state"]) for each in items] == [(f"order/{each}", "applied") for each in orders]
    rows = await desk.stage.database.read(lambda c: audit.read(c, audit.Wanted(unfolded=True)))
    assert [row.action for row in rows] == ["retry"] * 7 + ["batch retry"]
    assert {row.host for row in rows} == {rows[0].host} and rows[0].host
    assert (await desk.saga("audit", "verify")).code == exits.OK


async def test_a_batch_is_paused_resumed_and_aborted(desk: Desk) -> None:
    await desk.failed("1", "2", "3")
    ids = await desk.stage.database.read(lambda c: [f"order/{each}" for each in (1, 2, 3)])
    await desk.stage.stop()  # nobody works it off

    def create(connection: Any) -> None:
        who = audit.Who("ann")
        jobs.create(connection, "b-1", "pause", ids, who, reason="r", about="--type order", rate=50, now=desk.stage.now)

    await desk.stage.database.write(create)
    assert (await desk.saga("batch", "pause", "b-1")).code == exits.OK
    assert (await desk.saga("batch", "pause", "b-1")).code == exits.NOT_ALLOWED
    await desk.stage.start()
    await desk.stage.settled()
    assert not any(each.paused for each in (await desk.stage.instances()).values())
    assert (await desk.saga("batch", "resume", "b-1")).code == exits.OK
    await desk.stage.until(lambda found: all(each.paused for each in found.values()))
    assert (await desk.saga("batch", "abort", "nosuch", "--reason", "x")).code == exits.NOT_FOUND


async def test_an_aborted_batch_asks_for_nothing_more(desk: Desk) -> None:
    await desk.failed("1", "2")
    names = ["order/1", "order/2", "order/1"]
    await desk.stage.stop()

    def create(connection: Any) -> None:
        jobs.create(
            connection, "b-2", "pause", names, audit.Who("ann"), reason="r", about="", rate=50, now=desk.stage.now
        )

    await desk.stage.database.write(create)
    done = await desk.saga("batch", "abort", "b-2", "--reason", "a slip", "-o", "json")
    told = validate(done.json, "saga.batch/v1")
    assert (told["state"], told["total"], told["pending"]) == ("aborted", 2, 2)
    await desk.stage.start()
    await desk.stage.settled()
    assert not any(each.paused for each in (await desk.stage.instances()).values())


async def test_a_batch_goes_on_after_a_crash_and_asks_for_nobody_twice(desk: Desk) -> None:
    await desk.failed("1", "2")
    now = desk.stage.now
    await desk.stage.stop()

    def create(connection: Any) -> None:
        names = ["order/1", "order/2"]
        jobs.create(connection, "b-3", "pause", names, audit.Who("ann"), reason="r", about="", rate=1, now=now)
        jobs.feed(connection, now)  # a part went out, and then the coordinator died

    await desk.stage.database.write(create)
    first = await desk.stage.database.read(lambda c: jobs.progress(c, "b-3"))
    assert (first.asked, first.pending) == (1, 1)
    await desk.stage.start()
    for _ in range(3_000):
        desk.stage.now += SECOND
        if (await desk.stage.database.read(lambda c: jobs.progress(c, "b-3"))).job.state == "done":
            break
        await asyncio.sleep(0.02)
    done = await desk.stage.database.read(lambda c: jobs.progress(c, "b-3"))
    assert (done.job.state, done.applied, done.refused) == ("done", 2, 0)


async def test_one_saga_or_a_filter_is_named_and_not_both(desk: Desk) -> None:
    await desk.failed("1")
    assert (await desk.saga("pause")).code == exits.USAGE
    assert (await desk.saga("pause", "1", "--type", "order")).code == exits.USAGE
    none = await desk.saga("pause", "--type", "nosuch", "-y")
    assert (none.code, "no saga is meant" in none.err) == (exits.OK, True)
    assert (await desk.saga("pause", "1")).code == exits.OK
    listed = await desk.saga("resume", "--state", "PAUSED", "--dry-run", "-o", "json")
    assert [row["id"] for row in listed.json] == ["order/1"]
