"""How every peer is asked for sagas: by so many callers at once, or so many sagas each second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from statistics import quantiles
from typing import Any

from benchmarks.stopwatch import Measured, Stopwatch, warm

Saga = Callable[[str, int], Awaitable[str]]
"""Run the saga of an id and a number to its end, and tell how it ended."""
REFUSED = 10
"""One saga in so many is refused at its third step."""


async def load(one: Saga, job: dict[str, Any], watch: Stopwatch) -> Measured:
    """Run sagas, after some that do not count, and check how they ended.

    Args:
        one: runs one.
        job: `count`; `callers` that each run one saga after another, or `rate`, how many begin each second.
        watch: not started yet.
    """
    count = job["count"]
    await _at_once(one, "warm", warm(count), 20)
    watch.start()
    if job.get("rate"):
        took, states = await _paced(one, count, job["rate"])
        hundredths = quantiles(took, n=100, method="inclusive")
        more: dict[str, Any] = {"p50_ms": hundredths[49] * 1e3, "p99_ms": hundredths[98] * 1e3}
    else:
        states = await _at_once(one, "saga", count, job["callers"])
        more = {"callers": job["callers"]}
    watch.lap()
    refused = -(-count // REFUSED)
    wanted = {"COMPLETED": count - refused, "COMPENSATED": refused}
    assert states == {state: number for state, number in wanted.items() if number}, f"{states}, not {wanted}"
    return watch.measured(count, phases=states, **more)


async def _at_once(one: Saga, prefix: str, count: int, callers: int) -> dict[str, int]:
    numbers, states = iter(range(count)), Counter[str]()

    async def call() -> None:
        for number in numbers:
            states[await one(f"{prefix}-{number}", number)] += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return dict(states)


async def _paced(one: Saga, count: int, rate: float) -> tuple[list[float], dict[str, int]]:
    took, states = [0.0] * count, Counter[str]()
    first = time.perf_counter()

    async def run(number: int) -> None:
        began = time.perf_counter()
        states[await one(f"paced-{number}", number)] += 1
        took[number] = time.perf_counter() - began

    tasks = []
    for number in range(count):
        await asyncio.sleep(max(0.0, first + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(run(number)))
    await asyncio.gather(*tasks)
    return took, dict(states)
