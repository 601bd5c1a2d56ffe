"""DBOS Transact: `python -m benchmarks.peers.dbos`, the order saga as a workflow; caller and engine are one process."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from dbos import DBOS, SetWorkflowID

from benchmarks.stopwatch import Stopwatch

from .load import REFUSED, load


class Refused(Exception):
    """The carrier does not take it."""


@DBOS.step()
async def reserve(order: str) -> dict[str, str]:
    """Step 1."""
    return {"reservation": f"r-{order}"}


@DBOS.step()
async def charge(order: str) -> dict[str, str]:
    """Step 2."""
    return {"payment": f"p-{order}"}


@DBOS.step()
async def ship(order: str, number: int) -> dict[str, str]:
    """Step 3, which refuses some."""
    if number % REFUSED == 0:
        raise Refused("no carrier")
    return {"tracking": f"t-{order}"}


@DBOS.step()
async def refund(order: str) -> dict[str, str]:
    """Undo step 2."""
    return {"refunded": order}


@DBOS.step()
async def release(order: str) -> dict[str, str]:
    """Undo step 1."""
    return {"released": order}


@DBOS.workflow()
async def fulfil(order: str, number: int) -> str:
    """Reserve, charge, ship; undo what was done when a step refuses."""
    undo: list[Any] = []
    try:
        await reserve(order)
        undo.append(release)
        await charge(order)
        undo.append(refund)
        await ship(order, number)
    except Refused:
        for step in reversed(undo):
            await step(order)
        return "COMPENSATED"
    return "COMPLETED"


async def _one(order: str, number: int) -> str:
    with SetWorkflowID(order):
        handle = await DBOS.start_workflow_async(fulfil, order, number)
    return await handle.get_result()


async def _measure(job: dict[str, Any]) -> dict[str, Any]:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": job["url"],
            "log_level": "ERROR",
            "application_version": "1",
            "executor_id": "bench",
        }
    )
    DBOS.launch()
    try:
        measured = await load(_one, job, Stopwatch())
    finally:
        DBOS.destroy()
    return measured.to_json()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(json.loads(sys.stdin.read())))))
