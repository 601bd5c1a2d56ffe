"""Rows one after another, with their numbers: of a file of CSV or JSON lines, gzip too, or of another source."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pydantic_core import from_json

from .errors import ConfigurationError

Row: TypeAlias = dict[str, Any]
"""A row by column name: text from CSV, JSON values from JSON lines, Python values from Parquet and SQL."""

MOST_LINE_BYTES = 1_000_000
_GZIP = b"\x1f\x8b"
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is no row, or a row that makes no event; the reason quotes no value.

    Args:
        line: counted from 1, the header included.
        reason: what is wrong.
    """

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class RowSource(Protocol):
    """Where rows come from; iterate once, then close. It is iterated in threads, one after another."""

    @property
    def done(self) -> int:
        """How much has been read, in the unit of `total`."""

    @property
    def total(self) -> int | None:
        """How much there is: bytes of a file as it lies on disk, or rows; None where nobody knows."""

    def __iter__(self) -> Iterator[tuple[int, Row] | Malformed]:
        """Give rows with their numbers, from 1 on, or why one is none."""

    def close(self) -> None:
        """Let go of the source."""


def open_rows(path: Path) -> RowSource:
    """Open a file, whichever kind it is: Parquet is known by its first bytes.

    Raises:
        ConfigurationError: it cannot be opened or read.
    """
    from .parquet import MAGIC, ParquetRows

    try:
        with path.open("rb") as file:
            parquet = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
    return ParquetRows(path) if parquet else RowReader(path)


class RowReader:
    """Reads a file row by row; iterate once.

    Args:
        path: the file; gzip is known by its first bytes, JSON lines by the suffix or a `{` at the start.

    Raises:
        ConfigurationError: it cannot be opened, or its header is unusable.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._raw = path.open("rb")
            self.total: int | None = path.stat().st_size
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
        self._path = path
        self.line = 0
        zipped = self._raw.read(2) == _GZIP
        self._raw.seek(0)
        self._stream = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw

    @property
    def done(self) -> int:
        """How much of the file has been read, in bytes as it lies on disk."""
        total = self.total or 0
        return total if self._raw.closed else min(self._raw.tell(), total)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._raw.close()

    def __iter__(self) -> Iterator[tuple[int, Row] | Malformed]:
        lines = self._lines()
        try:
            first = next((line for line in lines if isinstance(line, Malformed) or line.strip()), None)
            if first is None:
                return
            stem = Path(self._path.stem) if self._path.suffix == ".gz" else self._path
            if stem.suffix in _JSON_SUFFIXES or (isinstance(first, str) and first.lstrip().startswith("{")):
                yield from _json_rows(self, first, lines)
            else:
                yield from _csv_rows(self, first, lines)
        except (EOFError, OSError, zlib.error):
            raise ConfigurationError(
                f"{self._path} is damaged after line {self.line}; the rest cannot be read"
            ) from None
        finally:
            self.close()

    def _lines(self) -> Iterator[str | Malformed]:
        while data := self._stream.readline(MOST_LINE_BYTES + 1):
            self.line += 1
            if len(data) > MOST_LINE_BYTES:
                while data and not data.endswith(b"\n"):
                    data = self._stream.readline(MOST_LINE_BYTES)
                yield Malformed(self.line, f"longer than {MOST_LINE_BYTES} bytes")
                continue
            if self.line == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            # What is not UTF-8 is kept as lone surrogates, so that the row to which it belongs can be named.
            yield data.decode("utf-8", "surrogateescape")


def _json_rows(reader: RowReader, first: str | Malformed, lines: Iterator[str | Malformed]) -> Iterator[Any]:
    line: str | Malformed | None = first
    while line is not None:
        if isinstance(line, Malformed):
            yield line
        elif line.strip():
            yield _json_row(reader.line, line)
        line = next(lines, None)


def _json_row(number: int, line: str) -> tuple[int, Row] | Malformed:
    try:
        row = from_json(line.encode())
    except UnicodeEncodeError:
        return Malformed(number, "not UTF-8 text")
    except ValueError:
        return Malformed(number, "not JSON")
    return (number, row) if isinstance(row, dict) else Malformed(number, "not a JSON object")


def _csv_rows(reader: RowReader, first: str | Malformed, lines: Iterator[str | Malformed]) -> Iterator[Any]:
    skipped: list[Malformed] = []

    def texts() -> Iterator[str]:
        line: str | Malformed | None = first
        while line is not None:
            if isinstance(line, Malformed):
                skipped.append(line)
            else:
                yield line
            line = next(lines, None)

    table = csv.reader(texts(), strict=True)
    header = _header(table, reader)
    while True:
        try:
            cells = next(table, None)
        except csv.Error:
            yield Malformed(reader.line, "not CSV: a quote is misplaced or a cell is too long")
            continue
        yield from skipped
        skipped.clear()
        if cells is None:
            return
        if cells:
            yield _csv_row(reader.line, header, cells)


def _header(table: Iterator[list[str]], reader: RowReader) -> list[str]:
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error:
        header = []
    if not header or not all(header) or any(map(_broken, header)):
        raise ConfigurationError(f"line {reader.line}: the header of a CSV file names every column, in UTF-8")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ConfigurationError(f"line {reader.line}: the header names {', '.join(twice)} twice")
    return header


def _csv_row(number: int, header: list[str], cells: list[str]) -> tuple[int, Row] | Malformed:
    if len(cells) != len(header):
        return Malformed(number, f"{len(cells)} cells, the header has {len(header)}")
    if any(map(_broken, cells)):
        return Malformed(number, "not UTF-8 text")
    return number, dict(zip(header, cells, strict=True))


def _broken(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)
