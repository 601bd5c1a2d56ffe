"""Sends that are joined: in the order of the calls, and what one of them did wrong fails no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from choreo.events.envelope import Record
from choreo.events.errors import BrokerUnreachable, LimitExceeded
from choreo.events.sending import Joiner


class Broker:
    """Takes what has a value; `away` makes it fail in a way that passes."""

    def __init__(self) -> None:
        self.taken: list[bytes | None] = []
        self.away = False
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def write(self, records: Sequence[Record]) -> None:
        self.asked.set()
        await self.may.wait()
        if self.away:
            raise BrokerUnreachable("no broker answers")
        if any(record.value == b"too large" for record in records):
            raise LimitExceeded("the broker refuses a batch as too large")
        self.taken += [record.value for record in records]


async def _send_together(broker: Broker, *values: bytes) -> list[BaseException | None]:
    joiner = Joiner(broker.write)
    first = asyncio.create_task(joiner.send([Record("t", b"1", b"first")]))
    await broker.asked.wait()
    calls = [asyncio.create_task(joiner.send([Record("t", b"1", value)])) for value in values]
    await asyncio.sleep(0)
    broker.may.set()
    found = await asyncio.gather(first, *calls, return_exceptions=True)
    await joiner.close()
    return found


async def test_what_the_broker_refuses_for_good_fails_only_the_call_at_fault() -> None:
    broker = Broker()
    found = await _send_together(broker, b"second", b"too large", b"third")
    assert broker.taken == [b"first", b"second", b"third"]
    assert [type(each) for each in found] == [type(None), type(None), LimitExceeded, type(None)]


async def test_a_broker_that_is_away_fails_every_call() -> None:
    broker = Broker()
    broker.away = True
    found = await _send_together(broker, b"second", b"third")
    assert [type(each) for each in found] == [BrokerUnreachable] * 3


async def test_a_joiner_that_is_cancelled_leaves_nobody_waiting() -> None:
    broker = Broker()
    joiner = Joiner(broker.write)
    calls = [asyncio.create_task(joiner.send([Record("t", b"1", b"x")])) for _ in range(3)]
    await broker.asked.wait()
    (task,) = [task for task in asyncio.all_tasks() if "Joiner._run" in repr(task)]
    task.cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, Exception) and "sen" in str(each) for each in found)
    with pytest.raises(asyncio.CancelledError):
        await task
