"""Which versions of a definition there are, whose code is where, and which may be retired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from ..events.clock import format_duration
from . import loaded
from .tables import definition, saga
from .words import Condition, Phase

LATE_UNDO = 7 * 86_400 * 1_000_000
"""How long after the end of a saga that was undone a late success may still need its undo, microseconds."""

_OPEN = (Phase.RUNNING, Phase.COMPENSATING)
_UNDONE = (Phase.COMPENSATED, Phase.CANCELLED)


class Version(NamedTuple):
    """One version of a saga type.

    Args:
        type, version, hash: which.
        registered_at: microseconds.
        newest: no higher one is registered, so new sagas begin under it.
        phases: how many sagas it has in each phase.
        coordinators: running ones that have its code.
        keeps: why it may not be retired; empty where it may.
    """

    type: str
    version: int
    hash: str
    registered_at: int
    newest: bool
    phases: Mapping[str, int]
    coordinators: Sequence[str]
    keeps: Sequence[str]


def versions(connection: Connection, now: int, *, type_: str = "", late: int = LATE_UNDO) -> list[Version]:
    """List the registered versions by type.

    A version may be retired when nothing can need its code any more: no open saga; none that waits for its code or for
    a person's `saga retry-undo`; and no saga of it was undone so lately that a late success may still need its undo.
    The newest version stays: new sagas begin under it.

    Args:
        connection: within a read.
        now: the store's clock.
        type_: of this type only.
        late: how long after its end an undone saga may be opened again by a late success.
    """
    query = select(definition).order_by(definition.c.type, definition.c.version)
    rows = connection.execute(query.where(definition.c.type == type_) if type_ else query).all()
    newest = {row.type: row.version for row in rows}
    columns = (saga.c.type, saga.c.version, saga.c.phase)
    counted = connection.execute(select(*columns, func.count(), func.max(saga.c.ended_at)).group_by(*columns))
    phases: dict[loaded.Version, dict[str, int]] = {}
    ends: dict[tuple[str, int, str], int] = {}
    for name, version, phase, number, ended in counted:
        phases.setdefault((name, version), {})[phase] = number
        ends[name, version, phase] = ended or 0
    waiting = loaded.count_paused(connection)
    coordinators = loaded.coordinators(connection)
    return [
        Version(
            row.type,
            row.version,
            row.hash,
            row.registered_at,
            row.version == newest[row.type],
            phases.get((row.type, row.version), {}),
            coordinators.get((row.type, row.version), []),
            _keeps(
                phases.get((row.type, row.version), {}),
                row.version == newest[row.type],
                waiting.get((row.type, row.version), 0),
                max(ends.get((row.type, row.version, phase), 0) for phase in _UNDONE) + late - now,
            ),
        )
        for row in rows
    ]


def _keeps(phases: Mapping[str, int], newest: bool, waiting: int, left: int) -> list[str]:
    """Say what keeps a version."""
    found = []
    if newest:
        found.append("new sagas begin under it")
    if open_ := sum(phases.get(phase, 0) for phase in _OPEN):
        found.append(f"{open_:,} open")
    if waiting:
        found.append(f"{waiting:,} {Condition.PAUSED.lower()}")
    if failed := phases.get(Phase.FAILED, 0):
        found.append(f"{failed:,} failed, of which an undo may be tried again")
    if left > 0 and any(phases.get(phase) for phase in _UNDONE):
        found.append(f"a late success may need an undo for {format_duration(left)}")
    return found
