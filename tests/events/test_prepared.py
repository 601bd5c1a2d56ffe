"""Statements of the hot paths: the same on every database and driver, whoever runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from choreo.events.database import Database
from choreo.events.prepared import Prepared, driver_of, listed, one_of

metadata = MetaData()
parcel = Table(
    "parcel",
    metadata,
    Column("id", Text, primary_key=True),
    Column("weight", Integer),
    Column("label", LargeBinary),
    Column("group", String(8)),
    Column("fragile", Boolean),
)

INSERT = Prepared(insert(parcel))
NEW = Prepared(
    lambda dialect: (postgresql.insert if dialect == "postgresql" else sqlite.insert)(parcel).on_conflict_do_nothing()
)
REWEIGH = Prepared(update(parcel).where(parcel.c.id == bindparam("the_id")))
HEAVIEST = Prepared(select(parcel.c.id, parcel.c.weight).order_by(parcel.c.weight.desc()).limit(1))


def _some(dialect: str) -> Select[tuple[str, int, bytes]]:
    columns = select(parcel.c.id, parcel.c.weight, parcel.c.label)
    return columns.where(one_of(parcel.c.id, "ids", dialect)).order_by(parcel.c.id)


SOME = Prepared(_some)

ROWS = [
    {"id": "a", "weight": 1, "label": b"\x00\xff"},
    {"id": "b", "weight": 30, "label": None},
    {"id": "ü'\"", "weight": 2, "label": b""},
]


@pytest.fixture(params=["driver", "aside", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:{tmp_path / 'store.db'}"
    opened = await Database.open(url, aside=request.param == "aside")
    await opened.write(metadata.create_all)
    await opened.write(lambda connection: INSERT.run(connection, ROWS))
    assert await opened.read(lambda connection: driver_of(connection) is not None) == (request.param == "driver")
    yield opened
    await opened.close()


async def test_rows_come_as_they_were_written(database: Database) -> None:
    def look(connection: Connection, *ids: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in SOME.rows(connection, {"ids": listed(connection, ids)})]

    assert await database.read(lambda c: look(c, "ü'\"", "a", "nowhere")) == [
        ("a", 1, b"\x00\xff"),
        ("ü'\"", 2, b""),
    ]
    assert await database.read(lambda c: look(c, "b")) == [("b", 30, None)]
    assert await database.read(look) == []


async def test_what_is_no_parameter_stays_what_it_is(database: Database) -> None:
    rows = await database.read(lambda connection: HEAVIEST.rows(connection, {}))
    assert [tuple(row) for row in rows] == [("b", 30)]


async def test_a_change_tells_how_many_rows_it_met(database: Database) -> None:
    def reweigh(connection: Connection) -> int | None:
        return REWEIGH.run(connection, [{"the_id": each, "weight": 7} for each in ("a", "b", "nowhere")])

    assert await database.write(reweigh) == 2
    assert (await database.read(lambda connection: connection.scalar(text("SELECT sum(weight) FROM parcel")))) == 16


async def test_many_rows_are_written_each_with_its_own_values_and_those_that_are_there_are_left(
    database: Database,
) -> None:
    rows = [
        {"id": f"p{number}", "weight": number, "label": bytes([number]), "group": None, "fragile": number % 2 == 0}
        for number in range(200)
    ]
    there = {"id": "a", "weight": 99, "label": None, "group": "x", "fragile": True}
    assert await database.write(lambda connection: NEW.run(connection, [there, *rows])) == 200
    assert await database.write(lambda connection: NEW.run(connection, rows[:3])) == 0
    kept = await database.read(lambda c: c.execute(select(parcel).where(parcel.c.id.in_(["a", "p7"]))).all())
    assert sorted(tuple(row) for row in kept) == [
        ("a", 1, b"\x00\xff", None, None),
        ("p7", 7, b"\x07", None, False),
    ]


async def test_what_is_too_long_for_its_column_is_refused_by_postgresql_and_never_cut(postgres_url: str) -> None:
    database = await Database.open(postgres_url)
    await database.write(metadata.create_all)
    long = {"id": "long", "weight": 1, "label": None, "group": "nine char", "fragile": False}
    with pytest.raises(DBAPIError, match="too long"):
        await database.write(lambda connection: NEW.run(connection, [long]))
    await database.close()


async def test_a_refusal_is_sqlalchemy_s_own_error_without_the_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as caught:
        await database.write(lambda c: INSERT.run(c, [{"id": "a", "weight": 987654, "label": b"secret"}]))
    assert "987654" not in str(caught.value)
    assert "secret" not in str(caught.value)
    await database.write(lambda connection: connection.execute(text("DROP TABLE parcel")))
    with pytest.raises(DBAPIError) as missing:
        await database.read(lambda connection: HEAVIEST.rows(connection, {}))
    assert "parcel" in str(missing.value.orig)
    if database.dialect == "sqlite":
        assert isinstance(missing.value, OperationalError)
