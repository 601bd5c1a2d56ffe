"""The outbox: what is committed is published, at least once, whoever dies; what is rolled back never is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import func, select

from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Record
from choreo.events.errors import BrokerUnreachable, LimitExceeded
from choreo.events.memory import MemoryBroker
from choreo.events.outbox import HEAD, MOST_RECORD_BYTES, Relay, metadata, outbox
from choreo.events.transport import TopicSpec


class Time:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


class Flaky:
    """A broker that can be away, or take a call and never answer."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.failures = 0
        self.silent = False
        self.calls = 0

    async def send(self, records: Sequence[Record]) -> None:
        self.calls += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise BrokerUnreachable("no broker answers")
        await self._broker.send(records)


def _record(number: int, **more: object) -> Record:
    return Record("orders", b"4711", b"event %d" % number, **more)


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker() as broker:
        await broker.create_topics([TopicSpec("orders", partitions=2)])
        yield broker


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    database = await Database.open(store_url)
    await database.ensure_schema("events", metadata, HEAD)
    yield database
    await database.close()


@asynccontextmanager
async def _running(relay: Relay, *, drain: float = 5.0) -> AsyncIterator[Relay]:
    await relay.start()
    try:
        yield relay
    finally:
        await relay.close(drain=drain)


async def _read(broker: MemoryBroker) -> list[Delivery]:
    return await broker.snapshot("orders")


async def _rows(database: Database) -> int:
    return await database.read(
        lambda connection: connection.execute(select(func.count()).select_from(outbox)).scalar_one()
    )


async def _until(condition: object) -> None:
    """Wait until an async condition holds; the suite's own limit ends it if it never does."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_ruling_10_what_is_committed_is_published_in_order_and_then_forgotten(
    database: Database, broker: MemoryBroker
) -> None:
    async with _running(Relay(database, broker)) as relay:
        for start in (0, 3):
            rows = await database.write(lambda c, s=start: relay.put(c, [_record(s + n) for n in range(3)]))
            relay.publish(rows)
        await relay.drained()
        assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(6)]
        assert await relay.depth() == 0
    assert await _rows(database) == 0


async def test_row_9_what_is_rolled_back_is_never_published(database: Database, broker: MemoryBroker) -> None:
    time = Time()
    async with _running(Relay(database, broker, clock=time)) as relay:

        def fails(connection: object) -> None:
            relay.put(connection, [_record(1)])
            raise RuntimeError("the handler broke")

        with pytest.raises(RuntimeError, match="the handler broke"):
            await database.write(fails)
        assert await relay.depth() == 0
    assert await _read(broker) == []


async def test_a_record_that_no_broker_takes_is_refused_before_the_commit(
    database: Database, broker: MemoryBroker
) -> None:
    relay = Relay(database, broker)
    large = Record("orders", b"4711", b"x" * MOST_RECORD_BYTES)
    with pytest.raises(LimitExceeded, match="at most 1000000"):
        await database.write(lambda connection: relay.put(connection, [_record(1), large]))
    assert await _rows(database) == 0


_DIES = """
import asyncio, os, sys
from choreo.events.database import Database
from choreo.events.envelope import Record
from choreo.events.memory import MemoryBroker
from choreo.events.outbox import Relay

async def main():
    database = await Database.open(sys.argv[1])
    async with MemoryBroker() as broker:
        relay = Relay(database, broker, clock=lambda: int(sys.argv[2]))
        record = Record("orders", b"4711", b"event 1", (("ce_id", b"\\xff1"),), 1_700_000_000_123, 1)
        await database.write(lambda connection: relay.put(connection, [record]))
        os._exit(9)

