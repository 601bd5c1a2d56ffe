"""A fresh file that several processes open at the same time: whoever comes second waits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from choreo.events.database import Database
from choreo.events.local import LocalBroker
from choreo.events.wal import write_ahead
from choreo.tracing.spanfile import SpanFileExporter


async def _as_a_broker(path: Path) -> None:
    async with LocalBroker(path):
        pass


async def _as_a_store(path: Path) -> None:
    await (await Database.open(f"sqlite:{path}")).close()


async def _as_a_span_file(path: Path) -> None:
    exporter = SpanFileExporter(path)
    try:
        assert await asyncio.to_thread(exporter.export, []) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()


@pytest.mark.parametrize("opening", [_as_a_broker, _as_a_store, _as_a_span_file])
async def test_a_file_that_another_process_switches_or_writes_is_waited_for(
    tmp_path: Path, opening: Callable[[Path], Awaitable[None]]
) -> None:
    path = tmp_path / "fresh.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE other (id INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        opened = asyncio.ensure_future(opening(path))
        await asyncio.sleep(0.3)
        assert not opened.done()
        other.execute("COMMIT")
        await opened
    with closing(sqlite3.connect(path)) as later:
        assert later.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_nobody_waits_for_ever_nor_for_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "fresh.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(sqlite3.connect(path)) as ours:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            write_ahead(ours, 0.2)
        assert time.monotonic() - began >= 0.2
    (tmp_path / "text").write_text("no database at all, and long enough to be read as one" * 30)
    with closing(sqlite3.connect(tmp_path / "text")) as text, pytest.raises(sqlite3.DatabaseError, match="not a data"):
        write_ahead(text, 60)
