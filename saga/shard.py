"""Shards: several stores share the sagas of one installation by their keys, each with coordinators of its own.

Every shard's coordinators are a consumer group of their own, read everything, and keep what belongs to their keys:
that is asked of the saga that an event concerns, not of the record, so it holds however an event is correlated. A store
remembers whose it is. Shard 1 of 2 splits into 1 and 3 of 4: whatever is split stays within its two halves.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple, Self

from sqlalchemy import Connection, delete, select, update

from ..events.clock import system_clock
from ..events.database import Database
from ..events.envelope import Delivery
from ..events.errors import ConfigurationError
from . import retention, store
from .declaration import Declaration
from .definition import Definition
from .names import is_saga_type, parse_saga_id
from .refusals import Refused
from .routing import Arrival
from .tables import HEAD, alert, command, metadata, parked, position, saga

SWITCH = "shard"
"""Name of the switch that holds which shard a store is of: `2/4`; `2/4 split` while it still holds sagas of others."""

PAGE = 500
_SPLIT = " split"


class Shard(NamedTuple):
    """One of several: `Shard(2, 4)` is written 2/4."""

    number: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `2/4`; the settings have checked it, and "" is the one that has everything."""
        number, _, of = text.removesuffix(_SPLIT).partition("/")
        return cls(int(number), int(of)) if of else cls()

    @property
    def text(self) -> str:
        """It as one writes it; "" where there is one only."""
        return f"{self.number}/{self.of}" if self.of > 1 else ""

    @property
    def suffix(self) -> str:
        """What the name of its consumer group ends with."""
        return f".shard-{self.number}-of-{self.of}" if self.of > 1 else ""

    def owns(self, key: str) -> bool:
        """Whether the sagas of a key are its own; of every other key another shard says so."""
        return self.of == 1 or slot(key) % self.of == self.number - 1

    def halves(self, other: Shard) -> bool:
        """Whether everything that another one owns is its own: whether that one comes of splitting it."""
        return other.of % self.of == 0 and (other.number - 1) % self.of == self.number - 1

    def own(self, arrivals: list[Arrival], refused: list[Refused]) -> tuple[list[Arrival], list[Refused]]:
        """Keep what concerns its sagas. What concerns none is kept by one of the shards: it counts once."""
        if self.of == 1:
            return arrivals, refused
        kept: list[Arrival] = []
        for arrival in arrivals:
            targets = tuple(target for target in arrival.targets if self.owns(target.key))
            if targets or (not arrival.targets and self._meets(arrival.delivery)):
                kept.append(arrival._replace(targets=targets))
        return kept, [each for each in refused if self._meets(each.arrival.delivery)]

    def _meets(self, delivery: Delivery) -> bool:
        return self.owns(f"{delivery.topic}/{delivery.partition}/{delivery.offset}")


