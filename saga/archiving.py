"""Ended sagas go into an archive: history and commands are copied there first, then taken out of the store.

An archive is a store of its own, with the same tables, that no coordinator reads: so everything that looks at a store
can be asked of it, it is upgraded like one, and whatever is in it was committed durably before it is removed anywhere.
In the store the sagas stay as tombstones, exactly as after their retention (`retention`, semantics, row 5): a late
start finds that they have been, and a late answer is judged by their state.

A crash in between leaves a saga in both; the next run copies it once more and removes it then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, delete, exists, func, insert, or_, select, text

from ..events.clock import SECOND, system_clock
from ..events.database import Database
from ..events.errors import ConfigurationError, StoreMismatch
from ..events.failpoints import failpoint
from . import retention, store
from .tables import HEAD, definition, history, metadata, position, saga, sent

PAGE = 500
"""Sagas that are copied at once, at most."""

ROWS = 5_000
"""Rows of their histories, about: one saga may have ten thousand of them."""

ARCHIVE = "archive"
"""Name of the switch that holds how far all sagas of a phase were archived."""

_SLACK = 3_600 * SECOND
"""A transaction on PostgreSQL may commit this much later than the moment that it writes, at the very most."""

PHASES = tuple(phase.value for phase in retention.ENDS)


class Which(NamedTuple):
    """Which sagas go.

    Args:
        before: last changed before, microseconds.
        types: of these types; all where there are none.
        phases: that ended so.
    """

    before: int
    types: tuple[str, ...] = ()
    phases: tuple[str, ...] = PHASES


class Due(NamedTuple):
    """Sagas of one type and phase that can go: how many, their inputs, and when the first one was changed last."""

    type: str
    phase: str
    sagas: int
    rows: int
    first_at: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """Sagas as the store has them: rows by table, and where the next ones begin.

    Args:
        sagas, histories, sent: rows.
        kept: children whose parents are open; they stay.
        after: time of the last change and name of the last one that was looked at.
        last: nothing lies behind.
    """

    sagas: list[dict[str, Any]]
    histories: list[dict[str, Any]]
    sent: list[dict[str, Any]]
    kept: int
    after: tuple[int, str]
    last: bool


@dataclass(slots=True)
class Archived:
    """What was done: sagas and rows of history that went, and sagas that stay.

    Args:
        sagas, rows: copied and taken out.
        children: of open parents, which may still undo them.
        changed: that were changed between the two; they are in both.
    """

    sagas: int = 0
    rows: int = 0
    children: int = 0
    changed: int = 0


def due(connection: Connection, which: Which) -> list[Due]:
    """Count what can go, by type and phase."""
    counted = (func.count(), func.sum(saga.c.seq), func.min(saga.c.updated_at))
    found: list[Due] = []
    for phase in which.phases:
        query = _where(select(saga.c.type, *counted), which, phase, _since(connection, phase)).group_by(saga.c.type)
        rows = connection.execute(query.order_by(saga.c.type))
        found += [Due(row[0], phase, row[1], int(row[2]), row[3]) for row in rows]
    return found


def bundle(connection: Connection, which: Which, phase: str, after: tuple[int, str]) -> Bundle:
    """Read the next sagas that can go, in the order in which they ended.

    Args:
        connection: within a read.
        which: of these.
        phase: of this one.
        after: behind this; (0, "") begins where everything before was archived.
    """
    since, last = after
    query = _where(select(saga), which, phase, max(since, _since(connection, phase)))
    query = query.where(or_(saga.c.updated_at > since, saga.c.id > last))
    found = [dict(row._mapping) for row in connection.execute(query.order_by(saga.c.updated_at, saga.c.id).limit(PAGE))]
    page, rows = found, 0
    for number, each in enumerate(found):
        if number and rows + each["seq"] > ROWS:
            page = found[:number]
            break
        rows += each["seq"]
    needed = retention.still_needed(connection, [each["id"] for each in page])
    taken = [each for each in page if each["id"] not in needed]
    ids = [each["id"] for each in taken]
    return Bundle(
        taken,
        _rows(connection, history, history.c.saga_id, ids),
        _rows(connection, sent, sent.c.saga_id, ids),
        len(needed),
        (page[-1]["updated_at"], page[-1]["id"]) if page else after,
        len(page) == len(found) < PAGE,
    )


def keep(connection: Connection, copied: Bundle) -> None:
    """Put sagas into an archive; what it has of them already stays, with what is new beside it.

    Args:
        connection: within a write, of the archive.
        copied: the sagas.
    """
    for ids in store.chunks([each["id"] for each in copied.sagas]):
        connection.execute(delete(saga).where(saga.c.id.in_(ids)))
    for sagas in store.chunks(copied.sagas):
        connection.execute(insert(saga), sagas)
    pairs = {(row["saga_id"], row["event_id"]) for row in copied.histories}
    again = store.seen_events(connection, pairs) if pairs else set()
    if again:
        _rename_copies(connection, copied.histories, again)
    for table, rows in ((history, copied.histories), (sent, copied.sent)):
        for chunk in store.chunks(rows):
            store.insert_new(connection, table, chunk)


def remove(connection: Connection, copied: Bundle) -> frozenset[str]:
    """Take the histories and commands of sagas out of the store; give the names of those that have not changed since.

    Args:
        connection: within a write.
        copied: as they are in the archive, durably.
    """
    was = {each["id"]: (each["seq"], each["state"]) for each in copied.sagas}
    same: list[str] = []
    for ids in store.chunks(sorted(was)):
        query = select(saga.c.id, saga.c.seq, saga.c.state).where(saga.c.id.in_(ids)).order_by(saga.c.id)
        same += [row.id for row in connection.execute(query.with_for_update()) if was[row.id] == (row.seq, row.state)]
    retention.forget(connection, same)
    return frozenset(same)


def note_done(connection: Connection, phase: str, until: int) -> None:
    """Write down that every saga of a phase that was changed before a moment is archived: nobody looks there again."""
    done = _done(connection)
    if until > done.get(phase, 0):
        store.set_switch(connection, ARCHIVE, json.dumps({**done, phase: until}), system_clock(), "archive")


def store_of(text: str) -> str:
    """Read where an archive is: a file, or a store's URL."""
    return text if text.startswith(("sqlite:", "postgresql:")) else f"sqlite:{text}"


