"""Services and sagas of one process begin together, and end together when one of them cannot begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from choreo import ConfigurationError, Event, Service, TopicMissing
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import Consumer
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.support.console import Console


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


def _services(number: int) -> list[Service]:
    services = []
    for index in range(number):
        service = Service(f"service-{index}", store=None)

        @service.on(Ordered)
        async def take(order: Ordered) -> None: ...

        services.append(service)
    return services


class Waiting(MemoryBroker):
    """A broker whose groups are slow to be joined, and that sees how many join at once."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._all_here = asyncio.Barrier(number)

    async def subscribe(self, *arguments: Any, **options: Any) -> Consumer:
        await self._all_here.wait()
        return await super().subscribe(*arguments, **options)


async def test_services_of_one_process_start_side_by_side(tmp_path: Path) -> None:
    parts = Parts(services=tuple(_services(4)), sagas=())
    async with (
        asyncio.timeout(60),
        Waiting(4) as broker,
        Process(parts, broker, Settings(home=tmp_path), create_topics=True) as process,
    ):
        assert len(process.workers) == 4


async def test_one_that_cannot_start_is_told_and_the_others_are_stopped(tmp_path: Path) -> None:
    parts = Parts(services=tuple(_services(3)), sagas=())
    async with MemoryBroker() as broker, asyncio.timeout(60):
        process = Process(parts, broker, Settings(home=tmp_path))
        with pytest.raises(TopicMissing, match="'orders'"):
            async with process:
                raise AssertionError("it has begun")
        assert process.workers == []
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("service-")]


SHOP = """
from choreo import Event, Service
from pydantic_settings import BaseSettings

class Placed(Event, topic="orders", key="order_id"):
    order_id: str

class MissingSettings(BaseSettings):
    certainly_missing_url: str
    certainly_missing_key: str

shop = Service("shop")

@shop.on(Placed)
async def take(order: Placed, settings: MissingSettings) -> None: ...
"""


def test_missing_settings_are_one_line_and_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings_shop.py").write_text(SHOP)
    broker = f"local:{tmp_path / 'broker.db'}"
    saga = Console(capsys, tmp_path)
    done = saga("run", tmp_path / "settings_shop.py", "--home", tmp_path, "--broker", broker)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: service shop needs the settings of MissingSettings: CERTAINLY_MISSING_URL is missing; "
        "CERTAINLY_MISSING_KEY is missing\n"
    )
    assert saga("topics", "list", "--home", tmp_path, "--broker", broker, "-o", "json").json == []


async def test_a_lifespan_that_fails_stops_the_others_of_its_process(tmp_path: Path) -> None:
    ended: list[str] = []
    one, other = _services(2)

    @one.lifespan
    async def fine() -> AsyncIterator[None]:
        yield
        ended.append("fine")

    @other.lifespan
    async def broken() -> AsyncIterator[None]:
        raise ConnectionRefusedError("nobody there")
        yield

    async with MemoryBroker() as broker, asyncio.timeout(60):
        with pytest.raises(ConfigurationError, match="its lifespan 'broken' failed: ConnectionRefusedError: nobody"):
            async with Process(Parts((one, other)), broker, Settings(home=tmp_path), create_topics=True):
                raise AssertionError("it has begun")
    assert ended == ["fine"]
