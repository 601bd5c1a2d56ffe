"""Sagas as the store has recorded them: state, history and commands, a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from .definition import Definition
from .instance import Instance
from .past import read_input
from .replay import Applied, Beginning
from .store import stored_definitions
from .tables import history, saga, sent
from .words import Phase

PAGE = 200
"""Sagas that are read at once: what is in memory does not grow with the store."""

_OPEN = (Phase.RUNNING.value, Phase.COMPENSATING.value)


class Recorded(NamedTuple):
    """One saga.

    Args:
        instance: its state.
        state: the same as the text that the store has.
        inputs: its whole history.
        sent: ids of the commands that went out, or are held back.
    """

    instance: Instance
    state: str
    inputs: Sequence[Applied]
    sent: frozenset[str]

    @property
    def forgotten(self) -> bool:
        """Whether its history was cleaned up since its end (`retention`), so that nothing can be folded again."""
        return not self.inputs or self.inputs[0].seq != 1

    @property
    def erased(self) -> bool:
        """Whether what was said in it was erased, so that nothing of its history can be compared."""
        return self.instance.erased is not None

    @property
    def beginning(self) -> Beginning:
        """What a fold needs besides the inputs."""
        return Beginning(self.instance.key, self.instance.run, self.instance.sampled, self.instance.rotation)


class Which(NamedTuple):
    """Which sagas; what is empty does not restrict.

    Args:
        types: of these types.
        versions: of these versions.
        ids: these.
        since: started at or after, microseconds.
        only_open: not ended.
    """

    types: Sequence[str] = ()
    versions: Sequence[int] = ()
    ids: Sequence[str] = ()
    since: int | None = None
    only_open: bool = False


def count(connection: Connection, which: Which) -> int:
    """Count sagas."""
    return int(connection.execute(_where(select(func.count()).select_from(saga), which)).scalar_one())


def page(connection: Connection, which: Which, *, after: str = "", most: int = PAGE) -> list[Recorded]:
    """Read sagas in the order of their names.

    Args:
        connection: within a read.
        which: of these.
        after: only those behind this name: the last one of the page before.
        most: how many.
    """
    query = _where(select(saga.c.id, saga.c.state), which).where(saga.c.id > after).order_by(saga.c.id).limit(most)
    return _read(connection, {row.id: row.state for row in connection.execute(query)})


def names(connection: Connection, which: Which, *, after: str = "", most: int = PAGE) -> list[str]:
    """List the names of sagas, as `page` would read them."""
    query = _where(select(saga.c.id), which).where(saga.c.id > after).order_by(saga.c.id).limit(most)
    return list(connection.execute(query).scalars())


def read(connection: Connection, ids: Collection[str]) -> list[Recorded]:
    """Read these sagas."""
    query = select(saga.c.id, saga.c.state).where(saga.c.id.in_(ids)).order_by(saga.c.id)
    return _read(connection, {row.id: row.state for row in connection.execute(query)})


def definitions_of(connection: Connection, type_: str) -> dict[int, Definition]:
    """Load every version of a saga type's definition."""
    found = stored_definitions(connection)
    return {version: definition for (known, version), (definition, _, _) in found.items() if known == type_}


def _read(connection: Connection, states: dict[str, str]) -> list[Recorded]:
    inputs: dict[str, list[Applied]] = {id_: [] for id_ in states}
    commands: dict[str, set[str]] = {id_: set() for id_ in states}
    columns = [history.c[name] for name in ("saga_id", "seq", "at", "kind", "input", "verdict", "reason", "changes")]
    query = select(*columns).where(history.c.saga_id.in_(states)).order_by(history.c.saga_id, history.c.seq)
    for row in connection.execute(query):
        applied = Applied(row.seq, row.at, read_input(row.kind, row.input), row.verdict, row.reason, row.changes)
        inputs[row.saga_id].append(applied)
    for saga_id, id_ in connection.execute(select(sent.c.saga_id, sent.c.id).where(sent.c.saga_id.in_(states))):
        commands[saga_id].add(id_)
    return [
        Recorded(Instance.from_json(state), state, inputs[id_], frozenset(commands[id_]))
        for id_, state in states.items()
    ]


def _where(query: Any, which: Which) -> Any:
    for column, values in ((saga.c.type, which.types), (saga.c.version, which.versions), (saga.c.id, which.ids)):
        if values:
            query = query.where(column.in_(values))
    if which.since is not None:
        query = query.where(saga.c.started_at >= which.since)
    if which.only_open:
        query = query.where(saga.c.phase.in_(_OPEN))
    return query


def history_gone(saga_id: str) -> str:
    """Say where the history of a saga went that the store has as a tombstone only."""
    return f"the history of {saga_id} is gone: CHOREO_RETENTION is over, or saga archive took it (ask that by --store)"
