"""What is kept of sagas that have ended, and for how long: nothing grows without bound (semantics, rows 4 and 5).

In two stages. After the time of retention the history (the coordinator's inbox) and the commands go; the saga itself
stays as a tombstone, so that a late start event finds it and no name, hence no command id, is given a second time while
some service may still know it. After four times that long the tombstone goes as well; from then on its type takes no
event that was written before it ended, whoever reads the topic again.

A saga that FAILED is never cleaned up: it waits for a person. What people asked for goes with the histories, for the
audit says it too, and the audit is never cleaned up.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, and_, delete, func, select

from ..events.clock import SECOND
from ..events.database import Database
from . import store
from .instance import Instance
from .operators import APPLIED, REFUSED
from .tables import command, history, job, job_item, saga, sent
from .words import Phase

log = structlog.get_logger("choreo.coordinator")

RETENTION = "retention"
"""Name of the switch that holds how far was cleaned up."""

TOMBSTONES = 4
"""How many times longer than its history a saga itself is kept."""

STEP = 200
"""Sagas that one transaction cleans up, about."""

SOON = 7 * 86_400 * SECOND
"""How far `plan` looks ahead."""

_answered = command.c.state.in_((APPLIED, REFUSED))
ENDS = (Phase.COMPLETED, Phase.COMPENSATED, Phase.CANCELLED)
"""How a saga ends that waits for nobody; one that FAILED waits for a person."""


_PAUSE = 60 * SECOND
"""Between two looks for what is old."""


@dataclass
class Swept:
    """What one step has cleaned up.

    Args:
        histories: sagas whose history and commands are gone.
        sagas: tombstones that are gone.
        asked: commands of people, and batches, that are gone.
        horizons: by saga type, the time before which its events are not taken any more, microseconds.
        more: there is more to be done at once.
    """

    histories: int = 0
    sagas: int = 0
    asked: int = 0
    horizons: dict[str, int] = field(default_factory=dict)
    more: bool = False


class Sweeper:
    """Cleans up for one coordinator, a little at a time.

    Args:
        database: the store.
        keep: how long the history of an ended saga is kept, microseconds; None for ever.
        begins: by saga type, since when its events are taken, microseconds; raised where their sagas are forgotten.
        look: finds out which partitions there are, before it is asked until when they were read.
    """

    def __init__(
        self, database: Database, keep: int | None, begins: dict[str, int], look: Callable[[int], Awaitable[None]]
    ) -> None:
        self._database = database
        self._keep = keep
        self._begins = begins
        self._look = look
        self._next = 0

    async def step(self, now: int, readable: Callable[[Connection], int]) -> None:
        """Clean up if it is time to.

        Args:
            now: the store's clock.
            readable: gives the time until when everything was read.
        """
        keep = self._keep
        if keep is None or now < self._next:
            return
        await self._look(now)
        swept = await self._database.write(lambda connection: sweep(connection, keep, now, readable(connection)))
        raise_begins(self._begins, swept.horizons)
        self._next = now if swept.more else now + _PAUSE


def raise_begins(begins: dict[str, int], horizons: Mapping[str, int]) -> None:
    """Take no events of a type that were written before what is forgotten of it."""
    for type_, horizon in horizons.items():
        if type_ in begins:
            begins[type_] = max(begins[type_], horizon)


def sweep(connection: Connection, keep: int, now: int, readable: int) -> Swept:
    """Clean up a little.

    Args:
        connection: within a write.
        keep: how long the history of an ended saga is kept, microseconds.
        now: the store's clock.
        readable: until when everything was read: what lies unread is never judged to be old.
    """
    done = _load(connection)
    swept = Swept(horizons=dict(done["horizons"]))
    until = min(now, readable)
    for phase in ENDS:
        _sweep_histories(connection, phase, until - keep, done["histories"], swept)
        _sweep_tombstones(connection, phase, until - TOMBSTONES * keep, swept)
    _sweep_asked(connection, until - keep, swept)
    if swept.histories or swept.sagas or swept.asked:
        removed = Removed._make(
            map(sum, zip(removed_of(done), (swept.histories, swept.sagas, swept.asked), strict=True))
        )
        told = {"histories": done["histories"], "horizons": swept.horizons, "removed": removed._asdict()}
        store.set_switch(connection, RETENTION, json.dumps(told), now, "retention")
        log.info("cleaned up ended sagas", histories=swept.histories, tombstones=swept.sagas, asked=swept.asked)
    return swept


class Removed(NamedTuple):
    """How much has gone: histories with their commands, sagas, and what people asked for."""

    histories: int = 0
    sagas: int = 0
    asked: int = 0


class Plan(NamedTuple):
    """What goes: what is due, what is within a week, and what has gone so far."""

    due: Removed
    soon: Removed
    removed: Removed


def plan(connection: Connection, keep: int, now: int) -> Plan:
    """Say what a cleaning will remove, without removing anything.

    Args:
        connection: within a read.
        keep: how long the history of an ended saga is kept, microseconds.
        now: the store's clock.
    """
    done = _load(connection)
    return Plan(_old(connection, done, keep, now), _old(connection, done, keep, now + SOON), removed_of(done))


def removed(connection: Connection) -> Removed:
    """Say how much has gone so far."""
    return removed_of(_load(connection))


def removed_of(done: Mapping[str, Any]) -> Removed:
    """Read how much has gone from what the switch holds; an older release has not counted it."""
    return Removed(**done.get("removed", {}))


def _old(connection: Connection, done: Mapping[str, Any], keep: int, now: int) -> Removed:
    def number(where: Any, table: Any = saga) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())

    histories = sagas = 0
    for phase in ENDS:
        ended = saga.c.phase == phase.value
        begin = done["histories"].get(phase.value, 0)
        histories += number(and_(ended, saga.c.updated_at > begin, saga.c.updated_at < now - keep))
        sagas += number(and_(ended, saga.c.updated_at < now - TOMBSTONES * keep))
    return Removed(histories, sagas, number(and_(_answered, command.c.at < now - keep), command))


def horizons(connection: Connection) -> Mapping[str, int]:
    """Give for each saga type the time before which its events are not taken any more: what they began is forgotten."""
    found: Mapping[str, int] = _load(connection)["horizons"]
    return found


def _sweep_histories(connection: Connection, phase: Phase, before: int, done: dict[str, int], swept: Swept) -> None:
    begin = done.get(phase.value, 0)
    ended = select(saga.c.id, saga.c.updated_at).where(saga.c.phase == phase.value, saga.c.updated_at > begin)
    page = ended.where(saga.c.updated_at < before).order_by(saga.c.updated_at)
    first = connection.execute(page.limit(STEP)).all()
    if not first:
        return
    # A batch ends many sagas at one moment: what shares the last one's moment goes with it.
    last = first[-1].updated_at
    names = [row.id for row in connection.execute(ended.where(saga.c.updated_at <= last))]
    names = sorted({*names} - still_needed(connection, names))
    forget(connection, names)
    done[phase.value] = last
    swept.histories += len(names)
    swept.more |= len(first) == STEP


def _sweep_tombstones(connection: Connection, phase: Phase, before: int, swept: Swept) -> None:
    old = select(saga.c.id, saga.c.type, saga.c.updated_at)
    old = old.where(saga.c.phase == phase.value, saga.c.updated_at < before)
    rows = connection.execute(old.order_by(saga.c.updated_at).limit(STEP).with_for_update(skip_locked=True)).all()
    if not rows:
        return
    needed = still_needed(connection, [row.id for row in rows])
    rows = [row for row in rows if row.id not in needed]
    names = [row.id for row in rows]
    forget(connection, names)
    connection.execute(delete(saga).where(saga.c.id.in_(names)))
    for row in rows:
        swept.horizons[row.type] = max(swept.horizons.get(row.type, 0), row.updated_at)
    swept.sagas += len(names)
    swept.more |= len(names) == STEP


def _sweep_asked(connection: Connection, before: int, swept: Swept) -> None:
    old = select(command.c.id).where(_answered, command.c.at < before).order_by(command.c.at).limit(STEP)
    ids = connection.execute(old).scalars().all()
    if ids:
        connection.execute(delete(command).where(command.c.id.in_(ids)))
    jobs = connection.execute(select(job.c.id).where(job.c.done_at < before).limit(STEP)).scalars().all()
    if jobs:
        connection.execute(delete(job_item).where(job_item.c.job_id.in_(jobs)))
        connection.execute(delete(job).where(job.c.id.in_(jobs)))
    swept.asked += len(ids) + len(jobs)
    swept.more |= STEP in (len(ids), len(jobs))


def still_needed(connection: Connection, names: Sequence[str]) -> set[str]:
    """Find the children whose parents are open: they may still be undone, and need their events for it (row 21)."""
    parents: dict[str, list[str]] = {}
    for start in range(0, len(names), store.CHUNK):
        chunk = names[start : start + store.CHUNK]
        nested = select(saga.c.id, saga.c.state).where(saga.c.id.in_(chunk), saga.c.state.like('%"parent":%'))
        for id_, state in connection.execute(nested):
            if (parent := Instance.from_json(state).parent) is not None:
                parents.setdefault(parent.id, []).append(id_)
    found: set[str] = set()
    ids = sorted(parents)
    for start in range(0, len(ids), store.CHUNK):
        chunk = ids[start : start + store.CHUNK]
        gone = select(saga.c.id).where(saga.c.id.in_(chunk), saga.c.phase.in_([end.value for end in ENDS]))
        ended = set(connection.execute(gone).scalars())
        # One that is not here may run in another coordinator's store, where nobody can ask: the child's tombstone goes
        # when its time is over all the same.
        here = set(connection.execute(select(saga.c.id).where(saga.c.id.in_(chunk))).scalars())
        found.update(child for parent in here - ended for child in parents[parent])
    return found


def forget(connection: Connection, names: Sequence[str]) -> None:
    """Remove histories and commands; the sagas stay as tombstones."""
    for start in range(0, len(names), store.CHUNK):
        chunk = names[start : start + store.CHUNK]
        connection.execute(delete(history).where(history.c.saga_id.in_(chunk)))
        connection.execute(delete(sent).where(sent.c.saga_id.in_(chunk)))


def _load(connection: Connection) -> dict[str, Any]:
    text = store.switch(connection, RETENTION)
    found: dict[str, Any] = json.loads(text) if text else {"histories": {}, "horizons": {}}
    return found
