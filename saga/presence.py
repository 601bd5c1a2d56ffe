"""Who is there: what a coordinator says of itself every few seconds, and when it last saw each service alive.

It is for people alone (`saga doctor`): nothing that is decided depends on it. A task that nobody waits for writes it,
two small statements every ten seconds; per batch one number is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ..events.catalog import ServiceAnnouncement
from ..events.clock import SECOND, system_clock
from ..events.database import Database
from ..events.envelope import Delivery, TopicPartition
from ..events.errors import ChoreoError
from ..events.transport import Transport
from .tables import coordinator, seen_group

log = structlog.get_logger("choreo.coordinator")

EVERY = 10.0
"""Seconds between two looks."""

_BATCHES = 512
"""So many of the newest batches say how quickly a coordinator decides."""

_GONE = 60 * SECOND
"""What has said nothing for so long is forgotten."""


class Standing(NamedTuple):
    """What a coordinator said of itself.

    Args:
        client: its name as a member of its group.
        at: when it said so, microseconds.
        partitions: what it reads.
        batches: how many of its newest batches the delays are made of.
        delay_p50, delay_p99: from a record's own time to the commit of what was decided, microseconds; half and 99 % of
            the batches were quicker, None before the first one.
    """

    client: str
    at: int
    partitions: frozenset[TopicPartition]
    batches: int
    delay_p50: int | None
    delay_p99: int | None


class Presence:
    """Says what one coordinator reads and how quickly it decides, and notes which services it sees.

    Args:
        database: the store.
        transport: an open broker.
        group: of the coordinators.
        client: the coordinator's name as a member.
        partitions: gives what it reads now.
        services: gives what services have announced.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        group: str,
        client: str,
        partitions: Callable[[], Collection[TopicPartition]],
        services: Callable[[], Mapping[str, ServiceAnnouncement]],
    ) -> None:
        self._database = database
        self._transport = transport
        self._group = group
        self._client = client
        self._partitions = partitions
        self._services = services
        self._delays: deque[int] = deque(maxlen=_BATCHES)
        self._told: set[TopicPartition] = set()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look and say so from now on, every few seconds."""
        self._task = asyncio.create_task(self._run(), name="choreo-presence")

    def decided(self, first: Delivery) -> None:
        """Note how long ago a batch's first record was written, now that what it led to is committed."""
        if first.timestamp > 0:  # else whoever wrote it has said nothing of the time
            self._delays.append(max(0, system_clock() - first.timestamp * 1_000))

    async def close(self) -> None:
        """Say nothing any more, and take out what was said."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        mine = (coordinator.c.group == self._group, coordinator.c.client == self._client)
        try:
            await self._database.write(lambda connection: connection.execute(delete(coordinator).where(*mine)))
        except (ChoreoError, DBAPIError):
            pass  # it is forgotten after a minute

    async def look(self) -> None:
        """See which services live, and write it down with what this coordinator does.

        Raises:
            ChoreoError: the store or the broker does not answer.
        """
        now, known = await self._database.read(lambda c: (self._database.now(c), last_seen(c)))
        # What another coordinator has just seen is not asked again: however many there are, the broker is asked once.
        fresh = now - round(EVERY * SECOND) // 2
        asked = sorted({each.group for each in self._services().values() if known.get(each.group, 0) < fresh})
        found = await asyncio.gather(*(self._transport.group(name) for name in asked))
        alive = [each.name for each in found if each.members]
        await self._database.write(lambda connection: self._write(connection, alive))

    def _write(self, connection: Connection, alive: Iterable[str]) -> None:
        now = self._database.now(connection)
        upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        delays = sorted(self._delays)
        self._told = set(self._partitions())
        said = {
            "at": now,
            "partitions": json.dumps(sorted([each.topic, each.partition] for each in self._told)),
            "batches": len(delays),
            "delay_p50": _quantile(delays, 50),
            "delay_p99": _quantile(delays, 99),
        }
        row = upsert(coordinator).values({"group": self._group, "client": self._client, **said})
        connection.execute(row.on_conflict_do_update(index_elements=["group", "client"], set_=said))
        connection.execute(delete(coordinator).where(coordinator.c.at < now - _GONE))
        rows = [{"group": each, "seen_at": now} for each in alive]
        if rows:
            seen = upsert(seen_group).on_conflict_do_update(index_elements=["group"], set_={"seen_at": now})
            connection.execute(seen, rows)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except (ChoreoError, DBAPIError) as error:
                log.debug("who is there is not written down", error=type(error).__name__)
            except Exception:
                log.exception("looking who is there failed, it goes on")
            await self._rest()

    async def _rest(self) -> None:
        """Wait until it is time to look again, or the partitions are not those any more of which was told."""
        until = asyncio.get_running_loop().time() + EVERY
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(min(1.0, EVERY))
            if set(self._partitions()) != self._told:
                return


def _quantile(ordered: list[int], percent: int) -> int | None:
    """Give the least of ordered values that so many per cent do not exceed."""
    return ordered[(len(ordered) * percent + 99) // 100 - 1] if ordered else None


def standings(connection: Connection, group: str, now: int) -> list[Standing]:
    """Read what the coordinators of a group have said of themselves within the last minute, by their names."""
    query = select(coordinator).where(coordinator.c.group == group, coordinator.c.at >= now - _GONE)
    return [
        Standing(
            row.client,
            row.at,
            frozenset(TopicPartition(topic, partition) for topic, partition in json.loads(row.partitions)),
            row.batches,
            row.delay_p50,
            row.delay_p99,
        )
        for row in connection.execute(query.order_by(coordinator.c.client))
    ]


def last_seen(connection: Connection) -> dict[str, int]:
    """Read when each consumer group was last seen with a live member, microseconds."""
    return {row.group: row.seen_at for row in connection.execute(select(seen_group))}
