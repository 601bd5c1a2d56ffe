"""One coordinator of `benchmarks.wide`, a process of its own: it tells of itself when asked, and leaves when told to.

Each line on its input is answered by a line of JSON; the end of the input is the order to leave the group cleanly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time

import structlog

from choreo.events.database import Database
from choreo.events.garbage import collect_seldom
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga.coordinator import Coordinator
from choreo.saga.options import Options

from .wide_orders import TOPIC, Order

_OPTIONS = Options(undo_rate=1_000_000)  # the brake on mass refunds is not what is measured


async def _run() -> None:
    settings = load_settings()
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    async with connect(settings.broker_url, settings) as transport:
        database = await Database.open(settings.store_url, by_index=True)
        coordinator = Coordinator([Order], transport=transport, database=database, settings=settings, options=_OPTIONS)
        await coordinator.start()
        collect_seldom()
        try:
            while await asked.readline():
                told = {
                    "partitions": sum(place.topic == TOPIC for place in coordinator.partitions),
                    "events": coordinator.events,
                    "batches": coordinator.batches,
                    "cpu": time.process_time(),
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
                print(json.dumps(told), flush=True)
        finally:
            await coordinator.stop()
            await database.close()


def main() -> None:
    """Run until the input ends."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_run())


if __name__ == "__main__":
    main()
