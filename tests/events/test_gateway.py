"""The gateway over HTTP: what is taken, what is refused and how, and that what comes again changes nothing."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest

from choreo import BrokerUnreachable, ConfigurationError, Event, TopicMissing
from choreo.events.codec import Codec
from choreo.events.envelope import Delivery, Record, read_envelope
from choreo.events.gateway import Gateway
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import Settings

TOKEN = "a-token-of-sixteen-characters-or-more"


class Line(Event):
    sku: str
    count: int = 1


class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal = Decimal("1.00")
    lines: list[Line] = []


class Noted(Event, topic="notes", key="number", format="json", type="shop.noted/v1"):
    number: int
    text: str = ""


class Stage:
    """A gateway on a memory broker, and a caller."""

    def __init__(self, broker: MemoryBroker, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.broker, self.gateway, self.client = broker, gateway, client

    async def send(self, body: Any, **headers: str) -> httpx.Response:
        """Send binary mode; an underscore in a header's name is a hyphen; None leaves a usual one out."""
        usual = {
            "ce-specversion": "1.0",
            "ce-id": "e-1",
            "ce-type": "Placed",
            "ce-source": "/shop",
            "content-type": "application/json",
        }
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {name: value for name, value in {**usual, **given}.items() if value is not None}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post("/events", content=content, headers=merged)

    async def structured(self, *events: dict[str, Any], batch: bool = False, **headers: str) -> httpx.Response:
        """Send structured mode, or a batch."""
        kind = "application/cloudevents-batch+json" if batch else "application/cloudevents+json"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps(list(events) if batch else events[0])
        return await self.client.post("/events", content=content, headers={"content-type": kind, **given})

    async def published(self, topic: str) -> list[Delivery]:
        """Read a topic."""
        return await self.broker.snapshot(topic)

    async def decoded(self, cls: type[Event], topic: str) -> list[Event]:
        """Read a topic as events."""
        codec = Codec(open_registry(Settings(), self.broker))
        found = []
        for each in await self.published(topic):
            value, kind = each.value or b"", read_envelope(each).content_type
            if kind == "application/avro":
                await codec.learn(int.from_bytes(value[1:5], "big"))
            found.append(codec.decode(cls, value, kind))
        return found


