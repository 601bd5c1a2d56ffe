"""What can wait lets others go first, and not for ever."""

from __future__ import annotations

import asyncio
import itertools
import time

from choreo.events.leisure import leisure

BUSY = 0.001
"""Seconds, many times an empty turn."""


async def work(done: list[str], steps: int) -> None:
    """Keep the loop busy for some turns."""
    for number in range(steps):
        time.sleep(BUSY)
        done.append(f"step {number}")
        await asyncio.sleep(0)


async def test_what_is_under_way_goes_first() -> None:
    done: list[str] = []
    task = asyncio.create_task(work(done, 20))
    await leisure(60.0)
    assert len(done) == 20
    await task


async def test_an_empty_turn_between_two_steps_is_not_taken_for_their_end() -> None:
    done: list[str] = []

    async def chain() -> None:
        for _ in range(5):
            await work(done, 1)
            for _ in range(3):  # somebody is woken who wakes somebody
                await asyncio.sleep(0)

    task = asyncio.create_task(chain())
    await leisure(60.0)
    assert len(done) == 5
    await task


async def test_nobody_waits_longer_than_they_said() -> None:
    ended = False

    async def for_ever() -> None:
        for _ in itertools.count():
            if ended:
                return
            time.sleep(BUSY)
            await asyncio.sleep(0)

    task = asyncio.create_task(for_ever())
    await leisure(0.02)
    ended = True
    await task
