"""`python -m benchmarks`: measure everything in alternating rounds, each measurement in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.parts import Missing

from . import figures, machine
from .plan import CASES, Case

HERE = Path(__file__).parent
SECONDS = 420
"""How long one process may take, filling and checking included."""


def main() -> None:
    """Measure, print, and record a full run."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    try:
        jars = kafka_jars()
    except Missing as missing:
        sys.exit(f"Apache Kafka is missing: {missing}")
    cases = [case for case in CASES if arguments.only in (None, case.group)]
    before = machine.load()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.facts(jars),
        "run": {
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "rounds": arguments.rounds,
            "messages": arguments.messages,
            "tracked": arguments.tracked,
            "sagas": arguments.sagas,
            "load_before": before,
        },
    }
    home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    server = KafkaServer(jars)
    try:
        server.start()
        rounds = _measure(cases, arguments, server, home)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
    results["run"]["load_after"] = machine.load()
    results["figures"] = {case.name: figures.summary(case, rounds) for case in cases}
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(Markdown(figures.tables(results)))
    console.print(figures.conditions(results), highlight=False)
    if arguments.quick or arguments.only is not None:
        print("Not recorded: only a full run is.", file=sys.stderr)
        return
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    figures.write_readme(HERE / "README.md", results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of less than a minute; not recorded")
    parser.add_argument("--only", choices=("handlers", "publishing", "coordinator"), help="only these; not recorded")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (3; quick: 1)")
    parser.add_argument("--messages", type=int, metavar="N", help="events of a handler measurement (60000; 2000)")
    parser.add_argument("--tracked", type=int, metavar="N", help="sagas that the coordinator only tracks (10000; 300)")
    parser.add_argument("--sagas", type=int, metavar="N", help="sagas of a whole run (5000; quick: 200)")
    found = parser.parse_args()
    usual = {"rounds": (3, 1), "messages": (60_000, 2_000), "tracked": (10_000, 300), "sagas": (5_000, 200)}
    for name, (full, quick) in usual.items():
        given = getattr(found, name)
        if given is not None and given < 1:
            parser.error(f"--{name} {given}: at least 1")
        setattr(found, name, (quick if found.quick else full) if given is None else given)
    return found


def _measure(
    cases: Sequence[Case], arguments: argparse.Namespace, server: KafkaServer, home: Path
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Run the rounds, every other one backwards, so that no case always follows the same one."""
    counts = {"events/s": arguments.messages, "orders/s": arguments.sagas, "sagas/s": arguments.sagas}
    rounds: dict[str, list[Mapping[str, Any]]] = {case.name: [] for case in cases}
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("warming the broker up", total=len(cases) * arguments.rounds)
        _child(CASES[1], "warm", server, home, min(arguments.messages, 20_000))
        for number in range(1, arguments.rounds + 1):
            for case in cases if number % 2 else reversed(cases):
                what = f"round {number}: {case.title.replace('`', '')}"
                progress.update(task, description=what)
                count = arguments.tracked if case.run in ("track", "catch-up") else counts[case.unit]
                found = _child(case, f"{case.name}-{number}", server, home, count)
                rounds[case.name].append(found)
                progress.advance(task)
                console.print(f"{what}: {found['per_second']:,.0f} {case.unit}", highlight=False)
    return rounds


def _child(case: Case, name: str, server: KafkaServer, home: Path, count: int) -> Mapping[str, Any]:
    folder = home / name
    folder.mkdir()
    broker = f"kafka://{server.bootstrap}" if case.kafka else f"local:{folder / 'broker.db'}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CHOREO_", "OTEL_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(HERE.parent),
        "CHOREO_BENCH_RUN": name,
        "CHOREO_BENCH_TOPICS": case.topics,
        "OTEL_SDK_DISABLED": "false" if case.traced else "true",
    }
    command = [sys.executable, "-m", "benchmarks.child", case.run, broker, str(folder), str(count)]
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            shown, said = process.communicate(timeout=SECONDS)
        except BaseException:
            process.kill()
            raise
    shutil.rmtree(folder, ignore_errors=True)
    if process.returncode:
        sys.exit(f"the measurement {name} failed:\n{said[-4000:]}")
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
