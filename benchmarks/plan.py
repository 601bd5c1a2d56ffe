"""What is measured: the cases, in the order of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["handlers", "publishing", "coordinator"]
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


CASES = (
    _handlers("by-hand", "loop by hand, no headers"),
    _handlers("by-hand-headers", "loop by hand, 8 headers"),
    _handlers("stateless", "`Service`, `store=None`"),
    _handlers("suspending", "… with a handler that suspends"),
    _handlers("stored", "`Service`, inbox and outbox on SQLite"),
    _handlers("stored-postgres", "`Service`, inbox and outbox on PostgreSQL", postgres=1),
    _handlers("faststream", "FastStream, per message", peer="faststream", part=10),
    _handlers("faststream-batch", "FastStream, batch", peer="faststream"),
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
    Case("track-local", "coordinator", "coordinator alone, embedded broker", "track", False, "events/s", "one"),
    Case("track-kafka", "coordinator", "coordinator alone, Kafka", "track", True, "events/s", "one"),
    Case("catch-up-local", "coordinator", "… four topics after an outage, embedded", "catch-up", False, "events/s"),
    Case("catch-up-kafka", "coordinator", "… four topics after an outage, Kafka", "catch-up", True, "events/s"),
    Case("whole-local", "coordinator", "services and coordinator, embedded broker", "whole", False, "sagas/s"),
    Case(
        "whole-local-untraced",
        "coordinator",
        "… with tracing switched off",
        "whole",
        False,
        "sagas/s",
        traced=False,
    ),
    Case("whole-kafka", "coordinator", "services and coordinator, Kafka", "whole", True, "sagas/s"),
)
