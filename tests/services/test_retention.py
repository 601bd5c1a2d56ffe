"""The inbox does not grow without bound, and forgets nothing that may still come again."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select

from choreo import ConfigurationError
from choreo.events.clock import SECOND, duration, system_clock
from choreo.events.database import Database
from choreo.events.settings import load_settings
from choreo.services import housekeeping
from choreo.services.inbox import inbox
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, StockReserved, until

DAY = 86_400 * SECOND


def _service(store: str, seen: list[str]) -> Service:
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        seen.append(order.order_id)
        return StockReserved(order_id=order.order_id, number=order.number)

    return service


async def _count(database: Database) -> int:
    return await database.read(lambda c: c.execute(select(func.count()).select_from(inbox)).scalar_one())


async def test_row_5_what_was_done_long_ago_is_forgotten_page_by_page(
    rig: Rig, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_SWEEP", 7)
    monkeypatch.setattr(housekeeping, "_SWEEP_PAUSE", 1)
    seen: list[str] = []
    await rig.publish(OrderPlaced(order_id="now"))
    await rig.run(_service(store_url, seen))
    database = await Database.open(store_url)
    try:
        old = system_clock() - 91 * DAY
        rows: list[dict[str, Any]] = [
            {"event_id": f"old-{n}", "handler": "inventory.reserve", "state": state, "at": old, "until": None}
            for n, state in enumerate(["done", "refused", "failed", "empty", "unknown"] * 10 + ["claimed", "parked"])
        ]
        await database.write(lambda c: c.execute(insert(inbox), rows))
        async with rig.running(_service(store_url, seen)):
            await until(lambda: _left(database, 3))
        kept = await database.read(lambda c: c.execute(select(inbox.c.state).order_by(inbox.c.state)).scalars().all())
        assert kept == ["claimed", "done", "parked"], "what is not done stays, and so does what is younger"
    finally:
        await database.close()
    assert seen == ["now"]


async def _left(database: Database, number: int) -> bool:
    return await _count(database) == number


def test_a_retention_that_is_shorter_than_topics_keep_their_records_is_refused() -> None:
    assert load_settings().kept == duration("90d")
    assert load_settings(retention="forever").kept is None
    assert load_settings(retention="30d").kept == 30 * DAY
    with pytest.raises(ConfigurationError, match=r"CHOREO_RETENTION: .*at least 8d"):
        load_settings(retention="7d")
    with pytest.raises(ConfigurationError, match=r"CHOREO_RETENTION: .*such as 90d"):
        load_settings(retention="soon")
