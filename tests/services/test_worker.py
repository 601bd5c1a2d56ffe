"""The worker: order per key, at the same time across keys, each event once, offsets last."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from choreo.events.catalog import read_catalog
from choreo.events.envelope import Record, TopicPartition
from choreo.events.errors import BrokerUnreachable, PositionLost, TopicMissing
from choreo.events.ids import derived_id
from choreo.events.memory import MemoryBroker
from choreo.services.context import Context
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import (
    NOW,
    Charge,
    Charged,
    Legacy,
    OrderChanged,
    OrderPlaced,
    Rig,
    StockRefused,
    StockReserved,
    command,
    until,
)

QUICK = Retry(attempts=3, first="1ms", most="2ms")


def _reserving(store, **options):
    service = Service("inventory", store=store, **options)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id, number=order.number)

    return service


@pytest.mark.parametrize("stateless", [False, True])
async def test_every_event_is_handled_and_its_offset_committed(any_rig: Rig, store, stateless):
    sent = await any_rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(50)))
    worker = await any_rig.run(_reserving(None if stateless else store))
    out = await any_rig.published("inventory")
    assert worker.counters.handled == 50
    assert sorted(each.envelope.causation_id for each in out) == sorted(sent)
    assert await any_rig.all_committed("inventory", "orders")
    assert (await any_rig.broker.group("inventory")).members == ()


async def test_ruling_12_an_output_says_who_when_and_why_and_stays_in_its_saga(rig: Rig, store):
    headers = command("reserve", key="7", run=2) | {"saga_traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    (sent,) = await rig.publish(OrderPlaced(order_id="7"), **headers)
    await rig.run(_reserving(store, concurrency=1), clock=lambda: NOW + 5)
    (out,) = await rig.published("inventory")
    envelope = out.envelope
    assert envelope.id == derived_id("output", sent, "inventory", "reserve", "0")
    assert (envelope.type, envelope.source, envelope.time, envelope.key) == ("StockReserved", "inventory", NOW + 5, "7")
    assert (envelope.saga_id, envelope.saga_type, envelope.saga_run) == ("fulfilment/7", "fulfilment", 2)
    assert (envelope.saga_step, envelope.saga_attempt, envelope.undoes) == ("reserve", None, ())
    assert envelope.saga_traceparent == headers["saga_traceparent"]


async def test_events_of_one_key_are_handled_in_order_and_keys_at_the_same_time(rig: Rig, store):
    service = Service("inventory", store=store)
    seen: dict[str, list[int]] = {}
    now = most = 0

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002 if order.number % 2 else 0.001)
        now -= 1
        seen.setdefault(order.order_id, []).append(order.number)

    await rig.publish(*(OrderPlaced(order_id=str(n % 10), number=n) for n in range(100)))
    await rig.run(service)
    assert {key: sorted(numbers) for key, numbers in seen.items()} == seen
    assert sum(map(len, seen.values())) == 100
    assert most == 10


async def test_no_more_handlers_wait_at_once_than_allowed(rig: Rig, store):
    service = Service("inventory", store=store, concurrency=3)
    now = most = 0

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1

    await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(30)))
    await rig.run(service)
    assert most == 3


async def test_a_batch_is_one_transaction(rig: Rig, store):
    """Not one per event: 200 events, and the batches that they were read in."""
    await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(200)))
    worker = await rig.run(_reserving(store))
    assert worker.counters.handled == 200
    assert worker.counters.transactions == 1


async def test_row_4_a_duplicate_is_dropped_whenever_it_comes(any_rig: Rig, store):
    rig = any_rig
    first = rig.record(OrderPlaced(order_id="1"))
    await rig.broker.send([first, first, rig.record(OrderPlaced(order_id="2")), first])
    worker = await rig.run(_reserving(store))
    assert (worker.counters.handled, worker.counters.duplicates) == (2, 2)
    await rig.broker.send([first])
    worker = await rig.run(_reserving(store))
    assert (worker.counters.handled, worker.counters.duplicates) == (0, 1)
    assert len(await rig.published("inventory")) == 2


async def test_without_a_store_copies_of_an_event_run_under_the_same_ids_and_stop_nothing(rig: Rig):
    first = rig.record(OrderPlaced(order_id="1"))
    await rig.broker.send([first, first, rig.record(OrderPlaced(order_id="1", number=2)), first])
    worker = await rig.run(_reserving(None))
    assert worker.counters.handled == 4
    assert len({each.envelope.id for each in await rig.published("inventory")}) == 2
    assert await rig.all_committed("inventory", "orders")


async def test_a_copy_that_is_looked_up_while_the_first_one_ends_does_not_run(rig: Rig, store, monkeypatch):
    service = Service("inventory", store=store)
    may, seen = asyncio.Event(), []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        await may.wait()
        seen.append(order.order_id)

    record = rig.record(OrderPlaced(order_id="1"))
    async with rig.running(service) as worker:
        await rig.broker.send([record])
        await until(lambda: len(worker._dispatcher.jobs) == 1)
        real = worker._database.read

        async def slow(work):
            found = await real(work)
            may.set()
            await until(lambda: worker.counters.handled >= 1)
            return found

        monkeypatch.setattr(worker._database, "read", slow)
        await rig.broker.send([record])
        await until(lambda: worker.counters.duplicates >= 1)
        monkeypatch.undo()
    assert seen == ["1"]


async def test_two_handlers_of_one_event_have_an_inbox_each(rig: Rig, store):
    service = _reserving(store)
    seen = []

    @service.on(OrderPlaced)
    async def audit(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    one = rig.record(OrderPlaced(order_id="1"))
    await rig.broker.send([one, one])
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.duplicates, seen) == (2, 2, ["1"])


async def test_a_retried_handler_publishes_under_the_same_ids(rig: Rig):
    ids = []
    for _ in range(2):  # stateless: the second run of the group knows nothing of the first
        service = Service("inventory", store=None)
        failing = {"left": 2}

        @service.on(OrderPlaced, retry=QUICK)
        async def reserve(order: OrderPlaced, failing=failing) -> list[StockReserved | StockRefused]:
            if failing["left"]:
                failing["left"] -= 1
                raise OSError("away")
            return [StockReserved(order_id=order.order_id), StockRefused(order_id=order.order_id)]

        if not ids:
            await rig.publish(OrderPlaced(order_id="1"), id="order-1")
        else:
            rig.broker._state.committed.clear()
        worker = await rig.run(service)
        assert worker.counters.retries == 2
        ids.append([each.envelope.id for each in (await rig.published("inventory"))[-2:]])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_row_12_a_key_that_waits_for_its_retry_holds_up_no_other_and_no_offset_passes_it(rig: Rig, store):
    service = Service("inventory", store=store)
    may, seen = asyncio.Event(), []

    @service.on(OrderPlaced, retry=Retry(attempts=1_000, first="5ms", most="5ms"))
    async def reserve(order: OrderPlaced) -> None:
        if order.order_id == "stuck" and not may.is_set():
            raise OSError("not yet")
        seen.append(order.order_id)

    async with rig.running(service) as worker:
        await rig.publish(OrderPlaced(order_id="stuck", number=1), OrderPlaced(order_id="stuck", number=2))
        await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(40)))
        await until(lambda: len(seen) >= 40)
        assert "stuck" not in seen
        await until(lambda: worker.counters.retries > 3)
        stuck = await _place_of(rig, "stuck")
        assert (await rig.broker.group("inventory")).committed.get(stuck[0], 0) <= stuck[1]
        assert not await worker.idle()
        may.set()
    assert seen[-2:] == ["stuck", "stuck"]
    assert await rig.all_committed("inventory", "orders")


async def _place_of(rig: Rig, key: str) -> tuple[TopicPartition, int]:
    for delivery in await rig.deliveries("orders"):
        if delivery.key == key.encode():
            return delivery.place, delivery.offset
    raise AssertionError(key)


async def test_events_of_types_that_nobody_takes_are_skipped(rig: Rig, store):
    await rig.publish(OrderChanged(order_id="1"), OrderPlaced(order_id="1"))
    worker = await rig.run(_reserving(store))
    assert (worker.counters.handled, worker.counters.skipped) == (1, 1)
    assert await rig.all_committed("inventory", "orders")


async def test_a_foreign_producers_plain_json_is_understood(rig: Rig, store):
    service = Service("adapter", store=store)
    seen = []

    @service.on(Legacy)
    async def adapt(event: Legacy, context: Context) -> None:
        seen.append((event.ref, context.envelope.source))

    await rig.broker.send([Record("legacy", b"9", b'{"ref": "9"}')])
    structured = b'{"specversion":"1.0","id":"e-1","type":"Legacy","source":"shop","data":{"ref":"10"}}'
    await rig.broker.send([Record("legacy", b"10", structured, (("content-type", b"application/cloudevents+json"),))])
    await rig.run(service)
    assert sorted(seen) == [("10", "shop"), ("9", "legacy")]


async def test_row_32_a_service_whose_topics_are_missing_does_not_start(store):
    """Semantics, row 32: a service that reads nothing must not look healthy."""
    async with MemoryBroker() as broker:
        from choreo.events.settings import Settings

        rig = Rig(broker, Settings())
        with pytest.raises(TopicMissing, match="'orders'"):
            await rig.worker(_reserving(store)).start()


async def test_a_service_announces_itself(rig: Rig, store):
    await rig.run(_reserving(store))
    told = (await read_catalog(rig.broker))["inventory"]
    assert [handler.name for handler in told.handlers] == ["reserve"]


async def test_a_stop_lets_running_handlers_end_and_commits_them(rig: Rig, store):
    service = Service("inventory", store=store)
    begun, may, ended = asyncio.Event(), asyncio.Event(), []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        begun.set()
        await may.wait()
        ended.append(order.number)
        return StockReserved(order_id=order.order_id)

    worker = rig.worker(service)
    await worker.start()
    await rig.publish(*(OrderPlaced(order_id="1", number=n) for n in range(3)))
    await begun.wait()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.05)
    may.set()
    await stopping
    assert ended == [0]  # those behind it were not begun
    assert len(await rig.published("inventory")) == 1
    assert sum((await rig.broker.group("inventory")).committed.values()) == 1
    await rig.run(service)
    assert ended == [0, 1, 2]


async def test_fault_13_a_stop_ends_within_its_deadline_though_a_handler_hangs(rig: Rig, store):
    service = Service("inventory", store=store, drain="50ms")
    begun, cancelled = asyncio.Event(), []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(order.number)
            raise

    worker = rig.worker(service)
    await worker.start()
    await rig.publish(OrderPlaced(order_id="1", number=4))
    await begun.wait()
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 60  # the handler would take an hour
    assert cancelled == [4]
    assert sum((await rig.broker.group("inventory")).committed.values()) == 0


async def test_ruling_18_idle_means_read_handled_committed_and_sent(rig: Rig, store):
    service = Service("inventory", store=store)
    may, begun, again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @service.on(OrderPlaced, retry=Retry(attempts=1, first="900ms"), exhausted="park")
    async def reserve(order: OrderPlaced, context: Context) -> StockReserved:
        if context.attempt > 1:
            await again.wait()
            return StockReserved(order_id=order.order_id)
        begun.set()
        await may.wait()
        if order.number == 1:
            raise OSError("warehouse away")
        return StockReserved(order_id=order.order_id)

    async with rig.worker(service) as worker:
        await until(worker.idle)
        await rig.publish(OrderPlaced(order_id="1", number=1))
        assert not await worker.idle(), "there is something to read"
        await begun.wait()
        assert not await worker.idle(), "a handler runs"
        may.set()
        await until(lambda: worker.counters.parked >= 1)
        assert not await worker.idle(), "what is parked is due within a second, or runs"
        again.set()
        await until(worker.idle)
    assert len(await rig.published("inventory")) == 1


async def test_a_stop_does_not_wait_for_a_handler_that_swallows_its_cancellation(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.dispatcher.FAREWELL", 0.1)
    service = Service("inventory", store=store, drain="50ms")
    begun, may = asyncio.Event(), asyncio.Event()

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        begun.set()
        while not may.is_set():
            try:
                await may.wait()
            except asyncio.CancelledError:
                continue

    worker = rig.worker(service)
    await worker.start()
    await rig.publish(OrderPlaced(order_id="1"))
    await begun.wait()
    try:
        async with asyncio.timeout(60):
            await worker.stop()
    finally:
        may.set()
        await asyncio.sleep(0.1)
    assert sum((await rig.broker.group("inventory")).committed.values()) == 0


async def test_ruling_3_a_command_that_comes_again_is_answered_again_with_the_same_bytes(any_rig: Rig, store):
    """Semantics, row 4; design, section 6: silence resends the same id, and the recorded answer goes out again."""
    rig = any_rig
    runs = []
    service = Service("payment", store=store)

    @service.on(Charge)
    async def charge(command: Charge) -> Charged:
        runs.append(command.order_id)
        return Charged(order_id=command.order_id)

    sent = rig.record(Charge(order_id="1"), **command("charge"))
    await rig.broker.send([sent])
    await rig.run(service)
    await rig.broker.send([sent, sent])
    worker = await rig.run(service)
    assert runs == ["1"]
    assert worker.counters.duplicates == 2
    answers = await rig.deliveries("payments")
    assert len(answers) == 3
    assert len({(each.key, each.value, each.headers) for each in answers}) == 1


async def test_ruling_3_another_attempt_of_a_command_runs_again_under_the_same_idempotency_key(rig: Rig, store):
    """Ruling R3: a higher attempt follows a known failure; what the outside world sees is the same work."""
    keys = []
    service = Service("payment", store=store)

    @service.on(Charge)
    async def charge(command: Charge, context: Context) -> Charged:
        keys.append((context.saga_id, context.step, context.attempt, context.idempotency_key))
        return Charged(order_id=command.order_id)

    await rig.publish(Charge(order_id="1"), **command("charge", 1))
    await rig.publish(Charge(order_id="1"), **command("charge", 2))
    await rig.publish(Charge(order_id="2"), **command("charge", 1, key="2"))
    worker = await rig.run(service)
    assert worker.counters.handled == 3
    by_saga = {}
    for saga, step, attempt, key in keys:
        assert (step, attempt) == ("charge", 1)
        by_saga.setdefault(saga, set()).add(key)
    assert [len(found) for found in by_saga.values()] == [1, 1]
    assert by_saga["fulfilment/1"] != by_saga["fulfilment/2"]


async def test_reading_pauses_while_too_much_is_in_flight(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.worker.MOST_IN_FLIGHT", 20)
    service = Service("inventory", store=store)
    may, begun = asyncio.Event(), []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        begun.append(order.number)
        await may.wait()

    async with rig.running(service) as worker:
        await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(60)))
        await until(lambda: len(begun) >= 20)
        await asyncio.sleep(0.2)
        assert len(begun) == 20
        assert not await worker.idle()
        may.set()
    assert len(begun) == 60


async def test_a_partition_pauses_when_it_runs_too_far_ahead_of_its_oldest_event(rig: Rig, store, monkeypatch):
    """guarantees.md, 2.4: one stuck key must not pin everything behind it in memory."""
    monkeypatch.setattr("choreo.services.partitions.MOST_SPAN", 100)
    service = Service("inventory", store=store)
    may, seen = asyncio.Event(), []

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> None:
        if order.order_id == "stuck":
            await may.wait()
        seen.append(order.number)

    await _send_to_one_partition(rig, 1_200)
    async with rig.running(service):
        await until(lambda: len(seen) >= 100)
        await asyncio.sleep(0.3)
        assert len(seen) < 1_200
        may.set()
    assert len(seen) == 1_201
    assert await rig.all_committed("inventory", "orders")


async def _send_to_one_partition(rig: Rig, count: int) -> None:
    records = [rig.record(OrderPlaced(order_id="stuck"))]
    records += [rig.record(OrderPlaced(order_id=str(n), number=n)) for n in range(count)]
    for start in range(0, len(records), 50):
        chunk = records[start : start + 50]
        await rig.broker.send([Record(r.topic, r.key, r.value, r.headers, partition=0) for r in chunk])


async def test_a_connection_that_breaks_for_good_is_made_anew(rig: Rig, store):
    broken = []

    class Breaking:
        def __init__(self, consumer):
            self._consumer = consumer

        def __getattr__(self, name):
            return getattr(self._consumer, name)

        async def poll(self, **options):
            if not broken and self._consumer.assignment():
                broken.append(True)
                raise BrokerUnreachable("the connection is gone")
            return await self._consumer.poll(**options)

    real = rig.broker.subscribe

    async def subscribe(*arguments, **options):
        return Breaking(await real(*arguments, **options))

    rig.broker.subscribe = subscribe  # type: ignore[method-assign]
    await rig.publish(*(OrderPlaced(order_id=str(n)) for n in range(20)))
    worker = await rig.run(_reserving(store))
    assert broken
    assert worker.counters.handled == 20
    assert len(await rig.published("inventory")) == 20


async def test_a_position_that_is_lost_stops_the_service_for_a_person_to_decide(rig: Rig, store):
    """guarantees.md, fault 24: stop and alarm, no silent jump."""
    await rig.publish(*(OrderPlaced(order_id="1") for _ in range(5)))
    await rig.run(_reserving(store))
    await rig.publish(*(OrderPlaced(order_id="1") for _ in range(5)))
    ends = await rig.broker.end_offsets(["orders"])
    await rig.broker.delete_records(ends)
    worker = rig.worker(_reserving(store))
    await worker.start()
    with pytest.raises(PositionLost):
        await worker.wait()
    await worker.stop()


async def test_a_handlers_logger_knows_what_it_works_on(rig: Rig, store):
    service = Service("inventory", store=store)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, context: Context) -> None:
        context.log.info("laid aside")

    with capture_logs() as logs:
        (sent,) = await rig.publish(OrderPlaced(order_id="1"), **command("reserve"))
        await rig.run(service)
    (line,) = [each for each in logs if each["event"] == "laid aside"]
    assert (line["service"], line["handler"], line["event_id"]) == ("inventory", "reserve", sent)
    assert line["saga_id"] == "fulfilment/1"


async def test_row_32_a_topic_that_is_only_written_to_is_missed_at_the_start_too(store):
    """Semantics, row 32: an answer or a dead letter without a topic would be found out when it is too late."""
    async with MemoryBroker() as broker:
        from choreo.events.settings import Settings

        rig = Rig(broker, Settings())
        await rig.prepare()
        missing = ("orders.dlq", "inventory", "choreo.failures")
        for topic in missing:
            del broker._state.topics[topic]
        with pytest.raises(TopicMissing, match=r"'choreo\.failures', 'inventory', 'orders\.dlq' do not exist"):
            await rig.worker(_reserving(store)).start()
