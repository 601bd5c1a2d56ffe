"""`python -m benchmarks.wide`: N coordinators on Kafka and PostgreSQL: throughput, skewed keys, rebalance pauses."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text

from choreo.events.database import Database
from choreo.events.partitioner import partition_for
from choreo.events.publisher import Publisher
from choreo.events.transports import connect
from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started

from . import machine
from .wide_group import SECONDS, Backlog, Member, given, make_topics, processor_time, shared, until
from .wide_orders import Placed, keys, keys_of, refusals

HERE = Path(__file__).parent
PARTITIONS = 8
SESSION = 6.0
"""Seconds after which a coordinator that was killed is missed; `CHOREO_SESSION` is 30 by default."""
CASES = (("uniform", 1), ("uniform", 2), ("uniform", 4), ("zipf", 2), ("hot", 2), ("again", 1))
_AGAIN = 10
"""Of what one key has again and again, a tenth is enough to see."""
_SPREADS = {
    "uniform": "over all partitions",
    "zipf": "partition n has 1/n",
    "hot": "all in one partition",
    "again": "one key, a tenth as many",
}
_BEGIN, _END = "<!-- wide: written by `python -m benchmarks.wide` -->", "<!-- end of wide -->"
_EVERY = 0.03
"""Seconds between two events of a partition while rebalances are measured."""
_CALM = 1.5


@dataclass(frozen=True, slots=True)
class Servers:
    """The broker, the database, and where processes run."""

    kafka: KafkaServer
    postgres: PostgresServer
    home: Path
    sagas: int
    rounds: int


def main() -> None:
    """Measure, print, and record a full run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wide", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; not recorded")
    parser.add_argument("--sagas", type=int, metavar="N", help="of one measurement (4000; quick: 300)")
    parser.add_argument("--rounds", type=int, metavar="N", help="(2; quick: 1)")
    parser.add_argument("--rebalances", type=int, metavar="N", help="of each kind (5; quick: 1)")
    arguments = parser.parse_args()
    sagas = arguments.sagas or (300 if arguments.quick else 4_000)
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    rebalances = arguments.rebalances or (1 if arguments.quick else 5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    jars = kafka_jars()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.facts(jars),
        "command": " ".join(["python -m benchmarks.wide", *sys.argv[1:]]),
        "load_before": machine.load(),
    }
    home = Path(tempfile.mkdtemp(prefix="choreo-wide-"))
    postgres = PostgresServer(postgres_programs(), fsync="on")
    try:
        with started(KafkaServer(jars)) as kafka, started(postgres):
            servers = Servers(kafka, postgres, home, sagas, rounds)
            results["throughput"] = asyncio.run(_throughput(servers))
            results["pauses"] = asyncio.run(_pauses(servers, rebalances))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    results["load_after"] = machine.load()
    page = f"{_conditions(results, sagas)}\n\n{_table(results)}\n\n{_pause_table(results)}"
    print(page)
    if arguments.quick:
        print("Not recorded: only a full run is.", file=sys.stderr)
        return
    (HERE / "wide.json").write_text(json.dumps(results, indent=1) + "\n")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    readme.write_text(f"{before}{_BEGIN}\n\n{page}\n\n{_END}{rest.partition(_END)[2]}")


# ---- throughput ----------------------------------------------------------------------------------------------------


async def _throughput(servers: Servers) -> dict[str, list[dict[str, Any]]]:
    """Run the cases in turn, every other round backwards."""
    found: dict[str, list[dict[str, Any]]] = {f"{spread}-{number}": [] for spread, number in CASES}
    for nth in range(servers.rounds):
        for spread, number in CASES if nth % 2 == 0 else reversed(CASES):
            measured = await _drain(servers, f"w{nth}{spread}{number}.", spread, number)
            found[f"{spread}-{number}"].append(measured)
            told = f"round {nth + 1}: {spread}, {number} coordinators: {measured['per_second']:,.0f} events/s"
            print(told, file=sys.stderr, flush=True)
    return found


