"""What is measured: the cases, in the order of the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Group = Literal["handlers", "publishing", "coordinator", "sagas", "latency"]
Peer = Literal["faststream", "faust", "dbos", "restate"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table.

    Args:
        name: the key in results.json.
        group: which table.
        title: the row's text.
        run: the case of `child`.
        kafka: on Kafka; else on the embedded broker.
        unit: what is counted.
        topics: "one" puts all events of the shop on one topic.
        traced: with the spans that such a run makes by default; on the embedded broker those of every saga.
        against: the row that its ratio is taken to, within the same round.
        postgres: how many empty PostgreSQL databases it takes.
        peer: whose environment it runs in, where that is not our own.
        part: of the events or sagas of a run: one in so many, where more would take too long.
    """

    name: str
    group: Group
    title: str
    run: str
    kafka: bool
    unit: str
    topics: Literal["one", "four"] = "four"
    traced: bool = True
    against: str | None = None
    postgres: int = 0
    peer: Peer | None = None
    part: int = 1


def _handlers(name: str, title: str, *, postgres: int = 0, peer: Peer | None = None, part: int = 1) -> Case:
    to = None if name == "by-hand-headers" else "by-hand-headers"
    return Case(name, "handlers", title, name, True, "events/s", against=to, postgres=postgres, peer=peer, part=part)


def _coordinator(name: str, title: str, *, kafka: bool = True, postgres: int = 0) -> Case:
    by_hand = "track-by-hand"
    run = name if name == by_hand else name.rpartition("-")[0]
    topics: Literal["one", "four"] = "four" if run == "catch-up" else "one"
    to = None if name == by_hand else by_hand
    return Case(name, "coordinator", title, run, kafka, "events/s", topics, against=to, postgres=postgres)


def _sagas(
    name: str, title: str, run: str, *, kafka: bool = True, postgres: int = 0, traced: bool = True
) -> tuple[Case, Case]:
    one = Case(
        f"whole-{name}",
        "sagas",
        title,
        f"whole{run}",
        kafka,
        "sagas/s",
        traced=traced,
        against="restate",
        postgres=postgres,
    )
    return one, replace(one, name=f"paced-{name}", group="latency", run=f"paced{run}")


def _peers(name: str, title: str, peer: Peer, *, postgres: int = 0, part: int = 1) -> tuple[Case, Case]:
    to = None if name == "restate" else "restate"
    one = Case(name, "sagas", title, name, False, "sagas/s", against=to, postgres=postgres, peer=peer, part=part)
    slow = replace(
        one, name=f"paced-{name}", group="latency", title=title.rpartition(",")[0], run=f"paced-{name}", part=1
    )
    return one, slow


CASES = (
    _handlers("by-hand", "loop by hand, no headers"),
    _handlers("by-hand-headers", "loop by hand, 8 headers"),
    _handlers("stateless", "`Service`, `store=None`"),
    _handlers("suspending", "… with a handler that suspends"),
    _handlers("stored", "`Service`, inbox and outbox on SQLite"),
    _handlers("stored-postgres", "`Service`, inbox and outbox on PostgreSQL", postgres=1),
    _handlers("faststream", "FastStream, per message", peer="faststream", part=10),
    _handlers("faststream-batch", "FastStream, batch", peer="faststream"),
    _handlers("faststream-keyed", "… batch read, each result sent by its key", peer="faststream"),
    _handlers("faust", "Faust agent", peer="faust", part=4),
    Case("publish-raw", "publishing", "aiokafka by hand, 6 headers (events/s)", "publish-raw", True, "events/s"),
    Case("publish", "publishing", "`Publisher` (events/s)", "publish", True, "events/s", against="publish-raw"),
    Case("insert", "publishing", "an insert on SQLite (orders/s)", "insert", False, "orders/s"),
    Case(
        "insert-outbox",
        "publishing",
        "… with `Outbox.add` (orders/s)",
        "insert-outbox",
        False,
        "orders/s",
        against="insert",
    ),
    _coordinator("track-by-hand", "by hand for this one saga, embedded broker", kafka=False),
    _coordinator("track-local", "coordinator alone, embedded broker", kafka=False),
    _coordinator("track-kafka", "coordinator alone, Kafka"),
    _coordinator("track-postgres", "… Kafka and PostgreSQL", postgres=1),
    _coordinator("catch-up-local", "… four topics after an outage, embedded", kafka=False),
    _coordinator("catch-up-kafka", "… four topics after an outage, Kafka"),
    *_sagas("local", "choreo, embedded broker", "", kafka=False),
    *_sagas("local-untraced", "… with tracing switched off", "", kafka=False, traced=False),
    *_sagas("kafka", "choreo, Kafka and SQLite", ""),
    *_sagas("kafka-postgres", "choreo, Kafka and PostgreSQL, 1 coordinator", "-1", postgres=4),
    *_sagas("kafka-postgres-2", "… 2 coordinators", "-2", postgres=4),
    *_peers("dbos-sqlite", "DBOS Transact, SQLite, 10 callers", "dbos", part=8),
    *_peers("dbos-postgres", "DBOS Transact, PostgreSQL, 4 callers", "dbos", postgres=1, part=8),
    *_peers("restate", "Restate, 400 callers", "restate"),
)
