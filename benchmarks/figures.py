"""From measurements to figures: minimum, median, maximum, and ratios within each round; as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .plan import CASES, Case, Group

Rounds = Mapping[str, Sequence[Mapping[str, Any] | None]]
"""What was measured, by case; one entry for each round, None for one that failed."""

_BEGIN, _END = "<!-- figures: written by `python -m benchmarks` -->", "<!-- end of figures -->"


def summary(case: Case, rounds: Rounds, failures: Mapping[str, str]) -> dict[str, Any]:
    """Sum up one case, with the reason why it has fewer rounds than others, or none."""
    mine = [each for each in rounds[case.name] if each is not None]
    failed = {"failed": failures[case.name]} if case.name in failures else {}
    if not mine:
        return {"title": case.title.strip("… ").replace("`", ""), "unit": case.unit, **failed}
    speeds = [each["per_second"] for each in mine]
    found: dict[str, Any] = {
        "title": case.title.strip("… ").replace("`", ""),
        "unit": case.unit,
        "count": mine[0]["count"],
        "min": round(min(speeds)),
        "median": round(median(speeds)),
        "max": round(max(speeds)),
        "cpu_us_each": round(median(each["cpu_us_each"] for each in mine), 1),
        "memory_mb": round(max(each["memory"] for each in mine)),
        "rounds": [{key: value for key, value in each.items() if key != "memory"} for each in mine],
        **failed,
    }
    pairs = zip(rounds[case.name], rounds.get(case.against or "", ()), strict=False)
    ratios = [own["per_second"] / other["per_second"] for own, other in pairs if own is not None and other is not None]
    if ratios:
        found["ratio"] = {
            "to": case.against,
            "min": round(min(ratios), 2),
            "median": round(median(ratios), 2),
            "max": round(max(ratios), 2),
        }
    if case.unit == "sagas/s":
        found["events_per_second"] = round(median(each["more"]["events"] / each["seconds"] for each in mine))
    return found


def tables(results: Mapping[str, Any]) -> str:
    """Draw the tables, as Markdown."""
    parts = [_table(group, results["figures"]) for group in ("handlers", "publishing", "coordinator")]
    return "\n\n".join(part for part in parts if part)


def _table(group: Group, figures: Mapping[str, Any]) -> str:
    cases = [case for case in CASES if case.group == group and case.name in figures]
    if not cases:
        return ""
    compared = group != "coordinator"
    last = {"handlers": "ratio to the loop with headers", "publishing": "ratio", "coordinator": "events/s"}[group]
    head = [
        "events per second" if group == "handlers" else "",
        "min",
        "median",
        "max",
        last,
        "CPU µs each",
        "memory MB",
    ]
    rows = []
    for case in cases:
        found = figures[case.name]
        if "median" not in found:
            rows.append([f"{case.title}: {found['failed']}", *["–"] * (len(head) - 1)])
            continue
        if compared:
            ratio = found.get("ratio")
            shown = "1" if ratio is None else f"**{ratio['median']:.2f}** ({ratio['min']:.2f}-{ratio['max']:.2f})"
        else:
            shown = f"{found.get('events_per_second', found['median']):,}"
        speeds = [f"{found[key]:,}" for key in ("min", "median", "max")]
        title = case.title if compared else f"{case.title} ({case.unit})"
        cpu = f"{found['cpu_us_each']:,.0f}"
        rows.append([title, speeds[0], f"**{speeds[1]}**", speeds[2], shown, cpu, f"{found['memory_mb']}"])
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def conditions(results: Mapping[str, Any]) -> str:
    """Say where and how the figures were measured."""
    machine, run = results["machine"], results["run"]
    return (
        f"Measured {results['date']} with `{run['command']}` on {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, Apache Kafka {machine['kafka']} "
        f"on Java {machine['java']} beside it, SQLite {machine['sqlite']}; a durable write of 4 KiB takes "
        f"{machine['fsync_ms']} ms. {run['rounds']} rounds of {run['messages']:,} events, {run['tracked']:,} tracked "
        f"sagas and {run['sagas']:,} whole ones. Load average before: {run['load_before']}, after: {run['load_after']}."
    )


def write_readme(path: Path, results: Mapping[str, Any]) -> None:
    """Put the figures between the markers of the page."""
    text = path.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise SystemExit(f"{path.name} has lost its markers: {_BEGIN} and {_END}")
    path.write_text(f"{before}{_BEGIN}\n\n{conditions(results)}\n\n{tables(results)}\n\n{_END}{after}")
