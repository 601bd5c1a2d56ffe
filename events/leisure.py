"""Leisure: what can wait lets what others wait for go first.

All parts of a process share one event loop, and what one of them does on the spot holds up the rest. An event that goes
from service to service keeps the loop busy from its first handler to its last; whoever only takes note of it, or tidies
up behind it, is in nobody's way a moment later, and then has more to do in one go.
"""

from __future__ import annotations

import asyncio

_EMPTY = 50e-6
"""Seconds; a turn of the loop that is shorter had nothing to do, or next to nothing."""
_TURNS = 8
"""So many empty turns in a row: to wake somebody takes a turn that is as short."""


async def leisure(seconds: float) -> None:
    """Let everything else in this event loop go first, until it has nothing to do.

    Args:
        seconds: to wait at most.
    """
    loop = asyncio.get_running_loop()
    began = now = loop.time()
    empty = 0
    while empty < _TURNS and now - began < seconds:
        turn = now
        await asyncio.sleep(0)
        now = loop.time()
        empty = empty + 1 if now - turn < _EMPTY else 0
