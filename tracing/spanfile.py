"""The span file of an embedded run: what `saga trace` reads where there is no Jaeger.

A bounded SQLite file that several processes write at once. It is a convenience, not a record: `synchronous=OFF`, oldest
spans go first, a file of another release is emptied. The saga's history can draw the same steps again at any time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import MsgspecError
from msgspec.json import Decoder, Encoder
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ..events.clock import SECOND, Clock, system_clock
from ..events.errors import StoreUnreachable
from ..events.wal import write_ahead
from .tree import AttributeValue, EventRow, LinkRow, SpanRow

MOST_SPANS = 200_000
MOST_AGE = 7 * 86_400 * SECOND

_VERSION = 3
_PRUNE_EVERY = 100
_BUSY_SECONDS = 2.0
_TOGETHER = 50
"""Rows of one statement: with each statement the exporter gives the interpreter's lock away, and waits for it again."""
_MOST_OF_ROW = 100
_WRITER, _READER = Encoder(), Decoder(list[SpanRow])
_INSERT = "INSERT INTO part (n, trace_id, end, spans) VALUES "
# A row for what one export has of one trace: 8 µs for each span. A row and two index entries for each took 14.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS part (
    n INTEGER PRIMARY KEY, -- how many spans were written by then, this row's included
    trace_id TEXT NOT NULL,
    end INTEGER NOT NULL,  -- of the last one to end
    spans TEXT NOT NULL    -- JSON, in the order of arrival
)
"""


class SpanFileExporter(SpanExporter):
    """Writes spans into the file; a span that is there already is left as it is.

    Args:
        path: of the file; its folder is made.
        most_spans: how many are kept, and at most a hundred more.
        most_age: how long they are kept, microseconds.
        clock: for their age.
    """

    def __init__(
        self, path: Path, *, most_spans: int = MOST_SPANS, most_age: int = MOST_AGE, clock: Clock = system_clock
    ) -> None:
        self._path = path
        self._most_spans = most_spans
        self._most_age = most_age
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._exports = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch in one transaction; FAILURE, never an error, where the file cannot be written."""
        parts = _parts(spans)
        with self._lock:
            try:
                connection = self._connection = self._connection or _open(self._path)
                connection.execute("BEGIN IMMEDIATE")
                (written,) = connection.execute("SELECT coalesce(max(n), 0) FROM part").fetchone()
                for start in range(0, len(parts), _TOGETHER):
                    values: list[str | int] = []
                    chosen = parts[start : start + _TOGETHER]
                    for count, trace, end, told in chosen:
                        written += count
                        values += (written, trace, end, told)
                    connection.execute(_INSERT + ", ".join(["(?, ?, ?, ?)"] * len(chosen)), values)
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
        connection.execute("DELETE FROM part WHERE n <= (SELECT max(n) FROM part) - ?", (self._most_spans,))
        connection.execute("DELETE FROM part WHERE end < ?", (self._clock() - self._most_age,))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back what is open
            self._connection = None


def read_spans(path: Path, trace_id: int) -> list[SpanRow]:
    """Read a trace from the file, in the order of arrival; empty where the file or the trace does not exist.

    Raises:
        StoreUnreachable: the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        ) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                return []
            query = "SELECT spans FROM part WHERE trace_id = ? ORDER BY n"
            parts = [_READER.decode(spans) for (spans,) in connection.execute(query, (f"{trace_id:032x}",))]
    except (sqlite3.Error, MsgspecError) as error:
        raise StoreUnreachable(f"cannot read the span file {path}: {error}; delete it to start anew") from error
    found: dict[str, SpanRow] = {}
    for span in chain.from_iterable(parts):
        found.setdefault(span.span_id, span)  # a copy is identical
    return list(found.values())


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


def _parts(spans: Iterable[ReadableSpan]) -> list[tuple[int, str, int, str]]:
    """Give rows of the file: how many spans, their trace, the end of the last, and the spans."""
    traces: dict[str, list[SpanRow]] = {}
    for row in map(to_row, spans):
        if row is not None:
            traces.setdefault(row.trace_id, []).append(row)
    parts = []
    for trace, found in traces.items():
        for start in range(0, len(found), _MOST_OF_ROW):
            chosen = found[start : start + _MOST_OF_ROW]
            parts.append((len(chosen), trace, max(each.end for each in chosen), _WRITER.encode(chosen).decode()))
    return parts


def _plain(attributes: Mapping[str, object] | None) -> dict[str, AttributeValue]:
    # An SDK's own copy, where there is one, is made at once; a loop over them would ask it for each.
    found: dict[str, Any] = attributes.copy() if isinstance(attributes, MappingProxyType) else dict(attributes or {})
    for name, value in found.items():
        if not isinstance(value, (str, int, float)):
            found[name] = [str(each) for each in _listed(value)]
    return found


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
            for table in ("span", "part"):
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(_SCHEMA)
            connection.execute("CREATE INDEX part_trace ON part (trace_id)")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection
