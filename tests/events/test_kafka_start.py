"""A client of Kafka that is told to stop while it starts."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings

import pytest

from choreo.events.kafka import KafkaTransport
from choreo.events.kafka_client import farewell
from choreo.events.settings import load_settings

TRIES = 60


@pytest.mark.kafka
async def test_a_start_that_is_cancelled_leaves_no_connection_open(kafka_bootstrap: str) -> None:
    url = f"kafka://{kafka_bootstrap}"
    async with KafkaTransport(url, load_settings(broker=url)) as broker:
        began = time.perf_counter()
        await farewell((await broker.start_consumer("choreo", None)).stop())
        took = time.perf_counter() - began
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always", ResourceWarning)
            for number in range(TRIES):  # some of them meet the first request
                starting = asyncio.create_task(broker.start_consumer("choreo", None))
                await asyncio.sleep(took * number / TRIES)
                starting.cancel()
                [started] = await asyncio.gather(starting, return_exceptions=True)
                if not isinstance(started, asyncio.CancelledError):
                    await farewell(started.stop())
            del starting, started
            gc.collect()
    assert [str(each.message) for each in left_open] == []
