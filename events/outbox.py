"""The outbox: records written in the same transaction as the state that caused them, published after its commit.

Who commits publishes (ruling R10): `Relay.publish` sends the rows that this process has just committed; a sweeper takes
rows that nobody sent for a while, under a lease, so a process that died between commit and send loses nothing. A row is
deleted only after the broker acknowledged it; so each is sent at least once, with the same id and the same bytes.

Within a process the order of a topic's rows is kept, also over a restart. Where older rows of a topic are not in memory
(the last process left them, memory could not hold them, the broker refuses the topic), the topic is *behind*: its newer
rows wait in the outbox too, and are loaded in order. So one topic that takes no records holds up no other.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import structlog
from msgspec.json import Decoder, Encoder
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from .clock import SECOND, Clock, system_clock
from .database import Database
from .envelope import Headers, Record
from .errors import ChoreoError, LimitExceeded
from .failpoints import failpoint
from .prepared import Prepared, listed, one_of
from .transport import Transport
from .waiting import happens

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
_MOST_COUNTED = 100_000
_LEFT_PAUSE = 0.2
_REFUSED_PAUSE = 2.0


class OutboxRow(NamedTuple):
    """A record with its row's id."""

    id: str
    record: Record


@dataclass(slots=True)
class _Behind:
    """A topic whose rows have to be loaded.

    Args:
        left: id of the last row that another process had left when this one started; those before it go first.
        due: when to load next, by the loop's clock.
        missed: more was committed since the last load began.
    """

    left: str = ""
    due: float = 0.0
    missed: bool = False


