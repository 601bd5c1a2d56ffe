"""`python -m benchmarks`: measure everything in alternating rounds, each measurement in a process of its own."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.support.kafka import kafka_jars
from tests.support.parts import Missing

from . import figures, machine
from .equipment import HERE, Equipment, Failed, measure
from .plan import CASES, Case


def main() -> None:
    """Measure, print, and record a full run."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    try:
        jars = kafka_jars()
    except Missing as missing:
        sys.exit(f"Apache Kafka is missing: {missing}")
    cases = [
        case
        for case in CASES
        if arguments.only in (None, case.group) and (not arguments.case or case.name in arguments.case)
    ]
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
            "paced": arguments.paced,
            "load_before": before,
        },
    }
    home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
    try:
        with Equipment(jars) as equipment:
            rounds, failures = _measure(cases, arguments, equipment, home)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    results["run"]["load_after"] = machine.load()
    results["figures"] = {case.name: figures.summary(case, rounds, failures) for case in cases}
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(Markdown(figures.tables(results)))
    console.print(figures.conditions(results), highlight=False)
    if arguments.quick or arguments.only is not None or arguments.case:
        print("Not recorded: only a full run is.", file=sys.stderr)
    else:
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        figures.write_readme(HERE / "README.md", results)
    if any(case.peer is None and case.name in failures for case in cases):
        sys.exit("choreo itself could not be measured")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of some minutes; not recorded")
    parser.add_argument(
        "--only", choices=("handlers", "publishing", "coordinator", "sagas", "latency"), help="only these; not recorded"
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="only this one, of results.json; not recorded")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (3; quick: 1)")
    parser.add_argument("--messages", type=int, metavar="N", help="events of a handler measurement (60000; 2000)")
    parser.add_argument("--tracked", type=int, metavar="N", help="sagas that the coordinator only tracks (10000; 300)")
    parser.add_argument("--sagas", type=int, metavar="N", help="sagas of a whole run (5000; quick: 200)")
    parser.add_argument("--paced", type=int, metavar="N", help="sagas of which 50 begin each second (500; quick: 20)")
    found = parser.parse_args()
    for name in set(found.case or ()) - {case.name for case in CASES}:
        parser.error(f"--case {name}: one of {', '.join(case.name for case in CASES)}")
    usual = {
        "rounds": (3, 1),
        "messages": (60_000, 2_000),
        "tracked": (10_000, 300),
        "sagas": (5_000, 200),
        "paced": (500, 20),
    }
    for name, (full, quick) in usual.items():
        given = getattr(found, name)
        if given is not None and given < 1:
            parser.error(f"--{name} {given}: at least 1")
        setattr(found, name, (quick if found.quick else full) if given is None else given)
    return found


def _measure(
    cases: Sequence[Case], arguments: argparse.Namespace, equipment: Equipment, home: Path
) -> tuple[figures.Rounds, Mapping[str, str]]:
    """Run the rounds, every other one backwards, so that no case always follows the same one.

    Returns:
        what was measured, and why not: a case that fails is not tried again, and the others go on.
    """
    counts = {"events/s": arguments.messages, "orders/s": arguments.sagas, "sagas/s": arguments.sagas}
    rounds: dict[str, list[Mapping[str, Any] | None]] = {case.name: [] for case in cases}
    failures: dict[str, str] = {}
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
        try:
            measure(CASES[1], "warm", equipment, home, min(arguments.messages, 20_000))
        except Failed as failure:
            sys.exit(f"the broker could not be warmed up: {failure}")
        for number in range(1, arguments.rounds + 1):
            for case in cases if number % 2 else reversed(cases):
                what = f"round {number}: {case.title.replace('`', '')}"
                progress.update(task, description=what, advance=1)
                found = None
                if case.name not in failures:
                    count = arguments.tracked if case.run in ("track", "catch-up") else counts[case.unit]
                    count = arguments.paced if case.group == "latency" else count
                    try:
                        found = measure(case, f"{case.name}-{number}", equipment, home, max(count // case.part, 1))
                        console.print(f"{what}: {figures.told(case, found)}", highlight=False)
                    except (Failed, Missing) as failure:
                        failures[case.name] = str(failure).splitlines()[-1].replace("|", "/")[:200]
                        console.print(f"{what}: {failure}", highlight=False, markup=False)
                rounds[case.name].append(found)
    return rounds, failures


if __name__ == "__main__":
    main()
