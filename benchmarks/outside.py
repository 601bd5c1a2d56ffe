"""What a measurement is given from outside, and a peer's program that it runs in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .stopwatch import Measured

SECONDS = 150
"""How long a peer's program may take."""


def stores() -> list[str]:
    """Give the empty PostgreSQL databases that were made for this measurement."""
    urls: list[str] = json.loads(os.environ["CHOREO_BENCH_STORES"])
    return urls


def peer() -> str:
    """Give the Python of the peer's environment."""
    return os.environ["CHOREO_BENCH_PEER"]


async def run(program: str, job: Mapping[str, Any], arguments: Sequence[str] = ()) -> Measured:
    """Run `benchmarks.peers.PROGRAM` in the peer's environment; its input is the job, its last line what it measured.

    Raises:
        SystemExit: it failed, or took too long; with the end of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *(peer(), "-m", f"benchmarks.peers.{program}", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            shown, said = await process.communicate(json.dumps(job).encode())
    except TimeoutError:
        sys.exit(f"{program} did not end within {SECONDS} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not shown.strip():
        sys.exit(f"{program} failed:\n{said.decode()[-3000:]}")
    found = json.loads(shown.splitlines()[-1])
    return Measured(**{name: found[name] for name in ("count", "seconds", "cpu", "servers", "memory", "more")})
