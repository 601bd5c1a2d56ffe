"""What people ask of the store: plain functions of a connection, for the command line and every other view."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from sqlalchemy import ColumnElement, Connection, and_, case, func, literal_column, or_, select

from ..events.clock import SECOND, system_clock
from ..events.errors import AmbiguousSaga, ConfigurationError, SagaNotFound
from . import causes, choosing, loaded, timers, usual
from .definition import Definition
from .inputs import Change
from .instance import Instance
from .names import is_saga_type, parse_saga_id, saga_id
from .pace import Usual
from .standstill import stuck_sagas
from .tables import definition, history, ignored, parked, saga
from .words import Condition, Phase

OPEN = (Phase.RUNNING, Phase.COMPENSATING)
SORTS = ("attention", "started", "updated", "key", "duration")
GROUPS = {"error": "error", "step": "step", "type": "type", "state": "phase"}
"""What sagas can be counted by, and the column of each."""
_NEAR = 3
_BURST = 3_600 * SECOND
_MOST_EARLY = 20


@dataclass(frozen=True)
class Filter:
    """Which sagas; what is empty or None does not restrict.

    Args:
        types, phases, steps: any of these; `steps` is the step that something is expected of.
        keys: any of these; a key, or `field=key` with the name of the definition's key field.
        conditions: all of these.
        since, until: started at or after, and before; microseconds.
        quiet_since: last changed before; microseconds.
        error: in the class or the text of its error.
        tags: all of these, each `name=value`, of its definition.
        only_open: not ended.
        only_failed: FAILED, or waiting for a person.
        now: the clock by which an open saga is slow, microseconds; default: this machine's.
    """

    types: Sequence[str] = ()
    phases: Sequence[str] = ()
    steps: Sequence[str] = ()
    keys: Sequence[str] = ()
    conditions: Sequence[str] = ()
    since: int | None = None
    until: int | None = None
    quiet_since: int | None = None
    error: str = ""
    tags: Sequence[str] = ()
    only_open: bool = False
    only_failed: bool = False
    now: int = field(default_factory=system_clock)


class SagaRow(NamedTuple):
    """One saga in a list, read from its columns alone."""

    id: str
    type: str
    key: str
    run: int
    version: int
    phase: str
    step: str | None
    error: str | None
    conditions: tuple[str, ...]
    epoch: int
    started_at: int
    updated_at: int
    ended_at: int | None


class Group(NamedTuple):
    """Sagas that have something in common: what (None: nothing), how many, their first and last time, one of them."""

    value: str | None
    size: int
    first_at: int
    last_at: int
    example: str


class Entry(NamedTuple):
    """One input in a saga's history, with what it changed."""

    seq: int
    at: int
    event_id: str
    kind: str
    type: str
    event_time: int
    verdict: str
    reason: str
    changes: tuple[Change, ...]
    source: str
    place: str | None
    said: str = ""  # by a person
    handled: str = ""  # by its handler, of its work, as the header has it


class Found(NamedTuple):
    """A saga with the definition that it runs under, and when it was last written."""

    definition: Definition
    instance: Instance
    updated_at: int


class Early(NamedTuple):
    """An event that waits for its saga, what would start that, and the field of that event that holds the key.

    `since` says from when on the saga's events concern it, microseconds; 0: from the beginning.
    """

    saga_type: str
    event_type: str
    start: tuple[str, ...]
    at: int
    expires_at: int
    key: str
    field: str
    since: int


class Brakes(NamedTuple):
    """What holds sagas back: the breaker on mass timeouts, the stop of compensation, and versions loaded nowhere."""

    timers_held: bool
    undo_stopped: bool
    unloaded: frozenset[tuple[str, int]] = frozenset()


def list_sagas(connection: Connection, wanted: Filter, *, sort: str = "attention", limit: int | None) -> list[SagaRow]:
    """List sagas.

    Args:
        connection: within a read.
        wanted: which.
        sort: one of `SORTS`; "attention" puts failed and open ones first, each newest first.
        limit: at most so many; None for all.
    """
    return read_rows(connection, wanted, _order(sort), limit)


def read_rows(
    connection: Connection,
    wanted: Filter,
    order: Sequence[ColumnElement[Any]],
    limit: int | None,
    *more: ColumnElement[bool],
) -> list[SagaRow]:
    """Read the sagas of a filter in an order of columns, restricted by `more`."""
    beside = _beside(connection)
    query = select(*(saga.c[name] for name in SagaRow._fields)).where(*clauses(connection, wanted, beside), *more)
    return [_row(row, beside, wanted.now) for row in connection.execute(query.order_by(*order).limit(limit))]


