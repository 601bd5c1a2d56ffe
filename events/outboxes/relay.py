"""The relay: publishes what committed transactions have left in an outbox, in order, and removes it.

Rows are found by what is not published yet, never by a position: a transaction that commits late, with lower numbers
than others before it, is found by the next look. Within a shard, and so within a key, rows go in the order of their
numbers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from opentelemetry import metrics
from sqlalchemy import Connection, inspect, select, text

from ..database import lock_schema
from ..envelope import Record
from ..errors import ChoreoError, ConfigurationError
from ..failpoints import failpoint
from ..publisher import send_making_topics
from ..transport import Transport
from ..waiting import happens
from .database import SystemDatabase
from .lag import Lag, read_lag
from .leases import Leases
from .published import mark_rows, remove_rows
from .table import Tables, outbox_tables, to_record

log = structlog.get_logger("choreo.relay")

LEASE = 30_000_000
BATCH = 500

_CHUNK = 500
_PRUNE_EVERY = 5.0
_MOST_PRUNED = 20 * _CHUNK
_SHORTEST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_REFUSED_PAUSE = 5.0
_MEASURE_EVERY = 2.0
_MOST_UNREADABLE = 1_000


class _Loaded(NamedTuple):
    seq: int
    record: Record


class OutboxRelay:
    """Publishes one outbox; several of them, in as many processes, share it.

    Args:
        database: the system's.
        transport: where to publish.
        tables: the outbox and its leases, from `open_tables`.
        keep: microseconds for which published rows are kept; 0 removes them at once.
        lease: microseconds after which the shards of a relay that has died go to others.
        batch: rows that are sent at a time.
        owner: this relay's name; by default at random.
    """

    def __init__(
        self,
        database: SystemDatabase,
        transport: Transport,
        tables: Tables,
        *,
        keep: int = 0,
        lease: int = LEASE,
        batch: int = BATCH,
        owner: str | None = None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._tables = tables
        self._keep = keep
        self._lease = lease
        self._batch = batch
        self._leases = Leases(database, tables, os.urandom(6).hex() if owner is None else owner, lease)
        self._renew_at = 0.0
        self._valid_until = 0.0
        self._prune_at = 0.0
        self._measure_at = 0.0
        self._refused: dict[str, float] = {}
        self._refusal: ChoreoError | None = None
        self._unreadable: set[int] = set()
        self.published = 0
        self.lag = Lag()
        self._metrics()

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this relay publishes."""
        return self._leases.held

    @property
    def relays(self) -> int:
        """How many relays share the outbox, this one included."""
        return self._leases.relays

    async def run(self, stop: asyncio.Event, *, until_empty: bool = False) -> None:
        """Publish until `stop` is set, or with `until_empty` until nothing waits; then let go of the leases.

        Raises:
            ChoreoError: with `until_empty`, a broker or database that does not do what is asked; else it is waited for.
        """
        await self.start()
        pause = _SHORTEST_PAUSE
        try:
            while not stop.is_set():
                try:
                    sent = await self.step()
                    if until_empty and self._refusal is not None:
                        raise self._refusal
                    if until_empty and not sent and (await self.measure()).waiting == len(self._unreadable):
                        return
                except ChoreoError as error:
                    if until_empty:
                        raise
                    log.warning("the relay waits", error=error.message)
                    sent, pause = 0, 1.0
                if not sent:
                    await happens(stop, pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    pause = _SHORTEST_PAUSE
        finally:
            await self.close()

    async def start(self) -> None:
        """Make ready for `step`."""
        await self._leases.prepare()

    async def close(self) -> None:
        """Let go of the leases, so that others need not wait."""
        try:
            await self._leases.release()
        except ChoreoError:
            pass  # they expire by themselves

    async def step(self) -> int:
        """Publish one batch and do what is due beside it; give how many events the broker has acknowledged.

        Raises:
            BrokerUnreachable, StoreUnreachable: try again later; nothing is lost.
        """
        now = time.monotonic()
        if now >= self._renew_at:
            await self._leases.renew()
            self._renew_at = now + self._lease / 3_000_000
            self._valid_until = now + self._lease * 0.8 / 1_000_000
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_EVERY if await self._prune() < _MOST_PRUNED else now
        if now >= self._measure_at:
            await self.measure()
        if not self._leases.held:
            return 0
        rows = await self._load()
        if not rows or time.monotonic() > self._valid_until:  # the load took so long that another may have them by now
            return 0
        sent = await self._send(rows)
        await self._settle(sent)
        self.published += len(sent)
        self._counter.add(len(sent), self._attributes)
        return len(sent)

    async def measure(self) -> Lag:
        """Read what waits; remembered for the metrics."""
        self._measure_at = time.monotonic() + _MEASURE_EVERY
        self.lag = await self._database.read(
            lambda connection: read_lag(connection, self._database, self._tables.outbox)
        )
        return self.lag

    async def _load(self) -> list[_Loaded]:
        now = time.monotonic()
        self._refused = {topic: until for topic, until in self._refused.items() if until > now}
        outbox = self._tables.outbox
        due = select(outbox).where(outbox.c.published_at.is_(None), outbox.c.shard.in_(sorted(self._leases.held)))
        if self._refused:
            due = due.where(outbox.c.aggregatetype.not_in(sorted(self._refused)))
        if self._unreadable:
            due = due.where(outbox.c.seq.not_in(sorted(self._unreadable)))
        due = due.order_by(outbox.c.seq).limit(self._batch)
        found = await self._database.read(lambda connection: connection.execute(due).all())
        return [loaded for row in found if (loaded := self._read(row)) is not None]

    def _read(self, row: Any) -> _Loaded | None:
        """Make the record of a row; one that `Outbox.add` did not write may be none, and stays behind alone."""
        try:
            return _Loaded(row.seq, to_record(row))
        except (ValueError, TypeError, ChoreoError):
            if len(self._unreadable) >= _MOST_UNREADABLE:
                raise ConfigurationError(
                    f"{_MOST_UNREADABLE:,} rows of {self._tables.outbox.fullname} are no events; mend or delete them"
                ) from None
            self._unreadable.add(row.seq)
            log.error("a row is no event, it stays where it is", table=self._tables.outbox.fullname, seq=row.seq)
            return None

    async def _send(self, rows: Sequence[_Loaded]) -> list[int]:
        """Send rows; give the numbers of those that the broker has."""
        failpoint("outbox.before_send")
        try:
            await send_making_topics(self._transport, [row.record for row in rows])
        except ChoreoError as error:
            if error.retryable:
                raise
            return await self._send_by_topic(rows)
        failpoint("outbox.after_send")
        return [row.seq for row in rows]

    async def _send_by_topic(self, rows: Sequence[_Loaded]) -> list[int]:
        """Find the topics that the broker refuses, and leave what is for them where it is for a while."""
        sent: list[int] = []
        for topic in dict.fromkeys(row.record.topic for row in rows):
            of_topic = [row for row in rows if row.record.topic == topic]
            try:
                await send_making_topics(self._transport, [row.record for row in of_topic])
                sent.extend(row.seq for row in of_topic)
            except ChoreoError as error:
                if error.retryable:
                    await self._settle(sent)
                    raise
                self._refused[topic] = time.monotonic() + _REFUSED_PAUSE
                self._refusal = error
                log.error("the broker refuses a topic, what is for it waits", topic=topic, error=error.message)
        return sent

    async def _settle(self, seqs: Sequence[int]) -> None:
        """Remove, or mark, what the broker has acknowledged."""
        if not seqs:
            return
        outbox = self._tables.outbox

        def settle(connection: Connection) -> None:
            now = self._database.now(connection)
            if self._keep:
                mark_rows(connection, outbox, seqs, now)
            else:
                remove_rows(connection, outbox, seqs)

        await self._database.write(settle)

    async def _prune(self) -> int:
        """Delete what was published long enough ago, in small steps; give how many rows that were."""
        pruned = 0
        while pruned < _MOST_PRUNED:
            step = await self._database.read(self._old)
            if not step:
                break
            await self._database.write(partial(remove_rows, outbox=self._tables.outbox, seqs=step))
            pruned += len(step)
        return pruned

    def _old(self, connection: Connection) -> Sequence[int]:
        outbox = self._tables.outbox
        old = outbox.c.published_at <= self._database.now(connection) - self._keep
        return connection.execute(select(outbox.c.seq).where(old).limit(_CHUNK)).scalars().all()

    def _metrics(self) -> None:
        meter = metrics.get_meter("choreo")
        self._attributes = {"choreo.outbox": self._tables.outbox.fullname}
        self._counter = meter.create_counter(
            "choreo.outbox.published", "{event}", "Events that the broker has acknowledged."
        )
        meter.create_observable_gauge(
            "choreo.outbox.lag",
            [self._observe_lag],
            "s",
            "Age of the oldest event that is committed and not published.",
        )
        meter.create_observable_gauge(
            "choreo.outbox.waiting",
            [self._observe_waiting],
            "{event}",
            "Events that are committed and not published, counted up to 100,000.",
        )

    def _observe_lag(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        yield metrics.Observation(self.lag.oldest / 1_000_000, self._attributes)

    def _observe_waiting(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        yield metrics.Observation(self.lag.waiting, self._attributes)


async def open_tables(database: SystemDatabase, name: str, *, create: bool = False) -> Tables:
    """Find the tables of an outbox, or make them.

    Args:
        database: the system's.
        name: the outbox's.
        create: make what is missing.

    Raises:
        ConfigurationError: they are not there and may not be made, or are not what an outbox needs.
    """
    tables = outbox_tables(name)
    missing = await database.read(lambda connection: _missing(connection, tables))
    if missing and create:
        await database.write(lambda connection: _create(connection, tables))
        missing = await database.read(lambda connection: _missing(connection, tables))
    if missing:
        raise ConfigurationError(
            f"{database.url} has no {missing}: make it with --create-table, or in your migrations (saga relay --ddl)"
        )
    return tables


def _create(connection: Connection, tables: Tables) -> None:
    lock_schema(connection)
    if connection.dialect.name not in ("mysql", "mariadb"):
        tables.outbox.metadata.create_all(connection)
        return
    connection.execute(text("SELECT GET_LOCK('choreo-schema', 60)"))  # two relays may start at once here, too
    try:
        tables.outbox.metadata.create_all(connection)
    finally:
        connection.execute(text("SELECT RELEASE_LOCK('choreo-schema')"))


def _missing(connection: Connection, tables: Tables) -> str:
    """Name the first table or column that is not there; nothing where all are."""
    looking = inspect(connection)
    for table in (tables.outbox, tables.leases):
        if not looking.has_table(table.name, schema=table.schema):
            return f"table {table.fullname}"
        there = {column["name"] for column in looking.get_columns(table.name, schema=table.schema)}
        absent = [column.name for column in table.columns if column.name not in there]
        if absent:
            return f"column {absent[0]} in {table.fullname}"
    return ""
