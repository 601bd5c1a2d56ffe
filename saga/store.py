"""What the coordinator asks of its tables: plain functions of a connection, each a few statements for a whole batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from msgspec.json import Encoder
from pydantic_core import to_json
from sqlalchemy import ColumnElement, Connection, Update, and_, bindparam, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from ..events.envelope import Delivery, Record, TopicPartition
from ..events.errors import StoreUnreachable
from ..events.prepared import Prepared, listed, one_of
from .definition import Definition
from .inputs import Change, HandlerGaveUp, Observed
from .instance import Instance
from .tables import control, definition, history, ignored, parked, position, saga, sent
from .words import Phase

CHUNK = 1_000
"""Rows a statement: SQLite caps bind parameters near 32k (ruling R15), PostgreSQL's driver as well."""

PER_ROW_LIMIT = 2_000


class LostRace(StoreUnreachable):
    """Another coordinator changed the same saga: the batch is applied again from what is there now."""


class HistoryRow(NamedTuple):
    """One applied input."""

    saga_id: str
    seq: int
    event_id: str
    kind: str
    type: str
    at: int
    event_time: int
    verdict: str
    reason: str
    changes: Sequence[Change]
    input: str
    delivery: Delivery | None = None
    content_type: str | None = None
    value: bytes | None = None


class Held(NamedTuple):
    """A command as it went out, or as it will once it is released."""

    id: str
    saga_id: str
    step: str
    kind: str
    record: Record


def lock_sagas(connection: Connection, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[int, Instance]]:
    """Load and lock every run of these (type, key) pairs, in the order of their names (ruling R9)."""
    found: dict[tuple[str, str], dict[int, Instance]] = {}
    # The keys of one type at a time: a list of pairs would cost SQLite and the compiler seven times as much.
    for type_, pairs in groupby(sorted(set(keys)), key=itemgetter(0)):
        for chunk in chunks([key for _, key in pairs]):
            for key, run, state in _LOCK.rows(connection, {"the_type": type_, "keys": listed(connection, chunk)}):
                found.setdefault((type_, key), {})[run] = Instance.from_json(state)
    return found


# Statements of every batch are made once: making one takes SQLAlchemy longer than SQLite takes to run it.
_LOCK = Prepared(
    lambda dialect: (
        select(saga.c.key, saga.c.run, saga.c.state)
        .where(saga.c.type == bindparam("the_type"), one_of(saga.c.key, "keys", dialect))
        .order_by(saga.c.id)
        .with_for_update()
    )
)