def states(connection: Connection, ids: Sequence[str]) -> dict[str, Found]:
    """Load many sagas whole."""
    known = definitions(connection)
    found: dict[str, Found] = {}
    for start in range(0, len(ids), 300):
        query = select(saga.c.state, saga.c.updated_at).where(saga.c.id.in_(ids[start : start + 300]))
        for state, updated_at in connection.execute(query):
            instance = Instance.from_json(state)
            found[instance.id] = Found(known[instance.type, instance.version], instance, updated_at)
    return found


def count_phases(connection: Connection, wanted: Filter) -> dict[str, int]:
    """Count the sagas of a filter by phase."""
    query = select(saga.c.phase, func.count()).where(*clauses(connection, wanted)).group_by(saga.c.phase)
    return {row[0]: row[1] for row in connection.execute(query)}


def group_sagas(connection: Connection, wanted: Filter, by: str) -> list[Group]:
    """Count the sagas of a filter by one of `GROUPS`, the largest group first."""
    # Not the bare column: SQLite would walk its index, all sagas, to have the groups in order.
    column = saga.c[GROUPS[by]].concat(literal_column("''"))
    counted = (func.count(), func.min(saga.c.started_at), func.max(saga.c.updated_at), func.max(saga.c.id))
    query = select(column, *counted).where(*clauses(connection, wanted)).group_by(column)
    query = query.order_by(func.count().desc(), column.asc())
    return [Group._make(row) for row in connection.execute(query)]


def resolve(connection: Connection, text: str) -> str:
    """Find the saga that somebody means.

    Args:
        connection: within a read.
        text: `type/key`, `type/key~run`, a key alone (its latest run) where only one type has it, `@latest` or
            `@latest:type`.

    Raises:
        SagaNotFound: there is none; what comes near is named.
        AmbiguousSaga: several types have that key; `.ids["candidates"]` lists them.
    """
    if text.startswith("@"):
        return _latest(connection, text)
    type_, slash, _ = text.partition("/")
    if slash and is_saga_type(type_) and (found := _named(connection, text)) is not None:
        return found
    for key in dict.fromkeys((text, unquote(text))):
        if found := _by_key(connection, key):
            return found
    base, tilde, run = text.rpartition("~")
    if tilde and run.isdigit() and (found := _by_key(connection, base, int(run))):
        return found
    early = f"; events of its key wait for its start: saga why {text}" if early_events(connection, text) else ""
    raise SagaNotFound(f"there is no saga {text!r}{early or _near(connection, text)}", saga_id=text)


def load(connection: Connection, id_: str) -> Found:
    """Load a saga by its whole name.

    Raises:
        SagaNotFound: there is none.
    """
    found = states(connection, [id_])
    if id_ not in found:
        raise SagaNotFound(f"there is no saga {id_!r}", saga_id=id_)
    return found[id_]


def newest_definition(connection: Connection, type_: str) -> Definition:
    """Load the newest definition of a saga type.

    Raises:
        SagaNotFound: no coordinator has registered that type here.
    """
    known = definitions(connection)
    versions = [version for known_type, version in known if known_type == type_]
    if not versions:
        types = sorted({known_type for known_type, _ in known})
        there = f"it knows {', '.join(types)}" if types else "it knows none yet"
        raise SagaNotFound(f"the store has no saga type {type_!r}; {there}")
    return known[type_, max(versions)]


def newest_definitions(connection: Connection) -> list[Definition]:
    """Load the newest definition of each saga type."""
    newest: dict[str, Definition] = {}
    for (type_, version), each in definitions(connection).items():
        if type_ not in newest or version > newest[type_].version:
            newest[type_] = each
    return [newest[type_] for type_ in sorted(newest)]


def read_history(connection: Connection, id_: str, *, after: int = 0, limit: int | None = None) -> list[Entry]:
    """Read a saga's history, from the input after `after` on; so many of it at most."""
    columns = (
        history.c.seq,
        history.c.at,
        history.c.event_id,
        history.c.kind,
        history.c.type,
        history.c.event_time,
        history.c.verdict,
        history.c.reason,
        history.c.changes,
        history.c.input,
        history.c.topic,
        history.c.partition,
        history.c.offset,
    )
    query = select(*columns).where(history.c.saga_id == id_, history.c.seq > after).order_by(history.c.seq)
    return [_entry(row) for row in connection.execute(query.limit(limit))]


def brakes(connection: Connection) -> Brakes:
    """Read what holds all sagas back."""
    return Brakes(timers.held(connection), timers.stopped(connection), loaded_nowhere(connection))


def loaded_nowhere(connection: Connection) -> frozenset[tuple[str, int]]:
    """Give the registered versions that no running coordinator has loaded; none where no coordinator runs."""
    there = loaded.coordinators(connection)
    known = connection.execute(select(definition.c.type, definition.c.version)).all() if there else []
    return frozenset((type_, version) for type_, version in known if (type_, version) not in there)


