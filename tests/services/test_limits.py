"""Limits of handlers: time, threads, how many at once, how often, and a breaker; on virtual time where time matters."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from choreo.events.catalog import BREAKER_HOLDS, BREAKERS_TOPIC, BreakerAnnouncement, read_breakers
from choreo.events.clock import system_clock
from choreo.events.errors import DefinitionError, Permanent, TransportError
from choreo.saga.testing import Harness
from choreo.services.breaker import Breaker, Circuit, Position
from choreo.services.context import Context, Transaction
from choreo.services.limits import Bucket
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import Charge, Charged, OrderPlaced, Refund, Refunded, Rig, StockReserved, until

ONCE = Retry(attempts=1)


def _orders(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=str(number), number=number) for number in range(count)]


def _outputs(harness: Harness) -> list[str]:
    return [event.order_id for event in harness.sent(StockReserved)]


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_call_that_takes_too_long_is_cancelled_and_counts_as_failed():
    service = Service("inventory")
    tries = []

    @service.on(OrderPlaced, timeout="10s", retry=Retry(attempts=3, first="1s", most="1s", jitter=0))
    async def reserve(order: OrderPlaced, context: Context) -> StockReserved:
        tries.append(context.attempt)
        await asyncio.sleep(60 if len(tries) < 3 else 9)
        return StockReserved(order_id=order.order_id)

    async with Harness(service) as harness:
        await harness.publish(OrderPlaced(order_id="1"))
        await harness.advance("30s")
        assert (tries, _outputs(harness)) == ([1, 2, 3], [])
        await harness.advance("2s")
        assert _outputs(harness) == ["1"]


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_its_limit():
    service = Service("inventory", store=None)

    @service.on(OrderPlaced, timeout="10s", retry=ONCE)
    async def reserve(order: OrderPlaced) -> None:
        raise TimeoutError("the bank is slow")

    async with Harness(service) as harness:
        await harness.publish(OrderPlaced(order_id="1"))
        await harness.settle()
        (letter,) = harness.dead_letters()
        assert (letter.error, letter.message) == ("TimeoutError", "the bank is slow")


@pytest.mark.parametrize("way", ["execute", pytest.param("connection", marks=pytest.mark.postgres)])
async def test_a_time_limit_inside_a_transaction_fails_its_own_event_only(rig: Rig, store, request, way):
    """A statement of `execute` ends first; one on the bare connection is cut short, and the connection with it."""
    service = Service("inventory", store=store if way == "execute" else request.getfixturevalue("postgres_url"))
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT max(i) FROM n"

    @service.on(OrderPlaced, timeout="200ms", retry=Retry(attempts=2, first="1ms", most="1ms"))
    async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved:
        if order.order_id == "1":
            while way == "execute":
                await tx.execute(slow)
            await tx.connection.execute(text("SELECT pg_sleep(60)"))
        return StockReserved(order_id=order.order_id)

    await rig.publish(*_orders(4))
    worker = await rig.run(service)
    assert sorted(each.event["order_id"] for each in await rig.published("inventory")) == ["0", "2", "3"]
    (letter,) = await rig.published("orders.dlq")
    assert (letter.header("dlq-error"), letter.header("dlq-attempts")) == ("TimeoutError", "2")
    assert letter.header("dlq-message") == "it took longer than its time limit of 0.2s"
    assert (worker.counters.handled, worker.counters.dead) == (3, 1)


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "claimed", "stateless"])
async def test_a_blocking_handler_runs_in_a_thread_of_a_bounded_pool(rig: Rig, store, kind):
    service = Service("payment", store=None if kind == "stateless" else store, threads=3)
    inside, most, names = 0, 0, set()
    lock, gate = threading.Lock(), threading.Event()

    @service.on(Charge)
    def charge(command: Charge, context: Context) -> Charged:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            names.add(threading.current_thread().name.rpartition("-")[0])
        assert gate.wait(60)
        with lock:
            inside -= 1
        return Charged(order_id=command.order_id)

    if kind == "claimed":

        @service.on(Refund, undoes=charge)
        def refund(command: Refund) -> Refunded:
            return Refunded(order_id=command.order_id)

    assert charge.__name__ == "charge" and not asyncio.iscoroutinefunction(charge)
    await rig.publish(*(Charge(order_id=str(n)) for n in range(8)))
    async with rig.running(service):
        await until(lambda: inside == 3)
        gate.set()  # the loop goes on meanwhile, or this line would never be reached
    assert (most, names) == (3, {"payment"})
    assert len(await rig.published("payments")) == 8


async def test_what_a_blocking_handler_raises_is_retried_like_any_error(rig: Rig, store):
    service = Service("inventory", store=store)
    tries = []

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="1ms", most="1ms"))
    def reserve(order: OrderPlaced) -> StockReserved:
        tries.append(order.order_id)
        raise OSError("no stock system")

    await rig.publish(OrderPlaced(order_id="1"))
    worker = await rig.run(service)
    assert (len(tries), worker.counters.dead) == (2, 1)


async def test_the_next_try_of_a_blocking_call_waits_for_the_thread_that_was_given_up(rig: Rig, store):
    service = Service("inventory", store=store)
    gate, inside, most, tries = threading.Event(), 0, 0, 0

    @service.on(OrderPlaced, timeout="400ms", retry=Retry(attempts=100, first="1ms", most="1ms"))
    def reserve(order: OrderPlaced) -> StockReserved:
        nonlocal inside, most, tries
        inside, tries = inside + 1, tries + 1
        most = max(most, inside)
        if tries == 1:
            assert gate.wait(60)
        inside -= 1
        return StockReserved(order_id=order.order_id)

    await rig.publish(OrderPlaced(order_id="1"))
    async with rig.running(service) as worker:
        await until(lambda: worker.counters.retries >= 2)
        assert tries == 1
        gate.set()
    assert (most, tries) == (1, 2)
    assert len(await rig.published("inventory")) == 1


# -- how many, how often ----------------------------------------------------------------------------------------------


async def test_no_more_calls_of_a_handler_run_at_once_than_it_says():
    service = Service("inventory")
    inside, most, other = 0, 0, []

    @service.on(OrderPlaced, concurrency=3)
    async def reserve(order: OrderPlaced) -> StockReserved:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(1)
        inside -= 1
        return StockReserved(order_id=order.order_id)

    @service.on(OrderPlaced)
    async def count(order: OrderPlaced) -> None:
        other.append(order.order_id)

    async with Harness(service) as harness:
        await harness.publish(*_orders(10))
        await harness.settle()
        assert len(other) == 10  # the handler beside it waits for nobody
        await harness.advance("4s")
        assert (most, len(_outputs(harness))) == (3, 10)


async def test_calls_of_a_handler_begin_no_faster_than_its_rate():
    service = Service("inventory")
    began = []

    @service.on(OrderPlaced, rate="5/s")
    async def reserve(order: OrderPlaced) -> StockReserved:
        began.append(asyncio.get_running_loop().time())
        return StockReserved(order_id=order.order_id)

    async with Harness(service) as harness:
        await harness.publish(*_orders(20))
        await harness.settle()
        assert len(began) == 5  # a second's worth at once
        await harness.advance("1s")
        assert len(began) == 10
        await harness.advance("2s")
        assert len(began) == 20
        gaps = [later - earlier for earlier, later in itertools.pairwise(began[5:])]
        assert all(gap == pytest.approx(0.2) for gap in gaps)


@given(st.floats(0.1, 500), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_a_bucket_never_gives_more_than_its_rate(rate, pauses):
    bucket, now, taken = Bucket(rate, 0.0), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.wait(now) == 0:
            bucket.take(now)
            taken.append(now)
    for first, begin in enumerate(taken):
        count = sum(1 for time in taken[first:] if time <= begin + 1)
        assert count <= max(1, rate) + rate + 1e-6


# -- breaker ----------------------------------------------------------------------------------------------------------


async def test_a_breaker_opens_waits_probes_and_closes_and_no_try_is_wasted():
    service = Service("payment")
    up, calls = False, []

    @service.on(
        OrderPlaced,
        retry=Retry(attempts=3, first="1s", most="1s"),
        breaker=Breaker(failures=0.5, calls=4, window="30s", pause="1m"),
    )
    async def charge(order: OrderPlaced) -> StockReserved:
        calls.append(order.order_id)
        if not up:
            raise OSError("the bank is away")
        return StockReserved(order_id=order.order_id)

    with structlog.testing.capture_logs() as logs:
        async with Harness(service) as harness:
            await harness.publish(*_orders(4))
            await harness.settle()
            assert len(calls) == 4
            await harness.advance("50s")
            assert len(calls) == 4, "while it is open nothing is tried"
            await harness.publish(*(OrderPlaced(order_id=f"late-{n}") for n in range(20)))
            await harness.advance("11s")
            assert len(calls) == 5, "one probe"
            await harness.advance("58s")
            assert len(calls) == 5
            up = True
            await harness.advance("2s")
            assert len(_outputs(harness)) == 24
            assert harness.dead_letters() == []
    told = [entry["event"] for entry in logs if entry["event"].startswith("breaker")]
    assert told == [
        "breaker opens, the handler is left alone",
        "breaker opens, the handler is left alone",
        "breaker closes, the handler goes on",
    ]


async def test_an_event_that_is_itself_the_fault_ends_as_a_probe_and_the_others_go_on():
    service = Service("payment")

    @service.on(OrderPlaced, retry=Retry(attempts=3, first="1s", most="1s"), breaker=Breaker(calls=1, pause="10s"))
    async def charge(order: OrderPlaced) -> StockReserved:
        if order.order_id == "0":
            raise ValueError("poison")
        return StockReserved(order_id=order.order_id)

    async with Harness(service) as harness:
        await harness.publish(*_orders(1))
        await harness.settle()
        await harness.publish(*_orders(5)[1:])
        await harness.advance("2m")
        assert sorted(_outputs(harness)) == ["1", "2", "3", "4"]
        assert [letter.error for letter in harness.dead_letters()] == ["ValueError"]


async def test_an_open_breaker_holds_its_own_handler_only_and_reading_pauses(rig: Rig, store, monkeypatch):
    monkeypatch.setattr("choreo.services.gates.MOST_HELD", 10)
    service = Service("shop", store=store)
    charged = []

    @service.on(OrderPlaced, retry=ONCE, breaker=Breaker(calls=1, pause="1h"))
    async def reserve(order: OrderPlaced) -> StockReserved:
        raise OSError("away")

    @service.on(Charge)
    async def charge(command: Charge) -> Charged:
        charged.append(command.order_id)
        return Charged(order_id=command.order_id)

    async with rig.worker(service) as worker:
        await rig.publish(OrderPlaced(order_id="first"))
        await until(lambda: worker.counters.dead >= 1)
        for part in range(20):
            await rig.publish(*(OrderPlaced(order_id=f"{part}-{n}") for n in range(50)))
        await until(lambda: len(worker._dispatcher.jobs) >= 10)
        await rig.publish(*(Charge(order_id=str(n)) for n in range(50)))
        await until(lambda: len(charged) >= 50)
        await asyncio.sleep(0.1)
        assert len(worker._dispatcher.jobs) < 1_000, "what waits is left with the broker"


async def test_an_open_breaker_is_told_to_everybody_until_it_closes(rig: Rig, store, monkeypatch):
    service = Service("shop", store=store)
    up = False

    @service.on(OrderPlaced, retry=ONCE, breaker=Breaker(calls=2, pause="1s"))
    async def reserve(order: OrderPlaced) -> StockReserved:
        if not up:
            raise ConnectionError("card 4711 refused")
        return StockReserved(order_id=order.order_id)

    async def told() -> list[BreakerAnnouncement]:
        return await read_breakers(rig.broker, system_clock())

    async with rig.running(service):
        await rig.publish(*_orders(6))
        seen: list[BreakerAnnouncement] = []

        async def opened() -> bool:
            seen[:] = await told()
            return bool(seen)

        await until(opened)
        [open_] = seen
        assert (open_.service, open_.handler, open_.error) == ("shop", "reserve", "ConnectionError")
        assert open_.since <= open_.at <= open_.until
        assert "4711" not in open_.model_dump_json()
        assert await read_breakers(rig.broker, open_.at + BREAKER_HOLDS + 1) == [], "the dead say nothing any more"
        up = True

        async def closed() -> bool:
            return not await told()

        await until(closed)
    left = [each.value for each in await rig.broker.snapshot(BREAKERS_TOPIC)]
    assert left[-1] is None, "it was taken back"


async def test_a_service_whose_breakers_cannot_be_told_goes_on(rig: Rig, store, monkeypatch):
    service = Service("shop", store=store)
    handled = []

    @service.on(OrderPlaced, retry=ONCE, breaker=Breaker(calls=1, pause="100ms"))
    async def reserve(order: OrderPlaced) -> None:
        handled.append(order.order_id)
        if len(handled) == 1:
            raise ConnectionError("away")

    async def refuse(*_: object) -> None:
        raise TransportError("not allowed")

    monkeypatch.setattr("choreo.services.resting.announce_breakers", refuse)
    await rig.publish(*_orders(5))
    with structlog.testing.capture_logs() as logs:
        worker = await rig.run(service)
    assert worker.counters.handled == 4
    assert len([each for each in logs if each["event"].startswith("open breakers cannot be announced")]) <= 2


async def test_a_stop_does_not_wait_for_what_is_held_at_a_gate():
    service = Service("inventory")

    @service.on(OrderPlaced, rate="1/h")
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    async with Harness(service) as harness:
        await harness.publish(*_orders(5))
        await harness.settle()
        assert len(_outputs(harness)) == 1


def _circuit(**options) -> Circuit:
    return Circuit(Breaker(**{"failures": 0.5, "calls": 4, "window": "10s", "pause": "5s", **options}))


def test_a_breaker_counts_a_share_within_its_window():
    circuit = _circuit()
    for failed in (True, True, False, False, False):  # 40 %
        circuit.end(failed, False, 1.0)
    assert circuit.position is Position.CLOSED
    circuit.end(True, False, 1.5)  # half of six
    assert circuit.position is Position.OPEN
    old = _circuit()
    for _ in range(3):
        old.end(True, False, 1.0)
    old.end(True, False, 12.0)  # the three are out of the window
    assert old.position is Position.CLOSED


def test_a_breaker_wants_as_many_good_probes_as_it_says_one_at_a_time():
    circuit = _circuit(calls=1, probes=2)
    circuit.end(True, False, 0.0)
    assert circuit.wait(1.0) == 4.0
    assert (circuit.wait(5.0), circuit.begin(), circuit.wait(5.1)) == (0.0, True, None)
    circuit.end(False, True, 6.0)
    assert (circuit.position, circuit.wait(6.0), circuit.begin()) == (Position.HALF_OPEN, 0.0, True)
    circuit.end(True, True, 7.0)
    assert (circuit.position, circuit.wait(7.0)) == (Position.OPEN, 5.0)


def test_errors_that_are_the_events_fault_open_no_breaker():
    circuit = _circuit(on=OSError)
    assert circuit.counts(ConnectionError())
    assert not any(map(circuit.counts, (None, Permanent("no"), ValueError())))


@pytest.mark.parametrize(
    "options", [{"failures": 0}, {"failures": 2}, {"calls": 0}, {"probes": True}, {"window": "x"}, {"on": 3}]
)
def test_a_breaker_that_cannot_work_is_refused_where_it_is_written(options):
    with pytest.raises(DefinitionError):
        Breaker(**options)
