"""Sagas of earlier days: a store that has grown, written by its database itself, as if a coordinator had."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition
from choreo.saga.instance import Fact, Instance, Step
from choreo.saga.words import Phase, StepState

_CHUNK = 50_000
_DAY = 24 * 3_600 * SECOND
_EVENTS = 4
"""Of each saga, in its history: its start, and one for each step."""
_KEY = "KEY-OF-THE-SAGA"

_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)",
    "postgresql": "WITH n(i) AS (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)))",
}
_SAGAS = """
INSERT INTO choreo_saga (id, type, key, run, version, phase, step, error, conditions, seq, epoch, started_at,
    updated_at, ended_at, next_due, limit_due, traced, state)
{numbers} SELECT '{type}/old-' || (100000000 + i), '{type}', 'old-' || (100000000 + i), 1, 1, '{phase}', {step}, NULL,
    '', {events}, 0, {began} + i, {began} + i + 60000000, {ended}, {due}, {due}, true,
    replace(:state, '{key}', 'old-' || (100000000 + i)) FROM n
"""
_HISTORY = """
INSERT INTO choreo_history (saga_id, seq, event_id, kind, type, at, event_time, verdict, reason, changes, input, topic,
    partition, "offset", content_type, value)
{numbers} SELECT '{type}/old-' || (100000000 + i), {seq}, '01a20013-2eda-74d1-{seq}-' || (100000000000 + i), 'event',
    'StockReserved', {began} + i, {began} + i, 'applied', '', '[["reserve","DONE","StockReserved"]]',
    '{{"id":"01a20013-2eda-74d1-{seq}-' || (100000000000 + i) || '","type":"StockReserved","source":"stock"}}',
    'stock', 0, i, 'application/avro', NULL FROM n
"""


def fill(connection: Connection, definition: Definition, now: int, *, finished: int, running: int) -> None:
    """Write sagas with their history, all indexes included.

    Args:
        connection: within a write.
        definition: that they run under.
        now: microseconds; all of them began a day earlier, and what still runs has a limit a day from now.
        finished, running: how many.
    """
    began = now - _DAY
    for first in range(0, finished, _CHUNK):
        last = min(first + _CHUNK, finished) - 1
        _write(connection, definition, first, last, began, {"phase": Phase.COMPLETED, "due": "NULL"})
    for first in range(finished, finished + running, _CHUNK):
        last = min(first + _CHUNK, finished + running) - 1
        _write(connection, definition, first, last, began, {"phase": Phase.RUNNING, "due": f"{now + _DAY} + i"})


def _write(
    connection: Connection, definition: Definition, first: int, last: int, began: int, words: dict[str, Any]
) -> None:
    phase = words["phase"]
    told = {
        "numbers": _NUMBERS[connection.dialect.name],
        "type": definition.type,
        "began": began,
        "key": _KEY,
        "events": _EVENTS if phase.ended else 1,
        "ended": f"{began} + i + 60000000" if phase.ended else "NULL",
        "step": "NULL" if phase.ended else f"'{definition.steps[0].name}'",
        **words,
    }
    state = _state(definition, phase, began)
    connection.execute(text(_SAGAS.format(**told)), {"first": first, "last": last, "state": state})
    for seq in range(1, told["events"] + 1):
        connection.execute(text(_HISTORY.format(**told, seq=seq)), {"first": first, "last": last})


def _state(definition: Definition, phase: Phase, at: int) -> str:
    instance = Instance(definition.type, _KEY, 1, definition.version, definition.hash, phase=phase)
    instance.seq, instance.opened_at, instance.started_at = _EVENTS if phase.ended else 1, at, at
    instance.started_by = Fact("OrderPlaced", "01a20013-2eda-74d1-bb8e-431ae6cc1f06")
    instance.ended_at = at if phase.ended else None
    for plan in definition.steps:
        done = Fact(plan.done[0], "853a161d-50cd-89e7-8673-05bb27ce9430")
        instance.steps[plan.name] = (
            Step(StepState.DONE, at, at, trigger=done.id, done=done, ended_at=at, outcome=StepState.DONE)
            if phase.ended
            else Step(StepState.WAITING, at, at, trigger=done.id, limit_at=at + 2 * _DAY)
        )
    return instance.to_json()