class Relay:
    """Publishes the outbox of one store.

    Args:
        database: the store that holds the outbox.
        transport: where to publish.
        clock: for leases.
        acknowledged: told of the records that the broker has.
        owner: names this process in the ids of rows; by default at random.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        clock: Clock = system_clock,
        acknowledged: Callable[[Sequence[Record]], None] | None = None,
        owner: str | None = None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._clock = clock
        self._acknowledged = acknowledged
        self._owner = os.urandom(6).hex() if owner is None else owner
        self._counter = itertools.count()
        self._pending: deque[OutboxRow] = deque()
        self._held: set[str] = set()
        self._sent: list[str] = []  # acknowledged, their rows not deleted yet
        self._settling: dict[Connection, list[str]] = {}  # deleted by transactions that have not ended yet
        database.on_end(self._ended)
        self._behind: dict[str, _Behind] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the table where it is missing and start publishing."""
        await self._database.ensure_schema("events", metadata, HEAD)
        for topic, last in await self._database.read(_last_rows):
            self._fall_behind(topic).left = last
        self._task = asyncio.create_task(self._run(), name="choreo-relay")

    async def close(self, *, drain: float = 5.0) -> None:
        """Publish what is pending for at most `drain` seconds, then stop; the rest stays in the outbox."""
        if self._task is None:
            return
        if not await self.drained(drain):
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
        _INSERT.run(connection, [_to_columns(row, now + _GRACE) for row in rows])
        return rows

    def settle(self, connection: Connection) -> None:
        """Delete the rows that were acknowledged since the last call, inside the caller's transaction.

        Called by whoever writes next, so that a busy process pays no commit of its own for it. Where that transaction
        is rolled back, the next call deletes them.
        """
        done, self._sent = self._sent, []
        if not done:
            return
        self._settling.setdefault(connection, []).extend(done)
        for start in range(0, len(done), _DELETE_CHUNK):
            _DELETE.run(connection, [{"ids": listed(connection, done[start : start + _DELETE_CHUNK])}])

    def _ended(self, connection: Connection, committed: bool) -> None:
        done = self._settling.pop(connection, None)
        if done is not None and not committed:
            self._sent = done + self._sent

    def publish(self, rows: Sequence[OutboxRow]) -> None:
        """Send rows that are committed now, in this order, without waiting.

        What memory cannot hold, because the broker is slow or away, is loaded again later.
        """
        if not rows:
            return
        if len(self._pending) + len(rows) > _MOST_PENDING:
            for row in rows:
                self._fall_behind(row.record.topic)
        if self._behind or not self._held.isdisjoint(row.id for row in rows):
            rows = [row for row in rows if not self._misses(row)]
        self._pending.extend(rows)
        self._held.update(row.id for row in rows)
        self._idle.clear()
        self._wake.set()

    async def drained(self, patience: float = 60.0) -> bool:
        """Wait at most `patience` seconds until everything handed to `publish` is acknowledged; say whether it is."""
        return await happens(self._idle, patience)

    async def depth(self) -> int:
        """Count the rows that are not acknowledged yet."""
        acknowledged = self._acknowledged_rows()  # their rows may be gone by the time that this is read
        rows = await self._database.read(lambda connection: connection.execute(select(outbox.c.id)).scalars().all())
        return len(set(rows).difference(acknowledged, self._acknowledged_rows()))

    def _acknowledged_rows(self) -> set[str]:
        return {*self._sent, *itertools.chain.from_iterable(self._settling.values())}

    def _fall_behind(self, topic: str) -> _Behind:
        self._idle.clear()
        return self._behind.setdefault(topic, _Behind())

    def _misses(self, row: OutboxRow) -> bool:
        behind = self._behind.get(row.record.topic)
        if behind is not None:
            behind.missed = True
        return behind is not None or row.id in self._held

    async def _run(self) -> None:
        next_sweep = 0
        while True:
            if not self._pending:
                if not self._behind:
                    self._idle.set()
                if self._clock() < next_sweep:
                    await happens(self._wake, _LEFT_PAUSE if self._behind else 1.0)
            self._wake.clear()
            try:
                await self._send_pending()
                await self._catch_up()
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
            try:
                await self._send(batch)
            except ChoreoError as error:
                if error.retryable:
                    raise
                await self._send_by_topic(batch)
            else:
                for _ in batch:
                    self._pending.popleft()

    async def _send(self, rows: Sequence[OutboxRow]) -> None:
        records = [row.record for row in rows]
        failpoint("relay.before_send")
        await self._transport.send(records)
        failpoint("relay.after_send")
        for row in rows:
            self._held.discard(row.id)
            self._sent.append(row.id)
        if self._acknowledged is not None:
            self._acknowledged(records)

    async def _send_by_topic(self, batch: Sequence[OutboxRow]) -> None:
        """Find the topics that the broker refuses, and leave what is for them in the outbox."""
        for topic in dict.fromkeys(row.record.topic for row in batch):
            rows = [row for row in batch if row.record.topic == topic]
            try:
                await self._send(rows)
            except ChoreoError as error:
                if error.retryable:
                    raise
                log.error(
                    "the broker refuses a topic, what is for it waits in the outbox", topic=topic, error=error.message
                )
                self._fall_behind(topic).due = asyncio.get_running_loop().time() + _REFUSED_PAUSE
                rows = [row for row in self._pending if row.record.topic == topic]
                self._held.difference_update(row.id for row in rows)
            gone = {row.id for row in rows}
            self._pending = deque(row for row in self._pending if row.id not in gone)

    async def _catch_up(self) -> None:
        """Load and send what topics are behind with, oldest first."""
        loop = asyncio.get_running_loop()
        for topic, behind in tuple(self._behind.items()):
            while self._behind.get(topic) is behind and behind.due <= loop.time():
                behind.missed = False
                load = self._load_left if behind.left else self._load
                rows, more = await self._database.write(partial(load, topic=topic, left=behind.left))
                self._pending.extend(rows)
                self._held.update(row.id for row in rows)
                if more and not rows:
                    behind.due = loop.time() + _LEFT_PAUSE  # another process has it, at most until its lease is over
                elif behind.left and not rows:
                    behind.left = ""
                elif not (behind.left or more or behind.missed):
                    del self._behind[topic]
                await self._send_pending()

    def _load_left(self, connection: Connection, topic: str, left: str) -> tuple[list[OutboxRow], bool]:
        """Take what other processes left, but for what one of them may be sending; say whether there is more."""
        self.settle(connection)
        now = self._clock()
        theirs = and_(outbox.c.topic == topic, outbox.c.id <= left, ~outbox.c.id.endswith(self._owner))
        chosen = select(outbox.c.id, outbox.c.free_at).where(theirs).order_by(outbox.c.id).limit(_SWEEP)
        found = connection.execute(chosen.with_for_update()).all()
        free = [row.id for row in itertools.takewhile(lambda row: row.free_at <= now, found)]
        return self._take(connection, free, now), bool(found)

    def _load(self, connection: Connection, topic: str, left: str) -> tuple[list[OutboxRow], bool]:
        """Take a topic's oldest rows that are ours or nobody's; say whether there may be more."""
        self.settle(connection)
        now = self._clock()
        ours = or_(outbox.c.id.endswith(self._owner), outbox.c.free_at <= now)
        chosen = select(outbox.c.id).where(outbox.c.topic == topic, ours).order_by(outbox.c.id).limit(_SWEEP)
        found = connection.execute(chosen.with_for_update(skip_locked=True)).scalars().all()
        return self._take(connection, found, now), len(found) == _SWEEP

    async def _sweep(self, now: int) -> bool:
        """Take rows that nobody has sent for a while; True when there may be more of them."""
        if self._sent:
            await self._database.write(self.settle)
        behind = tuple(self._behind)
        if not await self._database.read(lambda connection: _any_free(connection, now, behind)):
            return False
        rows = await self._database.write(lambda connection: self._claim(connection, now, behind))
        fresh = [row for row in rows if row.id not in self._held]
        if fresh:
            log.info("sending what was left in the outbox", rows=len(fresh))
            self.publish(fresh)
        return len(rows) == _SWEEP

    def _claim(self, connection: Connection, now: int, behind: Sequence[str]) -> list[OutboxRow]:
        self.settle(connection)
        chosen = _free(now, behind).order_by(outbox.c.id).limit(_SWEEP)
        return self._take(connection, connection.execute(chosen.with_for_update(skip_locked=True)).scalars().all(), now)

    def _take(self, connection: Connection, ids: Sequence[str], now: int) -> list[OutboxRow]:
        """Read rows, and keep others from them for a while."""
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


