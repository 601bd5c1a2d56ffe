"""One suite for every registry: the embedded one, a small server of ours and a real Apicurio."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import httpx
import pytest

from choreo import Event
from choreo.events.codec import Codec, subject_of
from choreo.events.envelope import AVRO
from choreo.events.errors import DecodeError, SchemaRefused
from choreo.events.memory import MemoryBroker
from choreo.events.registry import SchemaRegistry, open_registry
from choreo.events.settings import Settings
from tests.support.apicurio import ApicurioServer
from tests.support.schema_server import SchemaServer


def schema(*fields: str, **defaults: Any) -> dict[str, Any]:
    made: list[dict[str, Any]] = [{"name": name, "type": "string"} for name in fields]
    made.extend({"name": name, "type": "string", "default": value} for name, value in defaults.items())
    return {"type": "record", "name": "R", "fields": made}


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker() as broker:
        yield broker


@pytest.fixture(params=["embedded", "server", pytest.param("apicurio", marks=pytest.mark.registry)])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The setting `CHOREO_REGISTRY` of each registry."""
    if request.param == "apicurio":
        yield request.getfixturevalue("apicurio").url
    elif request.param == "server":
        async with SchemaServer() as server:
            yield server.url
    else:
        yield ""


@pytest.fixture
async def registry(place: str, broker: MemoryBroker) -> AsyncIterator[SchemaRegistry]:
    found = open_registry(Settings(registry=place), broker)
    yield found
    await found.close()


@pytest.fixture
def subject() -> str:
    """A subject that nobody else uses: a real registry is shared by the whole run."""
    return f"orders-{uuid.uuid4()}"


async def test_a_registered_schema_is_found_by_its_id(registry: SchemaRegistry, subject: str) -> None:
    assert await registry.latest(subject) is None
    schema_id = await registry.register(subject, schema("a"))
    assert await registry.register(subject, schema("a")) == schema_id
    assert await registry.register(f"{subject}-other", schema("a")) == schema_id
    assert await registry.fetch(schema_id) == schema("a")
    latest = await registry.latest(subject)
    assert latest is not None and (latest.id, latest.schema, latest.version) == (schema_id, schema("a"), 1)


async def test_a_compatible_schema_becomes_the_latest(
    registry: SchemaRegistry, subject: str, place: str, broker: MemoryBroker
) -> None:
    first = await registry.register(subject, schema("a"))
    second = await registry.register(subject, schema("a", b=""))
    assert first != second
    latest = await registry.latest(subject)
    assert latest is not None and latest.id == second
    # An older program that starts again finds its schema there, and changes nothing.
    again = open_registry(Settings(registry=place), broker)
    assert await again.register(subject, schema("a")) == first
    latest = await again.latest(subject)
    assert latest is not None and latest.id == second
    assert [(each.version, each.id, each.schema) for each in await again.history(subject)] == [
        (1, first, schema("a")),
        (2, second, schema("a", b="")),
    ]
    await again.close()


async def test_a_schema_that_breaks_readers_is_refused_with_field_and_rule(
    registry: SchemaRegistry, subject: str
) -> None:
    await registry.register(subject, schema("a"))
    with pytest.raises(SchemaRefused, match=r"the schema of orders-.*R.b is new and has no default \(rule: ") as caught:
        await registry.register(subject, schema("a", "b"))
    assert caught.value.ids == {"subject": subject}
    assert [each.version for each in await registry.history(subject)] == [1]


async def test_the_level_decides_what_is_refused(
    registry: SchemaRegistry, subject: str, place: str, broker: MemoryBroker
) -> None:
    await registry.register(subject, schema("a", "b"))
    for level in ("FORWARD", "FULL", "FORWARD_TRANSITIVE"):
        strict = open_registry(Settings(registry=place, compatibility=level), broker)
        with pytest.raises(SchemaRefused, match=r"R.b is gone and had no default \(rule: "):
            await strict.register(subject, schema("a"))
        await strict.close()
    await registry.register(subject, schema("a"))
    await registry.register(subject, schema("a", b=""))
    assert len(await registry.history(subject)) == 3


async def test_a_transitive_level_looks_at_all_versions(subject: str, place: str, broker: MemoryBroker) -> None:
    number: Any = {"type": "record", "name": "R", "fields": [{"name": "b", "type": "long", "default": 0}]}
    for each, level in ((schema("b"), "BACKWARD"), (schema(), "BACKWARD"), (number, "BACKWARD_TRANSITIVE")):
        registry = open_registry(Settings(registry=place, compatibility=level), broker)
        if level == "BACKWARD":
            await registry.register(subject, each)
        else:
            with pytest.raises(SchemaRefused, match=r"R.b was string and is now long \(rule: "):
                await registry.register(subject, each)
        await registry.close()


async def test_an_id_that_nobody_gave_is_a_decode_error(registry: SchemaRegistry) -> None:
    with pytest.raises(DecodeError, match="no schema has the id 1999999999"):
        await registry.fetch(1_999_999_999)


async def test_subjects_may_hold_any_characters_and_are_listed(registry: SchemaRegistry, subject: str) -> None:
    strange = f"{subject}-a/b c:?#é"
    schema_id = await registry.register(strange, schema("a"))
    latest = await registry.latest(strange)
    assert latest is not None and latest.id == schema_id
    assert strange in await registry.subjects()
    assert await registry.history(f"{subject}-none") == []


class Line(Event, topic="exact", key="sku"):
    sku: str
    price: Decimal


class Exact(Event, topic="exact", key="id"):
    id: uuid.UUID
    total: Decimal
    day: date
    at: datetime
    clock: time
    first: Line
    second: Line | None = None


