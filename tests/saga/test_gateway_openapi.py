"""The OpenAPI document is what the gateway does: Schemathesis asks what it describes, and what it forbids."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import Field
from schemathesis.checks import ignored_auth, positive_data_acceptance

from choreo import Event
from choreo.events.gateway import Gateway
from choreo.events.settings import Settings
from choreo.saga.door import SagaDoor
from choreo.saga.serving import Serving
from tests.saga.stage import Placed, Reserved, Stage

_BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
TOKEN = "a-token-of-sixteen-characters-or-more"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Line(Event):
    sku: str
    count: int


class Parcelled(Event, topic="parcels", key="parcel"):
    parcel: str
    size: Size
    weight: int | None = Field(default=None, ge=0, le=1_000)
    packed_at: datetime | None = None
    lines: list[Line] = []
    notes: dict[str, str] = {}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway at a port, with a coordinator's store behind it and one saga that has ended."""
    store = f"sqlite:{tmp_path_factory.mktemp('store') / 'saga.db'}"
    listening = socket.create_server(("127.0.0.1", 0))
    running, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with Stage(store) as stage:
            await stage.start()
            await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
            own = Settings(broker="memory:", store=store)
            door = SagaDoor(own, most_wait=0.2)
            events: list[type[Event]] = [Parcelled, Placed]
            gateway = Gateway(events, broker=stage.broker, settings=own, tokens=[TOKEN], doors=[door])
            async with Serving(gateway, door.end_waiting, listening):
                running.set()
                while not stop.is_set():
                    await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert running.wait(60)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stop.set()
    thread.join()


def test_the_document_is_kept(served: str) -> None:
    config = schemathesis.Config.from_dict({"headers": {"Authorization": f"Bearer {TOKEN}"}})
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json", config=config)
    schema.validate()
    asked = []
    for result in schema.get_all_operations():
        operation = result.ok()
        asked.append(operation.label)

        @given(case=operation.as_strategy())
        @_BOUNDED
        def ask(case: schemathesis.Case) -> None:
            # It takes the token of its configuration for a made-up one; test_gateway.py tries wrong ones.
            excluded = [ignored_auth]
            if case.media_type == "application/json":  # OpenAPI cannot say that one form of body needs headers
                excluded.append(positive_data_acceptance)
            case.call_and_validate(excluded_checks=excluded)

        ask()
    assert sorted(asked) == ["GET /health", "GET /sagas/{type}/{key}", "POST /events"]
