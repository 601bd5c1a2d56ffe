"""The inbox: one row for each event that a handler has met; it makes effects happen once, and it is the guard.

An undo that overtakes its step leaves a *refused* row under the step's event, so the late event finds it (semantics,
rows 14 and 15). The same table therefore answers "seen before?", "may it run?" and "was there anything to undo?", and
its primary key arbitrates between two processes: whoever inserts second is rolled back and looks again.

Everything here is a plain function of a SQLAlchemy `Connection` inside the caller's transaction.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from ..events.database import lock_schema
from ..events.envelope import Envelope, Record
from ..events.ids import derived_id
from ..events.prepared import Prepared, listed, one_of

HEAD = "0001"
metadata = MetaData()

inbox = Table(
    "choreo_inbox",
    metadata,
    # The id comes first: one SELECT finds what all handlers know of a batch's events.
    Column("event_id", String(255), primary_key=True),
    Column("handler", String(255), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("until", BigInteger),
    Column("answer", Text),
    sqlite_with_rowid=False,
)

parked = Table(
    "choreo_parked",
    metadata,
    Column("event_id", String(255), primary_key=True),
    Column("handler", String(255), primary_key=True),
    Column("lane", Text, nullable=False),
    Column("position", String(48), nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", Text, nullable=False),
    Index("choreo_parked_lane", "handler", "lane", "position"),
    Index("choreo_parked_due_at", "due_at"),
)

State = Literal["claimed", "done", "empty", "failed", "parked", "refused", "unknown"]
"""What became of an event:

claimed: it runs, until `until`; done: it ran; empty: an undo that found nothing to undo, answered; failed:
    dead-lettered;