async def test_logical_types_and_named_types_come_back_exactly(
    registry: SchemaRegistry, place: str, broker: MemoryBroker
) -> None:
    line = Line(sku="s", price=Decimal("-0.000000001"))
    event = Exact(
        id=uuid.UUID(int=2**127 + 1),
        total=Decimal("12345678901234567890123456789.123456789"),
        day=date(1, 1, 1),
        at=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        clock=time(23, 59, 59, 999_999),
        first=line,
        second=line,
    )
    written = Codec(registry)
    await written.prepare([Exact])
    value = written.encode(event)
    fresh = open_registry(Settings(registry=place), broker)
    reader = Codec(fresh)
    await reader.learn(int.from_bytes(value[1:5], "big"))
    assert reader.decode(Exact, value, AVRO) == event
    found = await fresh.latest(subject_of("exact", "Exact"))
    assert found is not None and found.schema == Exact.spec().schema
    assert json.dumps(found.schema).count('"sku"') == 1  # the second mention is the name alone
    await fresh.close()


async def test_an_older_class_reads_newer_events(
    registry: SchemaRegistry, subject: str, place: str, broker: MemoryBroker
) -> None:
    topic = subject.replace("orders-", "t")

    class Newer(Event, topic=topic, key="a", type="Grown"):
        a: str
        b: str = "new"
        c: list[int] = []

    class Older(Event, topic=topic, key="a", type="Grown"):
        a: str

    writer = Codec(registry)
    await writer.prepare([Older])
    await writer.prepare([Newer])
    value = writer.encode(Newer(a="1", c=[1, 2]))
    other = open_registry(Settings(registry=place), broker)
    reader = Codec(other)
    await reader.learn(int.from_bytes(value[1:5], "big"))
    assert reader.decode(Older, value, AVRO) == Older(a="1")
    old = writer.encode(Older(a="2"))
    await reader.learn(int.from_bytes(old[1:5], "big"))
    assert reader.decode(Newer, old, AVRO) == Newer(a="2")
    await other.close()


# -- what only a real server does --------------------------------------------------------------------------------------

HEADERS = {"content-type": "application/vnd.schemaregistry.v1+json"}


def post(server: ApicurioServer, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}{path}", content=json.dumps(body), headers=HEADERS, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.registry
async def test_a_schema_that_refers_to_types_of_other_subjects_is_read(apicurio: ApicurioServer, subject: str) -> None:
    money = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "cents", "type": "long"}]}
    colour = {"type": "enum", "name": "Colour", "namespace": "shop", "symbols": ["RED"]}
    part = {
        "type": "record",
        "name": "Part",
        "namespace": "shop",
        "fields": [{"name": "price", "type": "Money"}, {"name": "colour", "type": "shop.Colour"}],
    }
    whole = {
        "type": "record",
        "name": "Whole",
        "namespace": "other",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "sum", "type": "shop.Money"},
            {"name": "parts", "type": {"type": "array", "items": "shop.Part"}},
        ],
    }
    name = f"{subject}-m"
    post(apicurio, f"/subjects/{name}/versions", schema=json.dumps(money), schemaType="AVRO")
    post(apicurio, f"/subjects/{subject}-c/versions", schema=json.dumps(colour), schemaType="AVRO")
    to_money = {"name": "shop.Money", "subject": name, "version": 1}
    to_colour = {"name": "shop.Colour", "subject": f"{subject}-c", "version": 1}
    post(
        apicurio,
        f"/subjects/{subject}-p/versions",
        schema=json.dumps(part),
        schemaType="AVRO",
        references=[to_money, to_colour],
    )
    to_part = {"name": "shop.Part", "subject": f"{subject}-p", "version": 1}
    found = post(
        apicurio,
        f"/subjects/{subject}/versions",
        schema=json.dumps(whole),
        schemaType="AVRO",
        references=[to_money, to_part],
    )
    registry = open_registry(Settings(registry=apicurio.url), MemoryBroker())
    codec = Codec(registry)
    await codec.learn(found["id"])
    value = b"\x00" + found["id"].to_bytes(4, "big") + b"\x02x\x0a\x02\x06\x00\x00"
    assert codec.decode_any(value, AVRO) == {
        "id": "x",
        "sum": {"cents": 5},
        "parts": [{"price": {"cents": 3}, "colour": "RED"}],
    }
    latest = await registry.latest(subject)
    assert latest is not None and json.dumps(latest.schema).count('"cents"') == 1
    await registry.close()


@pytest.mark.registry
async def test_a_schema_that_another_client_spelled_in_its_own_way_is_the_same(
    apicurio: ApicurioServer, subject: str
) -> None:
    spelled = json.dumps({"name": "R", "fields": [{"type": "string", "name": "a"}], "type": "record"}, indent=3)
    found = post(apicurio, f"/subjects/{subject}/versions", schema=spelled, schemaType="AVRO")
    registry = open_registry(Settings(registry=apicurio.url), MemoryBroker())
    assert await registry.register(subject, schema("a")) == found["id"]
    assert len(await registry.history(subject)) == 1
    await registry.close()


@pytest.mark.registry
async def test_the_servers_own_rule_comes_on_top(apicurio: ApicurioServer, subject: str) -> None:
    registry = open_registry(Settings(registry=apicurio.url, compatibility="NONE"), MemoryBroker())
    await registry.register(subject, schema("a"))
    with pytest.raises(SchemaRefused, match=r"the registry refuses the schema of .*/fields/1"):
        await registry.register(subject, schema("a", "b"))
    await registry.close()