def seen_events(connection: Connection, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Tell which of these (saga id, event id) pairs the history has already."""
    return {
        (saga_id, event_id)
        for saga_id, event_id in _SEEN.rows(connection, {"pairs": to_json(sorted(set(pairs))).decode()})
    }


# One parameter for the whole list: one for each id would have the statement compiled anew for each length.
_SEEN_SQLITE = text(
    "SELECT saga_id, event_id FROM choreo_history WHERE (saga_id, event_id) IN "
    "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:pairs))"
)
_SEEN_POSTGRES = text(
    "SELECT saga_id, event_id FROM choreo_history WHERE (saga_id, event_id) IN "
    "(SELECT pair ->> 0, pair ->> 1 FROM json_array_elements(CAST(:pairs AS json)) AS pair)"
)
_SEEN = Prepared(lambda dialect: _SEEN_POSTGRES if dialect == "postgresql" else _SEEN_SQLITE)


def run_of_cause(connection: Connection, saga_ids: Sequence[str], event_id: str) -> str | None:
    """Find the run among these whose history has an event (ruling R12)."""
    query = select(history.c.saga_id).where(history.c.saga_id.in_(saga_ids), history.c.event_id == event_id)
    return connection.execute(query).scalars().first()


def event_value(connection: Connection, saga_id: str, event_id: str) -> tuple[bytes | None, str]:
    """Read the raw value of an event of a saga, with its content type."""
    query = select(history.c.value, history.c.content_type)
    row = connection.execute(query.where(history.c.saga_id == saga_id, history.c.event_id == event_id)).first()
    return (None, "") if row is None else (row.value, row.content_type or "")


def insert_sagas(connection: Connection, instances: Sequence[Instance], now: int, *, traced: bool = False) -> None:
    """Insert new instances in the order of their names.

    Args:
        connection: within a write.
        instances: new ones.
        now: microseconds.
        traced: nothing of them is to be emitted, now or later.

    Raises:
        LostRace: another coordinator was first with one of them.
    """
    for chunk in chunks(sorted(instances, key=lambda instance: instance.id)):
        if insert_new(connection, saga, [_saga_columns(instance, now, traced) for instance in chunk]) < len(chunk):
            raise LostRace("another coordinator started one of these sagas at the same time")


def update_sagas(
    connection: Connection, changed: Sequence[tuple[int, Instance]], now: int, *, traced: bool = False
) -> None:
    """Write changed instances, each only over the `seq` that it was read at; `traced` as for `insert_sagas`.

    Raises:
        LostRace: one of them was changed meanwhile.
    """
    if not changed:
        return
    rows = [
        {"the_id": instance.id, "the_seq": before, **_changing_columns(instance, now, traced)}
        for before, instance in changed
    ]
    if _UPDATE.run(connection, rows) != len(rows):
        raise LostRace("one of these sagas was changed by another coordinator")


_UPDATE = Prepared(update(saga).where(saga.c.id == bindparam("the_id"), saga.c.seq == bindparam("the_seq")))


def insert_history(connection: Connection, rows: Sequence[HistoryRow]) -> None:
    """Append to the history."""
    if rows:
        _INSERT_HISTORY.run(connection, [_history_columns(row) for row in rows])


_INSERT_HISTORY = Prepared(insert(history))


def count_ignored(
    connection: Connection, counts: Mapping[tuple[str, str, str, str], tuple[int, str]], now: int
) -> None:
    """Count what changed nothing: (saga type, topic, event type, reason) with a number and the last event's id."""
    for (saga_type, topic, event_type, reason), (number, last) in sorted(counts.items()):
        row = {
            "saga_type": saga_type,
            "topic": topic,
            "event_type": event_type,
            "reason": reason,
            "count": number,
            "first_at": now,
            "last_at": now,
            "last_event_id": last,
        }
        statement = _upsert(connection, ignored)(ignored).values(row)
        keys = ["saga_type", "topic", "event_type", "reason"]
        new = {"count": ignored.c.count + number, "last_at": now, "last_event_id": last}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=new))


def save_positions(
    connection: Connection, group: str, offsets: Mapping[TopicPartition, int], until: Mapping[TopicPartition, int]
) -> None:
    """Save how far each partition was read; a saved position only grows (ruling R9)."""
    if not offsets:
        return
    rows = [
        {
            "group": group,
            "topic": place.topic,
            "partition": place.partition,
            "next_offset": offset,
            "read_until": until.get(place, 0),
        }
        for place, offset in sorted(offsets.items())
    ]
    _SAVE_POSITION.run(connection, rows)


def _save_position(dialect: str) -> Any:
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(position)
    larger = func.greatest if dialect == "postgresql" else func.max
    new = {
        name: larger(getattr(position.c, name), getattr(statement.excluded, name))
        for name in ("next_offset", "read_until")
    }
    return statement.on_conflict_do_update(index_elements=["group", "topic", "partition"], set_=new)


_SAVE_POSITION = Prepared(_save_position)


def load_positions(connection: Connection, group: str) -> dict[TopicPartition, tuple[int, int]]:
    """Load the saved positions: next offset, and until when the partition was read."""
    rows = connection.execute(select(position).where(position.c.group == group))
    return {TopicPartition(row.topic, row.partition): (row.next_offset, row.read_until) for row in rows}


