"""The partitions of a worker: what a cut commit leaves for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from choreo.events.envelope import Delivery, TopicPartition
from choreo.events.transport import Consumer
from choreo.services.partitions import Partitions

PLACE = TopicPartition("orders", 0)


class Slow:
    """A consumer whose commits take until `answers` is set."""

    def __init__(self) -> None:
        self.asked: list[dict[TopicPartition, int]] = []
        self.answers = asyncio.Event()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.asked.append(dict(offsets))
        await self.answers.wait()


async def test_a_commit_that_is_cancelled_by_a_stop_is_made_again_at_its_end() -> None:
    partitions, slow = Partitions(), Slow()
    consumer = cast(Consumer, slow)
    [receipt] = partitions.read([Delivery("orders", 0, 7, 0, b"k", b"v", ())])
    partitions.finish(receipt)
    first = asyncio.create_task(partitions.commit(consumer))
    while not slow.asked:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.answers.set()
    await partitions.commit(consumer)
    assert slow.asked == [{PLACE: 8}, {PLACE: 8}]


async def test_what_ends_a_moment_later_comes_along_with_a_commit() -> None:
    partitions, quick = Partitions(linger=0.02), Slow()
    quick.answers.set()
    receipts = partitions.read([Delivery("orders", 0, offset, 0, b"k", b"v", ()) for offset in (7, 8)])
    partitions.finish(receipts[0])
    waiting = asyncio.create_task(partitions.until_moved())
    await asyncio.sleep(0)
    partitions.finish(receipts[1])
    await waiting
    await partitions.commit(cast(Consumer, quick))
    assert quick.asked == [{PLACE: 9}]
