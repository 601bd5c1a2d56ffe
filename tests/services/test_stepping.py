"""A function that reads a stream is driven event by event, in the task and the context of whoever feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from choreo.events.errors import DefinitionError
from choreo.services.stepping import Feeder, Stream

CURRENT: ContextVar[int] = ContextVar("CURRENT")


async def counting(numbers: Stream[int]) -> AsyncIterator[tuple[int, int, int]]:
    """Yield each number as often as it says, with how many were met and what is current; wait in between."""
    met = 0
    async for number in numbers:
        met += 1
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError(number)
        for _ in range(number):
            yield number, met, CURRENT.get()
            await asyncio.sleep(0)


async def test_each_event_gives_what_was_yielded_for_it_in_the_feeders_context() -> None:
    feeder = Feeder(counting, "counting")
    given = []
    for number in (0, 2, 1):
        CURRENT.set(number * 10)
        given.append(await feeder.feed(number))
    assert given == [[], [(2, 2, 20), (2, 2, 20)], [(1, 3, 10)]]
    await feeder.close()


async def test_after_an_error_the_function_begins_anew() -> None:
    feeder = Feeder(counting, "counting")
    CURRENT.set(0)
    await feeder.feed(1)
    with pytest.raises(ValueError, match="-1"):
        await feeder.feed(-1)
    assert await feeder.feed(1) == [(1, 1, 0)]
    await feeder.close()


async def test_a_cancellation_reaches_the_function_and_it_begins_anew() -> None:
    cleaned = []

    async def slow(numbers: Stream[int]) -> None:
        async for number in numbers:
            try:
                await asyncio.sleep(number)
            finally:
                cleaned.append(number)

    feeder = Feeder(slow, "slow")
    feeding = asyncio.create_task(feeder.feed(60))
    await asyncio.sleep(0.01)
    feeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeding
    assert (await feeder.feed(0), cleaned) == ([], [60, 0])
    await feeder.close()


async def test_at_the_end_its_stream_ends() -> None:
    ended = []

    async def function(numbers: Stream[int]) -> None:
        async for _ in numbers:
            pass
        ended.append(True)

    feeder = Feeder(function, "function")
    await feeder.close()
    await feeder.feed(1)
    await feeder.close()
    await feeder.close()
    assert ended == [True]


async def test_a_function_that_takes_no_event_is_told_so() -> None:
    async def nothing(numbers: Stream[int]) -> None: ...

    with pytest.raises(DefinitionError, match="nothing ended without taking an event"):
        await Feeder(nothing, "nothing").feed(1)


async def test_a_function_that_ends_after_an_event_begins_anew_with_the_next() -> None:
    async def one(numbers: Stream[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield number
            return

    feeder = Feeder(one, "one")
    assert [await feeder.feed(number) for number in (1, 2)] == [[1], [2]]
