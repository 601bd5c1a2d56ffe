"""From measurements to figures: minimum, median, maximum, and ratios within each round; as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

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
        "servers_us_each": round(median(each["servers_us_each"] for each in mine), 1),
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
    if case.group == "latency":
        for name in ("p50_ms", "p99_ms"):
            times = [each["more"][name] for each in mine]
            found[name] = {"min": round(min(times), 1), "median": round(median(times), 1), "max": round(max(times), 1)}
    return found


def told(case: Case, found: Mapping[str, Any]) -> str:
    """Say what one measurement gave, while the run goes on."""
    if case.group == "latency":
        return f"{found['more']['p50_ms']:.0f} and {found['more']['p99_ms']:.0f} ms"
    return f"{found['per_second']:,.0f} {case.unit}"


def tables(results: Mapping[str, Any]) -> str:
    """Draw the tables, as Markdown."""
    parts = [_table(group, results["figures"]) for group in get_args(Group)]
    return "\n\n".join(part for part in parts if part)


_PEERS = {
    "faststream": "FastStream",
    "faust": "Faust",
    "dbos": "DBOS Transact",
    "restate": "Restate's SDK",
    "restate-server": "Restate",
}
_TO = {
    "handlers": "ratio to the loop with headers",
    "publishing": "ratio",
    "coordinator": "ratio to one by hand",
    "sagas": "ratio to Restate",
}
_WHAT = {
    "handlers": "events per second",
    "coordinator": "events per second",
    "sagas": "sagas per second",
    "latency": "milliseconds of one saga",
}


def _table(group: Group, figures: Mapping[str, Any]) -> str:
    cases = [case for case in CASES if case.group == group and case.name in figures]
    if not cases:
        return ""
    speeds = ["50 %", "99 %"] if group == "latency" else ["min", "median", "max"]
    ratio = [_TO[group]] if group in _TO else []
    servers = ["of servers"] if group in ("sagas", "latency") else []
    head = [_WHAT.get(group, ""), *speeds, *ratio, "CPU µs each", *servers, "memory MB"]
    rows = []
    for case in cases:
        found = figures[case.name]
        title = case.title
        if "median" not in found:
            rows.append([f"{title}: {found['failed']}", *["–"] * (len(head) - 1)])
            continue
        if group == "latency":
            cells = [_between(found[name], 0) for name in ("p50_ms", "p99_ms")]
        else:
            cells = [f"{found['min']:,}", f"**{found['median']:,}**", f"{found['max']:,}"]
        if ratio:
            cells.append(_between(found["ratio"], 2) if "ratio" in found else "1" if case.against is None else "–")
        cells += [f"{found['cpu_us_each']:,.0f}", *(f"{found['servers_us_each']:,.0f}" for _ in servers)]
        rows.append([title, *cells, f"{found['memory_mb']}"])
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _between(figure: Mapping[str, float], digits: int) -> str:
    low, middle, high = (f"{figure[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"**{middle}** ({low}-{high})"


def conditions(results: Mapping[str, Any]) -> str:
    """Say where and how the figures were measured."""
    machine, run = results["machine"], results["run"]
    peers = ", ".join(f"{_PEERS[peer]} {version}" for peer, version in machine["peers"].items())
    return (
        f"Measured {results['date']} with `{run['command']}` on {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, Apache Kafka {machine['kafka']} "
        f"on Java {machine['java']} beside it, SQLite {machine['sqlite']}, "
        f"PostgreSQL {machine['postgresql']}; peers: {peers}; a durable write of 4 KiB takes "
        f"{machine['fsync_ms']} ms. {run['rounds']} rounds of {run['messages']:,} events, {run['tracked']:,} tracked "
        f"sagas, {run['sagas']:,} whole ones and {run['paced']:,} at 50 per second. "
        f"Load average before: {run['load_before']}, after: {run['load_after']}."
    )


def write_readme(path: Path, results: Mapping[str, Any]) -> None:
    """Put the figures between the markers of the page."""
    text = path.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise SystemExit(f"{path.name} has lost its markers: {_BEGIN} and {_END}")
    path.write_text(f"{before}{_BEGIN}\n\n{conditions(results)}\n\n{tables(results)}\n\n{_END}{after}")
