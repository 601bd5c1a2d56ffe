"""How a handler is called: as it is, in a thread when it blocks, and for no longer than its time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from ..events.clock import SECOND
from .middleware import Answer, Call, Next
from .threads import Threads


def in_threads(function: Callable[..., Any], parameter: str, threads: Threads) -> Callable[..., Awaitable[Any]]:
    """Make a coroutine function of a blocking one.

    A thread cannot be ended: a call that is given up runs on, and its outcome is dropped. The next call with the same
    event waits until that one has ended, so that the two never work side by side.

    Args:
        function: the handler.
        parameter: which of its parameters takes the event, or a list of them.
        threads: where it runs.
    """
    running: dict[int, asyncio.Future[Any]] = {}  # by the event itself, which its thread keeps alive

    async def call(**arguments: Any) -> Any:
        given = arguments[parameter]
        keys = [id(event) for event in given] if isinstance(given, list) else [id(given)]
        before = [running[key] for key in keys if key in running]
        if before:
            await asyncio.wait(before)
        work = partial(copy_context().run, partial(function, **arguments))
        future = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                running.update(dict.fromkeys(keys, future))
                future.add_done_callback(partial(_end, running, keys))
            raise

    return call


def _end(running: dict[int, asyncio.Future[Any]], keys: list[int], future: asyncio.Future[Any]) -> None:
    for key in keys:
        running.pop(key, None)
    if not future.cancelled():
        future.exception()  # nobody waits for it any more


def limited(following: Next, timeout: int) -> Next:
    """Give calls a time limit, in microseconds; past it one is cancelled and raises `TimeoutError`."""
    seconds = timeout / SECOND

    async def in_time(call: Call) -> Answer:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await following(call)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"it took longer than its time limit of {seconds:g}s") from None
            raise

    return in_time
