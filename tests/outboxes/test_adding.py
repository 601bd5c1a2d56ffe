"""`Outbox.add`: what is committed is in the outbox, what is rolled back is not, what could never be sent is refused."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker

from choreo import (
    ConfigurationError,
    Event,
    LimitExceeded,
    MissingKey,
    Outbox,
    Publisher,
    SchemaRefused,
    Secret,
    Settings,
)
from choreo.events.codec import Codec
from choreo.events.envelope import read_envelope
from choreo.events.errors import BrokerUnreachable, EncodeError
from choreo.events.keys import Keys
from choreo.events.local import LocalBroker
from choreo.events.outboxes.table import ddl, shard_of, to_record
from choreo.events.registry import EmbeddedRegistry
from tests.outboxes.system import WAYS, Ordered, Paid, System, Undo, orders, plain_sqlite


async def test_an_event_is_there_with_the_order_and_gone_with_it(system: System, backend: str, outbox: Outbox) -> None:
    """In every way in which a system may write."""
    for number, (way, write) in enumerate(WAYS[backend], start=1):
        await write(system, outbox, [Ordered(number="4711", total=7), Paid(number="4711")], False)
        rows = await system.rows()
        assert len(rows) == 2 * number, way
        assert len(await system.orders()) == number, way
        assert [row.aggregatetype for row in rows[-2:]] == ["orders", "payments"], way
        assert rows[-1].payload == b'{"number":"4711"}', way
        with pytest.raises(Undo):
            await write(system, outbox, [Ordered(number="4711")], True)
        assert len(await system.rows()) == 2 * number, way
        assert len(await system.orders()) == number, way


async def test_any_text_and_any_bytes_come_back_as_they_were(system: System, outbox: Outbox) -> None:
    key = "Ärger № 4711 🙂 " + "x" * 9_000
    big = Ordered(number=key, total=2**62)
    await system.add(outbox, big)
    [row] = await system.rows()
    record = to_record(row)
    assert record.key == key.encode()
    assert Ordered.model_validate_json(record.value or b"") == big
    assert row.shard == shard_of(key)


async def test_an_encrypted_event_lies_encrypted_in_the_outbox(tmp_path: Path) -> None:
    class Stored(Event, topic="vault", key="id", format="json", encrypted="secrets"):
        id: str
        card: Secret[str]

    keys = {"2026": bytes(32)}
    text = SecretStr(f"2026={base64.b64encode(keys['2026']).decode()}")
    settings = Settings(home=tmp_path, broker=f"local:{tmp_path / 'broker.db'}", keys=text)
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    async with system.database.transaction() as connection:
        [id_] = await Outbox(source="shop", settings=settings).add(connection, Stored(id="1", card=Secret("4111-1111")))
    [row] = await system.rows()
    value = to_record(row).value or b""
    assert b"4111" not in value
    codec = Codec(EmbeddedRegistry(LocalBroker(tmp_path / "broker.db")), Keys(keys))
    assert codec.decode(Stored, value, "application/json", id_=id_).card.reveal() == "4111-1111"
    await system.database.close()


async def test_a_record_is_the_one_that_a_publisher_would_send(tmp_path: Path) -> None:
    """Byte for byte, Avro with the registry's schema id among it."""

    class Shipped(Event, topic="shipping", key="number"):
        number: str
        parcels: int = 1

    settings = Settings(home=tmp_path, broker=f"local:{tmp_path / 'broker.db'}")
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    outbox = Outbox(source="shop", settings=settings)
    moment = datetime(2026, 11, 21, 9, 2, 11, 402_000, tzinfo=UTC)
    shipped = Shipped(number="4711", parcels=3)
    async with system.database.transaction() as connection:
        [id_] = await outbox.add(connection, shipped, id="s-1", time=moment, causation_id="c-1")
    assert id_ == "s-1"
    [row] = await system.rows()
    async with Publisher(source="shop", settings=settings) as publisher:
        await publisher.publish(shipped, id="s-1", time=moment, causation_id="c-1")
    async with LocalBroker(tmp_path / "broker.db") as broker:
        [sent] = await broker.snapshot("shipping")
    record = to_record(row)
    assert (record.topic, record.key, record.value, record.headers) == (
        sent.topic,
        sent.key,
        sent.value,
        sent.headers,
    )
    assert read_envelope(sent).time == 1_795_251_731_402_000
    await system.database.close()