def slot(key: str) -> int:
    """Give the number that decides on a key's shard, for ever."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


async def prepare(database: Database, shard: Shard, loaded: Iterable[Declaration]) -> None:
    """Make the tables where they are missing, and see that the store is of this shard; a new one becomes it.

    Raises:
        ConfigurationError: the store is of another shard, or a saga cannot be in shards.
        StoreMismatch: it is of another release.
    """
    if shard.of > 1:
        _check(declaration.definition for declaration in loaded)
    await database.ensure_schema("saga", metadata, HEAD)
    if await database.read(lambda connection: store.switch(connection, SWITCH)) != shard.text:
        await database.write(lambda connection: _bind(connection, shard, database))


def _check(definitions: Iterable[Definition]) -> None:
    for each in definitions:
        if each.lock or each.schedule:
            what = "a lock, which only one store can keep" if each.lock else "a schedule, which every shard would fire"
            raise ConfigurationError(
                f"saga {each.type} has {what}: run it with a store and a CHOREO_GROUP of its own, without CHOREO_SHARD"
            )


def _bind(connection: Connection, shard: Shard, database: Database) -> None:
    told = store.switch(connection, SWITCH)
    if told == shard.text:
        return
    if told.endswith(_SPLIT):
        raise ConfigurationError(
            f"the store {database.url} still holds sagas of other shards: say "
            f"`saga store shard {told.removesuffix(_SPLIT)}` again"
        )
    used = connection.execute(select(position.c.group).limit(1)).first() is not None
    if told or used:
        raise ConfigurationError(
            f"the store {database.url} is of {f'shard {told}' if told else 'no shard'}, CHOREO_SHARD says "
            f"{shard.text or 'none'}: each shard has a store of its own; to split one, see docs/scaling.md"
        )
    store.set_switch(connection, SWITCH, shard.text, system_clock(), "coordinator")


def bound(connection: Connection) -> Shard:
    """Tell which shard a store is of."""
    return Shard.read(store.switch(connection, SWITCH))


def elsewhere(connection: Connection, name: str) -> str | None:
    """Say in which shard a saga is that is not in this one; None where this one has everything, or has its key."""
    own = bound(connection)
    key = key_of(name)
    if own.owns(key):
        return None
    return f"shard {own.text}, and its key belongs to shard {slot(key) % own.of + 1}/{own.of}"


def key_of(name: str) -> str:
    """Give the key in a saga's name as people write it: `type/key`, or the key alone."""
    return parse_saga_id(name).key if is_saga_type(name.partition("/")[0]) and "/" in name else name


def begin_split(connection: Connection, shard: Shard, group: str) -> None:
    """Make a store, or its copy, one of the shards that it splits into; `prune` takes out what is not its own then.

    The positions go along to the new group: it reads on where the store stands.

    Args:
        connection: within a write.
        shard: what it becomes.
        group: the coordinators' group, without any shard.

    Raises:
        ConfigurationError: it would lack sagas that it must have.
    """
    told = store.switch(connection, SWITCH)
    was = Shard.read(told)
    if was == shard:
        return
    if told.endswith(_SPLIT):
        raise ConfigurationError(f"it is being made shard {was.text}: say that again")
    if not was.halves(shard):
        raise ConfigurationError(
            f"it is of {f'shard {was.text}' if was.text else 'no shard'} and lacks sagas that {shard.text} has: it "
            f"splits into {was.number}/{2 * was.of} and {was.number + was.of}/{2 * was.of}"
        )
    _check(definition for definition, _, _ in store.stored_definitions(connection).values())
    mine = position.c.group == f"{group}{was.suffix}"
    connection.execute(update(position).where(mine).values(group=f"{group}{shard.suffix}"))
    store.set_switch(connection, SWITCH, f"{shard.text}{_SPLIT}", system_clock(), "split")


def prune(connection: Connection, shard: Shard, after: str) -> tuple[str | None, int, int]:
    """Take sagas of other shards out of a store, some hundred at a time.

    Args:
        connection: within a write.
        shard: whose store it is.
        after: the last name that was looked at.

    Returns:
        The last name that was looked at now, None at the end; how many were looked at, and how many went.
    """
    query = select(saga.c.id, saga.c.key).where(saga.c.id > after).order_by(saga.c.id).limit(PAGE)
    rows = connection.execute(query).all()
    foreign = [row.id for row in rows if not shard.owns(row.key)]
    retention.forget(connection, foreign)
    for ids in store.chunks(foreign):
        connection.execute(delete(saga).where(saga.c.id.in_(ids)))
        connection.execute(delete(command).where(command.c.saga_id.in_(ids)))
        connection.execute(delete(alert).where(alert.c.saga.in_(ids)))
    if len(rows) == PAGE:
        return rows[-1].id, len(rows), len(foreign)
    keys = connection.execute(select(parked.c.key).distinct()).scalars().all()
    for chunk in store.chunks([key for key in keys if not shard.owns(key)]):
        connection.execute(delete(parked).where(parked.c.key.in_(chunk)))
    store.set_switch(connection, SWITCH, shard.text, system_clock(), "split")
    return None, len(rows), len(foreign)
