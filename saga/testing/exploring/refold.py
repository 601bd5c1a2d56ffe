"""What the store of the coordinator holds, read for the checks, and each history folded again (S3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from ... import recorded
from ...definition import Definition
from ...inputs import Input, Transition, input_id
from ...instance import Instance
from ...occurrence import unfold
from ...replay import Applied, refold
from ...tables import saga


@dataclass(frozen=True)
class Refolded:
    """One row of a history, and what comes of it when it is applied again.

    Args:
        row: the row.
        before: the state before it; None for the first.
        transition: what comes of it.
        definition: as the saga sees it after it, elements included.
    """

    row: Applied
    before: Instance | None
    transition: Transition
    definition: Definition

    @property
    def input(self) -> Input:
        """What was applied."""
        return self.row.input

    @property
    def event_id(self) -> str:
        """The input's id."""
        return input_id(self.row.input, self.row.seq)


@dataclass(frozen=True)
class Recorded:
    """A saga as it is stored, with its history folded again.

    Args:
        id: its name.
        definition: what it runs under, elements included.
        instance: its stored state, also as `state`.
        applied: its history.
    """

    id: str
    definition: Definition
    instance: Instance
    state: str
    applied: tuple[Refolded, ...]


def read_recorded(connection: Connection) -> list[Recorded]:
    """Read every saga, in the order in which they began."""
    ids = list(connection.execute(select(saga.c.id).order_by(saga.c.started_at, saga.c.id)).scalars())
    found = {each.instance.id: each for each in recorded.read(connection, ids)}
    return [_recorded(connection, found[id_]) for id_ in ids]


def _recorded(connection: Connection, stored: recorded.Recorded) -> Recorded:
    instance = stored.instance
    definitions = recorded.definitions_of(connection, instance.type)
    applied = tuple(_applied(definitions, stored))
    definition = unfold(definitions[instance.version], instance)
    return Recorded(instance.id, definition, instance, stored.state, applied)


def _applied(definitions: dict[int, Definition], stored: recorded.Recorded) -> Iterator[Refolded]:
    before: Instance | None = None
    for row, transition in refold(definitions, stored.instance.version, stored.beginning, stored.inputs):
        after = transition.instance
        yield Refolded(row, before, transition, unfold(definitions[after.version], after))
        before = after