async def open_archive(url: str, source: Database) -> Database:
    """Open an archive; it is made where there is none.

    Args:
        url: of its store.
        source: whose sagas go there; its definitions go first.

    Raises:
        ConfigurationError: it is no archive, or one of other definitions.
        StoreMismatch: it is of another release.
    """
    archive = await Database.open(url)
    try:
        if archive.url == source.url:
            raise ConfigurationError("the archive is the store itself; name another file")
        await archive.ensure_schema("saga", metadata, HEAD)
        if await archive.read(lambda c: c.execute(select(position.c.group).limit(1)).first()) is not None:
            raise ConfigurationError(f"{archive.url} is the store of a coordinator; name a file of its own")
        await copy_definitions(source, archive)
    except BaseException:
        await archive.close()
        raise
    return archive


async def copy_definitions(source: Database, archive: Database) -> None:
    """Copy definitions, without which a history means nothing.

    Raises:
        StoreMismatch: the archive has another definition under the same version.
    """
    rows = await source.read(lambda c: [dict(row._mapping) for row in c.execute(select(definition))])

    def put(connection: Connection) -> None:
        known = {(row.type, row.version): row.hash for row in connection.execute(select(definition))}
        for row in rows:
            if known.get((row["type"], row["version"]), row["hash"]) != row["hash"]:
                raise StoreMismatch(
                    f"{archive.url} holds another {row['type']} version {row['version']}: it is the archive of another "
                    "installation; name a file of its own"
                )
        if rows:
            store.insert_new(connection, definition, rows)

    await archive.write(put)


@dataclass(slots=True)
class Archiver:
    """Moves ended sagas from a store into an archive, a few hundred at a time.

    Args:
        source: the store.
        archive: where to.
        which: which ones.
        done: what was done so far.
    """

    source: Database
    archive: Database
    which: Which
    done: Archived = field(default_factory=Archived)

    async def phase(self, phase: str, go_on: Callable[[int], bool]) -> bool:
        """Move all of one phase; tell whether all have gone.

        Args:
            phase: how they ended.
            go_on: called after each step with how many sagas have gone; says whether to go on.
        """
        after = (0, "")
        whole = not self.which.types
        while True:
            copied = await self.source.read(partial(bundle, which=self.which, phase=phase, after=after))
            if copied.sagas:
                await self.archive.write(partial(keep, copied=copied))
                failpoint("archive.copied")
                gone = await self.source.write(partial(remove, copied=copied))
                self.done.sagas += len(gone)
                self.done.rows += sum(row["saga_id"] in gone for row in copied.histories)
                self.done.changed += len(copied.sagas) - len(gone)
                whole &= len(gone) == len(copied.sagas)
            self.done.children += copied.kept
            whole &= not copied.kept
            if whole and copied.sagas:
                await self.source.write(partial(note_done, phase=phase, until=copied.after[0] - _SLACK))
            if copied.last or not go_on(self.done.sagas):
                return copied.last
            after = copied.after


def free_bytes(connection: Connection) -> int | None:
    """Give the bytes of a SQLite file that hold nothing any more and will be used again; None on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        return None
    pages = connection.execute(text("PRAGMA freelist_count")).scalar_one()
    return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())


def _where(query: Select[Any], which: Which, phase: str, since: int) -> Select[Any]:
    whole = exists(select(history.c.saga_id).where(history.c.saga_id == saga.c.id))
    query = query.where(saga.c.phase == phase, saga.c.updated_at >= since, saga.c.updated_at < which.before, whole)
    return query.where(saga.c.type.in_(which.types)) if which.types else query


def _since(connection: Connection, phase: str) -> int:
    """Before this no saga of a phase has a history any more."""
    return _done(connection).get(phase, 0)


def _done(connection: Connection) -> Mapping[str, int]:
    told = store.switch(connection, ARCHIVE)
    found: Mapping[str, int] = json.loads(told) if told else {}
    return found


def _rows(connection: Connection, table: Any, column: Any, ids: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for chunk in store.chunks(ids):
        found += [dict(row._mapping) for row in connection.execute(select(table).where(column.in_(chunk)))]
    return found


def _rename_copies(connection: Connection, rows: list[dict[str, Any]], again: set[tuple[str, str]]) -> None:
    """Tell a copy of an event that came after its saga was archived from the event: the store knew it no more."""
    ids = sorted({saga_id for saga_id, _ in again})
    have: set[tuple[str, int]] = set()
    for chunk in store.chunks(ids):
        query = select(history.c.saga_id, history.c.seq).where(history.c.saga_id.in_(chunk))
        have |= {(row.saga_id, row.seq) for row in connection.execute(query)}
    for row in rows:
        pair = (row["saga_id"], row["event_id"])
        if pair in again and (row["saga_id"], row["seq"]) not in have:
            row["event_id"] = f"{row['event_id']}~{row['seq']}"
