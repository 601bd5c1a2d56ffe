"""What a pydantic class becomes in Avro, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from fastavro import parse_schema
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, Field, PositiveInt

from choreo.events.codec import Codec
from choreo.events.envelope import AVRO
from choreo.events.errors import DefinitionError, EncodeError
from choreo.events.event import Event
from tests.support.registries import DictRegistry


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(Enum):
    SMALL = "size 1"
    LARGE = "size 2"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Card(BaseModel):
    number: str
    limit: Decimal | None = None


class Cash(BaseModel):
    amount: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]


class Voucher(BaseModel):
    number: str


Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Sku = NewType("Sku", str)


class Everything(Event, topic="all", key="id"):
    id: UUID
    text: str
    number: int
    ratio: float
    yes: bool
    raw: bytes
    bare: Decimal
    money: Money
    day: date
    moment: datetime
    tod: time
    colour: Colour
    size: Size
    level: Level
    choice: Literal["a", "b"]
    maybe: str | None
    maybe_money: Money | None
    pay: Card | Cash | Voucher | None
    cards: list[Card]
    numbers: tuple[int, ...]
    names: set[str]
    prices: dict[str, Decimal]
    mixed: int | str | list[bytes] | dict[str, bool]
    moments: list[datetime | None]
    pays: dict[str, list[Card | Voucher]]


def field(cls: type[Event], name: str) -> dict[str, Any]:
    schema = cls.spec().schema
    assert schema is not None
    found: dict[str, Any] = next(each for each in schema["fields"] if each["name"] == name)
    return found


def one(annotation: Any, default: Any = ...) -> dict[str, Any]:
    body: dict[str, Any] = {"__annotations__": {"id": str, "it": annotation}, "__module__": __name__}
    if default is not ...:
        body["it"] = default
    return field(type(Event)("One", (Event,), body, topic="t", key="id"), "it")


@pytest.mark.parametrize(
    ("annotation", "avro"),
    [
        (str, "string"),
        (Sku, "string"),
        (int, "long"),
        (PositiveInt, "long"),
        (float, "double"),
        (bool, "boolean"),
        (bytes, "bytes"),
        (Decimal, {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}),
        (Money, {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
        (
            Annotated[Decimal, Field(max_digits=5)],
            {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 5},
        ),
        (
            Annotated[Decimal, Field(decimal_places=4)],
            {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 4},
        ),
        (date, {"type": "int", "logicalType": "date"}),
        (datetime, {"type": "long", "logicalType": "timestamp-micros"}),
        (AwareDatetime, {"type": "long", "logicalType": "timestamp-micros"}),
        (time, {"type": "long", "logicalType": "time-micros"}),
        (UUID, {"type": "string", "logicalType": "uuid"}),
        (Colour, {"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}),
        (Size, "string"),
        (Level, "long"),
        (Literal["a", "b"], "string"),
        (Literal[1, 2], "long"),
        (str | None, ["null", "string"]),
        (None | Money, ["null", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}]),
        (list[int], {"type": "array", "items": "long"}),
        (Sequence[int], {"type": "array", "items": "long"}),
        (tuple[int, ...], {"type": "array", "items": "long"}),
        (frozenset[str], {"type": "array", "items": "string"}),
        (dict[str, list[int]], {"type": "map", "values": {"type": "array", "items": "long"}}),
        (int | str, ["long", "string"]),
        (Voucher, {"type": "record", "name": "Voucher", "fields": [{"name": "number", "type": "string"}]}),
    ],
)
def test_each_type_has_its_documented_mapping(annotation: Any, avro: Any) -> None:
    assert one(annotation)["type"] == avro


@pytest.mark.parametrize(
    ("annotation", "default", "avro"),
    [
        (str, "x", "x"),
        (int, 7, 7),
        (float, 1, 1.0),
        (bool, False, False),
        (bytes, b"\xff", "ÿ"),
        (Decimal, Decimal("-1.5"), "\u00a6\u0097\u00d1\u0000"),
        (date, date(1970, 1, 11), 10),
        (datetime, datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (time, time(0, 0, 1), 1_000_000),
        (UUID, UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (Colour, Colour.RED, "red"),
        (str | None, None, None),
        (list[int], [1, 2], [1, 2]),
        (dict[str, Colour], {"a": Colour.BLUE}, {"a": "blue"}),
        (Card, Card(number="1"), {"number": "1", "limit": None}),
    ],
)
def test_defaults_stand_in_the_schema(annotation: Any, default: Any, avro: Any) -> None:
    found = one(annotation, default)
    assert found["default"] == avro
    parse_schema({"type": "record", "name": "R", "fields": [found]})


def test_a_unions_default_is_of_its_first_branch() -> None:
    assert one(int | None, 4) == {"name": "it", "type": ["long", "null"], "default": 4}
    assert one(int | None, None) == {"name": "it", "type": ["null", "long"], "default": None}


def test_factories_of_empty_containers_are_defaults_and_others_are_not() -> None:
    assert one(list[int], Field(default_factory=list))["default"] == []
    assert "default" not in one(str, Field(default_factory=lambda: "new"))
    assert "default" not in one(float, float("nan"))


CODEC = Codec(DictRegistry())


async def codec_for(*classes: type[Event]) -> Codec:
    await CODEC.prepare(classes)
    return CODEC


moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3))]))
decimals = st.decimals(min_value=-(10**20), max_value=10**20, places=9)
money = st.decimals(min_value=-(10**9), max_value=10**9, places=2)
longs = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=20)
cards = st.builds(Card, number=texts, limit=st.none() | decimals)
vouchers = st.builds(Voucher, number=texts)
events = st.builds(
    Everything,
    id=st.uuids(),
    text=texts,
    number=longs,
    ratio=st.floats(allow_nan=False),
    yes=st.booleans(),
    raw=st.binary(max_size=20),
    bare=decimals,
    money=money,
    day=st.dates(),
    moment=moments,
    tod=st.times(),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(Size),
    level=st.sampled_from(Level),
    choice=st.sampled_from(["a", "b"]),
    maybe=st.none() | texts,
    maybe_money=st.none() | money,
    pay=st.none() | cards | vouchers | st.builds(Cash, amount=st.decimals(0, 9_000_000, places=2)),
    cards=st.lists(cards, max_size=3),
    numbers=st.lists(longs, max_size=5).map(tuple),
    names=st.sets(texts, max_size=4),
    prices=st.dictionaries(texts, decimals, max_size=3),
    mixed=longs
    | texts
    | st.lists(st.binary(max_size=4), max_size=3)
    | st.dictionaries(texts, st.booleans(), max_size=3),
    moments=st.lists(st.none() | moments, max_size=3),
    pays=st.dictionaries(texts, st.lists(cards | vouchers, max_size=2), max_size=2),
)


@given(event=events)
@settings(max_examples=150, deadline=None)
async def test_every_event_comes_back_equal(event: Everything) -> None:
    codec = await codec_for(Everything)
    value = codec.encode(event)
    back = codec.decode(Everything, value, AVRO)
    assert back == event
    # Equal classes too: a voucher is no card, though both have a number.
    assert type(back.pay) is type(event.pay)
    assert [[type(each) for each in pays] for pays in back.pays.values()] == [
        [type(each) for each in pays] for pays in event.pays.values()
    ]
    assert codec.encode(back) == value


async def test_a_bare_decimal_comes_back_without_the_schemas_zeros() -> None:
    class Priced(Event, topic="t", key="id"):
        id: str
        bare: Decimal
        money: Money
        list_: list[Decimal]

    codec = await codec_for(Priced)
    event = Priced(id="1", bare=Decimal("19.90"), money=Decimal("19.9"), list_=[Decimal("1E+3"), Decimal("0.00")])
    back = codec.decode(Priced, codec.encode(event), AVRO)
    assert (str(back.bare), str(back.money), [str(each) for each in back.list_]) == ("19.9", "19.90", ["1000", "0"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bare", Decimal("1E-10"), "does not fit in 38 digits with 9 behind the point without rounding"),
        ("bare", Decimal("1E+40"), "does not fit in 38 digits"),
        ("bare", Decimal("1E+1000000000"), "does not fit in 38 digits"),
        ("bare", Decimal("NaN"), "does not fit"),
        ("money", Decimal("0.001"), r"max_digits=\.\.\., decimal_places="),
        ("moment", datetime(2026, 1, 1), "is a time without a zone"),
        ("tod", time(1, tzinfo=UTC), "is a time of day with a zone"),
        ("number", 2**63, "does not fit in 64 bits"),
        ("text", "\ud800", "does not fit its Avro type"),
        ("text", 17, "does not fit its Avro type"),
        ("mixed", 1.5, "is of none of its declared types"),
        ("moments", [datetime(2026, 1, 1)], "is a time without a zone"),
        ("pays", {"secret": ["secret"]}, "is of none of its declared types"),
    ],
)
@given(event=events)
@settings(max_examples=3, deadline=None)
async def test_what_has_no_exact_place_is_refused_by_name(
    event: Everything, name: str, value: Any, message: str
) -> None:
    codec = await codec_for(Everything)
    with pytest.raises(EncodeError, match=f"Everything.{name} .*{message}") as caught:
        codec.encode(event.model_copy(update={name: value}))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "secret" not in str(caught.value) and str(value) not in str(caught.value)


BY_HAND = {
    "type": "record",
    "name": "Legacy",
    "namespace": "com.shop",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "count", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "tod", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "note", "type": ["string", "null"]},
        {"name": "colour", "type": "string"},
        {"name": "ref", "type": "string"},
        {
            "name": "price",
            "type": {
                "type": "fixed",
                "name": "Price",
                "size": 8,
                "logicalType": "decimal",
                "precision": 16,
                "scale": 2,
            },
        },
        {
            "name": "pay",
            "type": [
                {"type": "record", "name": "Voucher", "fields": [{"name": "number", "type": "string"}]},
                {"type": "record", "name": "Ticket", "fields": [{"name": "seat", "type": "int"}]},
            ],
        },
        {"name": "added", "type": "int", "default": 1},
    ],
}


class Ticket(BaseModel):
    seat: int


class Legacy(Event, topic="legacy", key="id", schema=BY_HAND):
    id: str
    count: int
    at: datetime
    tod: time
    note: str | None
    colour: Colour
    ref: UUID
    price: Decimal
    pay: Voucher | Ticket


async def test_a_schema_by_hand_replaces_the_derived_one() -> None:
    assert Legacy.spec().schema == BY_HAND
    codec = await codec_for(Legacy)
    event = Legacy(
        id="1",
        count=2,
        at=datetime(2026, 1, 1, 0, 0, 0, 5_000, tzinfo=UTC),
        tod=time(1, 2, 3, 4_000),
        note=None,
        colour=Colour.BLUE,
        ref=UUID(int=3),
        price=Decimal("-1.25"),
        pay=Ticket(seat=4),
    )
    assert codec.decode(Legacy, codec.encode(event), AVRO) == event
    for name, value in (
        ("at", event.at + timedelta(microseconds=1)),
        ("tod", time(0, 0, 0, 1)),
        ("price", Decimal("0.001")),
        ("count", 2**40),
    ):
        with pytest.raises(EncodeError, match=f"Legacy.{name}"):
            codec.encode(event.model_copy(update={name: value}))


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "Wrong", "fields": [{"name": "id", "type": "string"}, *fields]}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record(), "Wrong.it: schema= has no such field, so its value would be lost"),
        (record({"name": "it", "type": "string"}), "Wrong.it: schema= says string, which cannot hold int"),
        (record({"name": "it", "type": ["null", "string"]}), "Wrong.it: schema= says .*which cannot hold int"),
        (
            record({"name": "it", "type": "long"}, {"name": "new", "type": "long"}),
            "Wrong: schema= has a field 'new' that the class lacks",
        ),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "schema= must be a record"),
        ({"type": "nothing"}, "schema= is not an Avro schema"),
        ("{", "schema= is not an Avro schema"),
    ],
)
def test_a_schema_by_hand_is_checked_against_the_class(schema: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):

        class Wrong(Event, topic="t", key="id", schema=schema):
            id: str
            it: int


async def test_a_schema_by_hand_may_be_wider_and_may_be_text() -> None:
    class Wide(
        Event,
        topic="t",
        key="id",
        schema='{"type":"record","name":"Wide","fields":[{"name":"id","type":["null","string"]}]}',
    ):
        id: str

    codec = await codec_for(Wide)
    assert codec.decode(Wide, codec.encode(Wide(id="1")), AVRO) == Wide(id="1")
