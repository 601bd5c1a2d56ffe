"""The system that was there before: it publishes orders, and knows nothing of services or sagas.

`python -m choreo.saga.demo.webshop` places the orders of `CHOREO_DEMO_*` on the broker of `CHOREO_BROKER`. Started
again, it publishes the same orders under the same ids, and every reader drops the copies.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from ...events.errors import ChoreoError
from ...events.publisher import Publisher
from ...events.settings import load_settings
from .traffic import Placed, load_mix, traffic

SOURCE = "web-shop"
_BATCH = 20


async def place(placed: Sequence[Placed], publisher: Publisher, pace: float) -> None:
    """Publish orders, a few at a time.

    Args:
        placed: the orders; some are published twice.
        publisher: an open publisher.
        pace: orders per second.
    """
    for start in range(0, len(placed), _BATCH):
        batch = placed[start : start + _BATCH]
        await asyncio.gather(
            *(publisher.publish(each.event, id=each.event_id) for each in batch for _ in range(each.copies))
        )
        await asyncio.sleep(len(batch) / pace)


async def _main() -> None:
    mix = load_mix()
    placed = list(traffic(mix))
    async with Publisher(source=SOURCE, settings=load_settings()) as publisher:
        await place(placed, publisher, mix.pace)
    print(f"{len(placed):,} orders placed, from {placed[0].event.order_id} to {placed[-1].event.order_id}")  # noqa: T201


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except ChoreoError as error:
        sys.exit(f"error: {error.message}")