@pytest.mark.parametrize(
    ("event", "more", "error", "said"),
    [
        (Ordered(number="x" * 10_001), {}, LimitExceeded, "its key has 10,001 characters"),
        (Ordered(number=""), {}, MissingKey, "its key 'number' is empty"),
        (Ordered(number="a\0b"), {}, LimitExceeded, "holds a NUL character"),
        (Ordered(number="1"), {"id": "x" * 256}, LimitExceeded, "its id has 256 characters"),
        (Ordered(number="1"), {"causation_id": "x" * 9_000}, LimitExceeded, "headers of"),
        (Ordered(number="1"), {"time": datetime(2026, 1, 1)}, ConfigurationError, "time=: "),
    ],
)
async def test_what_could_never_be_sent_is_refused_before_the_commit(
    tmp_path: Path, outbox: Outbox, event: Event, more: dict[str, Any], error: type[Exception], said: str
) -> None:
    """The transaction goes on, if the system wants that, and holds no half of it."""
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("INSERT INTO orders VALUES ('4711', 1)")
        with pytest.raises(error, match=said):
            outbox.add(connection, event, **more)
    connection.close()
    assert await system.rows() == []
    assert await system.orders() == ["4711"]
    await system.database.close()


async def test_an_event_that_is_too_large_is_refused_before_the_commit(tmp_path: Path) -> None:
    class Attached(Event, topic="files", key="number", format="json"):
        number: str
        content: str

    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    with pytest.raises(LimitExceeded, match=r"Attached: a record of 1,000,\d+ bytes for files; at most 1,000,000"):
        await system.add(Outbox(source="shop"), Ordered(number="1"), Attached(number="1", content="x" * 1_000_000))
    assert await system.rows() == []
    await system.database.close()


async def test_a_value_that_does_not_fit_its_schema_is_refused_before_the_commit(tmp_path: Path) -> None:
    class Counted(Event, topic="stock", key="sku"):
        sku: str
        count: int

    settings = Settings(home=tmp_path)
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    with pytest.raises(EncodeError, match=r"Counted\.count does not fit in 64 bits"):
        await system.add(Outbox(source="shop", settings=settings), Counted(sku="1", count=2**80))
    assert await system.rows() == []
    await system.database.close()


async def test_a_schema_that_readers_could_not_read_is_refused_at_start(tmp_path: Path) -> None:
    class First(Event, topic="stock", key="sku", type="Counted"):
        sku: str

    class Second(Event, topic="stock", key="sku", type="Counted"):
        sku: str
        shelf: str

    outbox = Outbox(source="shop", settings=Settings(home=tmp_path))
    outbox.prepare(First, Ordered)
    with pytest.raises(SchemaRefused, match="shelf is new and has no default"):
        outbox.prepare(Second)
    with pytest.raises(SchemaRefused, match="shelf"):
        await outbox.prepare_async(Second)


def test_no_broker_is_asked_but_for_a_schema(tmp_path: Path) -> None:
    """An existing system goes on when the broker is away, once its classes are prepared."""

    class Counted(Event, topic="stock", key="sku"):
        sku: str

    away = Settings(home=tmp_path, broker="kafka://127.0.0.1:1")
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(";".join(ddl("sqlite")))
    outbox = Outbox(source="shop", settings=away)
    outbox.add(connection, Ordered(number="1"))
    with pytest.raises(BrokerUnreachable):
        outbox.prepare(Counted)
    prepared = Outbox(source="shop", broker=f"local:{tmp_path / 'broker.db'}", settings=away)
    prepared.prepare(Counted)
    (tmp_path / "broker.db").unlink()
    prepared.add(connection, Counted(sku="1"))
    connection.commit()
    assert connection.execute("SELECT count(*) FROM choreo_event_outbox").fetchone() == (2,)
    connection.close()


# ---- no event without its transaction -------------------------------------------------------------------------------


def _refused(add: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="no transaction is open on this connection"):
        add()


async def test_a_connection_that_commits_each_statement_is_refused_on_sqlite(tmp_path: Path, outbox: Outbox) -> None:
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    _refused(lambda: outbox.add(connection, Ordered(number="1")))
    connection.execute("BEGIN")
    outbox.add(connection, Ordered(number="1"))
    connection.execute("COMMIT")
    connection.close()
    engine = create_engine(system.engine_url("sqlite"), execution_options={"isolation_level": "AUTOCOMMIT"})
    with engine.connect() as autocommit:
        _refused(lambda: outbox.add(autocommit, Ordered(number="1")))
    with Session(engine) as session:
        _refused(lambda: outbox.add(session, Ordered(number="1")))
    engine.dispose()
    assert len(await system.rows()) == 1
    await system.database.close()


