"""Events of a plain Kafka producer that knows nothing of choreo, on a real broker: a service and a saga follow them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from choreo import Event, Saga, Service, step
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect
from choreo.saga.words import Phase
from choreo.services.worker import Worker
from tests.saga.stage import Stage
from tests.services.shop import idle
from tests.support.abroad import CLASSES, Cloud, Cut, Legacy, Line, Nested, Plain, Sent, foreign_records

pytestmark = pytest.mark.kafka


class Journey(Saga, start=Line, key="order_id", active_from="beginning"):
    plain = step(done=Plain, undo=None, within="1h")
    cloud = step(done=Cloud, undo=None, within="1h")
    legacy = step(done=Legacy, undo=None, within="1h")
    sent = step(done=Sent, undo=None, within="1h")
    nested = step(done=Nested, undo=None, within="1h")
    cut = step(done=Cut, undo=None, within="1h")


async def test_a_plain_producers_events_reach_a_service_and_carry_a_saga_to_its_end(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=prefix, home=tmp_path)
    broker = connect(settings.broker_url, settings)
    seen: list[Event] = []
    service = Service("abroad", store=f"sqlite:{tmp_path / 'service.db'}")

    @service.on(Plain, Cloud, Legacy, Line, Sent, Nested, Cut)
    async def take(event: Plain | Cloud | Legacy | Line | Sent | Nested | Cut) -> None:
        seen.append(event)

    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Journey,), broker=broker, settings=settings) as stage:
        topics = sorted({cls.spec().topic for cls in CLASSES})
        await broker.create_topics([TopicSpec(name, 2) for topic in topics for name in (topic, f"{topic}.dlq")])
        await producer.start()
        try:
            for order in ("4711", "4712"):
                for record in (await foreign_records(stage.codec._registry, order)).values():
                    name = prefix + record.topic
                    await producer.send_and_wait(name, record.value, record.key, headers=list(record.headers))
        finally:
            await producer.stop()
        await stage.start()
        async with Worker(service, broker, settings=settings) as worker:
            found = await stage.until(
                lambda all_: len(all_) == 2 and all(each.phase is Phase.COMPLETED for each in all_.values())
            )
            await idle(worker)
        assert found.keys() == {"journey/4711", "journey/4712"}
        assert sorted((type(event).__name__, event.key_text()) for event in seen) == sorted(
            (cls.__name__, order) for cls in CLASSES if cls.__name__ != "Lost" for order in ("4711", "4712")
        )
        assert worker.counters.dead == 0