@asynccontextmanager
async def staged(
    events: Iterable[type[Event]] = (Placed, Noted),
    *,
    broker: MemoryBroker | None = None,
    tokens: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[Stage]:
    broker = MemoryBroker("") if broker is None else broker
    async with broker:
        gateway = Gateway(events, broker=broker, settings=Settings(**settings), tokens=tokens)
        async with gateway, httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://here") as client:
            yield Stage(broker, gateway, client)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as made:
        yield made


def event(**members: Any) -> dict[str, Any]:
    """A CloudEvent in structured mode."""
    usual = {"specversion": "1.0", "id": "e-1", "type": "Placed", "source": "/shop", "data": {"order_id": "4711"}}
    return {name: value for name, value in {**usual, **members}.items() if value is not ...}


def fields(answer: httpx.Response) -> list[str]:
    """The fields that a problem names; whatever else it says, it says a remedy."""
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == answer.status_code
    assert told["type"].startswith("urn:choreo:problem:")
    assert told["title"]
    assert told["detail"]
    assert told["remedy"]
    return [each["field"] for each in told.get("errors", [])]


# -- what is taken ----------------------------------------------------------------------------------------------------


async def test_binary_mode_is_published_as_it_was_said(stage: Stage) -> None:
    answer = await stage.send(
        {"order_id": "4711", "total": "19.90"},
        ce_time="2026-11-21T09:02:11.402Z",
        ce_subject="caf%C3%A9",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "schema": "saga.published/v1",
        "id": "e-1",
        "type": "Placed",
        "topic": "orders",
        "key": "4711",
        "sagas": [],
    }
    (record,) = await stage.published("orders")
    envelope = read_envelope(record)
    assert (envelope.id, envelope.source, envelope.key) == ("e-1", "/shop", "4711")
    assert envelope.time == 1795251731402000
    assert envelope.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert envelope.extra == (("ce_subject", "café".encode()),)
    assert await stage.decoded(Placed, "orders") == [Placed(order_id="4711", total=Decimal("19.90"))]


async def test_structured_mode_is_published(stage: Stage) -> None:
    answer = await stage.structured(event(data={"order_id": "4711", "lines": [{"sku": "lamp"}]}, retries=3, last=True))
    assert answer.status_code == 202, answer.text
    assert await stage.decoded(Placed, "orders") == [Placed(order_id="4711", lines=[Line(sku="lamp")])]
    (record,) = await stage.published("orders")
    assert read_envelope(record).extra == (("ce_retries", b"3"), ("ce_last", b"true"))


async def test_data_may_come_as_base64(stage: Stage) -> None:
    answer = await stage.structured(event(data=..., data_base64=b64encode(b'{"order_id": "4711"}').decode()))
    assert answer.status_code == 202, answer.text
    assert await stage.decoded(Placed, "orders") == [Placed(order_id="4711")]


async def test_a_batch_is_answered_one_by_one_and_may_hold_several_types(stage: Stage) -> None:
    noted = event(id="e-2", type="shop.noted/v1", data={"number": 7})
    answer = await stage.structured(event(), noted, batch=True)
    assert answer.status_code == 202, answer.text
    assert [(each["id"], each["topic"]) for each in answer.json()] == [("e-1", "orders"), ("e-2", "notes")]
    assert len(await stage.published("orders")) == len(await stage.published("notes")) == 1


async def test_an_empty_batch_is_nothing_to_do(stage: Stage) -> None:
    answer = await stage.structured(batch=True)
    assert (answer.status_code, answer.json()) == (202, [])


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "named"),
    [
        ({"ce_id": None}, 400, ["ce-id"]),
        ({"ce_type": None}, 400, ["ce-type"]),
        ({"ce_source": ""}, 400, ["ce-source"]),
        ({"ce_specversion": "0.3"}, 400, ["ce-specversion"]),
        ({"ce_specversion": None, "ce_id": None}, 400, ["ce-specversion", "ce-id"]),
        ({"ce_time": "yesterday"}, 400, ["ce-time"]),
        ({"ce_id": "a%00b"}, 400, ["ce-id"]),
        ({"ce_id": "%FF"}, 400, ["ce-id"]),
        ({"ce_id": "x" * 501}, 400, ["ce-id"]),
        ({"ce_Sub-Ject": "x"}, 400, ["ce-sub-ject"]),
        ({"ce_long": "x" * 501}, 400, ["ce-long"]),
        ({"ce_type": "Unheard"}, 422, ["type"]),
        ({"content_type": "text/csv"}, 415, ["content-type"]),
        ({"content_type": "application/json; charset=latin-1"}, 415, ["content-type"]),
        ({"content_type": "application/cloudevents+avro"}, 415, ["content-type"]),
        ({"content_encoding": "gzip"}, 415, ["content-encoding"]),
        ({"idempotency_key": '""'}, 400, ["idempotency-key"]),
    ],
)
async def test_a_wrong_header_is_named(stage: Stage, headers: dict[str, Any], status: int, named: list[str]) -> None:
    answer = await stage.send({"order_id": "4711"}, **headers)
    assert (answer.status_code, fields(answer)) == (status, named)
    assert "orders" not in await stage.broker.topics(), "nothing was published"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, ["data.order_id"]),
        ({"order_id": ""}, ["data.order_id"]),
        ({"order_id": "a\x00b"}, ["data.order_id"]),
        ({"order_id": "1", "total": "much"}, ["data.total"]),
        ({"order_id": "1", "total": "1e60"}, ["data.total"]),
        ({"order_id": "1", "lines": [{"sku": "a"}, {"count": "x"}]}, ["data.lines.1.sku", "data.lines.1.count"]),
        ([], ["data"]),
        (b"{", ["data"]),
    ],
)
async def test_an_event_that_does_not_fit_is_refused_by_its_fields(stage: Stage, data: Any, named: list[str]) -> None:
    answer = await stage.send(data)
    assert (answer.status_code, fields(answer)) == (422, named)
    assert "orders" not in await stage.broker.topics()


