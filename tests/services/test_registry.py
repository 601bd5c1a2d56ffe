"""A service whose schemas lie in a real registry: it publishes by it, reads by it, and waits for it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo import Event
from choreo.events.codec import Codec, to_record
from choreo.events.envelope import Envelope
from choreo.events.memory import MemoryBroker
from choreo.events.registry import SCHEMAS_TOPIC, open_registry
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec
from choreo.services.service import Service
from choreo.services.worker import Worker
from tests.services.shop import idle, until
from tests.support.apicurio import ApicurioServer
from tests.support.front import Front

pytestmark = pytest.mark.registry


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Packed(Event, topic="packing", key="order_id"):
    order_id: str


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker() as broker:
        names = ("orders", "packing", "orders.dlq", "choreo.failures")
        await broker.create_topics([TopicSpec(name, 2) for name in names])
        yield broker


def placed(codec: Codec, key: str) -> object:
    envelope = Envelope(id=str(uuid.uuid4()), type="Ordered", source="shop", time=1, key=key)
    return to_record(Ordered(order_id=key), envelope, codec)


async def test_fault_48_a_registry_that_goes_away_is_waited_for_and_nothing_is_a_dead_letter(
    broker: MemoryBroker, apicurio: ApicurioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.services.dispatcher._REGISTRY_PAUSE", 0.05)
    shop = open_registry(Settings(registry=apicurio.url), broker)
    codec = Codec(shop)
    await codec.prepare([Ordered])
    service = Service("packing", store=f"sqlite:{tmp_path / 'service.db'}")
    seen: list[str] = []

    @service.on(Ordered)
    async def pack(order: Ordered) -> Packed:
        seen.append(order.order_id)
        return Packed(order_id=order.order_id)

    async with Front(apicurio.port) as front:
        settings = Settings(
            home=tmp_path, registry=f"http://127.0.0.1:{front.port}/apis/ccompat/v7", registry_timeout=5.0
        )
        async with Worker(service, broker, settings=settings) as worker:
            front.away = True
            await broker.send([placed(codec, "1"), placed(codec, "2")])
            await until(lambda: front.refused >= 3)
            assert not await worker.idle() and not seen
            front.away = False
            await idle(worker)
            asked = front.passed
            await broker.send([placed(codec, str(number)) for number in range(3, 20)])
            await idle(worker)
            assert front.passed == asked  # what is known is never asked for again
        assert sorted(seen, key=int) == [str(number) for number in range(1, 20)]
        assert (worker.counters.handled, worker.counters.dead) == (19, 0)
    packed = await broker.snapshot("packing")
    assert {int.from_bytes(each.value[1:5], "big") for each in packed} == {
        await shop.register("packing-Packed", Packed.spec().schema)
    }
    assert SCHEMAS_TOPIC not in await broker.topics()
    await shop.close()
