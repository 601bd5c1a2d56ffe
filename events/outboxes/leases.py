"""Who publishes which shard: lease rows in the system's own database, by its clock.

Every relay keeps a row of its own, so that each knows how many there are, and takes its share of the shards: those
that nobody holds, or whose holder has not renewed them in time. A relay that was paused past its lease may still send:
copies of what its successor sends, in the same order and under the same ids. What it then marks as published the broker
has acknowledged. So leases guard the order of what is sent, and nothing is lost without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from .database import SystemDatabase
from .table import SHARDS, Tables

_RELAY = "relay-"
_SHARDS = {f"shard-{number:02}": number for number in range(SHARDS)}
_NOBODY: dict[str, object] = {"owner": None, "expires_at": 0}


class Leases:
    """What one relay holds.

    Args:
        database: the system's.
        tables: the outbox and its leases.
        owner: this relay's name, another one after each start.
        term: microseconds that a lease lasts.
    """

    def __init__(self, database: SystemDatabase, tables: Tables, owner: str, term: int) -> None:
        self._database = database
        self._table = tables.leases
        self._owner = owner
        self._term = term
        self.held: frozenset[int] = frozenset()
        self.relays = 1

    async def prepare(self) -> None:
        """Make the rows that the leases live in."""
        there = await self._database.read(
            lambda connection: connection.execute(select(self._table.c.name)).scalars().all()
        )
        for name in sorted(_SHARDS.keys() - set(there)):
            try:
                await self._database.write(partial(self._insert, name=name))
            except IntegrityError:
                pass  # another relay, which starts too, was faster

    async def renew(self) -> frozenset[int]:
        """Renew what is held, let go of what is more than a fair share, take what is free; give the shards held now."""
        self.held, self.relays = await self._database.write(self._renew)
        return self.held

    async def release(self) -> None:
        """Let go of everything, so that others need not wait."""
        self.held = frozenset()
        await self._database.write(self._release)

    def _insert(self, connection: Connection, name: str) -> None:
        connection.execute(insert(self._table).values(name=name, **_NOBODY))

    def _renew(self, connection: Connection) -> tuple[frozenset[int], int]:
        table, me = self._table, self._owner
        now = self._database.now(connection)
        rows = connection.execute(select(table).order_by(table.c.name)).all()
        alive = {row.owner for row in rows if row.name.startswith(_RELAY) and row.owner and row.expires_at > now} | {me}
        dead = [row.name for row in rows if row.name.startswith(_RELAY) and row.expires_at <= now and row.owner != me]
        shards = [row for row in rows if row.name in _SHARDS]
        share = -(-SHARDS // len(alive))
        mine = [row.name for row in shards if row.owner == me]
        kept = self._change(connection, mine[:share], {"expires_at": now + self._term})
        self._change(connection, mine[share:], _NOBODY)
        free = [row.name for row in shards if row.owner != me and (row.owner is None or row.expires_at <= now)]
        for name in free:
            if len(kept) >= share:
                break
            taken = connection.execute(
                update(table)
                .where(table.c.name == name, or_(table.c.owner.is_(None), table.c.expires_at <= now))
                .values(owner=me, expires_at=now + self._term)
            )
            if taken.rowcount == 1:
                kept.append(name)
        self._keep_own_row(connection, now)
        for name in dead:
            connection.execute(delete(table).where(table.c.name == name, table.c.expires_at <= now))
        return frozenset(_SHARDS[name] for name in kept), len(alive)

    def _change(self, connection: Connection, names: Sequence[str], values: dict[str, object]) -> list[str]:
        """Change leases that are still ours, in the order of their names; give those that were."""
        table = self._table
        ours = (
            update(table).where(table.c.name == name, table.c.owner == self._owner).values(values) for name in names
        )
        return [name for name, change in zip(names, ours, strict=True) if connection.execute(change).rowcount == 1]

    def _keep_own_row(self, connection: Connection, now: int) -> None:
        table, name = self._table, _RELAY + self._owner
        values = {"owner": self._owner, "expires_at": now + self._term}
        if connection.execute(update(table).where(table.c.name == name).values(values)).rowcount == 0:
            connection.execute(insert(table).values(name=name, **values))

    def _release(self, connection: Connection) -> None:
        table = self._table
        names = connection.execute(select(table.c.name).where(table.c.owner == self._owner)).scalars().all()
        self._change(connection, sorted(_SHARDS.keys() & set(names)), _NOBODY)
        connection.execute(delete(table).where(table.c.name == _RELAY + self._owner))


def read_relays(connection: Connection, database: SystemDatabase, tables: Tables) -> int:
    """Count the relays that are alive."""
    table, now = tables.leases, database.now(connection)
    alive = select(table.c.name).where(table.c.name.startswith(_RELAY, autoescape=True), table.c.expires_at > now)
    return len(connection.execute(alive).all())