@pytest.mark.parametrize(
    ("members", "status", "named"),
    [
        ({"data": ...}, 400, ["data"]),
        ({"data_base64": "e30="}, 400, ["data_base64"]),
        ({"data": ..., "data_base64": "no base64"}, 400, ["data_base64"]),
        ({"datacontenttype": "text/xml"}, 400, ["datacontenttype"]),
        ({"id": 7}, 400, ["id"]),
        ({"id": ...}, 400, ["id"]),
        ({"list": []}, 400, ["list"]),
        ({"time": 7}, 400, ["time"]),
        ({"data": 7}, 422, ["data"]),
    ],
)
async def test_a_wrong_member_is_named(stage: Stage, members: dict[str, Any], status: int, named: list[str]) -> None:
    answer = await stage.structured(event(**members))
    assert (answer.status_code, fields(answer)) == (status, named)


async def test_a_batch_is_taken_whole_or_not_at_all(stage: Stage) -> None:
    answer = await stage.structured(event(), event(id="e-2", data={}), event(id="e-3", type="Other"), batch=True)
    assert (answer.status_code, fields(answer)) == (422, ["[1].data.order_id", "[2].type"])
    answer = await stage.structured(event(), {"id": "e-2"}, batch=True)
    assert fields(answer) == ["[1].data"]
    assert "orders" not in await stage.broker.topics()


async def test_an_id_that_stands_twice_in_a_batch_is_refused(stage: Stage) -> None:
    answer = await stage.structured(event(), event(data={"order_id": "4712"}), batch=True)
    assert (answer.status_code, fields(answer)) == (409, ["[1].id"])


async def test_what_is_no_cloudevent_is_told_what_one_is(stage: Stage) -> None:
    answer = await stage.client.post("/events", json={"order_id": "4711"})
    assert (answer.status_code, fields(answer)) == (400, ["ce-specversion"])
    assert "ce-id" in answer.json()["remedy"]


async def test_no_refusal_repeats_a_value(stage: Stage) -> None:
    answer = await stage.send({"order_id": "1", "total": "the-secret"})
    assert "the-secret" not in answer.text


async def test_paths_and_methods_that_there_are_not(stage: Stage) -> None:
    assert fields(answer := await stage.client.get("/event")) == []
    assert answer.status_code == 404
    assert fields(answer := await stage.client.get("/events")) == []
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_body_is_measured_before_it_is_parsed() -> None:
    async with staged(gateway_body=100) as stage:
        answer = await stage.send(b"[" * 101)
        assert (answer.status_code, fields(answer)) == (413, ["(body)"])

        async def parts() -> AsyncIterator[bytes]:  # no content-length
            for _ in range(11):
                yield b"{" * 10
            raise AssertionError("it was read beyond the limit")

        answer = await stage.client.post("/events", content=parts(), headers={"content-type": "application/json"})
        assert answer.status_code == 413


async def test_a_deep_body_is_refused(stage: Stage) -> None:
    answer = await stage.structured(event(data=...), id="1")
    answer = await stage.client.post(
        "/events", content=b"[" * 100_000, headers={"content-type": "application/cloudevents-batch+json"}
    )
    assert (answer.status_code, fields(answer)) == (400, ["(body)"])


async def test_an_event_that_no_broker_would_take_is_refused() -> None:
    async with staged(gateway_body=3_000_000) as stage:
        answer = await stage.send({"number": 1, "text": "x" * 1_000_001}, ce_type="shop.noted/v1")
        assert (answer.status_code, fields(answer)) == (413, ["data"])


async def test_a_batch_has_a_limit(stage: Stage) -> None:
    answer = await stage.structured(*({} for _ in range(1_001)), batch=True)
    assert answer.status_code == 413


# -- who may ----------------------------------------------------------------------------------------------------------


