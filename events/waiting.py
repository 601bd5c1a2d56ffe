"""Waiting for something, but not for ever."""

from __future__ import annotations

import asyncio


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, at most so many seconds, and say whether it is.

    A cancellation always gets through. `asyncio.wait_for` swallows one on Python 3.11 that comes just when the wait is
    over (gh-86296), and whoever cancelled waits for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
