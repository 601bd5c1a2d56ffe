"""`python -m benchmarks.footprint`: what one saga of the shop costs: rows, bytes, log, transactions, processor time.

A coordinator reads a full topic in a process of its own, with batches of three sizes: so what a transaction costs comes
apart from what an event costs. `footprint.json` has it all; `capacity` reasons with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from choreo.events.database import Database, parse_store_url
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga import archiving
from choreo.saga.coordinator import Coordinator
from choreo.saga.loading import Parts
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started

from . import shop
from .stopwatch import Stopwatch

HERE = Path(__file__).parent
FILE = HERE / "footprint.json"
BATCHES = (20, 100, 1_000)
TABLES = ("choreo_saga", "choreo_history", "choreo_sent")
_FAR = 2**62
_SHARDS = 64


async def sample(store: str, home: Path, count: int, batch: int, server: int | None) -> dict[str, Any]:
    """Track `count` sagas with batches of one size; the store stays as it was left."""
    settings = load_settings(broker="memory:footprint", home=home, store=store)
    parts = Parts(services=shop.services(home), sagas=(shop.Order,))
    async with connect(settings.broker_url, settings) as transport:
        await transport.create_topics(parts.topics())
        total = await shop._fill(transport, settings, count, answered=True, repeats=0)
        sizes = [record_bytes(each) for each in await transport.snapshot(shop.OrderPlaced.spec().topic)]
        database = await Database.open(store, by_index=True)
        try:
            options = replace(shop._OPTIONS, batch=batch)
            coordinator = Coordinator(
                [shop.Order], transport=transport, database=database, settings=settings, options=options
            )
            await coordinator.start()
            log = await database.read(log_position)
            watch = Stopwatch(servers=[] if server is None else [server])
            try:
                watch.start()
                async with asyncio.timeout(shop.SECONDS):
                    while coordinator.events < total or not await coordinator.caught_up():
                        await asyncio.sleep(0.005)
                watch.lap()
                written = await database.read(log_position) - log
                batches = coordinator.batches
            finally:
                await coordinator.stop()
            whole = await sizes_of(database, store)
            await _archived(database, home)
            tombstones = await sizes_of(database, store)
        finally:
            await database.close()
    return {
        **watch.measured(total).to_json(),
        "sagas": count,
        "batch": batch,
        "batches": batches,
        "log_bytes": written,
        "record_bytes": sum(sizes) / len(sizes),
        "whole": whole,
        "tombstones": tombstones,
    }


def record_bytes(delivery: Any) -> int:
    """Count what a record takes on the wire and on disk, about: its parts, and what Kafka puts around them."""
    parts = [delivery.key or b"", delivery.value or b"", *(each for pair in delivery.headers for each in pair)]
    sizes = [len(each if isinstance(each, bytes) else str(each).encode()) for each in parts]
    return sum(sizes) + len(sizes) + 8  # a varint for each part; attributes, time, offset and length of the record


def log_position(connection: Connection) -> int:
    """Tell how much PostgreSQL has written to its write-ahead log; 0 on SQLite."""
    if connection.dialect.name != "postgresql":
        return 0
    return int(connection.execute(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")).scalar_one())


async def sizes_of(database: Database, store: str) -> dict[str, Any]:
    """Measure the tables that grow with sagas: rows and, on PostgreSQL, bytes of table and indexes; packed first."""
    names = [name for name in TABLES if await database.read(lambda c, n=name: _there(c, n))]  # type: ignore[misc]
    await _packed(store)

    def measure(connection: Connection) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in names:
            rows = int(connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one())
            found[name] = {"rows": rows}
            if connection.dialect.name == "postgresql":
                query = text(f"SELECT pg_table_size('{name}'), pg_indexes_size('{name}')")
                found[name]["bytes"], found[name]["index_bytes"] = map(int, connection.execute(query).one())
        if connection.dialect.name != "postgresql":
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            found["file"] = int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())
        return found

    return await database.read(measure)


def _there(connection: Connection, name: str) -> bool:
    return bool(inspect(connection).has_table(name))


async def _packed(store: str) -> None:
    engine = create_async_engine(parse_store_url(store), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.exec_driver_sql("VACUUM FULL" if store.startswith("postgresql") else "VACUUM")
    await engine.dispose()


async def _archived(database: Database, home: Path) -> None:
    archive = await archiving.open_archive(f"sqlite:{home / 'archive.db'}", database)
    try:
        archiver = archiving.Archiver(database, archive, archiving.Which(_FAR))
        for phase in archiving.PHASES:
            await archiver.phase(phase, lambda _: True)
    finally:
        await archive.close()


def main(arguments: Sequence[str] = ()) -> None:
    """Measure each store with batches of each size, in turn, and write footprint.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=main.__doc__)
    parser.add_argument("--sagas", type=int, default=3_000, metavar="N", help="in each measurement (3000)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="(2)")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments or None)
    if given.child is not None:
        store, home, count, batch, server = given.child
        found = asyncio.run(sample(store, Path(home), int(count), int(batch), int(server) or None))
        print(json.dumps(found))
        return
    rounds: list[dict[str, Any]] = []
    with started(PostgresServer(postgres_programs())) as server:
        assert server.process is not None
        for number in range(given.rounds):
            for batch in BATCHES if number % 2 == 0 else reversed(BATCHES):
                for kind in ("sqlite", "postgresql"):
                    made = child(server if kind == "postgresql" else None, given.sagas, batch)
                    rounds.append({"store": kind, **made})
                    told = f"{kind}, batches of {batch}: {made['per_second']:,.0f} events/s, "
                    print(told + f"{made['cpu_us_each']:.0f} + {made['servers_us_each']:.0f} µs each", file=sys.stderr)
    found = {**fitted(rounds), "skim_us": _skimmed(given.sagas)}
    FILE.write_text(json.dumps({"fitted": found, "rounds": rounds}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _skimmed(count: int) -> float:
    """Measure what an event of another shard costs: nearly all of them are."""
    found, whole = child(None, count, 1_000, CHOREO_SHARD=f"1/{_SHARDS}"), child(None, count, 1_000)
    return round(float(found["cpu_us_each"] - whole["cpu_us_each"] / _SHARDS), 1)


def fitted(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw from the rounds what one event, one transaction and one saga cost, by store."""
    return {kind: fit([each for each in rounds if each["store"] == kind]) for kind in ("sqlite", "postgresql")}


def fit(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Draw from the rounds on one store, with batches of several sizes, what things cost there."""
    events, sagas = rounds[0]["count"], rounds[0]["sagas"]
    by_batch: dict[int, list[dict[str, Any]]] = {}
    for each in rounds:
        by_batch.setdefault(each["batch"], []).append(each)
    # Processor time for each event against transactions for each event: a line, whose slope is what a transaction
    # takes. Other work on the machine makes wall time longer, and this hardly.
    points = [
        (
            median(each["batches"] / each["count"] for each in same),
            median(each["cpu"] / each["count"] for each in same),
            median(each["servers"] / each["count"] for each in same),
            median(each["seconds"] / each["count"] for each in same),
        )
        for same in by_batch.values()
    ]
    xs = [point[0] for point in points]
    slope, event = _line(xs, [point[1] for point in points])
    server_slope, server_event = _line(xs, [point[2] for point in points])
    wall_slope, wall_event = _line(xs, [point[3] for point in points])
    largest = by_batch[max(by_batch)]
    whole, tombstones = rounds[0]["whole"], rounds[0]["tombstones"]
    found = {
        "events_per_saga": events / sagas,
        "transaction_us": slope * 1e6,
        "event_us": event * 1e6,
        "server_transaction_us": server_slope * 1e6,
        "server_event_us": server_event * 1e6,
        "wall_transaction_us": wall_slope * 1e6,
        "wall_event_us": wall_event * 1e6,
        "cpu_us_each": median(each["cpu_us_each"] for each in largest),
        "per_second": median(each["per_second"] for each in largest),
        "log_bytes_per_event": median(each["log_bytes"] / each["count"] for each in largest),
        "record_bytes": rounds[0]["record_bytes"],
        "rows_per_saga": sum(each["rows"] for name, each in whole.items() if name != "file") / sagas,
        "bytes_per_saga": _bytes(whole) / sagas,
        "tombstone_bytes": _bytes(tombstones) / sagas,
        "index_bytes_per_saga": sum(each.get("index_bytes", 0) for n, each in whole.items() if n != "file") / sagas,
        "tombstone_index_bytes": sum(each.get("index_bytes", 0) for n, each in tombstones.items() if n != "file")
        / sagas,
    }
    return {name: round(value, 2) for name, value in found.items()}


def _bytes(sizes: dict[str, Any]) -> int:
    if "file" in sizes:
        return int(sizes["file"])
    return sum(int(each["bytes"] + each["index_bytes"]) for each in sizes.values())


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Fit a line by least squares: slope and intercept."""
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
    return slope, y - slope * x


def child(server: PostgresServer | None, count: int, batch: int, **more: str) -> dict[str, Any]:
    """Measure in a process and a folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    store = f"sqlite:{home / 'saga.db'}" if server is None else server.create_database()
    process = 0 if server is None or server.process is None else server.process.pid
    try:
        given = [store, home, count, batch, process]
        return in_child(["-m", "benchmarks.footprint", "--child", *(str(each) for each in given)], **more)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def in_child(arguments: Sequence[str], **more: str) -> dict[str, Any]:
    """Run a measurement in a process of its own, with more in its environment; it prints what it found as JSON."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(HERE.parent),
        "CHOREO_BENCH_RUN": "footprint",
        "CHOREO_BENCH_TOPICS": "one",
        "OTEL_SDK_DISABLED": "true",
        **more,
    }
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