@pytest.mark.postgres
async def test_a_connection_that_commits_each_statement_is_refused_on_postgres(
    postgres_url: str, outbox: Outbox
) -> None:
    system = await System.make(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as blocking:
        _refused(lambda: outbox.add(blocking, Ordered(number="1")))
        with blocking.transaction():
            outbox.add(blocking, Ordered(number="1"))
    awaited = await asyncpg.connect(postgres_url)
    with pytest.raises(ConfigurationError, match="no transaction is open"):
        await outbox.add(awaited, Ordered(number="1"))
    await awaited.close()
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        with pytest.raises(ConfigurationError, match="no transaction is open"):
            await outbox.add(connection, Ordered(number="1"))
    engine = create_async_engine(system.engine_url("postgresql+asyncpg"))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigurationError, match="no transaction is open"):
            await outbox.add(connection, Ordered(number="1"))
    await engine.dispose()
    assert len(await system.rows()) == 1
    await system.database.close()


def test_what_is_no_connection_is_named(outbox: Outbox) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot write through a builtins\.dict; give it"):
        outbox.add({}, Ordered(number="1"))  # type: ignore[call-overload]


def test_a_scoped_session_is_a_session(tmp_path: Path, outbox: Outbox) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    with engine.begin() as connection:
        for statement in ddl("sqlite"):
            connection.exec_driver_sql(statement)
    scoped = scoped_session(sessionmaker(engine))
    assert len(outbox.add(scoped, Ordered(number="1"), Paid(number="1"))) == 2
    scoped.commit()
    scoped.remove()
    engine.dispose()


async def test_add_needs_no_loop_and_minds_none(tmp_path: Path) -> None:
    """A system that blocks may do so inside of a running loop: the registry is asked from a thread."""

    class Counted(Event, topic="stock", key="sku"):
        sku: str

    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    await plain_sqlite(system, Outbox(source="shop", settings=Settings(home=tmp_path)), [Counted(sku="1")], False)
    assert len(await system.rows()) == 1
    await system.database.close()


def test_wrong_use_is_told_at_once(tmp_path: Path, outbox: Outbox) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(ConfigurationError, match="an outbox needs a source"):
        Outbox(source="")
    with pytest.raises(ConfigurationError, match="is no name for an outbox"):
        Outbox(source="shop", table="x; DROP TABLE orders")
    with pytest.raises(ConfigurationError, match="id= names one event"):
        outbox.add(connection, Ordered(number="1"), Ordered(number="2"), id="1")
    connection.close()


class Base(DeclarativeBase):
    """The system's classes."""


class Order(Base):
    """The row of an order."""

    __table__ = orders
    __mapper_args__: ClassVar[dict[str, Any]] = {"primary_key": [orders.c.number]}


# ---- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
async def test_what_the_session_holds_back_is_written_before_the_event(postgres_url: str, outbox: Outbox) -> None:
    """So a second transaction on the same order waits, and its event gets the higher number."""
    system = await System.make(postgres_url)
    engine = create_engine(system.engine_url("postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(insert(orders), {"number": "4711", "total": 1})
    with Session(engine) as session, engine.connect() as other:
        session.get_one(Order, "4711").total = 2
        outbox.add(session, Ordered(number="4711", total=2))
        other.exec_driver_sql("SET lock_timeout = '200ms'")
        with pytest.raises(Exception, match="lock timeout"):
            other.exec_driver_sql("UPDATE orders SET total = 3 WHERE number = '4711'")
        session.rollback()
    engine.dispose()
    await system.database.close()


# ---- a table that nobody has made -----------------------------------------------------------------------------------


async def test_a_missing_table_is_the_databases_own_error_with_the_remedy(tmp_path: Path, outbox: Outbox) -> None:
    connection = sqlite3.connect(tmp_path / "bare.db")
    with pytest.raises(sqlite3.OperationalError, match="no such table") as blocking:
        outbox.add(connection, Ordered(number="1"))
    connection.close()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'bare.db'}")
    async with engine.connect() as awaited:
        with pytest.raises(OperationalError, match="no such table") as awaiting:
            await outbox.add(awaited, Ordered(number="1"))
    await engine.dispose()
    for told in (blocking, awaiting):
        [note] = told.value.__notes__
        assert note.startswith("choreo's outbox is the table choreo_event_outbox of this database; if that is missing:")
        assert "saga relay --create-table" in note
