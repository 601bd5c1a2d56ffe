"""What is particular to each registry: the embedded one on a broker, and the client of a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from pydantic import SecretStr

from choreo.events import registry as registry_module
from choreo.events.confluent import ConfluentRegistry
from choreo.events.envelope import Record
from choreo.events.errors import (
    BrokerUnreachable,
    ConfigurationError,
    DecodeError,
    RegistryUnreachable,
    SchemaRefused,
)
from choreo.events.memory import MemoryBroker
from choreo.events.registry import (
    SCHEMAS_TOPIC,
    EmbeddedRegistry,
    SingleFlight,
    content_id,
)
from choreo.events.registry_access import Access
from choreo.events.transport import TopicSpec
from tests.support.schema_server import SchemaServer


def schema(*fields: str, **defaults: Any) -> dict[str, Any]:
    made: list[dict[str, Any]] = [{"name": name, "type": "string"} for name in fields]
    made.extend({"name": name, "type": "string", "default": value} for name, value in defaults.items())
    return {"type": "record", "name": "R", "fields": made}


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker() as broker:
        yield broker


@pytest.fixture
async def server() -> AsyncIterator[SchemaServer]:
    async with SchemaServer() as server:
        yield server


def test_ids_come_from_the_content_and_stay_the_same_for_ever() -> None:
    assert content_id('{"type":"string"}') == 477_164_042
    assert content_id('{"type":"string"}', salt=1) != content_id('{"type":"string"}')


async def test_another_process_finds_what_was_registered_later(broker: MemoryBroker) -> None:
    one, two = EmbeddedRegistry(broker), EmbeddedRegistry(broker)
    with pytest.raises(DecodeError):
        await two.fetch(5)
    schema_id = await one.register("orders-R", schema("a"))
    assert await two.fetch(schema_id) == schema("a")
    with pytest.raises(SchemaRefused):
        await two.register("orders-R", schema("b"))


async def test_the_topic_is_read_again_only_when_it_has_grown(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = EmbeddedRegistry(broker)
    await registry.register("orders-R", schema("a"))
    read: list[str] = []
    snapshot = broker.snapshot

    async def counted(topic: str) -> Any:
        read.append(topic)
        return await snapshot(topic)

    monkeypatch.setattr(broker, "snapshot", counted)
    for number in range(50):
        with pytest.raises(DecodeError):
            await registry.fetch(number)
    assert read == []  # its own record was read when it was written
    await EmbeddedRegistry(broker).register("orders-S", schema("b"))
    read.clear()
    for number in range(50):
        with pytest.raises(DecodeError):
            await registry.fetch(number)
    assert read == [SCHEMAS_TOPIC]


async def test_colliding_ids_are_told_apart(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "content_id", lambda text, salt=0: 40 + salt)
    registry = EmbeddedRegistry(broker)
    assert await registry.register("orders-R", schema("a")) == 40
    assert await registry.register("orders-S", schema("b")) == 41
    assert await EmbeddedRegistry(broker).fetch(41) == schema("b")
    assert await registry.register("orders-T", schema("b")) == 41


@pytest.mark.parametrize("fits", [False, True], ids=["which-do-not-fit", "which-fit"])
async def test_of_two_schemas_in_the_same_moment_the_second_is_held_to_the_first(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """Both have looked, and neither has written: the log says who was first, to everybody the same."""
    one, two = EmbeddedRegistry(broker), EmbeddedRegistry(broker)
    await one.register("orders-R", schema("a"))
    both, send = asyncio.Barrier(2), broker.send
    turns = 0

    async def together(records: Any) -> Any:
        nonlocal turns
        turns += 1
        if turns <= 2:
            await both.wait()
        return await send(records)

    monkeypatch.setattr(broker, "send", together)
    number = {"name": "b", "type": "int", "default": 0}
    others = [schema("a", b="x"), schema("a", c="x") if fits else {**schema(), "fields": [number]}]
    calls = (one.register("orders-R", others[0]), two.register("orders-R", others[1]))
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert turns >= 2, "both have checked before either wrote"
    readers = (one, two, EmbeddedRegistry(broker))
    told = [[each.schema for each in await reader.history("orders-R")] for reader in readers]
    assert told[0] == told[1] == told[2]
    if fits:
        assert all(isinstance(each, int) for each in done)
        assert told[0][0] == schema("a") and len(told[0]) == 3
    else:
        [refused] = [each for each in done if isinstance(each, SchemaRefused)]
        assert "orders-R" in str(refused) and len(told[0]) == 2
        [kept] = [each for each in done if isinstance(each, int)]
        assert await EmbeddedRegistry(broker).fetch(kept) == told[0][1]


async def test_the_order_of_a_subject_survives_compaction_and_writers_that_do_not_say_it(broker: MemoryBroker) -> None:
    def written(number: int, **said: Any) -> Record:
        value = {"subject": "orders-R", "id": number, "schema": schema("a"), **said}
        return Record(SCHEMAS_TOPIC, f"orders-R:{number}".encode(), json.dumps(value).encode())

    await broker.create_topics([TopicSpec(SCHEMAS_TOPIC, partitions=1, compacted=True)])
    # 1 was written twice, and compaction has kept the later one; 3 came after 1 as 2 did, too late; 4 says nothing.
    records = [written(2, after=1), written(1, after=None), written(3, after=1), written(4), written(5, after=4)]
    await broker.send([*records, written(6, after=[])])
    registry = EmbeddedRegistry(broker)
    assert [each.id for each in await registry.history("orders-R")] == [1, 2, 4, 5, 6]
    assert await registry.fetch(3) == schema("a")


async def test_foreign_records_in_the_topic_are_skipped(broker: MemoryBroker) -> None:
    await broker.create_topics([TopicSpec(SCHEMAS_TOPIC, partitions=1, compacted=True)])
    await broker.send([Record(SCHEMAS_TOPIC, b"x", value) for value in (b"{", b"[]", b'{"id": 1}', b"[" * 100_000)])
    await broker.send([Record(SCHEMAS_TOPIC, b"x", None)])
    registry = EmbeddedRegistry(broker)
    with structlog.testing.capture_logs() as logs:
        schema_id = await registry.register("orders-R", schema("a"))
    assert await EmbeddedRegistry(broker).fetch(schema_id) == schema("a")
    assert [each["offset"] for each in logs] == [0, 1, 2, 3]


async def test_a_broker_that_is_away_is_a_registry_that_is_away(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(names: object) -> Any:
        raise BrokerUnreachable("nobody answers")

    monkeypatch.setattr(broker, "topics", away)
    with pytest.raises(RegistryUnreachable, match=r"choreo\.schemas cannot be read: nobody answers") as caught:
        await EmbeddedRegistry(broker).fetch(1)
    assert caught.value.retryable


async def test_many_who_ask_for_one_id_make_one_request(server: SchemaServer) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    schema_id = await registry.register("orders-R", schema("a"))
    fresh = ConfluentRegistry(Access(url=server.url))
    server.requests.clear()
    server.gate.clear()
    asking = [asyncio.create_task(fresh.fetch(schema_id)) for _ in range(20)]
    while not server.requests:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    asking[0].cancel()  # whoever loses patience does not spoil it for the others
    server.gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError) and found[1:] == [schema("a")] * 19
    assert await fresh.fetch(schema_id) == schema("a")
    assert server.requests == [("GET", f"/schemas/ids/{schema_id}")]
    await registry.close()
    await fresh.close()


async def test_an_unknown_id_is_remembered_for_a_while_only() -> None:
    now, asked = [0.0], []

    async def ask() -> str:
        asked.append(now[0])
        if now[0] < 40:
            raise DecodeError("no schema has the id 9", schema_id=9)
        return "found"

    answers = SingleFlight(30, lambda: now[0])
    for moment in (0.0, 10.0, 29.0, 31.0, 60.9):
        now[0] = moment
        if moment < 60:
            with pytest.raises(DecodeError, match="id 9") as caught:
                await answers.get("k", ask)
            assert caught.value.ids == {"schema_id": 9}
    now[0] = 62.0
    assert [await answers.get("k", ask) for _ in range(3)] == ["found"] * 3
    assert asked == [0.0, 31.0, 62.0]


async def test_an_outage_is_not_remembered(server: SchemaServer) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    server.override = lambda method, path: (503, {"error_code": 50301, "message": "leader unknown"})
    with pytest.raises(RegistryUnreachable, match="answers 503: leader unknown"):
        await registry.register("orders-R", schema("a"))
    server.override = lambda method, path: None
    assert await registry.register("orders-R", schema("a")) == 1
    await registry.close()


async def test_a_server_that_is_away_is_one_clear_line(server: SchemaServer) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    await server.__aexit__(None, None, None)
    with pytest.raises(RegistryUnreachable, match=f"the schema registry {server.url} does not answer: "):
        await registry.fetch(1)
    await registry.close()


async def test_a_server_that_hangs_is_given_up(server: SchemaServer) -> None:
    registry = ConfluentRegistry(Access(url=server.url, timeout=0.05))
    server.gate.clear()
    with pytest.raises(RegistryUnreachable, match=r"does not answer within 0\.05 s"):
        await registry.fetch(1)
    server.gate.set()
    await registry.close()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((302, {}), ConfigurationError, "a redirect, which is not followed"),
        ((404, b"<html>"), ConfigurationError, "is no schema registry"),
        ((401, {"message": "who?"}), ConfigurationError, "check CHOREO_REGISTRY_USER"),
        ((200, b"<html>"), DecodeError, "schema 1 is not an Avro schema"),
        ((200, b"[" * 100_000), DecodeError, "schema 1 is not an Avro schema"),
        ((200, {"schema": "{"}), DecodeError, "schema 1 is not an Avro schema"),
        ((200, {"schema": "{}", "schemaType": "PROTOBUF"}), DecodeError, "schema 1 is not an Avro schema"),
        ((200, {"schema": "{}", "references": [{"name": "x"}]}), DecodeError, "schema 1 is not an Avro schema"),
        ((200, b" " * 2_100_000), DecodeError, "answers with more than"),
        ((500, b""), RegistryUnreachable, "answers 500"),
        (b"nonsense\r\n\r\n", RegistryUnreachable, "does not answer"),
    ],
)
async def test_a_strange_answer_is_told_from_a_missing_schema(
    server: SchemaServer, answer: Any, error: type[Exception], message: str
) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    server.override = lambda method, path: answer
    with pytest.raises(error, match=message):
        await registry.fetch(1)
    await registry.close()


@pytest.mark.parametrize("schema_id", [-1, 2**31, 2**40])
async def test_an_impossible_id_is_not_asked_for(server: SchemaServer, schema_id: int) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    with pytest.raises(DecodeError, match="is not a schema id"):
        await registry.fetch(schema_id)
    assert server.requests == []
    await registry.close()


@pytest.mark.parametrize("schema_id", [None, "7", True, -1, 2**31])
async def test_an_unusable_id_from_the_server_is_not_believed(server: SchemaServer, schema_id: Any) -> None:
    registry = ConfluentRegistry(Access(url=server.url))
    server.override = lambda method, path: (200, {"id": schema_id})
    with pytest.raises(RegistryUnreachable, match="no usable schema id"):
        await registry.register("orders-R", schema("a"))
    await registry.close()


async def test_a_conflict_gives_the_servers_reason(server: SchemaServer) -> None:
    def answer(method: str, path: str) -> Any:
        return (409, {"error_code": 409, "message": "field  b\nhas no default"}) if path.endswith("versions") else None

    server.override = answer
    registry = ConfluentRegistry(Access(url=server.url))
    with pytest.raises(SchemaRefused, match="refuses the schema of orders-R: field b has no default"):
        await registry.register("orders-R", schema("a"))
    await registry.close()


async def test_a_primitive_schema_is_wrapped(server: SchemaServer) -> None:
    server.ids['"string"'] = 3
    registry = ConfluentRegistry(Access(url=server.url))
    assert await registry.fetch(3) == {"type": "string"}
    await registry.close()


async def test_the_password_is_sent_and_never_shown(server: SchemaServer) -> None:
    registry = ConfluentRegistry(Access(url=server.url + "/", user="me", password=SecretStr("hunter2")))
    await registry.register("orders-R", schema("a"))
    assert server.headers["authorization"] == "Basic bWU6aHVudGVyMg=="
    assert server.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    assert json.dumps(schema("a"), sort_keys=True, separators=(",", ":")) in server.ids
    await registry.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8081", "is not a schema registry; write http://host:port"),
        ("ftp://host", "is not a schema registry"),
        ("http://me:hunter2@host", "CHOREO_REGISTRY_USER"),
        ("file:///etc/passwd", "is not a schema registry"),
    ],
)
def test_a_wrong_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Access(url=url)
    assert "hunter2" not in str(caught.value)


def test_a_missing_ca_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the registry's CA file .*none.pem: No such file"):
        ConfluentRegistry(Access(url="https://host", ca=tmp_path / "none.pem"))
