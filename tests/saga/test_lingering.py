"""A coordinator lets the services of its own process go first, and takes what they say into one batch."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from choreo.saga.coordinator import Coordinator
from choreo.saga.options import Options
from tests.saga.stage import Paid, Past, Placed, Reserved, Stage


async def say_one_after_the_other(stage: Stage, order: str) -> None:
    """Publish what three services of this process say, each a busy moment after the one before it."""
    for event in (Placed(order_id=order), Reserved(order_id=order), Paid(order_id=order)):
        await stage.publish(event)
        for _ in range(3):
            time.sleep(0.001)
            await asyncio.sleep(0)


async def batches_of(stage: Stage, coordinator: Coordinator, order: str) -> int:
    """Count the transactions that one saga took."""
    before = coordinator.batches
    await say_one_after_the_other(stage, order)
    await stage.until(lambda all_: f"past/{order}" in all_ and all_[f"past/{order}"].phase == "COMPLETED")
    await stage.settled()
    return coordinator.batches - before


# On SQLite the coordinator has decided when a turn of the loop is over; a database that is waited for leaves gaps.
@pytest.mark.parametrize(("linger", "least", "most"), [(60.0, 1, 1), (0.0, 2, 3)])
async def test_what_services_of_the_process_say_one_after_the_other_comes_in_one_batch_if_it_lingers(
    tmp_path: Path, linger: float, least: int, most: int
) -> None:
    options = Options(poll=0.01, linger=linger, tick=0.0)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Past,), options=options) as stage:
        coordinator = await stage.start()
        await stage.publish(Placed(order_id="0"))  # the group is joined with it
        await stage.settled()
        assert least <= await batches_of(stage, coordinator, "1") <= most
