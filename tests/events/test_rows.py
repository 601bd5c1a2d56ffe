"""Rows of Parquet files and of SQL queries as events, each once, and no faster than asked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from sqlalchemy import create_engine, text

from choreo import ConfigurationError, Event, Publisher
from choreo.events import parquet as parquet_module
from choreo.events import query as query_module
from choreo.events.codec import Codec
from choreo.events.database import Database
from choreo.events.envelope import AVRO
from choreo.events.memory import MemoryBroker
from choreo.events.query import QueryRows
from choreo.events.registry import EmbeddedRegistry
from choreo.events.rows import Malformed, RowSource, open_rows
from choreo.events.source import PublishReport, preview, publish_rows


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal
    on: date | None = None
    at: datetime | None = None
    note: bytes | None = None


NAMES = ("order_id", "total", "on", "at", "note")
ROWS = [
    (f"o-{n}", Decimal("19.90"), date(2026, 11, 21), datetime(2026, 11, 21, n, tzinfo=UTC), b"\xff") for n in range(5)
]


def driven(url: str) -> str:
    """Name a driver that blocks."""
    return "mysql+pymysql:" + url.partition(":")[2]


class Lasting(MemoryBroker):
    """A broker whose records last, as the ledger takes it."""

    @property
    def url(self) -> str:
        return "lasting:"


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with Lasting() as made:
        yield made


async def publish(broker: MemoryBroker, home: Path, rows: RowSource, **options: Any) -> PublishReport:
    async with Publisher(broker, source="test") as publisher:
        return await publish_rows(publisher, Ordered, rows, name="rows", home=home, **options)


SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=["parquet", "sqlite", *SERVERS])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A way to open the same five rows."""
    if request.param == "parquet":
        table = pyarrow.table({name: [row[index] for row in ROWS] for index, name in enumerate(NAMES)})
        parquet.write_table(table, tmp_path / "orders.dat", row_group_size=2)
        return lambda: open_rows(tmp_path / "orders.dat")
    if request.param == "sqlite":
        path = tmp_path / "a shop?.db"
        with sqlite3.connect(path) as connection:
            connection.execute('CREATE TABLE orders (order_id, total, "on", at, note)')
            plain = [(each[0], str(each[1]), each[2].isoformat(), each[3].isoformat(), each[4]) for each in ROWS]
            connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", plain)
        connection.close()
        url = f"sqlite:{path}"
    elif request.param == "mariadb":
        url = request.getfixturevalue("mariadb_url")
        engine = create_engine(driven(url))
        with engine.begin() as server:
            server.execute(
                text("create table orders (order_id text, total decimal(9,2), `on` date, at text, note blob)")
            )
            plain = [(*row[:3], row[3].isoformat(), row[4]) for row in ROWS]
            insert = "INSERT INTO orders VALUES (:order_id, :total, :on, :at, :note)"
            server.execute(text(insert), [dict(zip(NAMES, row, strict=True)) for row in plain])
        engine.dispose()
    else:
        url = request.getfixturevalue("postgres_url")
        database = await Database.open(url)
        create = 'CREATE TABLE orders (order_id text, total numeric, "on" date, at timestamptz, note bytea)'
        insert = "INSERT INTO orders VALUES (:order_id, :total, :on, :at, :note)"
        await database.write(lambda c: c.execute(text(create)))
        await database.write(lambda c: c.execute(text(insert), [dict(zip(NAMES, row, strict=True)) for row in ROWS]))
        await database.close()
    return lambda: QueryRows(url, "SELECT * FROM orders WHERE order_id >= :from ORDER BY order_id", {"from": "o-"})


async def test_rows_become_typed_events_and_a_second_run_sends_none(
    source: Any, broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "_BATCH", 2)
    monkeypatch.setattr(query_module, "_BATCH", 2)
    report = await publish(broker, tmp_path, source())
    assert (report.rows, report.published, report.malformed_count) == (5, 5, 0)
    codec = Codec(EmbeddedRegistry(broker))
    found = []
    for delivery in await broker.snapshot("orders"):
        await codec.learn(int.from_bytes((delivery.value or b"")[1:5], "big"))
        found.append(codec.decode(Ordered, delivery.value or b"", AVRO))
    assert sorted(found, key=Ordered.key_text) == [
        Ordered(order_id=row[0], total=row[1], on=row[2], at=row[3], note=row[4]) for row in ROWS
    ]
    again = await publish(broker, tmp_path, source())
    assert (again.rows, again.published, again.already) == (5, 0, 5)


async def test_a_killed_run_goes_on_where_it_was(source: Any, broker: MemoryBroker, tmp_path: Path) -> None:
    class Killed(Exception): ...

    def kill(progress: Any) -> None:
        if progress.published == 2:
            raise Killed

    with pytest.raises(Killed):
        await publish(broker, tmp_path, source(), rate=8, on_progress=kill)
    assert len(await broker.snapshot("orders")) == 2
    report = await publish(broker, tmp_path, source())
    assert (report.published, report.already) == (3, 2)


