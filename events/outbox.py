"""The outbox: records written in the same transaction as the state that caused them, published after its commit.

Who commits publishes (ruling R10): `Relay.publish` sends the rows that this process has just committed; a sweeper takes
rows that nobody sent for a while, under a lease, so a process that died between commit and send loses nothing. A row is
deleted only after the broker acknowledged it; so each is sent at least once, with the same id and the same bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    delete,
    event,
    insert,
    select,
    update,
)

from .clock import SECOND, Clock, system_clock
from .database import Database
from .envelope import Headers, Record
from .errors import ChoreoError, LimitExceeded
from .transport import Transport

log = structlog.get_logger("choreo.outbox")

HEAD = "0001"
metadata = MetaData()
outbox = Table(
    "choreo_outbox",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", Text, nullable=False),
    Column("timestamp", BigInteger),
    Column("partition", Integer),
    Column("free_at", BigInteger, nullable=False),
    Index("choreo_outbox_free_at", "free_at", "id"),
)

MOST_RECORD_BYTES = 1_000_000
"""A larger record would never fit a broker's default `message.max.bytes`: it would block the relay for ever, so it is
refused before the commit."""

_GRACE = 5 * SECOND
_LEASE = 30 * SECOND
_SWEEP = 500
_DELETE_CHUNK = 500
_MOST_PENDING = 20_000


class OutboxRow(NamedTuple):
    """A record with its row's id."""

    id: str
    record: Record