def put_sent(connection: Connection, rows: Sequence[Held], now: int, release_at: Mapping[str, int]) -> None:
    """Keep commands as they go out; those in `release_at` are held back until then."""
    chunk: Sequence[Held]
    for chunk in chunks(rows):
        values = [
            {
                "id": row.id,
                "saga_id": row.saga_id,
                "step": row.step,
                "kind": row.kind,
                "at": now,
                "release_at": release_at.get(row.id),
                "topic": row.record.topic,
                "key": row.record.key,
                "value": row.record.value,
                "headers": headers_to_json(row.record),
            }
            for row in chunk
        ]
        insert_new(connection, sent, values)


def load_sent(connection: Connection, id_: str) -> Record | None:
    """Load a command that went out; None where it is unknown or still held back."""
    row = connection.execute(select(sent).where(sent.c.id == id_, sent.c.release_at.is_(None))).first()
    return None if row is None else _sent_record(row)


def release(connection: Connection, until: int, most: int) -> list[Record]:
    """Release held commands that are due, the oldest first."""
    query = select(sent).where(sent.c.release_at <= until).order_by(sent.c.release_at, sent.c.id).limit(most)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    for chunk in chunks([row.id for row in rows]):
        connection.execute(update(sent).where(sent.c.id.in_(chunk)).values(release_at=None))
    return [_sent_record(row) for row in rows]


def any_held_or_expired(connection: Connection, now: int) -> bool:
    """Tell whether a held command or a parked event is due."""
    until = {"now": now}
    return bool(_HELD.rows(connection, until) or _LATE.rows(connection, until))


_HELD = Prepared(select(sent.c.id).where(sent.c.release_at <= bindparam("now")).limit(1))
_LATE = Prepared(select(parked.c.event_id).where(parked.c.expires_at <= bindparam("now")).limit(1))


def switch(connection: Connection, name: str) -> str:
    """Read a switch; "" where it was never set."""
    rows = _SWITCH.rows(connection, {"the_name": name})
    return rows[0][0] if rows else ""


_SWITCH = Prepared(select(control.c.value).where(control.c.name == bindparam("the_name")))


def set_switch(connection: Connection, name: str, value: str, now: int, by: str) -> None:
    """Set a switch."""
    row = {"name": name, "value": value, "at": now, "by": by}
    statement = _upsert(connection, control)(control).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def mark_traced(connection: Connection, ids: Sequence[str]) -> None:
    """Note that every span of these ended sagas was emitted."""
    for chunk in chunks(ids):
        _MARK_TRACED.run(connection, [{"ids": listed(connection, chunk)}])


def _mark_traced(dialect: str) -> Update:
    ended = select(saga.c.id).where(one_of(saga.c.id, "ids", dialect), saga.c.ended_at.isnot(None))
    # Whoever has one of them locked is about to write that it is to be told again, and might wait for us meanwhile.
    return update(saga).where(saga.c.id.in_(ended.with_for_update(skip_locked=True))).values(traced=True)


_MARK_TRACED = Prepared(_mark_traced)


def untraced(connection: Connection) -> list[Instance]:
    """Load ended sagas whose spans may not have been emitted: a coordinator died between commit and emission."""
    query = select(saga.c.state).where(saga.c.traced.is_(False), saga.c.ended_at.isnot(None)).limit(PER_ROW_LIMIT)
    return [Instance.from_json(state) for state in connection.execute(query).scalars()]


def stored_definitions(connection: Connection) -> dict[tuple[str, int], tuple[Definition, str, int]]:
    """Load every registered definition with its hash and where its history begins."""
    found = {}
    for row in connection.execute(select(definition)):
        found[row.type, row.version] = (Definition.from_json(row.spec), row.hash, row.active_from)
    return found


