"""Who has which version's code, and the sagas that wait for it.

A coordinator writes down what it has loaded when it has joined its group, and takes it out when it leaves. What a
killed one left behind goes as soon as another one sees that the group has no such member: the broker knows who lives.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, text

from ..events.clock import SECOND
from ..events.database import lock_schema
from ..events.errors import ConfigurationError
from .definition import Definition
from .store import load_positions
from .tables import loaded, saga
from .words import Phase

if TYPE_CHECKING:
    from .batch import Batch

Version = tuple[str, int]
"""A saga type with the number of a version."""

MOST_RELEASED = 200
"""Paused sagas that are released in one transaction."""

_JOINING = 60 * SECOND
"""How long after it was written down a coordinator may be absent from its group: it has just joined."""

_NUMBERS = count(1)


def client_name(owner: str | None = None) -> str:
    """Name a coordinator for people: by `owner`, else by machine, process, and its number within the process."""
    if owner is not None:
        return f"choreo-coordinator-{owner}"
    machine = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()) or "unnamed"
    return f"choreo-coordinator-{machine}-{os.getpid()}-{next(_NUMBERS)}"


def enter(connection: Connection, group: str, client: str, versions: Iterable[Version], now: int) -> None:
    """Write down what a coordinator has loaded."""
    rows = [
        {"group": group, "client": client, "type": type_, "version": version, "at": now}
        for type_, version in sorted(versions)
    ]
    connection.execute(insert(loaded), rows)


def join(
    connection: Connection, group: str, client: str, versions: Collection[Version], members: Collection[str], now: int
) -> None:
    """Write down what a coordinator has loaded, before it joins its group.

    Args:
        connection: within a write.
        group, client: the coordinator.
        versions: what it has loaded.
        members: who is in the group now, as the broker says.
        now: the store's clock.

    Raises:
        ConfigurationError: another one of the group runs other sagas. Each would be given a part of the partitions and
            let pass what only the other one knows.
    """
    lock_schema(connection)  # of two that begin at once, the second one sees the first
    present = or_(loaded.c.client.in_(members), loaded.c.at >= now - _JOINING)
    query = select(loaded.c.client, loaded.c.type).where(loaded.c.group == group, loaded.c.client != client, present)
    others: dict[str, set[str]] = {}
    for other, type_ in connection.execute(query):
        others.setdefault(other, set()).add(type_)
    own = {type_ for type_, _ in versions}
    for other, types in sorted(others.items()):
        if types != own:
            raise ConfigurationError(
                f"{other} runs {_listed(types)} in the group {group!r}, this process would run {_listed(own)}: of the "
                "topics that both read, each would get a part and let pass what concerns the other; run all of them in "
                "one process (`saga run` takes several), or give this one a group of its own (CHOREO_GROUP). What was "
                f"killed counts for up to {_JOINING // SECOND} seconds."
            )
    enter(connection, group, client, versions, now)


def _listed(types: Collection[str]) -> str:
    return " and ".join(sorted(types))


def leave(connection: Connection, group: str, client: str) -> None:
    """Take out what a coordinator had loaded."""
    connection.execute(delete(loaded).where(loaded.c.group == group, loaded.c.client == client))


def prune(connection: Connection, group: str, members: Collection[str], now: int) -> None:
    """Take out what coordinators had loaded that are no members of their group any more."""
    gone = delete(loaded).where(loaded.c.group == group, loaded.c.at < now - _JOINING)
    connection.execute(gone.where(loaded.c.client.not_in(members)) if members else gone)


def coordinators(connection: Connection) -> dict[Version, list[str]]:
    """Name the coordinators that have each version loaded."""
    found: dict[Version, list[str]] = {}
    rows = connection.execute(select(loaded.c.type, loaded.c.version, loaded.c.client).order_by(loaded.c.client))
    for type_, version, client in rows:
        found.setdefault((type_, version), []).append(client)
    return found


def open_versions(connection: Connection) -> set[Version]:
    """Give the versions that have sagas which have not ended."""
    phases = (Phase.RUNNING.value, Phase.COMPENSATING.value)
    rows = connection.execute(select(saga.c.type, saga.c.version).where(saga.c.phase.in_(phases)).distinct())
    return {(type_, version) for type_, version in rows}


def left_behind(
    connection: Connection, group: str, known: Mapping[Version, Definition], own: Collection[Version]
) -> list[Definition]:
    """Choose the versions that are not loaded here and whose open sagas take in events all the same.

    Those are the other versions of what is loaded here, and the types that are loaded here no more: their topics have
    been read by this group before.

    Args:
        connection: within a read.
        group: ours.
        known: every registered definition.
        own: the versions that are loaded here.
    """
    types = {type_ for type_, _ in own}
    read = {place.topic for place in load_positions(connection, group)}
    return [
        known[version]
        for version in sorted(open_versions(connection) - set(own))
        if version in known and (version[0] in types or read >= set(known[version].consumed_topics))
    ]


def paused(connection: Connection, versions: Collection[Version], most: int) -> list[tuple[str, str, int]]:
    """Name sagas of these versions that wait for their code: type, key and run."""
    found: list[tuple[str, str, int]] = []
    for type_, version in sorted(versions):  # one by one: of a list SQLite would look at every saga of the type
        wanted = {"the_type": type_, "the_version": version, "most": most - len(found)}
        found += [(type_, key, run) for type_, key, run in connection.execute(_PAUSED_OF, wanted)]
    return found


def count_paused(connection: Connection) -> dict[Version, int]:
    """Count the sagas of each version that wait for their code."""
    query = select(saga.c.type, saga.c.version, func.count()).where(_PAUSED).group_by(saga.c.type, saga.c.version)
    return {(type_, version): number for type_, version, number in connection.execute(query)}


def release(batch: Batch) -> None:
    """Let go what sagas of the loaded versions could not send while nobody had their code."""
    names = paused(batch.connection, batch.knowledge.declarations, MOST_RELEASED)
    batch.load_keys([(type_, key) for type_, key, _ in names])
    for name in names:
        work = batch.saga(*name)
        if work is not None and work.instance.waiting:
            batch.release(work)


# As in the index: a bound parameter would keep both databases from using it.
_PAUSED = text("choreo_saga.conditions LIKE '%Paused%'")
_PAUSED_OF = (
    select(saga.c.type, saga.c.key, saga.c.run)
    .where(_PAUSED, saga.c.type == bindparam("the_type"), saga.c.version == bindparam("the_version"))
    .limit(bindparam("most"))
)
