"""The order saga on Restate: `python -m benchmarks.peers.restate serve PORT` is its handlers, `... call` calls them.

The handlers are a service of their own over HTTP/2; the callers wait for the answer of the server's ingress. An undo is
noted before its step, as Restate's guide has it; `ship` is refused with an error that is not tried again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiohttp
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate.exceptions import TerminalError

from benchmarks.stopwatch import Stopwatch

from .load import REFUSED, load

orders = restate.Service("orders")


async def reserve(order: str) -> dict[str, str]:
    """Step 1."""
    return {"reservation": f"r-{order}"}


async def charge(order: str) -> dict[str, str]:
    """Step 2."""
    return {"payment": f"p-{order}"}


async def ship(order: str, number: int) -> dict[str, str]:
    """Step 3, which refuses some."""
    if number % REFUSED == 0:
        raise TerminalError("no carrier")
    return {"tracking": f"t-{order}"}


async def refund(order: str) -> dict[str, str]:
    """Undo step 2."""
    return {"refunded": order}


async def release(order: str) -> dict[str, str]:
    """Undo step 1."""
    return {"released": order}


@orders.handler()
async def fulfil(context: restate.Context, request: dict[str, Any]) -> str:
    """Reserve, charge, ship; undo what was begun when a step refuses."""
    order, number = request["order"], request["number"]
    undo: list[Any] = []
    try:
        undo.append(("release", release))
        await context.run_typed("reserve", reserve, order=order)
        undo.append(("refund", refund))
        await context.run_typed("charge", charge, order=order)
        await context.run_typed("ship", ship, order=order, number=number)
    except TerminalError:
        for name, step in reversed(undo):
            await context.run_typed(name, step, order=order)
        return "COMPENSATED"
    return "COMPLETED"


async def _serve(port: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "ERROR"
    await serve(restate.app(services=[orders]), config)  # type: ignore[arg-type]


async def _call(job: dict[str, Any]) -> dict[str, Any]:
    watch = Stopwatch(job["helpers"], job["servers"])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(order: str, number: int) -> str:
            request = {"order": order, "number": number}
            headers = {"idempotency-key": order}
            async with session.post(f"{job['ingress']}/orders/fulfil", json=request, headers=headers) as response:
                state: str = await response.json()
                return state

        return (await load(one, job, watch)).to_json()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2])))
    else:
        print(json.dumps(asyncio.run(_call(json.loads(sys.stdin.read())))))