def save_definition(connection: Connection, new: Definition, now: int, active_from: int) -> None:
    """Register a definition, or write its present modes (observing or not) over the stored one."""
    row = {
        "type": new.type,
        "version": new.version,
        "hash": new.hash,
        "spec": new.to_json(),
        "registered_at": now,
        "active_from": active_from,
    }
    statement = _upsert(connection, definition)(definition).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["type", "version"], set_={"spec": row["spec"]}))


def open_sagas(connection: Connection) -> int:
    """Count the sagas that have not ended."""
    phases = (Phase.RUNNING.value, Phase.COMPENSATING.value)
    return connection.execute(select(func.count()).select_from(saga).where(saga.c.phase.in_(phases))).scalar_one()


def write_input(input_: Observed | HandlerGaveUp) -> str:
    """Write an input compactly; fields that have their default are left out."""
    return _ENCODER.encode(input_).decode()


_ENCODER = Encoder()


def chunks(rows: Sequence[Any]) -> Iterable[Any]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _upsert(connection: Connection, table: Any) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def among(first: ColumnElement[str], second: ColumnElement[str], pairs: Iterable[tuple[str, str]]) -> Any:
    """Say that two columns are one of these pairs; SQLite would compare a list of pairs with each row of the table."""
    same = groupby(sorted(pairs), itemgetter(0))
    return or_(*(and_(first == one, second.in_([other for _, other in rest])) for one, rest in same))


def insert_new(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> int:
    """Insert rows that are not there yet; give how many were new."""
    new = _insert_new(table).run(connection, rows)
    assert new is not None
    return new


@cache
def _insert_new(table: Any) -> Prepared:
    return Prepared(
        lambda dialect: (postgresql.insert if dialect == "postgresql" else sqlite.insert)(
            table
        ).on_conflict_do_nothing()
    )


def _saga_columns(instance: Instance, now: int, traced: bool) -> dict[str, Any]:
    return {
        "id": instance.id,
        "type": instance.type,
        "key": instance.key,
        "run": instance.run,
        "started_at": instance.started_at,
        **_changing_columns(instance, now, traced),
    }


def _changing_columns(instance: Instance, now: int, traced: bool) -> dict[str, Any]:
    """Give what an input may change; a column that is written, even with the same value, costs its indexes."""
    return {
        "version": instance.version,
        "phase": _PHASES[instance.phase],
        "step": instance.current_step,
        "error": None if instance.cause is None else instance.cause.get("error"),
        "conditions": ",".join(sorted(instance.conditions)) if instance.conditions else "",
        "seq": instance.seq,
        "epoch": instance.epoch,
        "updated_at": now,
        "ended_at": instance.ended_at,
        "next_due": instance.next_due,
        "limit_due": instance.limit_due,
        "waits_since": min(instance.waits(), default=None),
        "traced": traced,
        "state": instance.to_json(),
    }


_PHASES = {phase: phase.value for phase in Phase}  # asking a member for its value takes longer than all the rest


def _history_columns(row: HistoryRow) -> dict[str, Any]:
    delivery = row.delivery
    return {
        "saga_id": row.saga_id,
        "seq": row.seq,
        "event_id": row.event_id,
        "kind": row.kind,
        "type": row.type,
        "at": row.at,
        "event_time": row.event_time,
        "verdict": row.verdict,
        "reason": row.reason,
        "changes": _ENCODER.encode(row.changes).decode(),
        "input": row.input,
        "topic": delivery.topic if delivery else None,
        "partition": delivery.partition if delivery else None,
        "offset": delivery.offset if delivery else None,
        "content_type": row.content_type,
        "value": delivery.value if delivery else row.value,
    }


def headers_to_json(record: Record) -> str:
    """Write a command's headers: all of them are ours, hence text."""
    return _ENCODER.encode([(name, value.decode()) for name, value in record.headers]).decode()


def _sent_record(row: Any) -> Record:
    headers = tuple((name, value.encode()) for name, value in json.loads(row.headers))
    return Record(row.topic, row.key, row.value, headers)