async def _drain(servers: Servers, prefix: str, spread: str, number: int) -> dict[str, Any]:
    """Let coordinators share a full topic, from the moment at which they may read it to their last decision."""
    folder = servers.home / prefix
    folder.mkdir()
    url = servers.postgres.create_database()
    settings = given(servers.kafka.bootstrap, url, prefix, SESSION)
    sagas = servers.sagas // (_AGAIN if spread == "again" else 1)
    chosen = keys(sagas, spread, PARTITIONS)
    backlog = Backlog(settings, PARTITIONS)
    async with connect(settings.broker_url, settings) as transport, AsyncExitStack() as stack:
        await make_topics(transport, PARTITIONS)
        await backlog.fill(transport, chosen)
        stack.push_async_callback(backlog.close)
        members = [Member(settings, folder) for _ in range(number)]
        for member in members:
            await member.start()
            stack.push_async_callback(member.kill)
        await until(shared(PARTITIONS), members)
        before = [await member.look() for member in members]
        others = _others(servers)
        began = time.perf_counter()
        await backlog.open()
        await until(lambda told: sum(each["events"] for each in told) >= backlog.events, members)
        seconds = time.perf_counter() - began
        after = [await member.look() for member in members]
        others = [now - then for now, then in zip(_others(servers), others, strict=True)]
        for member in members:
            await member.leave()
    await _check(url, sagas)
    servers.postgres.drop_database(url)
    events = backlog.events
    assert sum(each["events"] for each in after) == events, "every event was read once"
    cpu = sum(now["cpu"] - then["cpu"] for now, then in zip(after, before, strict=True))
    return {
        "events": events,
        "seconds": seconds,
        "per_second": events / seconds,
        "cpu_us": cpu / events * 1e6,
        "kafka_us": others[0] / events * 1e6,
        "postgres_us": others[1] / events * 1e6,
        "shares": sorted(each["events"] / events for each in after),
        "batches": sum(each["batches"] for each in after),
        "memory": max(each["memory"] for each in after),
    }


def _others(servers: Servers) -> list[float]:
    """The processor time of the broker and of the database."""
    processes = (servers.kafka.process, servers.postgres.process)
    return [processor_time(process.pid) for process in processes if process is not None]


async def _check(url: str, sagas: int) -> None:
    """Nothing lost, nothing doubled: every saga is at its own end, and every undo was sent once."""
    database = await Database.open(url)
    try:
        phases = Counter(dict(await _rows(database, "SELECT phase, count(*) FROM choreo_saga GROUP BY phase")))
        ((sent, different),) = await _rows(
            database, "SELECT count(*), count(DISTINCT (saga_id, step)) FROM choreo_sent WHERE kind = 'undo'"
        )
    finally:
        await database.close()
    assert phases == {"COMPLETED": sagas - refusals(sagas), "COMPENSATED": refusals(sagas)}, phases
    assert sent == different == 2 * refusals(sagas), (sent, different)


async def _rows(database: Database, query: str) -> list[Any]:
    return await database.read(lambda connection: [tuple(row) for row in connection.execute(text(query))])


# ---- rebalances ----------------------------------------------------------------------------------------------------


async def _pauses(servers: Servers, rebalances: int) -> dict[str, list[float]]:
    """Let coordinators come, leave and be killed under a steady load; give the longest gaps between decisions."""
    folder = servers.home / "pauses"
    folder.mkdir()
    url = servers.postgres.create_database()
    settings = given(servers.kafka.bootstrap, url, "pauses.", SESSION)
    windows: list[tuple[str, float, float]] = []
    async with connect(settings.broker_url, settings) as transport, AsyncExitStack() as stack:
        await make_topics(transport, PARTITIONS)
        members = [await _joined(Member(settings, folder), stack) for _ in range(2)]
        await until(shared(PARTITIONS), members)
        async with Publisher(transport, source="shop", settings=settings) as publisher:
            await publisher.prepare([Placed])
            done = asyncio.Event()
            load = asyncio.create_task(_load(publisher, done))
            await asyncio.sleep(2 * _CALM)

            async def window(kind: str, change: Any) -> None:
                began = time.time()
                if change is not None:
                    await change
                await until(shared(PARTITIONS), members)
                await asyncio.sleep(_CALM)
                windows.append((kind, began, time.time()))
                await asyncio.sleep(_CALM)  # what comes next begins no gap in this window

            for nth in range(rebalances):
                await window("nothing", None)
                members.append(Member(settings, folder))
                await window("joins", _joined(members[-1], stack))
                await window("leaves", members.pop(nth % 3).leave())
                await window("killed", members.pop(nth % 2).kill())
                members.append(await _joined(Member(settings, folder), stack))
                await until(shared(PARTITIONS), members)
                await asyncio.sleep(2 * _CALM)
                print(f"rebalances: round {nth + 1}", file=sys.stderr, flush=True)
            done.set()
            published = await load
            async with asyncio.timeout(SECONDS):
                database = await Database.open(url)
                stack.push_async_callback(database.close)
                while len(rows := await _rows(database, "SELECT saga_id, at FROM choreo_history")) < published:
                    await asyncio.sleep(0.5)
            assert len(rows) == published, "nothing lost, nothing doubled"
        for member in members:
            await member.leave()
    decided: dict[int, list[float]] = {}
    for saga_id, at in rows:
        key = saga_id.partition("/")[2]
        decided.setdefault(partition_for(key.encode(), PARTITIONS), []).append(at / 1e6)
    for times in decided.values():
        times.sort()
    return {
        kind: [_longest(decided.values(), begin, end) for what, begin, end in windows if what == kind]
        for kind in ("nothing", "joins", "leaves", "killed")
    }


