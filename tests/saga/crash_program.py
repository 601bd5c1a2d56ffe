"""A coordinator in a process of its own for the crash tests; it runs until it is idle: `... BROKER STORE [SECONDS]`.

So many seconds is its clock ahead.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from choreo.events.clock import SECOND, system_clock
from choreo.events.database import Database
from choreo.events.local import LocalBroker
from choreo.events.settings import Settings
from choreo.saga.coordinator import Coordinator
from choreo.saga.options import Options
from choreo.tracing.export import open_tracing
from tests.saga.stage import Past, Undoing


async def main(broker_path: str, store: str, ahead: str = "0") -> None:
    """Run until nothing is left to do."""

    def clock() -> int:
        return system_clock() + int(ahead) * SECOND

    settings = Settings(home=Path(broker_path).parent, broker="memory:")  # the open broker counts; this: no span file
    tracing = open_tracing(settings, "choreo.coordinator")
    database = await Database.open(store, clock=clock)
    async with LocalBroker(Path(broker_path), session=1) as broker:
        coordinator = Coordinator(
            [Past, Undoing],
            transport=broker,
            database=database,
            settings=settings,
            tracing=tracing,
            clock=clock,
            options=Options(batch=50, poll=0.02, tick=0.02),
        )
        await coordinator.start()
        while not await coordinator.idle():
            await asyncio.sleep(0.02)
        await coordinator.stop()
    await database.close()
    assert await tracing.aclose(), tracing.losses


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
