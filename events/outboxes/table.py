"""The tables in the system's own database, and what one of its rows says.

The names of the columns are those that Debezium's outbox event router takes by default (`id`, `aggregatetype`,
`aggregateid`, `type`, `payload`); the others become headers, one column each, so that its option
`table.fields.additional.placement` can name them. The payload is what goes over the wire, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from zlib import crc32

from sqlalchemy import BigInteger, Column, Dialect, Identity, Index, LargeBinary, MetaData, SmallInteger, String, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql import LONGTEXT, MEDIUMBLOB
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from ..clock import from_rfc3339, to_rfc3339
from ..envelope import MOST_HEADER_BYTES, Envelope, Record, write_headers
from ..errors import ConfigurationError, LimitExceeded
from ..outbox import MOST_RECORD_BYTES

TABLE = "choreo_event_outbox"
SHARDS = 16
"""Rows of one key are in one shard, and a shard is published by one relay at a time."""

Backend = Literal["postgresql", "sqlite", "mysql"]

_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,54}\.)?[A-Za-z_][A-Za-z0-9_]{0,54}")
_MOST_NAME = 255
_MOST_KEY = 10_000
_DIALECTS: Mapping[Backend, type[Dialect]] = {
    "postgresql": postgresql.dialect,
    "sqlite": sqlite.dialect,
    "mysql": mysql.dialect,
}
_OPTIONS: dict[str, Any] = {
    f"{backend}_{option}": value
    for backend in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The outbox and its leases, as SQLAlchemy knows them.

    Args:
        outbox: one row per event that was written and not published yet.
        leases: who publishes which shard, and which relays are alive.
    """

    outbox: Table
    leases: Table


def outbox_tables(name: str = TABLE, metadata: MetaData | None = None) -> Tables:
    """Describe the two tables, for Alembic say: `outbox_tables(metadata=Base.metadata)`.

    Args:
        name: of the outbox, with its schema if it has one (`shop.outbox`); the other's is `<name>_lease`.
        metadata: to add them to.

    Raises:
        ConfigurationError: the name is not made of letters, digits and `_`, or longer than 55 characters.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name[:80]!r} is no name for an outbox: letters, digits and '_', at most 55; a schema may precede"
        )
    schema, _, table = name.rpartition(".")
    metadata = MetaData() if metadata is None else metadata
    long_text = String().with_variant(LONGTEXT(), "mysql", "mariadb")
    outbox = Table(
        table,
        metadata,
        # SQLite numbers rows of its own accord, and only in a column of exactly this type.
        Column("seq", BigInteger().with_variant(sqlite.INTEGER(), "sqlite"), Identity(), primary_key=True),
        Column("id", String(_MOST_NAME), nullable=False),
        Column("aggregatetype", String(_MOST_NAME), nullable=False),
        Column("aggregateid", long_text, nullable=False),
        Column("type", String(_MOST_NAME), nullable=False),
        Column("payload", LargeBinary().with_variant(MEDIUMBLOB(), "mysql", "mariadb"), nullable=False),
        Column("source", String(_MOST_NAME), nullable=False),
        Column("time", String(40), nullable=False),
        Column("contenttype", String(_MOST_NAME), nullable=False),
        Column("causationid", String(_MOST_NAME)),
        Column("traceparent", String(60)),
        Column("shard", SmallInteger, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("published_at", BigInteger),
        Index(f"{table}_due", "published_at", "seq"),
        schema=schema or None,
        sqlite_autoincrement=True,
        **_OPTIONS,
    )
    leases = Table(
        f"{table}_lease",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("owner", String(64)),
        Column("expires_at", BigInteger, nullable=False),
        schema=schema or None,
        **_OPTIONS,
    )
    return Tables(outbox, leases)


def ddl(backend: Backend, name: str = TABLE) -> list[str]:
    """Give the statements that create the tables, for a migration tool of the system's own.

    Args:
        backend: `postgresql`, `sqlite` or `mysql` (MariaDB too).
        name: as in `outbox_tables`.

    Raises:
        ConfigurationError: the backend is none of these, or the name cannot be one.
    """
    if backend not in _DIALECTS:
        raise ConfigurationError(f"{backend!r} is none of {', '.join(_DIALECTS)}")
    tables, dialect = outbox_tables(name), _DIALECTS[backend]()
    indexes = [CreateIndex(index) for index in tables.outbox.indexes]
    made: list[DDLElement] = [CreateTable(tables.outbox), *indexes, CreateTable(tables.leases)]
    lines = (str(each.compile(dialect=dialect)).strip().splitlines() for each in made)
    return ["\n".join(line.rstrip().replace("\t", "    ") for line in text) for text in lines]


COLUMNS = tuple(column.name for column in outbox_tables().outbox.columns if column.name not in ("seq", "published_at"))
"""What is inserted, in the order of `Row`."""


class Row(NamedTuple):
    """One event as it is inserted."""

    id: str
    aggregatetype: str
    aggregateid: str
    type: str
    payload: bytes
    source: str
    time: str
    contenttype: str
    causationid: str | None
    traceparent: str | None
    shard: int
    created_at: int


def to_row(envelope: Envelope, record: Record, now: int) -> Row:
    """Make the row of an event, or refuse what could never be sent.

    Args:
        envelope: as `to_record` has completed it.
        record: what will be sent.
        now: microseconds; the lag of a relay counts from here.

    Raises:
        LimitExceeded: no broker would take the record, no reader its headers, or no database its names.
    """
    kind, where = envelope.type, {"event_type": envelope.type, "topic": record.topic}
    if record.size() > MOST_RECORD_BYTES:
        raise LimitExceeded(
            f"{kind}: a record of {record.size():,} bytes for {record.topic}; at most {MOST_RECORD_BYTES:,} are sent",
            **where,
        )
    size = sum(len(name) + len(value) for name, value in record.headers)
    if size > MOST_HEADER_BYTES:
        raise LimitExceeded(f"{kind}: headers of {size:,} bytes; at most {MOST_HEADER_BYTES:,} are read", **where)
    names = {"id": envelope.id, "source": envelope.source, "causation_id": envelope.causation_id or ""}
    for name, text in {**names, "type": kind, "key": envelope.key}.items():
        most = _MOST_KEY if name == "key" else _MOST_NAME
        if len(text) > most:
            raise LimitExceeded(f"{kind}: its {name} has {len(text):,} characters; at most {most:,} are kept", **where)
        if "\0" in text:
            raise LimitExceeded(f"{kind}: its {name} holds a NUL character, which no database keeps", **where)
    return Row(
        envelope.id,
        record.topic,
        envelope.key,
        kind,
        record.value or b"",
        envelope.source,
        to_rfc3339(envelope.time),
        envelope.content_type,
        envelope.causation_id,
        envelope.traceparent,
        shard_of(envelope.key),
        now,
    )


def shard_of(key: str) -> int:
    """Give the shard of a key, the same in every release: rows may wait while the system is upgraded."""
    return crc32(key.encode()) % SHARDS


def to_record(row: Any) -> Record:
    """Make the record of a row that was read: always the same bytes."""
    envelope = Envelope(
        row.id,
        row.type,
        row.source,
        from_rfc3339(row.time),
        row.aggregateid,
        row.contenttype,
        causation_id=row.causationid,
        traceparent=row.traceparent,
    )
    return Record(row.aggregatetype, row.aggregateid.encode(), bytes(row.payload), write_headers(envelope))


def insert_statement(table: str, placeholders: Sequence[str]) -> str:
    """Spell the INSERT of one row for a driver; `table` has been checked by `outbox_tables`."""
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join(placeholders)})"  # noqa: S608
