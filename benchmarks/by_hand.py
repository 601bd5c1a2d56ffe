"""A coordinator as one would write it by hand for this one saga, for speed: what tracking costs before any framework.

It keeps what the product keeps for each event and no more than that: a row of the saga with its state as JSON, a row
of history with the event, whose key drops duplicates, undo commands in an outbox, and positions; one durable
transaction for a batch, statements at SQLite's driver, states as msgspec structures. The order's steps stand in `if`s.
There are no definitions, no limits, timers, conditions, facts that come before their causes, or runs; no second
coordinator, no spans, no operators, and nobody could say why a saga waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from choreo.events.codec import Codec, to_record
from choreo.events.envelope import Delivery, Envelope, Record, TopicPartition
from choreo.events.ids import derived_id
from choreo.events.transport import Consumer, Transport

from . import shop
from .stopwatch import Measured, Stopwatch

_BATCH = 1_000
_TABLES = """
CREATE TABLE saga (id TEXT PRIMARY KEY, phase TEXT NOT NULL, updated_at INTEGER NOT NULL, seq INTEGER NOT NULL,
    state TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX saga_phase ON saga (phase, updated_at);
CREATE TABLE history (saga_id TEXT NOT NULL, event_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL,
    at INTEGER NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, value BLOB,
    PRIMARY KEY (saga_id, event_id)) WITHOUT ROWID;
CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key BLOB, value BLOB, headers TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE position (topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition));
"""
_DONE = {
    shop.StockReserved.spec().type: "reserve",
    shop.PaymentCaptured.spec().type: "charge",
    shop.OrderShipped.spec().type: "ship",
}
_UNDONE = {shop.StockReleased.spec().type: "reserve", shop.PaymentRefunded.spec().type: "charge"}
_PLACED, _REFUSED = shop.OrderPlaced.spec().type, shop.ShippingRefused.spec().type


class _State(msgspec.Struct):
    phase: str = "RUNNING"
    seq: int = 0
    steps: dict[str, tuple[str, str]] = {}
    """State and event of each step."""


_read = msgspec.json.Decoder(_State).decode
_write = msgspec.json.Encoder().encode


class _Tracker:
    def __init__(self, path: Path, codec: Codec) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_TABLES}")
        self._codec = codec
        self._sent: list[str] = []

    def track(self, deliveries: Sequence[Delivery]) -> list[Record]:
        """Decide what a batch says, in one transaction; give the commands that go out after it."""
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        if self._sent:
            self._database.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in self._sent])
        keys = list({delivery.key.decode() for delivery in deliveries if delivery.key})
        found = run(
            "SELECT id, state FROM saga WHERE id IN (SELECT value FROM json_each(?))", (msgspec.json.encode(keys),)
        )
        states = {id_: _read(state) for id_, state in found}
        known = set(states)
        history, commands = [], []
        ends: dict[TopicPartition, int] = {}
        for delivery in deliveries:
            headers = dict(delivery.headers)
            key, id_, type_ = (delivery.key or b"").decode(), headers["ce_id"].decode(), headers["ce_type"].decode()
            state = states.setdefault(key, _State()) if type_ == _PLACED else states.get(key)
            ends[delivery.place] = delivery.offset + 1
            if state is None:
                continue
            state.seq += 1
            at = delivery.timestamp
            history.append((key, id_, state.seq, type_, at, *delivery.place, delivery.offset, delivery.value))
            commands += self._decide(state, key, id_, type_)
        rows = [(key, state.phase, at, state.seq, _write(state).decode()) for key, state in states.items()]
        self._database.executemany(
            "INSERT INTO saga VALUES (?, ?, ?, ?, ?)", [row for row in rows if row[0] not in known]
        )
        self._database.executemany(
            "UPDATE saga SET phase = ?2, updated_at = ?3, seq = ?4, state = ?5 WHERE id = ?1",
            [row for row in rows if row[0] in known],
        )
        self._database.executemany("INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", history)
        outbox = [
            (id_, record.topic, record.key, record.value, _write([[n, v.decode()] for n, v in record.headers]).decode())
            for id_, record in commands
        ]
        self._database.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", outbox)
        self._database.executemany(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?)", [(*place, end) for place, end in ends.items()]
        )
        run("COMMIT")
        self._sent = [id_ for id_, _ in commands]
        return [record for _, record in commands]

    def _decide(self, state: _State, key: str, id_: str, type_: str) -> Iterator[tuple[str, Record]]:
        if type_ == _REFUSED:
            state.phase = "COMPENSATING"
            yield self._command(shop.RefundPayment(order_id=key), key, id_)
        elif type_ in _DONE:
            state.steps = {**state.steps, _DONE[type_]: ("DONE", id_)}
            if len(state.steps) == len(_DONE):
                state.phase = "COMPLETED"
        elif type_ in _UNDONE:
            state.steps = {**state.steps, _UNDONE[type_]: ("UNDONE", id_)}
            if _UNDONE[type_] == "charge":
                yield self._command(shop.ReleaseStock(order_id=key), key, id_)
            else:
                state.phase = "COMPENSATED"

    def _command(self, event: shop.RefundPayment | shop.ReleaseStock, key: str, cause: str) -> tuple[str, Record]:
        spec = event.spec()
        id_ = derived_id("by-hand", spec.type, key)
        envelope = Envelope(id_, spec.type, "by-hand", 0, key, causation_id=cause, saga_id=key)
        return id_, to_record(event, envelope, self._codec)

    def phases(self) -> dict[str, int]:
        """Count the sagas of each phase."""
        return dict(self._database.execute("SELECT phase, count(*) FROM saga GROUP BY phase"))

    def close(self) -> None:
        """Close its file."""
        self._database.close()


async def follow(transport: Transport, topics: Sequence[str], codec: Codec, home: Path, total: int) -> Measured:
    """Track so many events, with everything durable and on the broker at the end."""
    tracker = _Tracker(home / "by-hand.db", codec)
    consumer: Consumer = await transport.subscribe("by-hand", topics)
    watch = Stopwatch()
    read = 0
    try:
        while read < total:
            deliveries = await consumer.poll(most=_BATCH, timeout=1.0)
            if not deliveries:
                continue
            watch.start()
            commands = tracker.track(deliveries)
            if commands:
                await transport.send(commands)
            await consumer.commit({delivery.place: delivery.offset + 1 for delivery in deliveries})
            read += len(deliveries)
        watch.lap()
        phases = tracker.phases()
    finally:
        await consumer.close()
        tracker.close()
    return watch.measured(total, phases=phases)