async def _joined(member: Member, stack: AsyncExitStack) -> Member:
    await member.start()
    stack.push_async_callback(member.kill)
    return member


async def _load(publisher: Publisher, done: asyncio.Event) -> int:
    """Publish one order of each partition every few milliseconds; give their number."""
    supplies = [keys_of(partition, PARTITIONS) for partition in range(PARTITIONS)]
    loop = asyncio.get_running_loop()
    due, count = loop.time(), 0
    while not done.is_set():
        orders = [Placed(order_id=next(supply), total=1, articles=[]) for supply in supplies]
        await publisher.publish(*orders)
        count += len(orders)
        due = max(due + _EVERY, loop.time() - 1)
        await asyncio.sleep(max(0.0, due - loop.time()))
    return count


def _longest(decided: Any, begin: float, end: float) -> float:
    """The longest time between two decisions of one partition that lies, at least in part, within a window."""
    return max(
        (later - earlier for times in decided for earlier, later in pairwise(times) if later > begin and earlier < end),
        default=0.0,
    )


# ---- what is shown -------------------------------------------------------------------------------------------------


def _conditions(results: dict[str, Any], sagas: int) -> str:
    here = results["machine"]
    rounds = len(next(iter(results["throughput"].values())))
    events = next(iter(results["throughput"].values()))[0]["events"]
    return (
        f"Measured {results['date']} with `{results['command']}` on {here['cores']} cores ({here['processor']}), which "
        f"the coordinators share with Apache Kafka {here['kafka']} and PostgreSQL 18 (`fsync=on`, a durable write: "
        f"{here['fsync_ms']} ms): {rounds} rounds of {sagas:,} sagas, {events:,} events on one topic of {PARTITIONS} "
        f"partitions. Load average before: {results['load_before']}, after: {results['load_after']}."
    )


def _table(results: dict[str, Any]) -> str:
    lines = [
        "| keys | coordinators | events/s: min | median | max | CPU µs each: coordinators | PostgreSQL | Kafka | "
        "share of the busiest | memory MB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for spread, number in CASES:
        rounds: Sequence[dict[str, Any]] = results["throughput"][f"{spread}-{number}"]
        speeds = [each["per_second"] for each in rounds]
        cells = [
            _SPREADS[spread],
            str(number),
            f"{min(speeds):,.0f}",
            f"**{median(speeds):,.0f}**",
            f"{max(speeds):,.0f}",
        ]
        cells += [f"{median(each[name] for each in rounds):.0f}" for name in ("cpu_us", "postgres_us", "kafka_us")]
        cells += [f"{median(each['shares'][-1] for each in rounds):.0%}"]
        cells += [f"{max(each['memory'] for each in rounds):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pause_table(results: dict[str, Any]) -> str:
    names = {
        "nothing": "nothing changes",
        "joins": "one joins",
        "leaves": "one leaves",
        "killed": f"one is killed (session {SESSION:g} s)",
    }
    lines = [
        "| longest gap of any partition, seconds | rounds | min | median | max |",
        "| --- | --: | --: | --: | --: |",
    ]
    for kind, name in names.items():
        gaps = results["pauses"][kind]
        cells = [str(len(gaps)), f"{min(gaps):.2f}", f"**{median(gaps):.2f}**", f"{max(gaps):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.pop("CHOREO_BROKER", None)
    main()