class Relay:
    """Publishes the outbox of one store.

    Args:
        database: the store that holds the outbox.
        transport: where to publish.
        clock: for leases.
        acknowledged: told of the records that the broker has.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        clock: Clock = system_clock,
        acknowledged: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._clock = clock
        self._acknowledged = acknowledged
        self._owner = os.urandom(6).hex()
        self._counter = itertools.count()
        self._pending: deque[OutboxRow] = deque()
        self._held: set[str] = set()
        self._sent: list[str] = []  # acknowledged, their rows not deleted yet
        self._settling: set[str] = set()  # deleted by transactions that have not ended yet
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the table where it is missing and start publishing."""
        await self._database.ensure_schema("events", metadata, HEAD)
        self._task = asyncio.create_task(self._run(), name="choreo-relay")

    async def close(self, *, drain: float = 5.0) -> None:
        """Publish what is pending for at most `drain` seconds, then stop; the rest stays in the outbox."""
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), drain)
        except TimeoutError:
            log.warning("outbox not drained; the rest is sent by the next start", pending=len(self._pending))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._sent:
            try:
                await self._database.write(self.settle)
            except ChoreoError:
                pass  # they will be sent once more, with the same ids

    def put(self, connection: Connection, records: Sequence[Record]) -> list[OutboxRow]:
        """Write records inside the caller's transaction; after its commit hand the rows to `publish`.

        Raises:
            LimitExceeded: a record that no broker would take.
        """
        if not records:
            return []
        now = self._clock()
        rows = []
        for record in records:
            if record.size() > MOST_RECORD_BYTES:
                raise LimitExceeded(
                    f"a record of {record.size()} bytes for {record.topic}; at most {MOST_RECORD_BYTES} can be sent",
                    topic=record.topic,
                )
            rows.append(OutboxRow(f"{now:015x}-{next(self._counter):010x}-{self._owner}", record))
        connection.execute(insert(outbox), [_to_columns(row, now + _GRACE) for row in rows])
        return rows

    def settle(self, connection: Connection) -> None:
        """Delete the rows that were acknowledged since the last call, inside the caller's transaction.

        Called by whoever writes next, so that a busy process pays no commit of its own for it. Where that transaction
        is rolled back, the next call deletes them.
        """
        done, self._sent = self._sent, []
        if not done:
            return
        self._settling.update(done)

        def ended(committed: bool) -> None:
            if not self._settling.issuperset(done):
                return  # told already
            self._settling.difference_update(done)
            if not committed:
                self._sent = done + self._sent

        event.listen(connection, "commit", lambda _: ended(True))
        event.listen(connection, "rollback", lambda _: ended(False))
        for start in range(0, len(done), _DELETE_CHUNK):
            chunk = done[start : start + _DELETE_CHUNK]
            connection.execute(delete(outbox).where(outbox.c.id.in_(chunk)))

    def publish(self, rows: Sequence[OutboxRow]) -> None:
        """Send rows that are committed now, in this order, without waiting.

        What memory cannot hold, because the broker is slow or away, is left to the sweeper.
        """
        if not rows or len(self._pending) + len(rows) > _MOST_PENDING:
            return
        self._pending.extend(rows)
        self._held.update(row.id for row in rows)
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Wait until everything handed to `publish` has been acknowledged."""
        await self._idle.wait()

    async def depth(self) -> int:
        """Count the rows that are not acknowledged yet."""
        rows = await self._database.read(lambda connection: connection.execute(select(outbox.c.id)).scalars().all())
        return len(set(rows).difference(self._sent, self._settling))

    async def _run(self) -> None:
        next_sweep = 0
        while True:
            if not self._pending:
                self._idle.set()
                if self._clock() < next_sweep:
                    try:
                        await asyncio.wait_for(self._wake.wait(), 1.0)
                    except TimeoutError:
                        pass
            self._wake.clear()
            try:
                await self._send_pending()
                now = self._clock()
                if now >= next_sweep:
                    more = await self._sweep(now)
                    next_sweep = 0 if more else now + SECOND
            except ChoreoError as error:
                log.warning("outbox waits for the broker", error=str(error), pending=len(self._pending))
                await asyncio.sleep(0.5 if error.retryable else 2.0)
            except Exception:
                log.exception("outbox relay failed; it goes on")
                await asyncio.sleep(1.0)

    async def _send_pending(self) -> None:
        while self._pending:
            batch = list(itertools.islice(self._pending, 0, 2_000))
            records = [row.record for row in batch]
            await self._transport.send(records)
            for row in batch:
                self._pending.popleft()
                self._held.discard(row.id)
                self._sent.append(row.id)
            if self._acknowledged is not None:
                self._acknowledged(records)

    async def _sweep(self, now: int) -> bool:
        """Take rows that nobody has sent for a while; True when there may be more of them."""
        if self._sent:
            await self._database.write(self.settle)
        if not await self._database.read(lambda connection: _any_free(connection, now)):
            return False
        rows = await self._database.write(lambda connection: self._claim(connection, now))
        fresh = [row for row in rows if row.id not in self._held]
        if fresh:
            log.info("sending what was left in the outbox", rows=len(fresh))
            self.publish(fresh)
        return len(rows) == _SWEEP

    def _claim(self, connection: Connection, now: int) -> list[OutboxRow]:
        self.settle(connection)
        free = select(outbox.c.id).where(outbox.c.free_at <= now).order_by(outbox.c.id).limit(_SWEEP)
        ids = connection.execute(free.with_for_update(skip_locked=True)).scalars().all()
        if not ids:
            return []
        connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(free_at=now + _LEASE))
        found = connection.execute(select(outbox).where(outbox.c.id.in_(ids)).order_by(outbox.c.id)).all()
        return [
            OutboxRow(
                row.id, Record(row.topic, row.key, row.value, _headers(row.headers), row.timestamp, row.partition)
            )
            for row in found
        ]


def _any_free(connection: Connection, now: int) -> bool:
    return connection.execute(select(outbox.c.id).where(outbox.c.free_at <= now).limit(1)).first() is not None


def _to_columns(row: OutboxRow, free_at: int) -> dict[str, object]:
    record = row.record
    headers = json.dumps([[name, b64encode(value).decode()] for name, value in record.headers])
    return {
        "id": row.id,
        "topic": record.topic,
        "key": record.key,
        "value": record.value,
        "headers": headers,
        "timestamp": record.timestamp,
        "partition": record.partition,
        "free_at": free_at,
    }


def _headers(text: str) -> Headers:
    return tuple((name, b64decode(value)) for name, value in json.loads(text))
