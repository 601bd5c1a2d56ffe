"""`python -m benchmarks.web`: how long the web view's pages take with very many sagas, over HTTP, one after another."""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import Connection, text

from choreo.events.database import Database
from choreo.events.memory import MemoryBroker
from choreo.events.settings import load_settings
from choreo.saga import audit, paging, queries
from choreo.saga.audit import Who
from choreo.saga.queries import Filter
from choreo.saga.serving import Serving
from choreo.saga.web.app import WebView
from choreo.saga.web.visitors import Role
from tests.saga.stage import Stage
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started
from tests.web.many import fill

PAGES = {
    "overview, 24 hours": "/",
    "overview, 7 days": "/?span=7d",
    "list": "/sagas",
    "list, page in the middle": "/sagas?after={middle}",
    "list, open": "/sagas?open=1",
    "list, failed": "/sagas?failed=1",
    "list, waiting for a person": "/sagas?waiting-for-person=1",
    "list, state and type": "/sagas?state=COMPENSATED&type=order",
    "list, by start": "/sagas?sort=started",
    "list, by change": "/sagas?sort=updated",
    "list, by duration (no index)": "/sagas?sort=duration",
    "counted by error": "/sagas?group-by=error",
    "counted by step, open": "/sagas?group-by=step&open=1",
    "counted by state, of a day": "/sagas?group-by=state&since=1d",
    "counted by state, all (no index)": "/sagas?group-by=state",
    "audit of 10,000 changes": "/audit",
}
_PAUSE = 1.05
"""Seconds until the overview is counted anew: what is measured is the count, not what was kept of the one before."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web", description=main.__doc__)
    parser.add_argument("--sagas", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=100, help="of each page; the overview a third")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    arguments = parser.parse_args()
    with _store(arguments.postgres) as url:
        asyncio.run(_measure(url, arguments.sagas, arguments.requests))


@contextmanager
def _store(postgres: bool) -> Iterator[str]:
    if postgres:
        with started(PostgresServer(postgres_programs())) as server:
            yield server.create_database()
        return
    with tempfile.TemporaryDirectory(prefix="choreo-bench-") as folder:
        yield f"sqlite:{Path(folder) / 'saga.db'}"


async def _measure(url: str, sagas: int, requests: int) -> None:
    async with Stage(url, verified=False, broker=MemoryBroker("")) as stage:
        await stage.start()
        found = await stage.database.read(lambda c: queries.newest_definition(c, "order"))
        now = await stage.database.read(stage.database.now)
        began = time.monotonic()
        await stage.database.write(lambda c: fill(c, sagas, now, version=found.version, hash_=found.hash))
        await stage.database.write(_write_audit)
        if url.startswith("postgresql"):
            await stage.database.write(lambda c: c.execute(text("ANALYZE")))
        print(f"{sagas:,} sagas written in {time.monotonic() - began:.1f} s", file=sys.stderr)
        await stage.stop()
        middle = await _middle(stage.database)
        view = WebView(load_settings(store=url, broker="memory:"), local=Role.ADMIN)
        listening = socket.create_server(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with Serving(view, view.feed.end, listening), httpx.AsyncClient(base_url=base, timeout=60) as client:
            client.headers["accept"] = "text/html"
            print("| page | ms, median | 95 % | slowest |\n| --- | --: | --: | --: |")
            for name, path in PAGES.items():
                kept = name.startswith("overview")
                times = await _ask(client, path.format(middle=middle), requests // 3 if kept else requests, kept)
                p95 = statistics.quantiles(times, n=20)[-1]
                print(f"| {name} | {statistics.median(times):.0f} | **{p95:.0f}** | {max(times):.0f} |", flush=True)


def _write_audit(connection: Connection) -> None:
    for number in range(10_000):
        audit.record(connection, "pause", Who("ann", via="cli"), outcome=audit.DONE, target=f"order/{number:07d}")


async def _middle(database: Database) -> str:
    """Give a place in the middle of the list."""
    after = ""
    for _ in range(20):
        page = await database.read(
            lambda c, after=after: paging.page_of(c, Filter(), sort="attention", limit=500, after=after)  # type: ignore[misc]
        )
        after = page.after or after
    return after


async def _ask(client: httpx.AsyncClient, path: str, requests: int, kept: bool) -> list[float]:
    times = []
    for number in range(requests):
        if kept:
            await asyncio.sleep(_PAUSE)
        # A list is kept for half a second for others who look at the same one: each time it is another one.
        rows = 44 + (number if "group-by" in path else number % 12)
        limit = "" if kept or path == "/audit" else f"{'&' if '?' in path else '?'}limit={rows}"
        began = time.perf_counter()
        (await client.get(path + limit)).raise_for_status()
        times.append((time.perf_counter() - began) * 1_000)
    return times


if __name__ == "__main__":
    main()
