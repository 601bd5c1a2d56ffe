"""Ended sagas are cleaned up in two stages, and no name or id of theirs comes to life again (rows 4 and 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from choreo.events.clock import SECOND
from choreo.events.settings import load_settings
from choreo.saga import audit, retention
from choreo.saga.instance import Instance, Parent
from choreo.saga.tables import history, saga, sent
from tests.saga.stage import Declined, Order, Paid, Placed, Refused, Released, Reserved, Stage
from tests.support.console import Console, validate

DAY = 86_400 * SECOND


async def _counts(stage: Stage) -> dict[str, int]:
    def count(connection: Any) -> dict[str, int]:
        tables = {"sagas": saga, "history": history, "sent": sent}
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in tables.items()
        }

    return await stage.database.read(count)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(6_000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not so after a minute")


async def _run(stage: Stage, order: str) -> None:
    await stage.publish(Placed(order_id=order), Reserved(order_id=order), Declined(order_id=order))
    await stage.until(lambda all_: all_.get(f"order/{order}") is not None and all_[f"order/{order}"].phase != "RUNNING")
    await stage.publish(Released(order_id=order))
    await stage.until(lambda all_: all_[f"order/{order}"].phase == "COMPENSATED")


async def test_row_5_the_history_goes_first_and_the_saga_stays_so_that_nothing_begins_again(
    sqlite_stage: Stage,
) -> None:
    stage = sqlite_stage
    await stage.start()
    await _run(stage, "old")
    await stage.settled()
    before = await _counts(stage)
    assert before["history"] == 4 and before["sent"] == 1
    stage.now += 91 * DAY
    await stage.publish(Placed(order_id="open"))
    await _until(lambda: _has(stage, sagas=2, history=1, sent=0))
    await stage.publish(Placed(order_id="old"))  # a late copy, after the inbox has forgotten it
    await stage.settled()
    found = await stage.instances()
    assert set(found) == {"order/old", "order/open"}
    assert found["order/old"].phase == "COMPENSATED"
    assert len(await stage.sent("inventory.commands")) == 1, "no command went out, under an old id or a new one"


async def test_row_5_when_the_tombstone_goes_what_was_written_before_is_not_taken_again(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await _run(stage, "old")
    await stage.settled()
    stage.now += 361 * DAY
    await stage.publish(Placed(order_id="young"))
    await _until(lambda: _has(stage, sagas=1, history=1, sent=0))
    await stage.stop()
    # A new group has no positions, so it would read the topics from their beginning.
    stage.settings = load_settings(broker="memory:", group="another")
    await stage.start()
    await stage.settled()
    assert set(await stage.instances()) == {"order/young"}
    await stage.publish(Reserved(order_id="young"), Paid(order_id="young"))
    await stage.until(lambda all_: all_["order/young"].phase == "COMPLETED")
    assert len(await stage.sent("inventory.commands")) == 1


async def _has(stage: Stage, **expected: int) -> bool:
    return await _counts(stage) == expected


async def test_row_4_what_lies_unread_is_never_too_old(sqlite_stage: Stage) -> None:
    """The coordinator was away for longer than anything is kept."""
    stage = sqlite_stage
    stage.sagas = (Order,)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
    await stage.settled()
    await stage.stop()
    await stage.publish(Paid(order_id="1"))
    stage.now += 2_000 * DAY
    await stage.start()
    found = await stage.until(lambda all_: all_["order/1"].phase.ended)
    assert found["order/1"].phase == "COMPLETED"
    assert (await _counts(stage))["history"] == 3


async def test_a_saga_that_failed_or_is_open_is_kept_whatever_its_age(store_url: str) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="open"))
        await stage.publish(Placed(order_id="failed"), Reserved(order_id="failed"), Declined(order_id="failed"))
        await stage.until(lambda all_: len(all_) == 2 and all_["order/failed"].phase == "COMPENSATING")
        await stage.publish(Placed(order_id="done"), Refused(order_id="done"))
        await stage.until(lambda all_: all_.get("order/done") is not None and all_["order/done"].phase.ended)
        await stage.settled()
        await stage.stop()  # a row that somebody writes to just then is left for the next time
        far = stage.now + 10_000 * DAY

        def work(connection: Any) -> retention.Swept:
            connection.execute(saga.update().where(saga.c.id == "order/failed").values(phase="FAILED"))
            return retention.sweep(connection, DAY, far, far)

        swept = await stage.database.write(work)
        assert (swept.histories, swept.sagas, set(swept.horizons)) == (1, 1, {"order"})
        assert set(await stage.instances()) == {"order/open", "order/failed"}


@pytest.mark.parametrize("many", [1_000])
async def test_it_is_done_in_small_steps(store_url: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 100)
    async with Stage(store_url) as stage:
        await stage.start()
        for start in range(0, many, 250):
            orders = [str(number) for number in range(start, start + 250)]
            await stage.publish(*(Placed(order_id=order) for order in orders))
            await stage.publish(*(Refused(order_id=order) for order in orders))
            await stage.until(lambda all_, n=start + 250: sum(each.phase.ended for each in all_.values()) == n)
        steps = 0
        far = stage.now + 3 * DAY  # histories only
        while (await stage.database.write(lambda c: retention.sweep(c, DAY, far, far))).more:
            steps += 1
        assert steps >= 1
        assert await _counts(stage) == {"sagas": many, "history": 0, "sent": 0}


async def test_row_21_a_child_is_kept_for_as_long_as_its_parent_may_undo_it(store_url: str) -> None:
    async with Stage(store_url) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="parent"))
        await stage.publish(Placed(order_id="child"), Refused(order_id="child"))
        await stage.until(lambda all_: len(all_) == 2 and all_["order/child"].phase.ended)
        await stage.settled()
        await stage.stop()
        far = stage.now + 10_000 * DAY

        def nest(connection: Any) -> None:
            child = Instance.from_json(
                connection.execute(select(saga.c.state).where(saga.c.id == "order/child")).scalar_one()
            )
            child.parent = Parent("order/parent", "pack")
            connection.execute(saga.update().where(saga.c.id == "order/child").values(state=child.to_json()))

        def end(connection: Any) -> None:
            connection.execute(saga.update().where(saga.c.id == "order/parent").values(phase="COMPLETED"))

        await stage.database.write(nest)
        swept = await stage.database.write(lambda c: retention.sweep(c, DAY, far, far))
        assert (swept.histories, swept.sagas) == (0, 0)
        await stage.database.write(end)
        swept = await stage.database.write(lambda c: retention.sweep(c, DAY, far, far))
        assert swept.sagas == 2
        assert await _counts(stage) == {"sagas": 0, "history": 0, "sent": 0}


async def test_what_goes_is_told_before_it_goes_and_counted_afterwards(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await _run(stage, "old")
    await stage.ask("cancel", saga_id="order/old", reason="too late")
    await stage.settled()
    keep = 90 * DAY
    told = await stage.database.read(lambda c: retention.plan(c, keep, stage.now + 84 * DAY))
    assert (told.due, told.removed) == (retention.Removed(), retention.Removed())
    assert told.soon == retention.Removed(1, 0, 1)
    assert await _counts(stage) == {"sagas": 1, "history": 5, "sent": 1}, "telling removes nothing"
    stage.now += 91 * DAY
    await _until(lambda: _gone(stage, retention.Removed(1, 0, 1)))
    told = await stage.database.read(lambda c: retention.plan(c, keep, stage.now))
    assert told.due == retention.Removed()
    verdict = await stage.database.read(lambda c: audit.verify(audit.chain(c)))
    assert (verdict.rows, verdict.broken) == (2, None), "the audit says still what people asked for"


async def _gone(stage: Stage, wanted: retention.Removed) -> bool:
    return await stage.database.read(retention.removed) == wanted


def test_retention_is_turned_off_with_0() -> None:
    assert load_settings(broker="memory:", retention="0").kept is None


async def test_the_command_line_says_what_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}") as stage:
        await stage.start()
        console = Console(capsys, tmp_path)
        told = validate((await asyncio.to_thread(console, "retention", "-o", "json")).json, "saga.retention/v1")
        assert told["keep_ms"] == 90 * 86_400_000
        assert "90d" in (await asyncio.to_thread(console, "retention")).out
        monkeypatch.setenv("CHOREO_RETENTION", "0")
        assert "for ever" in (await asyncio.to_thread(console, "retention")).out
