"""Services and sagas of one process begin together, and end together when one of them cannot begin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from choreo import Event, Service, TopicMissing
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import Consumer
from choreo.saga.loading import Parts
from choreo.saga.running import Process


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
        asyncio.timeout(30),
        Waiting(4) as broker,
        Process(parts, broker, Settings(home=tmp_path), create_topics=True) as process,
    ):
        assert len(process.workers) == 4


async def test_one_that_cannot_start_is_told_and_the_others_are_stopped(tmp_path: Path) -> None:
    parts = Parts(services=tuple(_services(3)), sagas=())
    async with MemoryBroker() as broker, asyncio.timeout(30):
        process = Process(parts, broker, Settings(home=tmp_path))
        with pytest.raises(TopicMissing, match="'orders'"):
            async with process:
                raise AssertionError("it has begun")
        assert process.workers == []
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("service-")]
