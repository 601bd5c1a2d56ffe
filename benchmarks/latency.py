"""`python -m benchmarks.latency`: how long a saga takes from its first event to its end while 50 begin each second."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import structlog

from tests.support.kafka import KafkaServer, kafka_jars

from .equipment import HERE, SECONDS

_WARM = 100
"""Sagas at the beginning that do not count: schemas are learned, and statements compiled."""


def main() -> None:
    """Measure on the embedded broker and on Kafka in turn, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(3)")
    parser.add_argument("--sagas", type=int, default=1_000, metavar="N", help="of each round (1000)")
    parser.add_argument("--per-second", type=int, default=50, metavar="N", help="how many begin (50)")
    parser.add_argument("--child", nargs=2, metavar=("BROKER", "HOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        broker, home = arguments.child
        print(json.dumps(asyncio.run(_measure(broker, Path(home), arguments.sagas, arguments.per_second))))
        return
    server = KafkaServer(kafka_jars())
    found: dict[str, list[dict[str, float]]] = {"embedded broker": [], "Kafka": []}
    try:
        server.start()
        for number in range(arguments.rounds):
            for name in found if number % 2 == 0 else reversed(found):
                found[name].append(_child(server.bootstrap if name == "Kafka" else None, arguments))
                print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    finally:
        server.stop()
    print("| milliseconds | 50 % | 99 % | CPU µs each |\n| --- | --: | --: | --: |")
    for name, rounds in found.items():
        cells = [f"{median(each[what] for each in rounds):.0f}" for what in ("p50", "p99", "cpu_us_each")]
        print(f"| {name} | **{cells[0]}** | **{cells[1]}** | {cells[2]} |")


def _child(kafka: str | None, arguments: argparse.Namespace) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    broker = f"kafka://{kafka}" if kafka else f"local:{folder / 'broker.db'}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    environment = {**kept, "PYTHONPATH": str(HERE.parent), "CHOREO_BENCH_RUN": folder.name[-8:].replace("_", "-")}
    command = [sys.executable, "-m", "benchmarks.latency", "--child", broker, str(folder)]
    command += ["--sagas", str(arguments.sagas), "--per-second", str(arguments.per_second)]
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-4000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


async def _measure(broker: str, home: Path, count: int, rate: int) -> dict[str, Any]:
    from . import shop  # which names its topics by the environment of the child

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    took, measured = await shop.paced(broker, home, _WARM + count, rate)
    hundredths = quantiles(took[_WARM:], n=100)
    return {"p50": hundredths[49], "p99": hundredths[98], "cpu_us_each": measured.cpu / measured.count * 1e6}


if __name__ == "__main__":
    main()
