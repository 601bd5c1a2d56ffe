"""A blocked loop: it is told who blocks it, and whoever takes the partitions over meanwhile does no harm."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from choreo.events.local import LocalBroker
from choreo.events.settings import Settings
from choreo.services.context import Transaction
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, StockReserved, idle, until

PROGRAM = Path(__file__).with_name("crash_program.py")


async def test_fault_16_the_handler_that_blocks_the_loop_is_named(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.watchdog.BLOCKED", 0.2)
    service = Service("inventory", store=store)

    def told(handler: str) -> list[Any]:
        return [each for each in logs if each.get("handler") == handler]

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        end = time.monotonic() + 60
        while not told("inventory.reserve") and time.monotonic() < end:
            time.sleep(0.05)
        return StockReserved(order_id=order.order_id)

    @service.on(OrderPlaced)
    async def count(order: OrderPlaced) -> None:
        await asyncio.sleep(0.3)

    with structlog.testing.capture_logs() as logs:
        await rig.publish(OrderPlaced(order_id="1"))
        async with rig.running(service):
            await until(lambda: len(told("inventory.reserve")) >= 2)
    blocked, goes_on = told("inventory.reserve")[:2]
    assert not told("inventory.count"), "who awaits blocks nobody"
    assert blocked["event"].startswith("the event loop is blocked")
    assert goes_on["event"] == "the event loop goes on"
    assert blocked["at"].startswith("test_watchdog.py:")
    assert "plain `def`" in blocked["event"]


async def test_a_blocking_handler_in_a_thread_blocks_nothing(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.watchdog.BLOCKED", 0.5)
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    def reserve(order: OrderPlaced) -> StockReserved:
        time.sleep(1.0)
        return StockReserved(order_id=order.order_id)

    with structlog.testing.capture_logs() as logs:
        await rig.publish(OrderPlaced(order_id="1"))
        await rig.run(service)
    assert not [entry for entry in logs if entry.get("handler") == "inventory.reserve"]


async def test_fault_16_a_rebalance_during_a_blocked_loop_repeats_no_effect_in_the_store(tmp_path, store):
    """Another process takes the partitions over while ours is stuck in a handler; then both have gone on."""
    async with LocalBroker(tmp_path / "broker.db", session=1) as broker:
        rig = Rig(broker, Settings(home=tmp_path))
        await rig.prepare(partitions=2)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            str(tmp_path / "broker.db"),
            store,
            "blocked",
            "0",
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(20)))
            stuck = tmp_path / "service.db.stuck"
            await until(stuck.exists)
            service = Service("inventory", store=store)

            @service.on(OrderPlaced)
            async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
                await tx.execute("INSERT INTO stock (item, taken) VALUES (:item, 1)", {"item": str(order.number)})
                return StockReserved(order_id=order.order_id, number=order.number)

            async with rig.worker(service) as worker:
                await until(lambda: worker.counters.handled > 0)  # the other one lost them
                (tmp_path / "service.db.go").touch()
                assert await asyncio.wait_for(process.wait(), 120) == 0
                await idle(worker)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = await rig.published("inventory")
        assert sorted({each.event["number"] for each in found}) == list(range(20))
        assert len({each.envelope.id for each in found}) == 20