async def test_a_rate_is_kept_and_what_was_published_before_costs_none_of_it(
    source: Any, broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, *rest: Any) -> Any:
        slept.append(seconds)
        return await sleep(0, *rest)

    monkeypatch.setattr("choreo.events.source.asyncio.sleep", note)
    await publish(broker, tmp_path, source(), rate=4)
    assert [seconds for seconds in slept if seconds > 0] and max(slept) <= 5 / 4
    assert sum(1 for seconds in slept if seconds) == 5  # one event at a time, each with its pause
    slept.clear()
    await publish(broker, tmp_path, source(), rate=4)
    assert not any(slept)


def test_a_preview_reads_a_few_rows_and_lets_go(source: Any) -> None:
    found = list(preview(Ordered, source(), rows=2))
    assert [(each[0], each[1].key_text()) for each in found if not isinstance(each, Malformed)] == [
        (1, "o-0"),
        (2, "o-1"),
    ]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (order_id TEXT, total TEXT)")
    connection.execute("INSERT INTO orders VALUES ('a', '1'), ('b', 'many'), ('c', '3')")
    connection.commit()
    yield f"sqlite:{path}"
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
    connection.close()


async def test_a_row_that_makes_no_event_is_told_by_its_number(shop: str, broker: MemoryBroker, tmp_path: Path) -> None:
    report = await publish(broker, tmp_path, QueryRows(shop, "SELECT * FROM orders"))
    assert (report.published, [each.line for each in report.malformed]) == (2, [2])
    assert "many" not in report.malformed[0].reason


@pytest.mark.parametrize(
    ("query", "parameters", "told"),
    [
        ("DELETE FROM orders", {}, "attempt to write a readonly database"),
        ("INSERT INTO orders VALUES ('x', '1') RETURNING order_id", {}, "attempt to write a readonly database"),
        ("SELECT * FROM order_s", {}, "no such table: order_s"),
        ("SELECT order_id, total AS order_id FROM orders", {}, "names the column order_id twice"),
        ("PRAGMA query_only = ON", {}, "the query gives no rows; write a SELECT"),
        ("SELECT :a", {}, "the query needs :a; give it with --param a=..."),
        ("SELECT 1", {"b": "1"}, "the query has no :b"),
    ],
)
def test_a_query_only_reads_and_what_is_wrong_is_told(
    shop: str, query: str, parameters: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        list(QueryRows(shop, query, parameters))


def test_a_parameter_is_a_value_and_never_sql(shop: str) -> None:
    evil = "a' OR '1'='1"
    assert list(QueryRows(shop, "SELECT * FROM orders WHERE order_id = :id", {"id": evil})) == []
    [(number, row)] = QueryRows(shop, "SELECT * FROM orders WHERE order_id = :id", {"id": "a"})  # type: ignore[misc]
    assert (number, row) == (1, {"order_id": "a", "total": "1"})


@pytest.mark.mariadb
def test_a_mariadb_query_only_reads(mariadb_url: str) -> None:
    for statement in ("CREATE TABLE t (a int)", "CREATE TEMPORARY TABLE t (a int) SELECT 1 AS a"):
        with pytest.raises(ConfigurationError):
            list(QueryRows(driven(mariadb_url), statement))
    assert list(QueryRows(driven(mariadb_url), "SHOW TABLES")) == []


@pytest.mark.postgres
def test_a_postgresql_query_only_reads_and_errors_quote_no_data(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="read-only transaction"):
        list(QueryRows(postgres_url, "CREATE TABLE t (a int)"))
    with pytest.raises(ConfigurationError) as error:
        list(QueryRows(postgres_url, "SELECT CAST('4111 1111' AS int)"))
    assert "4111" not in error.value.message
    [(_, row)] = QueryRows(postgres_url, "SELECT CAST(:since AS timestamptz) AS since", {"since": "2026-11-21T09:00Z"})  # type: ignore[misc]
    assert row == {"since": datetime(2026, 11, 21, 9, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is no database"),
        ("postgresql://ann:s3cret@127.0.0.1:1/shop", "127.0.0.1"),
        ("oracle+cx_oracle://ann:s3cret@db/shop", "the driver of 'oracle\\+cx_oracle://ann:\\*\\*\\*@db/shop'"),
    ],
)
def test_a_database_that_cannot_be_asked_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        list(QueryRows(url, "SELECT 1"))
    assert "s3cret" not in error.value.message


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(ConfigurationError, match="is damaged, or no Parquet file"):
        open_rows(tmp_path / "x.parquet")


def test_nanoseconds_are_read_as_microseconds(tmp_path: Path) -> None:
    at = pyarrow.array([1_763_715_600_000_000_123], pyarrow.timestamp("ns", "UTC"))
    parquet.write_table(pyarrow.table({"at": at}), tmp_path / "x.parquet")
    [(_, row)] = open_rows(tmp_path / "x.parquet")  # type: ignore[misc]
    assert row == {"at": datetime(2025, 11, 21, 9, tzinfo=UTC)}


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")

    def lacking(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(parquet_module, "import_module", lacking)
    with pytest.raises(ConfigurationError, match=r"pip install 'choreo\[parquet\]'"):
        open_rows(tmp_path / "x.parquet")
