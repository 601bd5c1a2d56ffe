"""`python -m benchmarks.startup`: how long the command line takes to answer, and a service to its first event."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

from .equipment import HERE

SAGA = Path(sys.executable).with_name("saga")
SHOP = HERE.parent / "examples" / "quickstart" / "shop.py"
ORDERS = SHOP.with_name("orders.csv")
SECONDS = 60


def main() -> None:
    """Measure each command in turn and print a table; all run on the embedded broker, in a folder of their own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="(10)")
    rounds = parser.parse_args().rounds
    home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    environment = {**kept, "CHOREO_HOME": str(home)}
    try:
        order = _fill(environment)
        cases: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: _run([sys.executable, "-c", "pass"], environment),
            "saga --help": lambda: _run([SAGA, "--help"], environment),
            f"saga status {order}": lambda: _run([SAGA, "status", order], environment),
            f"saga why {order}": lambda: _run([SAGA, "why", order], environment),
            "saga run, to the first answer seen": lambda: _first(environment),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds):
            for name in cases if number % 2 == 0 else reversed(cases):
                times[name].append(cases[name]())
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("| seconds | min | median | max |\n| --- | --: | --: | --: |")
    for name, took in times.items():
        print(f"| `{name}` | {min(took):.2f} | **{median(took):.2f}** | {max(took):.2f} |")


def _fill(environment: dict[str, str]) -> str:
    """Let the quickstart's orders happen; give one of them."""
    _wait(environment)
    _run([SAGA, "run", SHOP, "--until-idle"], environment)
    return ORDERS.read_text().splitlines()[1].split(",")[0]


def _wait(environment: dict[str, str]) -> None:
    """Make a store that knows the saga, and orders that wait for it."""
    _run([SAGA, "run", SHOP, "--until-idle"], environment)
    _run([SAGA, "publish", f"{SHOP}:OrderPlaced", ORDERS], environment)


def _run(command: list[object], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([str(each) for each in command], env=environment, check=True, capture_output=True, timeout=SECONDS)
    return time.perf_counter() - began


def _first(environment: dict[str, str]) -> float:
    """Start with events waiting; give the time until an answer of a service is in the history."""
    home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    environment = {**environment, "CHOREO_HOME": str(home)}
    _wait(environment)
    began = time.perf_counter()
    with subprocess.Popen(
        [SAGA, "run", SHOP], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _handled(home):
                if time.perf_counter() - began > SECONDS or process.poll() is not None:
                    sys.exit("the quickstart handles nothing")
                time.sleep(0.005)
            took = time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
    shutil.rmtree(home, ignore_errors=True)
    return took


def _handled(home: Path) -> bool:
    """Say whether the coordinator has seen what a service answered."""
    try:
        with closing(sqlite3.connect(f"file:{home / 'saga.db'}?mode=ro", uri=True)) as store:
            return store.execute("SELECT 1 FROM choreo_history WHERE type = 'StockReserved'").fetchone() is not None
    except sqlite3.OperationalError:  # not there yet
        return False


if __name__ == "__main__":
    main()