asyncio.run(main())
"""


async def test_row_10_a_process_that_dies_between_commit_and_publish_loses_nothing(
    database: Database, store_url: str, broker: MemoryBroker
) -> None:
    time = Time()
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _DIES, store_url, str(time.now)], check=False, capture_output=True
    )
    assert died.returncode == 9, died.stderr.decode()
    time.now += 60 * SECOND

    async def published() -> bool:
        return bool(await _read(broker))

    async with _running(Relay(database, broker, clock=time)):
        await _until(published)
    [delivery] = await _read(broker)
    assert delivery.key == b"4711"
    assert delivery.value == b"event 1"
    assert delivery.headers == (("ce_id", b"\xff1"),)
    assert delivery.timestamp == 1_700_000_000_123
    assert delivery.partition == 1
    assert await _rows(database) == 0


async def test_ruling_10_rows_that_are_being_sent_are_left_to_who_committed_them(
    database: Database, broker: MemoryBroker
) -> None:
    time = Time()
    slow = Flaky(broker)
    slow.silent = True
    async with (
        _running(Relay(database, slow, clock=time), drain=0.01) as first,
        _running(Relay(database, broker, clock=time)) as second,
    ):
        first.publish(await database.write(lambda connection: first.put(connection, [_record(1)])))
        second.publish(await database.write(lambda connection: second.put(connection, [_record(2)])))
        await second.drained()
        assert [delivery.value for delivery in await _read(broker)] == [b"event 2"]


async def test_row_11_a_lease_is_respected_and_a_dead_sweeper_is_replaced(
    database: Database, broker: MemoryBroker
) -> None:
    time = Time()
    left = Relay(database, broker, clock=time)
    await database.write(lambda connection: left.put(connection, [_record(n) for n in range(10)]))
    time.now += 10 * SECOND
    stuck = Flaky(broker)
    stuck.silent = True
    async with _running(Relay(database, stuck, clock=time), drain=0.01):

        async def taken() -> bool:
            return stuck.calls > 0

        await _until(taken)
        async with _running(Relay(database, broker, clock=time)) as other:
            other.publish(await database.write(lambda connection: other.put(connection, [_record(10)])))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(other.drained(), 0.5)
            assert await _read(broker) == [], "the lease was not respected"
            time.now += 60 * SECOND
            await other.drained()
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(11)]
    assert await _rows(database) == 0


async def test_after_a_restart_the_last_process_s_rows_go_before_new_ones(
    database: Database, broker: MemoryBroker
) -> None:
    time = Time()
    dead = Relay(database, broker, clock=time)
    await database.write(lambda connection: dead.put(connection, [_record(0), _record(1)]))
    async with _running(Relay(database, broker, clock=time)) as relay:
        relay.publish(await database.write(lambda connection: relay.put(connection, [_record(2)])))
        time.now += 10 * SECOND
        relay.publish(await database.write(lambda connection: relay.put(connection, [_record(3)])))
        await relay.drained()
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(4)]


async def test_a_topic_that_does_not_exist_holds_up_no_other_and_is_sent_in_order_once_it_is_made(
    database: Database, broker: MemoryBroker
) -> None:
    """guarantees.md, fault 54."""
    async with _running(Relay(database, broker)) as relay:
        for number in range(4):
            missing = Record("orders.dlq", b"4711", b"letter %d" % number)
            relay.publish(
                await database.write(lambda c, n=number, m=missing: relay.put(c, [m, _record(n)]))  # type: ignore[misc]
            )

        async def others() -> bool:
            return len(await _read(broker)) >= 4

        await _until(others)
        assert await relay.depth() == 4
        await broker.create_topics([TopicSpec("orders.dlq")])
        relay.publish(await database.write(lambda c: relay.put(c, [Record("orders.dlq", b"4711", b"letter 4")])))
        await relay.drained()
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(4)]
    letters = await broker.snapshot("orders.dlq")
    assert [delivery.value for delivery in letters] == [b"letter %d" % n for n in range(5)]
    assert await _rows(database) == 0


async def test_a_long_backlog_is_sent_without_pauses(database: Database, broker: MemoryBroker) -> None:
    time = Time()
    left = Relay(database, broker, clock=time)
    await database.write(lambda connection: left.put(connection, [_record(n) for n in range(1_700)]))
    time.now += 10 * SECOND  # and stands still from here on: one sweep per second of this clock would be one sweep

    async def published() -> bool:
        return len(await _read(broker)) >= 1_700

    async with _running(Relay(database, broker, clock=time)) as relay:
        await _until(published)
        assert await relay.depth() == 0
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(1_700)]


async def test_rows_found_by_the_sweeper_count_as_not_drained(database: Database, broker: MemoryBroker) -> None:
    time = Time()
    left = Relay(database, broker, clock=time)
    await database.write(lambda connection: left.put(connection, [_record(1)]))
    time.now += 10 * SECOND
    slow = Flaky(broker)
    slow.silent = True

    async def taken() -> bool:
        return slow.calls > 0

    async with _running(Relay(database, slow, clock=time), drain=0.01) as relay:
        await _until(taken)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(relay.drained(), 0.05)
        assert await relay.depth() == 1


async def test_while_the_broker_is_away_rows_wait_in_order_and_nobody_spins(
    database: Database, broker: MemoryBroker
) -> None:
    flaky = Flaky(broker)
    flaky.failures = 2
    async with _running(Relay(database, flaky)) as relay:
        for number in range(5):
            relay.publish(await database.write(lambda c, n=number: relay.put(c, [_record(n)])))
        await relay.drained()
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(5)]
    assert flaky.calls <= 2 + 5


async def test_who_deletes_acknowledged_rows_may_be_rolled_back(database: Database, broker: MemoryBroker) -> None:
    time = Time()
    async with _running(Relay(database, broker, clock=time)) as relay:
        relay.publish(await database.write(lambda connection: relay.put(connection, [_record(0)])))
        await relay.drained()
        time.now += 10 * SECOND  # and stands still from here on
        relay.publish(await database.write(lambda connection: relay.put(connection, [_record(1)])))

        async def swept() -> bool:  # who deletes that one has looked at the clock since: it was the last sweep
            return await _rows(database) == 0

        await _until(swept)
        for number in (2, 3):
            relay.publish(await database.write(lambda c, n=number: relay.put(c, [_record(n)])))  # type: ignore[misc]
        await relay.drained()

        def fails(connection: object) -> None:
            relay.settle(connection)
            raise RuntimeError("the batch broke")

        with pytest.raises(RuntimeError, match="the batch broke"):
            await database.write(fails)
        assert await _rows(database) == 2
        assert await relay.depth() == 0, "they were acknowledged"
        await database.write(relay.settle)
        assert await _rows(database) == 0
    assert len(await _read(broker)) == 4


async def test_closing_sends_what_is_pending(database: Database, broker: MemoryBroker) -> None:
    relay = Relay(database, broker)
    await relay.start()
    relay.publish(await database.write(lambda connection: relay.put(connection, [_record(1)])))
    await relay.close()
    assert len(await _read(broker)) == 1
    assert await _rows(database) == 0


async def test_what_memory_cannot_hold_is_loaded_again_in_order(
    database: Database, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.events.outbox._MOST_PENDING", 10)
    away = Flaky(broker)
    away.failures = 10**9
    async with _running(Relay(database, away)) as relay:
        for number in range(0, 1_200, 6):
            batch = [_record(number + n) for n in range(6)]
            relay.publish(await database.write(lambda c, b=batch: relay.put(c, b)))  # type: ignore[misc]
        away.failures = 0
        relay.publish(await database.write(lambda connection: relay.put(connection, [_record(1_200)])))
        await relay.drained()
    assert [delivery.value for delivery in await _read(broker)] == [b"event %d" % n for n in range(1_201)]
    assert await _rows(database) == 0


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_that_meets_new_work_ends(broker: MemoryBroker, database: Database, turns: int) -> None:
    """On Python 3.11 `asyncio.wait_for` swallows a cancellation that comes just when it is done (gh-86296)."""
    relay = Relay(database, broker)
    await relay.start()
    await relay.drained()
    await asyncio.sleep(0.05)  # it waits for work by now
    rows = await database.write(lambda connection: relay.put(connection, [_record(1)]))
    closing = asyncio.create_task(relay.close(drain=0))
    for _ in range(turns):
        await asyncio.sleep(0)
    relay.publish(rows)
    _, late = await asyncio.wait([closing], timeout=60)
    for task in late:  # or the test would hang as well
        task.cancel()
    assert not late
