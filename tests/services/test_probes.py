"""Health over HTTP: a process is live as long as its loop answers, ready when each part can do its work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from choreo.events.errors import BrokerUnreachable, ConfigurationError, StoreUnreachable
from choreo.events.event import Event
from choreo.events.memory import MemoryBroker
from choreo.events.publisher import Publisher
from choreo.events.settings import Settings
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.services import health as looking
from choreo.services import probes as module
from choreo.services.health import Health
from choreo.services.probes import Probes, parse_address
from choreo.services.service import Service
from tests.services.shop import until
from tests.support.console import validate


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Packed(Event, topic="parcels", key="order_id"):
    order_id: str


class Sale(Saga, start=Ordered, key="order_id"):
    pack = step(done=Packed, undo=None, within="1h")


def _service(name: str, gate: asyncio.Event | None = None, **options: Any) -> Service:
    service = Service(name, **options)

    @service.on(Ordered)
    async def pack(order: Ordered) -> Packed:
        if gate is not None:
            await gate.wait()
        return Packed(order_id=order.order_id)

    return service


@asynccontextmanager
async def _running(
    tmp_path: Path, parts: Parts, broker: MemoryBroker
) -> AsyncIterator[tuple[Process, Probes, httpx.AsyncClient]]:
    process = Process(parts, broker, Settings(home=tmp_path), create_topics=True)
    async with (
        Probes("0", process.health, process.size) as probes,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{probes.port}", timeout=60) as client,
        process,
    ):
        yield process, probes, client


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", -1.0)


async def _told(client: httpx.AsyncClient, path: str = "/readyz") -> tuple[int, dict[str, Any]]:
    answer = await client.get(path)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, validate(answer.json(), "saga.health/v1")


async def _ready(client: httpx.AsyncClient) -> bool:
    return (await _told(client))[0] == 200


async def test_a_process_is_ready_when_services_and_coordinator_have_joined_and_reach_everything(tmp_path: Path):
    gate = asyncio.Event()
    parts = Parts((_service("packing", gate), _service("stateless", store=None)), (Sale,))
    async with MemoryBroker() as broker, _running(tmp_path, parts, broker) as (_, probes, client):
        await until(lambda: _ready(client))
        assert await _told(client, "/healthz") == (
            200,
            {"schema": "saga.health/v1", "probe": "live", "ok": True, "parts": []},
        )
        status, body = await _told(client)
        assert (status, body["probe"], body["ok"]) == (200, "ready", True)
        assert [(part["kind"], part["name"], part["joined"], part["store"]) for part in body["parts"]] == [
            ("coordinator", "choreo.coordinator", True, True),
            ("service", "packing", True, True),
            ("service", "stateless", True, None),
        ]
        async with Publisher(broker, source="test", settings=Settings(home=tmp_path)) as publisher:
            await publisher.publish(Ordered(order_id="1"), Ordered(order_id="2"))

        async def behind(count: int) -> bool:
            return (await _told(client))[1]["parts"][1]["lag"] == count

        await until(lambda: behind(2))  # read, and not handled
        gate.set()
        await until(lambda: behind(0))
        head = await client.head("/readyz")
        assert (head.status_code, head.content) == (200, b"")
        probes.stopping = True
        status, body = await _told(client)
        assert (status, body["ok"]) == (503, False)
        assert (await _told(client, "/healthz"))[0] == 200


async def test_a_process_that_begins_or_lost_its_broker_or_store_is_not_ready_but_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts = Parts((_service("packing"),), ())
    async with MemoryBroker() as broker:
        process = Process(parts, broker, Settings(home=tmp_path), create_topics=True)
        async with (
            Probes("0", process.health, process.size) as probes,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{probes.port}", timeout=60) as client,
        ):
            assert await _told(client) == (
                503,
                {"schema": "saga.health/v1", "probe": "ready", "ok": False, "parts": []},
            )
            async with process:
                await until(lambda: _ready(client))

                async def refuse(*_: object, **__: object) -> Any:
                    raise BrokerUnreachable("no broker answers at memory:")

                async def hang(*_: object, **__: object) -> Any:
                    await asyncio.sleep(3600)

                worker = process.workers[0]
                consumer, database = worker._consumer, worker._database
                with monkeypatch.context() as patch:
                    patch.setattr(consumer, "end_offsets", refuse)
                    status, body = await _told(client)
                    assert (status, body["parts"][0]["broker"], body["parts"][0]["lag"]) == (503, False, None)
                    assert body["parts"][0]["why"] == ["the broker does not answer: no broker answers at memory:"]
                    assert (await _told(client, "/healthz"))[0] == 200
                with monkeypatch.context() as patch:
                    patch.setattr(looking, "PATIENCE", 0.05)
                    patch.setattr(database, "read", hang)
                    status, body = await _told(client)
                    assert (status, body["parts"][0]["store"]) == (503, False)
                    assert body["parts"][0]["why"] == ["its store does not answer: no answer within 0.05 s"]

                async def away(*_: object, **__: object) -> Any:
                    raise StoreUnreachable("the store is away")

                with monkeypatch.context() as patch:
                    patch.setattr(database, "read", away)
                    assert (await _told(client))[1]["parts"][0]["why"] == [
                        "its store does not answer: the store is away"
                    ]
                assert await _ready(client)
            assert (await _told(client))[0] == 503


async def test_a_member_without_partitions_is_ready(tmp_path: Path):
    """More replicas than partitions: the spare ones stand by, and a rollout must not wait for them for ever."""
    parts = Parts((_service("packing", store=None),), ())
    async with MemoryBroker() as broker:
        await broker.create_topics(parts.topics(partitions=1))
        async with (
            MemoryBroker(peer=broker) as peer,
            _running(tmp_path, parts, broker) as (_, _, one),
            _running(tmp_path, parts, peer) as (_, _, other),
        ):

            async def shared() -> bool:
                told = [await _told(client) for client in (one, other)]
                counts = sorted(body["parts"][0]["partitions"] or 0 for _, body in told)
                return [status for status, _ in told] == [200, 200] and counts == [0, 1]

            await until(shared)


async def test_readiness_is_asked_for_once_however_many_want_to_know(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "KEPT", 3600.0)
    asked = 0

    async def look() -> Sequence[Health]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return [Health("service", "packing", 1, 0, True, True, ())]

    async with Probes("127.0.0.1:0", look, 1) as probes, httpx.AsyncClient(timeout=60) as client:
        url = f"http://127.0.0.1:{probes.port}/readyz"
        answers = await asyncio.gather(*(client.get(url) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert asked == 1


async def test_what_fails_while_it_is_asked_for_is_not_ready():
    async def look() -> Sequence[Health]:
        raise RuntimeError("secret")

    async with Probes("0", look, 1) as probes:
        status, body = await probes.answer("/readyz")
        assert status == 503 and "secret" not in json.dumps(body)


async def _raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


async def test_anything_else_is_refused_and_nothing_stalls_it(monkeypatch: pytest.MonkeyPatch):
    async def look() -> Sequence[Health]:
        return []

    async with Probes("0", look, 0) as probes:
        port = probes.port
        assert b" 404 " in (await _raw(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).splitlines()[0]
        posted = await _raw(port, b"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
        assert b" 405 " in posted.splitlines()[0] and b"allow: GET, HEAD" in posted
        assert b" 400 " in (await _raw(port, b"hello\r\n\r\n")).splitlines()[0]
        assert b" 431 " in (await _raw(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000)).splitlines()[0]
        monkeypatch.setattr(module, "_PATIENCE", 0.2)
        assert await _raw(port, b"") == b""  # says nothing: closed after a while
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(module._MOST_CONNECTIONS)]
        await until(lambda: len(probes._open) == 0)
        monkeypatch.setattr(module, "_PATIENCE", 60.0)
        assert b" 200 " in (await _raw(port, b"GET /healthz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")).splitlines()[0]
        for _, writer in idle:
            writer.close()


async def test_a_port_that_is_taken_is_one_line():
    async def look() -> Sequence[Health]:
        return []

    async with Probes("0", look, 0) as probes:
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{probes.port}: "):
            async with Probes(f"127.0.0.1:{probes.port}", look, 0):
                pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8086", ("127.0.0.1", 8086)),
        (":8086", ("127.0.0.1", 8086)),
        ("0.0.0.0:8086", ("0.0.0.0", 8086)),
        ("[::1]:8086", ("::1", 8086)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_without_a_host_is_loopback(text: str, address: tuple[str, int]):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "http://x:1", "x", "1.2.3.4:99999", "::1:80", "a b:80"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ConfigurationError, match="write HOST:PORT"):
        parse_address(text)
