"""The span file of an embedded run: what `saga trace` reads where there is no Jaeger.

A bounded SQLite file that several processes write at once. It is a convenience, not a record: `synchronous=OFF`, oldest
spans go first, a file of another release is emptied. The saga's history can draw the same steps again at any time.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

from msgspec.json import Encoder
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ..events.clock import SECOND, Clock, system_clock
from ..events.errors import StoreUnreachable
from ..events.wal import write_ahead
from .tree import AttributeValue, EventRow, LinkRow, SpanRow

MOST_ROWS = 200_000
MOST_AGE = 7 * 86_400 * SECOND

_VERSION = 1
_PRUNE_EVERY = 100
_BUSY_SECONDS = 2.0
_WRITER = Encoder()
_COLUMNS = (
    "trace_id, span_id, parent_id, name, kind, service, start, end, status, description, attributes, links, events"
)
_INSERT = f"INSERT OR IGNORE INTO span ({_COLUMNS}, saga_id) VALUES "  # noqa: S608
_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TOGETHER = 50
"""Rows of one statement: with each statement the exporter gives the interpreter's lock away, and waits for it again."""
_SELECT = f"SELECT {_COLUMNS} FROM span"  # noqa: S608
_SCHEMA = """
CREATE TABLE IF NOT EXISTS span (
    n INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL, kind TEXT NOT NULL,
    service TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    status TEXT NOT NULL, description TEXT NOT NULL,
    attributes TEXT NOT NULL, links TEXT NOT NULL, events TEXT NOT NULL, saga_id TEXT,
    UNIQUE (trace_id, span_id)
)
"""


class SpanFileExporter(SpanExporter):
    """Writes spans into the file; a span that is there already is left as it is.

    Args:
        path: of the file; its folder is made.
        most_rows: how many spans are kept.
        most_age: how long they are kept, microseconds.
        clock: for their age.
    """

    def __init__(
        self, path: Path, *, most_rows: int = MOST_ROWS, most_age: int = MOST_AGE, clock: Clock = system_clock
    ) -> None:
        self._path = path
        self._most_rows = most_rows
        self._most_age = most_age
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._exports = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch in one transaction; FAILURE, never an error, where the file cannot be written."""
        rows = [_to_columns(row) for row in map(to_row, spans) if row is not None]
        with self._lock:
            try:
                connection = self._connection = self._connection or _open(self._path)
                connection.execute("BEGIN IMMEDIATE")
                for start in range(0, len(rows), _TOGETHER):
                    chosen = rows[start : start + _TOGETHER]
                    values = ", ".join([_VALUES] * len(chosen))
                    connection.execute(_INSERT + values, [*chain.from_iterable(chosen)])
                if self._exports % _PRUNE_EVERY == 0:
                    self._prune(connection)
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError):
                self._close()
                return SpanExportResult.FAILURE
            self._exports += 1
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: `export` leaves nothing behind."""
        return True

    def _prune(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM span WHERE n <= (SELECT max(n) FROM span) - ?", (self._most_rows,))
        connection.execute("DELETE FROM span WHERE end < ?", (self._clock() - self._most_age,))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back what is open
            self._connection = None


def read_spans(path: Path, trace_id: int) -> list[SpanRow]:
    """Read a trace from the file, in the order of arrival; empty where the file or the trace does not exist.

    Raises:
        StoreUnreachable: the file cannot be read.
    """
    return _read(path, " WHERE trace_id = ? ORDER BY n", f"{trace_id:032x}")


def read_saga_spans(path: Path, saga_id: str) -> list[SpanRow]:
    """Read what carries this `saga.id`, over all traces: every epoch, and the anchor in its origin's trace.

    Raises:
        StoreUnreachable: the file cannot be read.
    """
    return _read(path, " WHERE saga_id = ? ORDER BY n", saga_id)


def to_row(span: ReadableSpan) -> SpanRow | None:
    """Convert a span of the SDK; None for one that has no id or has not ended."""
    context = span.get_span_context()
    if context is None or span.start_time is None or span.end_time is None:
        return None
    return SpanRow(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent is not None else None,
        span.name,
        span.kind.name,
        str(span.resource.attributes.get("service.name", "")),
        span.start_time // 1_000,
        span.end_time // 1_000,
        span.status.status_code.name,
        span.status.description or "",
        _plain(span.attributes),
        tuple(
            LinkRow(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", _plain(link.attributes))
            for link in span.links
        ),
        tuple(EventRow(event.name, event.timestamp // 1_000, _plain(event.attributes)) for event in span.events),
    )


def _plain(attributes: Mapping[str, object] | None) -> dict[str, AttributeValue]:
    return {
        name: value if isinstance(value, (str, int, float)) else [str(each) for each in _listed(value)]
        for name, value in (attributes or {}).items()
    }


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        write_ahead(connection, _BUSY_SECONDS)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            connection.execute("DROP TABLE IF EXISTS span")
            connection.execute(_SCHEMA)
            connection.execute("CREATE INDEX span_saga ON span (saga_id) WHERE saga_id IS NOT NULL")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _read(path: Path, condition: str, value: str) -> list[SpanRow]:
    if not path.exists():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        ) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                return []
            return [_from_columns(row) for row in connection.execute(_SELECT + condition, (value,))]
    except sqlite3.Error as error:
        raise StoreUnreachable(f"cannot read the span file {path}: {error}; delete it to start anew") from error


def _to_columns(row: SpanRow) -> tuple[str | int | None, ...]:
    saga_id = row.attributes.get("saga.id")
    return (
        row.trace_id,
        row.span_id,
        row.parent_id,
        row.name,
        row.kind,
        row.service,
        row.start,
        row.end,
        row.status,
        row.description,
        _text(row.attributes),
        _text([(link.trace_id, link.span_id, link.attributes) for link in row.links]) if row.links else "[]",
        _text([(event.name, event.at, event.attributes) for event in row.events]) if row.events else "[]",
        saga_id if isinstance(saga_id, str) else None,
    )


def _text(value: object) -> str:
    return _WRITER.encode(value).decode()


def _from_columns(row: tuple[str, str, str | None, str, str, str, int, int, str, str, str, str, str]) -> SpanRow:
    attributes, links, events = row[10:]
    return SpanRow(
        *row[:10],
        json.loads(attributes),
        tuple(LinkRow(*link) for link in json.loads(links)),
        tuple(EventRow(*event) for event in json.loads(events)),
    )