async def test_only_a_known_token_is_let_in() -> None:
    async with staged(tokens=["another-token-of-somebody", TOKEN]) as stage:
        for header in (None, "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"):
            answer = await stage.send({"order_id": "1"}, **({} if header is None else {"authorization": header}))
            assert (answer.status_code, fields(answer)) == (401, ["authorization"])
            assert answer.headers["www-authenticate"] == 'Bearer realm="choreo"'
            assert TOKEN not in answer.text
        assert (await stage.client.get("/openapi.json")).status_code == 401
        assert (await stage.client.get("/health")).json() == {"status": "ok"}
        answer = await stage.send({"order_id": "1"}, authorization=f"bearer {TOKEN}")
        assert answer.status_code == 202


def test_tokens_come_from_the_settings_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_GATEWAY_TOKENS", f" {TOKEN}, another-token-of-somebody,")
    settings = Settings()
    assert settings.gateway_token_list == [TOKEN, "another-token-of-somebody"]
    assert TOKEN not in repr(settings)


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 printable") as refused:
        Gateway([Placed], broker="memory:", settings=Settings(), tokens=["secret"])
    assert "secret" not in refused.value.message


def test_two_classes_of_one_type_are_refused() -> None:
    other = type("Placed", (Event,), {"__annotations__": {"number": str}}, topic="other", key="number")
    with pytest.raises(ConfigurationError, match="two classes of type 'Placed'"):
        Gateway([Placed, other], broker="memory:", settings=Settings())


# -- again ------------------------------------------------------------------------------------------------------------


async def test_a_request_that_comes_again_is_answered_the_same_and_published_once(stage: Stage) -> None:
    first = await stage.send({"order_id": "4711"})
    second = await stage.send({"order_id": "4711"})
    assert first.json() == second.json()
    assert len(await stage.published("orders")) == 1


async def test_a_later_retry_is_published_again_under_the_same_id() -> None:
    """Whoever has the first drops it; whoever has lost the first, with its topic say, takes this one."""
    now = 1_795_251_731_000_000
    async with MemoryBroker("") as broker:
        gateway = Gateway([Placed], broker=broker, settings=Settings(), tokens=[], clock=lambda: now)
        asgi = httpx.ASGITransport(gateway)
        async with gateway, httpx.AsyncClient(transport=asgi, base_url="http://here") as client:
            stage = Stage(broker, gateway, client)
            for seconds in (0, 5, 30, 5):
                now += seconds * 1_000_000
                assert (await stage.send({"order_id": "4711"})).status_code == 202
            assert [read_envelope(each).id for each in await stage.published("orders")] == ["e-1", "e-1"]


async def test_an_idempotency_key_stands_for_the_id(stage: Stage) -> None:
    first = await stage.send({"order_id": "4711"}, ce_id=None, idempotency_key="run-17")
    again = await stage.send({"order_id": "4711"}, ce_id="another-each-time", idempotency_key='"run-17"')
    assert first.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert {read_envelope(each).id for each in await stage.published("orders")} == {first.json()["id"]}


async def test_after_a_restart_a_request_that_comes_again_has_the_same_id() -> None:
    ids = []
    async with MemoryBroker("") as broker:
        for _ in range(2):
            gateway = Gateway([Placed], broker=broker, settings=Settings(), tokens=[])
            async with (
                gateway,
                httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://x") as client,
            ):
                stage = Stage(broker, gateway, client)
                ids.append((await stage.send({"order_id": "1"}, ce_id=None, idempotency_key="run-17")).json()["id"])
        assert ids[0] == ids[1]
        assert [read_envelope(each).id for each in await broker.snapshot("orders")] == ids, "readers drop the copy"


