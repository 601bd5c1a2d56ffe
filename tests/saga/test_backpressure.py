"""What a coordinator holds in memory while its store or its broker is slow: at most what its batches say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from choreo.events.envelope import Record
from choreo.events.errors import BrokerUnreachable
from choreo.saga.options import Options
from tests.saga.stage import Declined, Past, Placed, Reserved, Stage, Undoing

BATCH = 50
ORDERS = 300


def _watched(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Keep the largest number of records of one partition that waited, in a list of one."""
    most = [0]
    merge = stage.coordinators[-1]._positions.merge
    add = merge.add

    def counted(deliveries: Any) -> None:
        add(deliveries)
        most[0] = max([most[0], *map(len, merge._held.values())])

    monkeypatch.setattr(merge, "add", counted)
    return most


async def test_a_slow_store_lets_no_more_be_read_than_a_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(poll=0.01, tick=0.0, batch=BATCH)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Past,), options=options) as stage:
        coordinator = await stage.start()
        await stage.settled()
        most, answers, blocked = _watched(stage, monkeypatch), asyncio.Event(), asyncio.Event()
        write = stage.database.write

        async def slow(work: Any, **more: Any) -> Any:
            blocked.set()
            await answers.wait()
            return await write(work, **more)

        monkeypatch.setattr(stage.database, "write", slow)
        for start in range(0, ORDERS, 100):
            await stage.publish(*(Placed(order_id=str(number)) for number in range(start, start + 100)))
            await stage.publish(*(Reserved(order_id=str(number)) for number in range(start, start + 100)))
        await blocked.wait()
        merge = coordinator._positions.merge
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert sum(map(len, merge._held.values())) + len(coordinator._feed._polled) <= 4 * 2 * BATCH
        answers.set()
        found = await stage.until(
            lambda found: len(found) == ORDERS and all(each.steps["reserve"].done for each in found.values())
        )
        assert all(each.phase == "RUNNING" for each in found.values())
        assert most[0] <= 2 * BATCH, "a partition is paused once a batch of it waits"


async def test_a_dead_broker_keeps_commands_on_disk_and_a_bounded_number_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.events.outbox._MOST_PENDING", 100)
    options = Options(poll=0.01, tick=0.0, batch=BATCH, undo_rate=100_000)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Undoing,), options=options) as stage:
        away = [True]
        send = stage.broker.send

        async def refuse(records: Sequence[Record]) -> None:
            if away[0] and any(record.topic == "inventory.commands" for record in records):
                raise BrokerUnreachable("away")
            await send(records)

        monkeypatch.setattr(stage.broker, "send", refuse)
        coordinator = await stage.start()
        for cls in (Placed, Reserved, Declined):
            await stage.publish(*(cls(order_id=str(number)) for number in range(ORDERS)))
        await stage.until(
            lambda found: len(found) == ORDERS and all(each.phase == "COMPENSATING" for each in found.values())
        )
        relay = coordinator._relay
        assert await relay.depth() == ORDERS, "every command is durable"
        assert len(relay._pending) <= 100
        assert len(relay._held) <= 100
        away[0] = False
        sent = await stage.eventually_sent("inventory.commands", ORDERS)
        assert len({each.key for each in sent}) == ORDERS