def read_ignored(connection: Connection) -> list[dict[str, Any]]:
    """Read the ledger of what changed no saga, the most frequent first."""
    rows = connection.execute(select(ignored).order_by(ignored.c.count.desc(), ignored.c.topic, ignored.c.event_type))
    return [dict(row._mapping) for row in rows]


def count_parked(connection: Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """Count the events that wait for their saga, by saga type and event type, with the time of the oldest."""
    query = select(parked.c.type, parked.c.event_type, func.count(), func.min(parked.c.at))
    rows = connection.execute(query.group_by(parked.c.type, parked.c.event_type).order_by(func.count().desc()))
    return {(type_, event_type): (count, oldest) for type_, event_type, count, oldest in rows}


def count_alike(connection: Connection, instance: Instance, now: int) -> int:
    """Count the other sagas of its type that met the error of this one within an hour."""
    error = (instance.cause or {}).get("error")
    if error is None:
        return 0
    same = (saga.c.error == error, saga.c.updated_at >= now - _BURST, saga.c.type == instance.type)
    query = select(func.count()).select_from(saga).where(*same, saga.c.id != instance.id)
    return connection.execute(query).scalar_one()


def early_events(connection: Connection, text: str) -> list[Early]:
    """List the parked events that somebody may mean by `type/key` or a key alone, the oldest first."""
    type_, slash, rest = text.partition("/")
    named = slash and is_saga_type(type_)
    keys = {text, unquote(text)} | ({rest, unquote(rest)} if named else set())
    query = select(parked).where(parked.c.key.in_(keys)).order_by(parked.c.at, parked.c.event_id).limit(_MOST_EARLY)
    known = definitions(connection)
    begins = select(definition.c.type, func.min(definition.c.active_from)).group_by(definition.c.type)
    since = {type_: int(at) for type_, at in connection.execute(begins)}
    found = []
    for row in connection.execute(query):
        versions = [version for known_type, version in known if known_type == row.type]
        if versions and (not named or row.type == type_):
            newest = known[row.type, max(versions)]
            field_ = newest.key_field(newest.start[0]) or newest.key
            found.append(
                Early(row.type, row.event_type, newest.start, row.at, row.expires_at, row.key, field_, since[row.type])
            )
    return found


# -- pieces -----------------------------------------------------------------------------------------------------------


class _Beside(NamedTuple):
    """What bears on many sagas: versions loaded nowhere, how long whole sagas usually take, and which are stuck."""

    nowhere: frozenset[tuple[str, int]]
    usual: dict[str, Usual]
    stuck: frozenset[str]


def _beside(connection: Connection) -> _Beside:
    return _Beside(loaded_nowhere(connection), usual.of_sagas(connection), stuck_sagas(connection))


def _row(row: Any, beside: _Beside, now: int) -> SagaRow:
    """Make a row; a saga whose code nobody has is paused, also where nothing waits for the code yet."""
    told = set(filter(None, row.conditions.split(",")))
    if row.ended_at is None and (row.type, row.version) in beside.nowhere:
        told.add(Condition.PAUSED)
    known = beside.usual.get(row.type) if row.phase in usual.JUDGED else None
    if known is not None and known.beyond((row.ended_at or now) - row.started_at):
        told.add(Condition.SLOW)
    if row.id in beside.stuck:
        told.add(Condition.STUCK)
    return SagaRow._make((*row[:8], tuple(sorted(told)), *row[9:]))


def clauses(connection: Connection, wanted: Filter, beside: _Beside | None = None) -> list[ColumnElement[bool]]:
    """Say which sagas a filter chooses.

    Args:
        connection: within a read.
        wanted: the filter.
        beside: what stands beside the sagas, where somebody has asked already.
    """
    beside = _beside(connection) if beside is None else beside
    found: list[ColumnElement[bool]] = []
    for column, values in (
        (saga.c.type, wanted.types),
        (saga.c.phase, wanted.phases),
        (saga.c.step, wanted.steps),
    ):
        if values:
            found.append(column.in_(values))
    if wanted.keys:
        found.append(choosing.keyed(lambda: definitions(connection), wanted.keys))
    for condition in wanted.conditions:
        if condition in (Condition.SLOW, Condition.STUCK):
            slow = condition == Condition.SLOW
            found.append(usual.is_slow(beside.usual, wanted.now) if slow else saga.c.id.in_(beside.stuck))
            continue
        if condition in choosing.BY_STATE:
            found.append(choosing.BY_STATE[condition])
            continue
        held = beside.nowhere if condition == Condition.PAUSED else ()
        own = [and_(saga.c.type == type_, saga.c.version == version) for type_, version in held]
        found.append(or_(_has(condition), and_(saga.c.ended_at.is_(None), or_(*own))) if own else _has(condition))
    if wanted.since is not None:
        found.append(saga.c.started_at >= wanted.since)
    if wanted.until is not None:
        found.append(saga.c.started_at < wanted.until)
    if wanted.quiet_since is not None:
        found.append(saga.c.updated_at < wanted.quiet_since)
    if wanted.error:
        found.append(causes.speaks_of(connection, wanted.error))
    if wanted.tags:
        found.append(choosing.tagged(definitions(connection), wanted.tags))
    if wanted.only_open:
        found.append(saga.c.phase.in_(OPEN))
    if wanted.only_failed:
        found.append(or_(saga.c.phase == Phase.FAILED, _has(Condition.WAITING_FOR_PERSON)))
    return found


def _has(condition: str) -> ColumnElement[bool]:
    return ("," + saga.c.conditions + ",").contains(f",{condition},", autoescape=True)


def _order(sort: str) -> list[ColumnElement[Any]]:
    match sort:
        case "started":
            return [saga.c.started_at.desc(), saga.c.id]
        case "updated":
            return [saga.c.updated_at.desc(), saga.c.id]
        case "key":
            return [saga.c.type.asc(), saga.c.key.asc(), saga.c.run.asc()]
        case "duration":
            return [(func.coalesce(saga.c.ended_at, saga.c.updated_at) - saga.c.started_at).desc(), saga.c.id]
    urgent = case((saga.c.phase == Phase.FAILED, 0), (saga.c.phase.in_(OPEN), 1), else_=2)
    return [urgent.asc(), saga.c.started_at.desc(), saga.c.id]


def _latest(connection: Connection, text: str) -> str:
    word, _, type_ = text.partition(":")
    if word != "@latest" or (":" in text and not is_saga_type(type_)):
        raise ConfigurationError(f"{text!r} names no saga; write @latest or @latest:type")
    query = select(saga.c.id).order_by(saga.c.started_at.desc(), saga.c.id.desc()).limit(1)
    found = connection.execute(query.where(saga.c.type == type_) if type_ else query).scalar()
    if found is None:
        raise SagaNotFound(f"there is no saga of type {type_!r} yet" if type_ else "there is no saga yet")
    return str(found)


def _named(connection: Connection, text: str) -> str | None:
    """Find a whole name, also where its key was not encoded."""
    type_, _, rest = text.partition("/")
    for candidate in (text, parse_saga_id(text).id, saga_id(type_, rest)):
        if connection.execute(select(saga.c.id).where(saga.c.id == candidate)).scalar() is not None:
            return candidate
    return None


def _by_key(connection: Connection, key: str, run: int | None = None) -> str | None:
    query = select(saga.c.type, func.max(saga.c.run)).where(saga.c.key == key).group_by(saga.c.type)
    if run is not None:
        query = query.where(saga.c.run == run)
    rows = sorted((type_, latest) for type_, latest in connection.execute(query))
    if len(rows) > 1:
        candidates = [saga_id(type_, key, latest) for type_, latest in rows]
        raise AmbiguousSaga(f"{key!r} is the key of {' and '.join(candidates)}; name one", candidates=candidates)
    return saga_id(rows[0][0], key, rows[0][1]) if rows else None


def _near(connection: Connection, text: str) -> str:
    """Name sagas whose key begins like this one."""
    key = whole = unquote(text.partition("/")[2] or text).partition("~")[0]
    while key == whole != "" or len(key) > 1:
        within = and_(saga.c.key >= key, saga.c.key < key + "\U0010ffff")
        found = connection.execute(select(saga.c.id, saga.c.key).where(within).order_by(saga.c.key).limit(_NEAR)).all()
        ids = [id_ for id_, known in found if known.startswith(key)]
        if ids:
            return f"; near it: {', '.join(ids)}"
        key = key[: len(key) // 2]
    return ""


def definitions(connection: Connection) -> dict[tuple[str, int], Definition]:
    """Read every definition in the store, by type and version."""
    rows = connection.execute(select(definition.c.type, definition.c.version, definition.c.spec))
    return {(type_, version): Definition.from_json(spec) for type_, version, spec in rows}


def _entry(row: Any) -> Entry:
    given = json.loads(row.input) if row.input else {}
    source = given.get("source") or given.get("service") or given.get("by") or ""
    place = None if row.topic is None else f"{row.topic}/{row.partition} offset {row.offset}"
    return Entry(
        row.seq,
        row.at,
        row.event_id,
        row.kind,
        row.type,
        row.event_time,
        row.verdict,
        row.reason,
        tuple(Change(*change) for change in json.loads(row.changes)),
        source,
        place,
        given.get("reason", "") if row.kind == "operator" else "",
        given.get("handled") or "",
    )