parked: it waits in the store; refused: it was undone before it ran and never will; unknown: its claim expired or it
failed half way, and an undo has taken over.
"""

Key = tuple[str, str]
"""Handler and event id."""

LONGEST_ID = 255
"""Longer event ids are refused as undecodable: no index would take them."""

_CHUNK = 500  # SQLite's bound parameters are capped near 32k, and PostgreSQL plans long lists slowly


class Row(NamedTuple):
    """What the inbox holds of one event for one handler."""

    state: State
    until: int | None = None
    answer: str | None = None


class Entry(NamedTuple):
    """A row to be written."""

    handler: str
    event_id: str
    state: State
    until: int | None = None
    answer: str | None = None


def reference(envelope: Envelope) -> str | None:
    """Derive the id under which a command's step is known whatever its attempt; None for no command (ruling R5).

    Only a command carries an attempt: the step header alone may be inherited from an earlier step.
    """
    if envelope.saga_id is None or envelope.saga_step is None or envelope.saga_attempt is None:
        return None
    run, occurrence = str(envelope.saga_run or 1), envelope.saga_occurrence or ""
    return derived_id("step", envelope.saga_id, run, envelope.saga_step, occurrence)


def look_up(connection: Connection, event_ids: Iterable[str], *, lock: bool = False) -> dict[Key, Row]:
    """Read what is known of these events, for every handler.

    Args:
        connection: inside a transaction.
        event_ids: ids of events and of references.
        lock: hold the rows until the transaction ends (PostgreSQL; a SQLite write transaction is alone anyway).
    """
    ids = sorted(set(event_ids))
    found: dict[Key, Row] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = {"ids": listed(connection, ids[start : start + _CHUNK])}
        for handler, event_id, state, until, answer in (_LOCK if lock else _LOOK).rows(connection, chunk):
            found[handler, event_id] = Row(state, until, answer)
    return found


def write(connection: Connection, entries: Sequence[Entry], known: Iterable[Key], now: int) -> None:
    """Insert or update rows, one statement each for all.

    Args:
        connection: inside a transaction.
        entries: the last one of a key counts.
        known: keys that have a row already.
        now: microseconds.

    Raises:
        IntegrityError: another process wrote one of them first; roll back and look again.
    """
    latest = {(entry.handler, entry.event_id): entry for entry in entries}
    existing = set(known)
    # In one order everywhere, so that two processes never wait for each other crosswise.
    ordered = [latest[key] for key in sorted(latest, key=lambda key: (key[1], key[0]))]
    new = [_columns(entry, now) for entry in ordered if (entry.handler, entry.event_id) not in existing]
    old = [_columns(entry, now) for entry in ordered if (entry.handler, entry.event_id) in existing]
    if new:
        _INSERT.run(connection, new)
    if old:
        _UPDATE.run(
            connection,
            [{"the_event": each.pop("event_id"), "the_handler": each.pop("handler"), **each} for each in old],
        )


def sweep(connection: Connection, after: Key | None, most: int, before: int) -> tuple[Key | None, int]:
    """Look at the next page of the inbox and delete what was done before a time; what is not done stays.

    Args:
        connection: inside a transaction.
        after: the last key of the page before; None to begin.
        most: rows in a page.
        before: microseconds.

    Returns:
        The last key of this page, None when it was the last one; and how many rows are gone.
    """
    page = select(inbox.c.event_id, inbox.c.handler, inbox.c.state, inbox.c.at)
    if after is not None:
        handler, event_id = after
        page = page.where(tuple_(inbox.c.event_id, inbox.c.handler) > (event_id, handler))
    rows = connection.execute(page.order_by(inbox.c.event_id, inbox.c.handler).limit(most)).all()
    old = [
        {"the_event": row.event_id, "the_handler": row.handler, "the_state": row.state, "the_time": row.at}
        for row in rows
        if row.at < before and row.state not in ("claimed", "parked")
    ]
    if old:
        connection.execute(_DELETE, old)
    return ((rows[-1].handler, rows[-1].event_id) if len(rows) == most else None), len(old)


# Only as it was seen: a person may be sending an event again.
_DELETE = delete(inbox).where(
    inbox.c.event_id == bindparam("the_event"),
    inbox.c.handler == bindparam("the_handler"),
    inbox.c.state == bindparam("the_state"),
    inbox.c.at == bindparam("the_time"),
)


def _look(dialect: str) -> Select[Any]:
    columns = select(inbox.c.handler, inbox.c.event_id, inbox.c.state, inbox.c.until, inbox.c.answer)
    return columns.where(one_of(inbox.c.event_id, "ids", dialect))


def _lock(dialect: str) -> Select[Any]:
    return _look(dialect).order_by(inbox.c.event_id, inbox.c.handler).with_for_update()


_LOOK = Prepared(_look)
_LOCK = Prepared(_lock)
_INSERT = Prepared(insert(inbox))


def renew(connection: Connection, keys: Iterable[Key], until: int) -> None:
    """Let claims hold until then, where they are claims still."""
    for handler, event_id in sorted(set(keys), key=lambda key: (key[1], key[0])):
        same = and_(inbox.c.event_id == event_id, inbox.c.handler == handler, inbox.c.state == "claimed")
        connection.execute(update(inbox).where(same).values(until=until))


_UPDATE = Prepared(
    update(inbox).where(inbox.c.event_id == bindparam("the_event"), inbox.c.handler == bindparam("the_handler"))
)


def _columns(entry: Entry, now: int) -> dict[str, object]:
    return {
        "event_id": entry.event_id,
        "handler": entry.handler,
        "state": entry.state,
        "at": now,
        "until": entry.until,
        "answer": entry.answer,
    }


def pack(records: Sequence[Record]) -> str:
    """Spell records as text, to be sent again later with the same ids and bytes."""
    return json.dumps(
        [
            [
                record.topic,
                _text(record.key),
                _text(record.value),
                [[name, b64encode(value).decode()] for name, value in record.headers],
            ]
            for record in records
        ]
    )


def unpack(text: str) -> list[Record]:
    """Read records that `pack` spelled."""
    return [
        Record(topic, _bytes(key), _bytes(value), tuple((name, b64decode(each)) for name, each in headers))
        for topic, key, value, headers in json.loads(text)
    ]


def _text(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


def create_own(connection: Connection, tables: MetaData) -> None:
    """Create the tables that a service declares as its own, where they are missing."""
    lock_schema(connection)  # two replicas may start at once
    tables.create_all(connection)