def waiting(connection: Connection) -> tuple[int, int | None]:
    """Count the rows of an outbox (up to 100,000), and tell when the oldest was written; for metrics.

    Returns:
        How many, and microseconds; None where there are none. Rows that the broker has and that nobody has deleted
        yet are among them, for a moment.
    """
    first = connection.execute(select(func.min(outbox.c.id))).scalar_one_or_none()
    if first is None:
        return 0, None
    some = select(outbox.c.id).limit(_MOST_COUNTED).subquery()
    count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count, int(first.partition("-")[0], 16)


def _last_rows(connection: Connection) -> Sequence[tuple[str, str]]:
    last = connection.execute(select(outbox.c.topic, func.max(outbox.c.id)).group_by(outbox.c.topic)).all()
    return [(topic, id_) for topic, id_ in last]


def _free(now: int, behind: Sequence[str]) -> Select[Any]:
    free = select(outbox.c.id).where(outbox.c.free_at <= now)
    return free.where(outbox.c.topic.not_in(behind)) if behind else free


def _any_free(connection: Connection, now: int, behind: Sequence[str]) -> bool:
    if not behind:
        return bool(_ANY_FREE.rows(connection, {"now": now}))
    return connection.execute(_free(now, behind).limit(1)).first() is not None


_INSERT = Prepared(insert(outbox))
_DELETE = Prepared(lambda dialect: delete(outbox).where(one_of(outbox.c.id, "ids", dialect)))
_ANY_FREE = Prepared(select(outbox.c.id).where(outbox.c.free_at <= bindparam("now")).limit(1))


def _to_columns(row: OutboxRow, free_at: int) -> dict[str, object]:
    record = row.record
    return {
        "id": row.id,
        "topic": record.topic,
        "key": record.key,
        "value": record.value,
        "headers": _WRITER.encode(record.headers).decode(),
        "timestamp": record.timestamp,
        "partition": record.partition,
        "free_at": free_at,
    }


def _headers(text: str) -> Headers:
    return _READER.decode(text)


_WRITER = Encoder()  # it writes bytes in base64
_READER = Decoder(Headers)
