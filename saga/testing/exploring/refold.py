"""What the store of the coordinator holds, read for the checks, and each history folded again (S3)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from ...advance import advance, begin
from ...definition import Definition
from ...inputs import Elapsed, HandlerGaveUp, Input, Observed, Operator, Transition, Unbuildable
from ...instance import Instance
from ...store import stored_definitions
from ...tables import history, saga


@dataclass(frozen=True)
class Applied:
    """One row of a history, and what comes of it when it is applied again.

    Args:
        seq, at, event_id, verdict, changes: the row's.
        input: what was applied.
        before: the state before it; None for the first.
        transition: what comes of it.
    """

    seq: int
    at: int
    event_id: str
    verdict: str
    changes: str
    input: Input
    before: Instance | None
    transition: Transition


@dataclass(frozen=True)
class Recorded:
    """A saga as it is stored, with its history folded again.

    Args:
        id: its name.
        definition: what it runs under.
        instance: its stored state.
        applied: its history.
    """

    id: str
    definition: Definition
    instance: Instance
    applied: tuple[Applied, ...]


def read_recorded(connection: Connection) -> list[Recorded]:
    """Read every saga, in the order in which they began."""
    definitions = {key: found[0] for key, found in stored_definitions(connection).items()}
    rows: dict[str, list[Any]] = {}
    columns = ("saga_id", "seq", "at", "event_id", "kind", "type", "verdict", "changes", "input")
    chosen = select(*(history.c[name] for name in columns)).order_by(history.c.saga_id, history.c.seq)
    for row in connection.execute(chosen):
        rows.setdefault(row.saga_id, []).append(row)
    found = []
    for id_, state in connection.execute(select(saga.c.id, saga.c.state).order_by(saga.c.started_at, saga.c.id)):
        instance = Instance.from_json(state)
        definition = definitions[instance.type, instance.version]
        found.append(Recorded(id_, definition, instance, _folded(definition, instance, rows.get(id_, []))))
    return found


def _folded(definition: Definition, stored: Instance, rows: list[Any]) -> tuple[Applied, ...]:
    applied = []
    instance: Instance | None = None
    for row in rows:
        input_ = _input(row.kind, row.type, row.input)
        before = instance
        if before is None:
            assert isinstance(input_, Observed)
            transition = begin(definition, stored.key, stored.run, input_, row.at, sampled=stored.sampled)
        else:
            transition = advance(definition, before, input_, row.at)
        instance = transition.instance
        applied.append(Applied(row.seq, row.at, row.event_id, row.verdict, row.changes, input_, before, transition))
    return tuple(applied)


def _input(kind: str, type_: str, text: str) -> Input:
    told: dict[str, Any] = json.loads(text)
    match kind:
        case "event":
            return Observed(**told)
        case "failure":
            return HandlerGaveUp(**{**told, "produces": tuple(told.get("produces", ()))})
        case "timer":
            return Elapsed(told["until"])
        case "operator":
            return Operator(**told)
        case "unbuildable":
            return Unbuildable(**told)
    raise AssertionError(f"a history holds {kind} {type_}, which nobody can fold")
