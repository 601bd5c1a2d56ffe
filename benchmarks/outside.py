"""What a measurement is given from outside, and a peer's program that it runs in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
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


class Helper:
    """A process of ours beside this one: a case of `child` that says when it is ready, until its input closes."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ready(self) -> None:
        """Wait until it says so."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            if (await self._process.stdout.readline()).strip() != b"ready":
                sys.exit("a process beside this one did not start; it said why above")

    async def finish(self) -> dict[str, Any]:
        """Let it end; give what it measured."""
        try:
            async with asyncio.timeout(30):
                shown, _ = await self._process.communicate(b"")  # which closes its input
        except TimeoutError:
            sys.exit("a process beside this one did not end")
        found: dict[str, Any] = json.loads(shown.splitlines()[-1])
        return found

    async def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def helper(command: Sequence[str]) -> AsyncIterator[Helper]:
    """Run `python -m benchmarks.child COMMAND` beside this process; what it says goes where ours goes."""
    pipe = asyncio.subprocess.PIPE
    found = Helper(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.child", *command), stdin=pipe, stdout=pipe
        )
    )
    try:
        await found.ready()
        yield found
    finally:
        await found.kill()
