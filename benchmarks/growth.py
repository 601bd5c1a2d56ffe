"""`python -m benchmarks.growth`: how fast one coordinator is on a store that has grown, and what memory it takes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started

from .equipment import HERE, SECONDS

SIZES = ((0, 0), (100_000, 0), (1_000_000, 0), (0, 100_000))
"""Sagas that have ended, and sagas that run, before the measurement begins."""


def main() -> None:
    """Measure each size in turn, every other round backwards, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=main.__doc__)
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--sagas", type=int, default=10_000, metavar="N", help="that are tracked (10000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(3)")
    parser.add_argument("--most", type=int, default=1_000_000, metavar="N", help="leave out larger stores (1000000)")
    arguments = parser.parse_args()
    sizes = [size for size in SIZES if sum(size) <= arguments.most]
    found: dict[tuple[int, int], list[dict[str, Any]]] = {size: [] for size in sizes}
    with _server(arguments.postgres) as server:
        for number in range(arguments.rounds):
            for size in sizes if number % 2 == 0 else reversed(sizes):
                found[size].append(_child(size, arguments.sagas, server))
                told = f"round {number + 1}: {size[0]:,} ended, {size[1]:,} open"
                print(f"{told}: {found[size][-1]['per_second']:,.0f} events/s", file=sys.stderr, flush=True)
    print("| before | events/s: min | median | max | to the empty one | CPU µs each | memory MB |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for (ended, running), rounds in found.items():
        speeds = [each["per_second"] for each in rounds]
        ratios = [own["per_second"] / other["per_second"] for own, other in zip(rounds, found[0, 0], strict=True)]
        what = f"{running:,} open" if running else f"{ended:,} ended" if ended else "empty"
        cells = [f"{min(speeds):,.0f}", f"**{median(speeds):,.0f}**", f"{max(speeds):,.0f}"]
        cells += [f"**{median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})"]
        cells += [
            f"{median(each['cpu_us_each'] for each in rounds):.0f}",
            f"{max(each['memory'] for each in rounds):.0f}",
        ]
        print(f"| {what} | {' | '.join(cells)} |")


@contextmanager
def _server(postgres: bool) -> Iterator[PostgresServer | None]:
    if not postgres:
        yield None
        return
    with started(PostgresServer(postgres_programs())) as server:
        yield server


def _child(size: tuple[int, int], sagas: int, server: PostgresServer | None) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(HERE.parent),
        "CHOREO_BENCH_RUN": "grown",
        "CHOREO_BENCH_TOPICS": "one",
        "CHOREO_BENCH_FINISHED": str(size[0]),
        "CHOREO_BENCH_OPEN": str(size[1]),
        "OTEL_SDK_DISABLED": "true",
    }
    if server is not None:
        environment["CHOREO_STORE"] = server.create_database()
    command = [sys.executable, "-m", "benchmarks.child", "track-grown", f"local:{folder / 'broker.db'}", str(folder)]
    try:
        done = subprocess.run(
            [*command, str(sagas)], env=environment, cwd=folder, capture_output=True, text=True, timeout=2 * SECONDS
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-4000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
