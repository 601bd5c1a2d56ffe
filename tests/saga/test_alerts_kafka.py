"""Alerts on a real Kafka: who listens hears of a dead letter and of a stuck saga, once, from two and over a restart."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from choreo import Publisher, Service
from choreo.events.errors import Permanent
from choreo.events.settings import Settings
from choreo.events.transport import Transport
from choreo.events.transports import connect
from choreo.saga import alerting
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.saga.stage import Asking, Placed, header

pytestmark = pytest.mark.kafka


async def _told(broker: Transport, number: int) -> dict[str, str]:
    """Wait for so many alerts: what each says, by its id."""
    async with asyncio.timeout(60):
        while len(found := await broker.snapshot("choreo.alerts")) < number:
            await asyncio.sleep(0.2)
    told = {str(header(each, "ce_id")): json.loads(each.value or b"") for each in found}
    return {id_: f"{each['kind']} {each['saga']} {each['why']}" for id_, each in told.items()}


async def test_alerts_are_told_once_by_two_coordinators_and_not_again_after_a_restart(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "_PAUSE", 0.1)
    prefix = f"t{uuid.uuid4().hex[:8]}."
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=prefix, home=tmp_path, stuck="1s")
    mail = Service("mail")

    @mail.on(Placed)
    async def thank(placed: Placed) -> None:
        raise Permanent("no such address")

    watching = Parts((), (Asking,))
    async with connect(settings.broker_url, settings) as broker:
        async with (
            Process(Parts((mail,), (Asking,)), broker, settings, create_topics=True),
            Process(watching, broker, settings),
            Publisher(broker, source="test", settings=settings) as publisher,
        ):
            await publisher.publish(Placed(order_id="1"))
            first = await _told(broker, 2)
        assert sorted(text.split()[0] for text in first.values()) == ["DeadLetter", "Stuck"]
        assert all(" asking/1 asking/1 is RUNNING and waits for release: Released" in text for text in first.values())
        assert all("no service has ever said that it takes Release" in text for text in first.values())
        async with (
            Process(watching, broker, settings),
            Publisher(broker, source="test", settings=settings) as publisher,
        ):
            await publisher.publish(Placed(order_id="2"))
            second = await _told(broker, 3)
    assert first.items() <= second.items(), "what was told stays told"
    assert [text.split()[:2] for id_, text in second.items() if id_ not in first] == [["Stuck", "asking/2"]]
