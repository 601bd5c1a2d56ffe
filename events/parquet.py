"""Rows of a Parquet file, read batch by batch; pyarrow is loaded only here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .rows import Malformed, Row

MAGIC = b"PAR1"
_BATCH = 1_000


class ParquetRows:
    """Reads a Parquet file row by row; iterate once.

    Args:
        path: the file.

    Raises:
        ConfigurationError: it cannot be read, names a column twice, or pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError:
            raise ConfigurationError(f"{path} is Parquet, which pyarrow reads: pip install 'choreo[parquet]'") from None
        self._path = path
        self._error: type[Exception] = arrow.ArrowException
        self._coarse = _coarse(arrow)
        try:
            self._file: Any = parquet.ParquetFile(path)
        except (OSError, self._error):
            raise ConfigurationError(f"cannot read {path}: it is damaged, or no Parquet file") from None
        names = self._file.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            self.close()
            raise ConfigurationError(f"{path} names {', '.join(twice)} twice")
        self.total: int | None = self._file.metadata.num_rows
        self.done = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, Row] | Malformed]:
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH):
                for row in self._coarse(batch).to_pylist():
                    self.done += 1
                    yield self.done, row
        except (OSError, self._error):
            raise ConfigurationError(
                f"{self._path} is damaged after row {self.done}; the rest cannot be read"
            ) from None
        finally:
            self.close()


def _coarse(arrow: Any) -> Any:
    """Make what turns nanoseconds, which Python has no values for, into microseconds."""

    def convert(batch: Any) -> Any:
        for index, field in enumerate(batch.schema):
            if arrow.types.is_timestamp(field.type) and field.type.unit == "ns":
                column = batch.column(index).cast(arrow.timestamp("us", field.type.tz), safe=False)
                batch = batch.set_column(index, field.name, column)
        return batch

    return convert
