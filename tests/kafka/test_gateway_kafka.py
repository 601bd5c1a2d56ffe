"""The gateway on a real Kafka: 202 means that the log has it, once under its id; a missing topic is the operator's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from choreo import Event
from choreo.events.envelope import read_envelope
from choreo.events.gateway import Gateway
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec
from choreo.events.transports import connect


class Weighed(Event, topic="weights", key="parcel"):
    parcel: str
    grams: int


def headers(run: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-source": "/scales",
        "ce-type": "Weighed",
        "content-type": "application/json",
        "idempotency-key": run,
    }


@pytest.mark.kafka
async def test_many_callers_at_once_are_answered_when_the_log_has_their_events(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=prefix, home=tmp_path)
    async with connect(settings.broker_url, settings) as transport:
        gateway = Gateway([Weighed], broker=transport, settings=settings, tokens=[])
        asgi = httpx.ASGITransport(gateway)
        async with gateway, httpx.AsyncClient(transport=asgi, base_url="http://here", timeout=60) as client:

            async def weigh(number: int) -> httpx.Response:
                body = json.dumps({"parcel": str(number), "grams": number})
                return await client.post("/events", content=body, headers=headers(f"run-{number}"))

            missing = await weigh(0)
            assert (missing.status_code, missing.json()["type"]) == (500, "urn:choreo:problem:misconfigured")
            assert "weights" in missing.json()["detail"]
            await transport.create_topics([TopicSpec("weights", 2)])
            answers = await asyncio.gather(*(weigh(number % 20) for number in range(40)))
            assert {answer.status_code for answer in answers} == {202}
            ids = {answer.json()["id"] for answer in answers}
            assert len(ids) == 20
            found = [read_envelope(each) for each in await transport.snapshot("weights")]
            assert {each.id for each in found} == ids
            assert {each.key for each in found} == {str(number) for number in range(20)}
