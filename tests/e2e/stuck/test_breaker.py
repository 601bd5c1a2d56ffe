"""A handler that rests behind its circuit breaker: `saga why` and `saga doctor` say so, for as long as it is true."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from choreo import Breaker, Event, Publisher, Retry, Saga, Service, step
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.support.console import Console, validate


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Charged(Event, topic="payments", key="order_id"):
    order_id: str


class Purchase(Saga, start=Ordered, key="order_id", active_from="beginning"):
    charge = step(done=Charged, undo=None, within="10m")


def _payment() -> Service:
    service = Service("payment")

    @service.on(Ordered, retry=Retry(attempts=10, first="1s"), breaker=Breaker(calls=1, pause="10m"))
    async def charge(order: Ordered) -> Charged:
        raise ConnectionError("the bank is away")

    return service


@pytest.mark.parametrize("broker", ["local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def test_a_handler_behind_an_open_breaker_is_named_with_its_error_and_its_next_call(
    broker: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    if broker == "kafka":
        monkeypatch.setenv("CHOREO_BROKER", f"kafka://{request.getfixturevalue('kafka_bootstrap')}")
        monkeypatch.setenv("CHOREO_TOPIC_PREFIX", f"b{os.urandom(3).hex()}.")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console, settings = Console(capsys, tmp_path), load_settings()
    async with connect(settings.broker_url, settings) as transport:
        parts = Parts(services=(_payment(),), sagas=(Purchase,))
        async with Process(parts, transport, settings, create_topics=True, partitions=1):
            async with Publisher(transport, source="shop", settings=settings) as publisher:
                await publisher.publish(Ordered(order_id="4711"), Ordered(order_id="4712"))
            told: dict[str, Any] = {}
            async with asyncio.timeout(60):
                while not any(each["code"] == "BreakerOpen" for each in told.get("reasons", ())):
                    await asyncio.sleep(0.1)
                    done = await asyncio.to_thread(console, "why", "4711", "-o", "json")
                    told = validate(done.json, "saga.why/v1") if done.code == 0 else {}
            [reason] = told["reasons"]
            assert reason["step"] == "charge"
            assert "service payment leaves its handler charge alone" in reason["sentence"]
            assert "the last with ConnectionError" in reason["sentence"]
            assert "bank" not in reason["sentence"]
            assert told["remedies"] == ["mend what handler charge of payment calls: it goes on by itself"]
            done = await asyncio.to_thread(console, "doctor", "--only", "groups")
            assert "⚠  groups" in done.out
            assert "service payment leaves its handler charge alone: its circuit breaker is open" in done.out
        done = await asyncio.to_thread(console, "why", "4711", "-o", "json")
        assert [each["code"] for each in done.json["reasons"]] == ["CoordinatorDown", "ConsumerDown"]