async def test_one_run_id_of_two_tasks_makes_two_events(stage: Stage) -> None:
    """A scheduler's run id is unique for a task only: another type, key or source is another event."""
    made = [
        await stage.send({"order_id": "1"}, idempotency_key="run-17"),
        await stage.send({"order_id": "2"}, idempotency_key="run-17"),
        await stage.send({"order_id": "1"}, idempotency_key="run-17", ce_source="/other"),
        await stage.send({"number": 1}, idempotency_key="run-17", ce_type="shop.noted/v1"),
        await stage.structured(event(id=...), event(id=...), batch=True, idempotency_key="run-17"),
    ]
    assert [answer.status_code for answer in made] == [202] * 5
    ids = [*(answer.json()["id"] for answer in made[:4]), *(each["id"] for each in made[4].json())]
    assert len(ids) == len(set(ids)) == 6


async def test_an_id_that_is_used_for_something_else_is_told(stage: Stage) -> None:
    """Readers would drop it as a copy: that must not happen silently."""
    await stage.send({"order_id": "1"})
    answer = await stage.send({"order_id": "2"})
    assert (answer.status_code, fields(answer)) == (409, ["id"])
    await stage.send({"order_id": "1", "total": "1"}, idempotency_key="run-17")
    answer = await stage.send({"order_id": "1", "total": "2"}, idempotency_key="run-17")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:choreo:problem:id-reused")


class Faulty(MemoryBroker):
    """Takes records, and then says that it has not, or waits."""

    def __init__(self) -> None:
        super().__init__("")
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def send(self, records: Sequence[Record]) -> None:
        if self.gate is not None and records[0].topic == "orders":
            await self.gate.wait()
        await super().send(records)
        if self.error is not None:
            raise self.error


async def test_no_answer_before_the_broker_has_acknowledged() -> None:
    broker = Faulty()
    async with staged(broker=broker) as stage:
        broker.gate = asyncio.Event()
        asked = asyncio.create_task(stage.send({"order_id": "1"}))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
        broker.gate.set()
        assert (await asked).status_code == 202


async def test_what_was_perhaps_published_is_sent_again_under_the_same_id() -> None:
    broker = Faulty()
    async with staged(broker=broker) as stage:
        assert (await stage.send({"order_id": "0"}, ce_id="e-0")).status_code == 202  # schema and topic are there
        broker.error = BrokerUnreachable("the broker went away before it answered")
        answer = await stage.send({"order_id": "1"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert fields(answer) == []
        broker.error = None
        assert (await stage.send({"order_id": "1"})).status_code == 202
        assert [read_envelope(each).id for each in await stage.published("orders")] == ["e-0", "e-1", "e-1"]


async def test_two_callers_at_once_publish_one_event() -> None:
    broker = Faulty()
    async with staged(broker=broker) as stage:
        broker.gate = asyncio.Event()
        both = [asyncio.create_task(stage.send({"order_id": "1"}, idempotency_key="run-17")) for _ in range(2)]
        await asyncio.sleep(0.05)
        broker.gate.set()
        answers = [await each for each in both]
        assert [each.status_code for each in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        assert {read_envelope(each).id for each in await stage.published("orders")} == {answers[0].json()["id"]}


async def test_what_is_set_up_wrongly_is_the_operators_to_mend() -> None:
    broker = Faulty()
    async with staged(broker=broker) as stage:
        await stage.send({"order_id": "0"}, ce_id="e-0")
        broker.error = TopicMissing("topic orders does not exist; create it with `saga topics apply`")
        answer = await stage.send({"order_id": "1"})
        assert (answer.status_code, fields(answer)) == (500, [])
        assert "saga topics apply" in answer.json()["detail"]


async def test_a_defect_is_told_without_its_text() -> None:
    broker = Faulty()
    async with staged(broker=broker) as stage:
        await stage.send({"order_id": "0"}, ce_id="e-0")
        broker.error = RuntimeError("the-secret")
        answer = await stage.send({"order_id": "1"})
        assert (answer.status_code, fields(answer)) == (500, [])
        assert "the-secret" not in answer.text


async def test_a_gateway_that_is_not_open_says_how_to_open_it() -> None:
    gateway = Gateway([Placed], broker="memory:", settings=Settings(), tokens=[])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://x") as client:
        answer = await Stage(MemoryBroker(""), gateway, client).send({"order_id": "1"})
    assert answer.status_code == 500
    assert "async with gateway" in answer.json()["detail"]
