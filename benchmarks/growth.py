"""`python -m benchmarks.growth`: how fast one coordinator is where something is large, and what memory it takes.

Large are the store, the number of partitions, the history of each saga, or the elements of a step; all of it beside
four partitions, an empty store, and sagas of four to six events.
"""

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

from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started

from .equipment import HERE, SECONDS

PLAIN = "empty"
KINDS: dict[str, tuple[str, dict[str, int]]] = {
    PLAIN: ("store", {}),
    "100,000 ended": ("store", {"finished": 100_000}),
    "1,000,000 ended": ("store", {"finished": 1_000_000}),
    "100,000 open": ("store", {"running": 100_000}),
    "1 partition": ("partitions", {"partitions": 1}),
    "16 partitions": ("partitions", {"partitions": 16}),
    "64 partitions": ("partitions", {"partitions": 64}),
    "100 events in each saga": ("history", {"repeats": 96}),
    "1,000 events in each saga": ("history", {"repeats": 996}),
    "10,000 events in each saga": ("history", {"repeats": 9_996}),
    "10 elements of one step": ("elements", {"elements": 10}),
    "100 elements of one step": ("elements", {"elements": 100}),
    "1,000 elements of one step": ("elements", {"elements": 1_000}),
}
"""What is measured: which of them belong together, and what is large (`shop.Growth`, or elements of `baskets`)."""


def main() -> None:
    """Measure each in turn, every other round backwards, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=main.__doc__)
    parser.add_argument(
        "--only", choices=("store", "partitions", "history", "elements"), help="only these, beside the empty one"
    )
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL (fsync on) instead of SQLite")
    parser.add_argument("--kafka", action="store_true", help="on Kafka instead of the embedded broker")
    parser.add_argument("--sagas", type=int, default=10_000, metavar="N", help="that are tracked (10000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(3)")
    parser.add_argument("--most", type=int, default=1_000_000, metavar="N", help="leave out larger stores (1000000)")
    arguments = parser.parse_args()
    kinds = [
        name
        for name, (kind, large) in KINDS.items()
        if name == PLAIN
        or (arguments.only in (None, kind) and (kind != "store" or sum(large.values()) <= arguments.most))
    ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    with _postgres(arguments.postgres) as postgres, _kafka(arguments.kafka) as kafka:
        for number in range(arguments.rounds):
            for name in kinds if number % 2 == 0 else reversed(kinds):
                found[name].append(
                    _child(KINDS[name][1], f"grown-{number}-{kinds.index(name)}", arguments.sagas, postgres, kafka)
                )
                print(
                    f"round {number + 1}, {name}: {found[name][-1]['per_second']:,.0f} events/s",
                    file=sys.stderr,
                    flush=True,
                )
    print("| | events/s: min | median | max | to the empty one | CPU µs each | memory MB |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name, rounds in found.items():
        speeds = [each["per_second"] for each in rounds]
        ratios = [own["per_second"] / other["per_second"] for own, other in zip(rounds, found[PLAIN], strict=True)]
        cells = [f"{min(speeds):,.0f}", f"**{median(speeds):,.0f}**", f"{max(speeds):,.0f}"]
        cells += [f"**{median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})"]
        cells += [
            f"{median(each['cpu_us_each'] for each in rounds):.0f}",
            f"{max(each['memory'] for each in rounds):.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
        assert all(each["more"]["longest"] >= KINDS[name][1].get("repeats", 0) for each in rounds), (
            "a history is too short"
        )


@contextmanager
def _postgres(wanted: bool) -> Iterator[PostgresServer | None]:
    if not wanted:
        yield None
        return
    with started(PostgresServer(postgres_programs(), fsync="on", shared_buffers="256MB")) as server:
        yield server


@contextmanager
def _kafka(wanted: bool) -> Iterator[KafkaServer | None]:
    if not wanted:
        yield None
        return
    with started(KafkaServer(kafka_jars())) as server:
        yield server


def _child(
    large: dict[str, int], name: str, sagas: int, postgres: PostgresServer | None, kafka: KafkaServer | None
) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CHOREO_", "OTEL_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(HERE.parent),
        "CHOREO_BENCH_RUN": name,
        "CHOREO_BENCH_TOPICS": "one",
        "CHOREO_BENCH_GROWTH": json.dumps(large),
        "OTEL_SDK_DISABLED": "true",
    }
    if postgres is not None:
        environment["CHOREO_STORE"] = postgres.create_database()
    broker = f"kafka://{kafka.bootstrap}" if kafka is not None else f"local:{folder / 'broker.db'}"
    wide = large.get("elements", 0)
    # About as many events in all; a tenth of them where each costs more, the more elements there are.
    count = max(sagas * 4 // 10 // (2 + wide) if wide else sagas * 4 // (4 + large.get("repeats", 0)), 1)
    command = [
        sys.executable,
        "-m",
        "benchmarks.child",
        "track-wide" if wide else "track-grown",
        broker,
        str(folder),
        str(count),
    ]
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=2 * SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-4000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
