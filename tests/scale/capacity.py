"""What an installation needs for so many sagas, and what is full first: arithmetic over what was measured.

Pure: functions of values. `python -m benchmarks.capacity` draws the tables of `docs/scaling.md` with what was measured;
`simulation` plays the same costs event by event, and so checks the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

_GB = 1e9
SAGAS = (10, 100, 1_000, 10_000, 100_000)
STORED = (1_000_000, 100_000_000, 1_000_000_000)
RANDOM_PAGES = 5
"""Leaf pages that a new saga finds at places of chance: name, type and key, and key of its row, two of its history."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one event, transaction and saga cost; times in microseconds of a processor.

    Args:
        events: that a coordinator reads of one saga.
        records: of one saga on the broker, its commands too.
        event, transaction: of the coordinator's process.
        server_event, server_transaction: of the database's processes.
        log_bytes: written to the write-ahead log for each event.
        record_bytes: of one record on the broker.
        saga_bytes, tombstone_bytes: in the store, indexes included.
        index_bytes, tombstone_index_bytes: of these, the indexes.
        skim: of a coordinator for an event of another shard.
        handled: events that services handle of one saga.
        handler: of a service's process for each of them.
    """

    events: float
    records: float
    event: float
    transaction: float
    server_event: float
    server_transaction: float
    log_bytes: float
    record_bytes: float
    saga_bytes: float
    tombstone_bytes: float
    index_bytes: float
    tombstone_index_bytes: float
    handled: float
    handler: float
    skim: float = 28.0

    def shared(self, databases: int) -> Costs:
        """Give the costs with so many shards: for each event of its own a coordinator skims those of all others."""
        return replace(self, event=self.event + (databases - 1) * self.skim)


@dataclass(frozen=True, slots=True)
class Machines:
    """What one database, the broker and a coordinator may use.

    Args:
        cores, memory_gb, disk_gb: of one database.
        reads: random pages per second that its disk gives.
        depth: of these at once.
        log_mb: per second that its log can take.
        flush_ms: a durable write.
        broker_mb: per second that one broker takes in, copies included.
        copies: of each record.
        batch: events in one transaction at most.
        busy: how much of anything is used on purpose.
    """

    cores: int = 16
    memory_gb: float = 64
    disk_gb: float = 4_000
    reads: int = 16_000
    depth: int = 32
    log_mb: float = 250
    flush_ms: float = 1.0
    broker_mb: float = 100
    copies: int = 3
    batch: int = 1_000
    busy: float = 0.7


@dataclass(frozen=True, slots=True)
class Needs:
    """What a load needs, on so many databases."""

    databases: int
    coordinators: int
    partitions: int
    coordinator_cores: float
    database_cores: float
    service_cores: float
    batch: float
    transactions: float
    delay_ms: float
    log_mb: float
    store_gb: float
    reads: float
    broker_mb: float
    brokers: int


def missed(costs: Costs, machines: Machines, stored: float) -> float:
    """Tell which share of the pages of chance is not in the memory of one database that holds so many sagas."""
    index = stored * costs.index_bytes
    room = machines.memory_gb * _GB * 0.75
    return max(0.0, 1 - room / index) if index else 0.0


def transaction_seconds(costs: Costs, machines: Machines, stored: float, log: float = 0.0) -> tuple[float, float]:
    """Give what a transaction takes by itself, and for each event in it, seconds, on a database that is not full.

    Args:
        costs, machines: what it costs, and what there is.
        stored: sagas in that database.
        log: how much of what its log can take is used.
    """
    page = machines.depth / machines.reads
    pages = RANDOM_PAGES / costs.events * missed(costs, machines, stored)
    # Who comes while another's flush is on its way waits for its end, and then for one more; each takes as long as
    # what came meanwhile makes it.
    flush = machines.flush_ms / 1e3 / (1 - log)
    fixed = (costs.transaction + costs.server_transaction) / 1e6 + 1.5 * flush
    return fixed, (costs.event + costs.server_event) / 1e6 + pages * page


def coordinator_events(costs: Costs, machines: Machines, stored: float, log: float = 0.0) -> float:
    """Give the events per second that one coordinator decides at most."""
    fixed, each = transaction_seconds(costs, machines, stored, log)
    return machines.batch / (fixed + machines.batch * each)


def batch_of(costs: Costs, machines: Machines, stored: float, events: float, log: float = 0.0) -> tuple[float, float]:
    """Give the events in a transaction, and how long one takes, of a coordinator that gets so many events per second.

    While one transaction runs the next one's events come in: so a batch is as large as its own duration makes it.
    """
    fixed, each = transaction_seconds(costs, machines, stored, log)
    left = 1 - events * each
    batch = events * fixed / left if left > 0 else float(machines.batch)
    batch = min(max(1.0, batch), float(machines.batch))
    return batch, fixed + batch * each


def limits(costs: Costs, machines: Machines, stored: float, *, coordinators: int = 0) -> dict[str, float]:
    """Say at how many sagas per second each part of one database's share is full.

    Args:
        costs, machines: what it costs, and what there is.
        stored: sagas in that database.
        coordinators: that work on it; 0: as many as one likes.
    """
    per_event = costs.server_event + costs.server_transaction / machines.batch
    found = {
        "processors of the database": machines.cores / (costs.events * per_event / 1e6),
        "write-ahead log": machines.log_mb * 1e6 / (costs.events * costs.log_bytes),
    }
    missing = missed(costs, machines, stored)
    if missing:
        found["index pages beyond memory"] = machines.reads / (RANDOM_PAGES * missing)
    if coordinators:
        found["coordinators"] = coordinators * coordinator_events(costs, machines, stored) / costs.events
    return found


def first(found: Mapping[str, float]) -> tuple[str, float]:
    """Name what is full first, and when."""
    return min(found.items(), key=lambda each: each[1])


def needs(costs: Costs, machines: Machines, sagas: float, stored: float) -> Needs:
    """Say what so many sagas per second need, with so many in the store.

    Args:
        costs, machines: what it costs, and what there is.
        sagas: that begin each second.
        stored: with their history.
    """
    databases = 1
    while databases < 100_000:
        _, most = first(limits(costs, machines, stored / databases))
        if (
            sagas / databases <= most * machines.busy
            and stored * costs.saga_bytes / databases <= machines.disk_gb * _GB
        ):
            break
        databases = max(databases + 1, int(databases * 1.02))
    share = stored / databases
    costs = costs.shared(databases)
    events = sagas * costs.events
    log = events * costs.log_bytes / 1e6 / (machines.log_mb * databases)
    coordinators = max(databases, ceil(events / (coordinator_events(costs, machines, share, log) * machines.busy)))
    batch, takes = batch_of(costs, machines, share, events / coordinators, log)
    transactions = events / batch
    broker_mb = sagas * costs.records * costs.record_bytes * machines.copies / 1e6
    return Needs(
        databases,
        coordinators,
        max(4, 2 * ceil(coordinators / databases)),  # each shard reads them all
        (events * costs.event + transactions * costs.transaction) / 1e6,
        (events * costs.server_event + transactions * costs.server_transaction) / 1e6,
        sagas * costs.handled * costs.handler / 1e6,
        batch,
        transactions,
        (1.5 if batch > 1 else 1.0) * takes * 1e3,
        events * costs.log_bytes / 1e6,
        stored * costs.saga_bytes / _GB,
        sagas * RANDOM_PAGES * missed(costs, machines, share),
        broker_mb,
        max(machines.copies, ceil(broker_mb / (machines.broker_mb * machines.busy))),
    )


def read_costs(footprint: Mapping[str, Any], results: Mapping[str, Any], store: str = "postgresql") -> Costs:
    """Take the costs from what was measured.

    Args:
        footprint: of `footprint.json`: rows, bytes, and how an event's cost and a transaction's relate.
        results: of `results.json`: how fast a coordinator and a service are at present.
        store: whose figures.
    """
    fitted = footprint["fitted"][store]
    # The hot path changes more often than the footprint is measured: what it costs today counts.
    case, handlers = (results["figures"].get(name, {}) for name in ("track-kafka", "stored"))
    sqlite = footprint["fitted"]["sqlite"]
    today = sqlite["event_us"]
    if "cpu_us_each" in case:
        batches = [each["more"]["batches"] / each["count"] for each in case["rounds"]]
        today = case["cpu_us_each"] - sqlite["transaction_us"] * sum(batches) / len(batches)
    return Costs(
        events=fitted["events_per_saga"],
        records=fitted["events_per_saga"] + 0.2,
        event=max(5.0, today) * fitted["event_us"] / sqlite["event_us"],
        transaction=fitted["transaction_us"],
        server_event=fitted["server_event_us"],
        server_transaction=fitted["server_transaction_us"],
        log_bytes=fitted["log_bytes_per_event"],
        record_bytes=fitted["record_bytes"],
        saga_bytes=fitted["bytes_per_saga"],
        tombstone_bytes=fitted["tombstone_bytes"],
        index_bytes=fitted["index_bytes_per_saga"],
        tombstone_index_bytes=fitted["tombstone_index_bytes"],
        handled=3.2,
        handler=handlers.get("cpu_us_each", 100.0),
        skim=footprint["fitted"]["skim_us"],
    )


def tables(costs: Costs, machines: Machines) -> str:
    """Draw the tables and the chart, as Markdown."""
    drawn = (part(costs, machines) for part in (_needs, _stores, _chart, _breaks))
    return "\n\n".join((_costs(costs), *drawn))


def _costs(costs: Costs) -> str:
    rows = [
        ["events that a coordinator reads", f"{costs.events:.1f} a saga"],
        ["coordinator", f"{costs.event:.0f} µs an event, {costs.transaction / 1e3:.1f} ms a transaction"],
        [
            "PostgreSQL's processes",
            f"{costs.server_event:.0f} µs an event, {costs.server_transaction / 1e3:.1f} ms a transaction",
        ],
        ["services with a store", f"{costs.handled * costs.handler / 1e3:.2f} ms a saga"],
        ["in the store", f"{costs.saga_bytes / 1e3:.1f} kB a saga, indexes {costs.index_bytes / 1e3:.1f} kB"],
        [
            "… as a tombstone",
            f"{costs.tombstone_bytes / 1e3:.1f} kB, indexes {costs.tombstone_index_bytes / 1e3:.1f} kB",
        ],
        ["write-ahead log", f"{costs.log_bytes / 1e3:.1f} kB an event"],
        ["on the broker", f"{costs.records:.1f} records of {costs.record_bytes:.0f} bytes a saga"],
    ]
    return _markdown(["one saga of three steps", "costs"], rows)


def _needs(costs: Costs, machines: Machines) -> str:
    rows = []
    for sagas in SAGAS:
        found = needs(costs, machines, sagas, 10_000_000)
        rows.append(
            [
                f"{sagas:,}",
                f"{found.coordinators:,}",
                f"{found.partitions:,}",
                f"{found.databases:,}",
                f"{found.coordinator_cores:,.1f}",
                f"{found.database_cores:,.1f}",
                f"{found.service_cores:,.1f}",
                f"{found.batch:,.0f}",
                f"{found.transactions:,.0f}",
                f"{found.log_mb:,.1f}",
                f"{found.broker_mb:,.1f}",
            ]
        )
    head = ["sagas/s", "coordinators", "partitions", "databases", "cores: coordinators", "PostgreSQL", "services"]
    return _markdown([*head, "events a transaction", "transactions/s", "log MB/s", "Kafka MB/s, 3 copies"], rows)


def _stores(costs: Costs, machines: Machines) -> str:
    rows = []
    for stored in STORED:
        whole, buried = stored * costs.saga_bytes / _GB, stored * costs.tombstone_bytes / _GB
        name, most = first(limits(costs, machines, stored))
        found = needs(costs, machines, 1_000, stored)
        index = stored * costs.index_bytes / _GB
        rows.append(
            [
                f"{stored:,}",
                f"{whole:,.1f}",
                f"{index:,.1f}",
                f"{buried:,.1f}",
                f"{missed(costs, machines, stored):.0%}",
                f"{most:,.0f}: {name}",
                f"{found.databases:,}",
            ]
        )
    head = ["stored sagas", "GB", "of these indexes", "GB as tombstones", "index pages not in memory"]
    return _markdown([*head, "one database is full at sagas/s", "databases for 1,000 sagas/s"], rows)


def _chart(costs: Costs, machines: Machines) -> str:
    """Draw when one database is full: the more it holds the sooner, and with twice the memory later."""
    stored = [10**power * times for power in range(6, 9) for times in (1, 3)] + [10**9]
    larger = replace(machines, memory_gb=machines.memory_gb * 2)
    lines = [[first(limits(costs, each, count))[1] for count in stored] for each in (machines, larger)]
    names = ", ".join(f'"{count // 10**6:,}"' for count in stored)
    top = ceil(max(map(max, lines)) / 1_000) * 1_000
    return "\n".join(
        (
            "```mermaid",
            "xychart-beta",
            f'    title "One database is full: with {machines.memory_gb:.0f} GB (bars), with twice as much (line)"',
            f'    x-axis "millions of sagas stored" [{names}]',
            f'    y-axis "sagas per second" 0 --> {top}',
            f"    bar [{', '.join(f'{most:.0f}' for most in lines[0])}]",
            f"    line [{', '.join(f'{most:.0f}' for most in lines[1])}]",
            "```",
        )
    )


def _breaks(costs: Costs, machines: Machines) -> str:
    found: list[tuple[float, str, str]] = [
        (
            coordinator_events(costs, machines, 0) / costs.events,
            "one coordinator; one partition",
            "partitions, coordinators",
        )
    ]
    remedies = {
        "processors of the database": "a larger one; shards",
        "write-ahead log": "a disk of its own for it; shards",
        "index pages beyond memory": "`saga archive`, memory, shards",
    }
    for name, most in limits(costs, machines, 0).items():
        found.append((most, name, remedies[name]))
    beyond = "index pages beyond memory"
    found += [
        (limits(costs, machines, stored).get(beyond, 0), f"{beyond}, {stored:,} stored", remedies[beyond])
        for stored in STORED[1:]
    ]
    rows = [[what, f"{most:,.0f}", remedy] for most, what, remedy in sorted(found) if most]
    return _markdown(["full", "at sagas/s", "then"], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
