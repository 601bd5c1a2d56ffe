"""The relay: everything that was committed is published, in order within a key, by however many relays there are."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from choreo import BrokerUnreachable, ConfigurationError, Outbox, StoreUnreachable, TopicMissing
from choreo.events.envelope import Record
from choreo.events.memory import MemoryBroker
from choreo.events.outboxes import relay as relay_module
from choreo.events.outboxes.database import SystemDatabase
from choreo.events.outboxes.relay import OutboxRelay, open_tables
from choreo.events.outboxes.table import SHARDS, shard_of
from tests.outboxes.system import Ordered, Paid, System
from tests.support import parts
from tests.support.parts import Missing
from tests.support.postgres import PostgresServer, postgres_programs


class Broker(MemoryBroker):
    """A broker that keeps what it was sent, and can be away or refuse a topic."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Record] = []
        self.away = False
        self.refuses = ""
        self.lingers = 0.0

    async def send(self, records: Sequence[Record]) -> None:
        if self.away:
            raise BrokerUnreachable("no broker answers")
        if any(record.topic == self.refuses for record in records):
            raise TopicMissing(f"there is no topic {self.refuses}")
        await asyncio.sleep(self.lingers)
        self.sent.extend(records)

    @property
    def url(self) -> str:
        return "kafka://away"

    def numbers(self, topic: str = "orders") -> list[tuple[str, int]]:
        """Keys and totals, in the order in which they came."""
        values = [json.loads(record.value or b"") for record in self.sent if record.topic == topic]
        return [(value["number"], value.get("total", 0)) for value in values]


@asynccontextmanager
async def _relay(system: System, broker: Broker, **options: Any) -> AsyncIterator[OutboxRelay]:
    """A relay with a connection of its own, as in another process."""
    database = await SystemDatabase.open(system.url)
    try:
        yield OutboxRelay(database, broker, await open_tables(database, "choreo_event_outbox"), **options)
    finally:
        await database.close()


async def _drain(system: System, broker: Broker, **options: Any) -> OutboxRelay:
    async with _relay(system, broker, **options) as relay:
        await relay.run(asyncio.Event(), until_empty=True)
        return relay


async def _until(holds: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end, "it never came so far"
        await asyncio.sleep(0.02)


def _in_order_within_keys(numbers: Sequence[tuple[str, int]]) -> bool:
    """Whether the first copies of each key's events come in their order."""
    firsts: dict[str, list[int]] = defaultdict(list)
    for key, total in dict.fromkeys(numbers):
        firsts[key].append(total)
    return all(found == sorted(found) for found in firsts.values())


async def test_what_was_committed_is_published_in_order_and_removed(system: System, outbox: Outbox) -> None:
    broker = Broker()
    for total in range(4):
        await system.add(outbox, *(Ordered(number=str(key), total=total) for key in range(20)))
    relay = await _drain(system, broker, batch=13)
    assert relay.published == 80
    assert len(broker.numbers()) == 80
    assert _in_order_within_keys(broker.numbers())
    assert await system.rows() == []


@pytest.mark.parametrize("keep", [0, 3_600_000_000])
@pytest.mark.parametrize(
    "backend",
    [pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mariadb", marks=pytest.mark.mariadb)],
)
async def test_a_late_commit_with_a_lower_number_is_not_passed_over(system: System, outbox: Outbox, keep: int) -> None:
    """The trap of an outbox that is read by position: number 1 is committed after number 2 was read."""
    broker = Broker()
    async with _relay(system, broker, keep=keep) as relay:
        await relay.start()
        async with system.database.transaction() as late:
            await outbox.add(late, Ordered(number="early", total=1))
            await system.add(outbox, *(Ordered(number="late", total=total) for total in range(3)))
            async with asyncio.timeout(60):  # nor does the relay wait for a transaction that is open
                assert await relay.step() == 3
            assert await relay.step() == 0
        assert await relay.step() == 1
    assert broker.numbers() == [*(("late", total) for total in range(3)), ("early", 1)]
    assert len(await system.rows()) == (4 if keep else 0)


async def test_several_relays_share_the_work_and_keep_the_order(system: System, outbox: Outbox) -> None:
    broker, stop = Broker(), asyncio.Event()
    broker.lingers = 0.002
    async with (
        _relay(system, broker, lease=1_500_000, batch=7) as first,
        _relay(system, broker, lease=1_500_000, batch=7) as second,
        _relay(system, broker, lease=1_500_000, batch=7) as third,
    ):
        relays = [first, second, third]
        running = [asyncio.create_task(relay.run(stop)) for relay in relays]

        async def shared() -> bool:
            held = [relay.shards for relay in relays]
            # Each its fair share: at most one third, rounded up.
            return sum(map(len, held)) == len(frozenset().union(*held)) == SHARDS and max(map(len, held)) <= 6

        await _until(shared)
        for total in range(10):
            await system.add(outbox, *(Ordered(number=str(key), total=total) for key in range(32)))

        async def empty() -> bool:
            return not await system.rows()

        await _until(empty)
        assert all(relay.published for relay in relays)
        stop.set()
        await asyncio.gather(*running)
    assert sorted(set(broker.numbers())) == sorted((str(key), total) for key in range(32) for total in range(10))
    assert _in_order_within_keys(broker.numbers())
    assert sum(relay.published for relay in relays) >= 320  # more where a lease went over meanwhile


async def test_the_shards_of_a_relay_that_died_go_to_another(system: System, outbox: Outbox) -> None:
    broker = Broker()
    async with _relay(system, broker, lease=1_000_000) as dead, _relay(system, broker, lease=1_000_000) as heir:
        await dead.start()
        await dead.step()
        assert len(dead.shards) == SHARDS
        await system.add(outbox, Ordered(number="1"))
        assert await heir.step() == 0  # the other holds every shard, so far as anybody knows

        async def taken() -> bool:
            heir._renew_at = 0.0
            return await heir.step() == 1

        await _until(taken)
        assert len(heir.shards) == SHARDS
    assert broker.numbers() == [("1", 1)]


async def test_fault_15_a_relay_that_was_paused_past_its_lease_sends_nothing(
    system: System, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot know any more that nobody else does."""
    broker = Broker()
    async with _relay(system, broker, lease=1_000_000) as zombie:
        await zombie.start()
        await zombie.step()
        await system.add(outbox, Ordered(number="1"))
        load = zombie._load

        async def paused() -> list[Any]:
            rows = await load()
            monkeypatch.setattr(zombie, "_valid_until", 0.0)
            return rows

        monkeypatch.setattr(zombie, "_load", paused)
        assert await zombie.step() == 0
        assert broker.sent == []
        monkeypatch.undo()
        zombie._renew_at = 0.0
        assert await zombie.step() == 1
    assert broker.numbers() == [("1", 1)]


async def test_one_topic_that_the_broker_refuses_holds_up_no_other(
    system: System, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    broker.refuses = "payments"
    monkeypatch.setattr(relay_module, "_REFUSED_PAUSE", 0.05)
    await system.add(outbox, Paid(number="1"), Ordered(number="1"), Paid(number="2"))
    async with _relay(system, broker) as relay:
        await relay.start()
        assert await relay.step() == 1
        assert [record.topic for record in broker.sent] == ["orders"]
        lag = await relay.measure()
        assert [(each.topic, each.waiting) for each in lag.topics] == [("payments", 2)]
        broker.refuses = ""

        async def all_sent() -> bool:
            await relay.step()
            return len(broker.sent) >= 3

        await _until(all_sent)
        assert [number for number, _ in broker.numbers("payments")] == ["1", "2"]
        await relay.close()
    broker.refuses = "orders"
    await system.add(outbox, Ordered(number="3"))
    with pytest.raises(TopicMissing):
        await _drain(system, broker)


async def test_a_broker_that_is_away_loses_nothing(system: System, outbox: Outbox) -> None:
    broker, stop = Broker(), asyncio.Event()
    broker.away = True
    await system.add(outbox, *(Ordered(number="1", total=total) for total in range(5)))
    with pytest.raises(BrokerUnreachable):
        await _drain(system, broker)
    async with _relay(system, broker) as relay:
        running = asyncio.create_task(relay.run(stop))
        await asyncio.sleep(0.2)
        assert len(await system.rows()) == 5
        broker.away = False

        async def empty() -> bool:
            return not await system.rows()

        await _until(empty)
        stop.set()
        await running
    assert broker.numbers() == [("1", total) for total in range(5)]


async def test_rows_are_kept_for_as_long_as_one_asks_and_no_longer(system: System, outbox: Outbox) -> None:
    broker = Broker()
    await system.add(outbox, *(Ordered(number=str(number)) for number in range(30)))
    await _drain(system, broker, keep=3_600_000_000)
    rows = await system.rows()
    assert len(rows) == 30
    assert all(row.published_at is not None for row in rows)
    await _drain(system, broker, keep=3_600_000_000)
    assert len(broker.sent) == 30
    hours_ago = update(system.tables.outbox).values(published_at=system.tables.outbox.c.published_at - 3_700_000_000)
    await system.database.write(
        lambda connection: connection.execute(hours_ago.where(system.tables.outbox.c.seq <= rows[9].seq))
    )
    await _drain(system, broker, keep=3_600_000_000)
    assert len(await system.rows()) == 20
    await _drain(system, broker)
    assert await system.rows() == []
    assert len(broker.sent) == 30


async def test_a_row_that_is_no_event_stays_behind_alone(system: System, outbox: Outbox) -> None:
    """Somebody else may write into the table, too."""
    broker = Broker()
    await system.add(outbox, Ordered(number="1"), Ordered(number="2"), Ordered(number="3"))
    bad = (await system.rows())[1]
    spoilt = update(system.tables.outbox).where(system.tables.outbox.c.seq == bad.seq).values(time="yesterday")
    await system.database.write(lambda connection: connection.execute(spoilt))
    await _drain(system, broker)
    assert [number for number, _ in broker.numbers()] == ["1", "3"]
    assert [row.seq for row in await system.rows()] == [bad.seq]


async def test_the_lag_is_a_metric(system: System, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(relay_module.metrics, "get_meter", provider.get_meter)
    await system.add(outbox, Ordered(number="1"), Ordered(number="2"), Paid(number="3"))
    broker = Broker()
    broker.refuses = "payments"
    async with _relay(system, broker) as relay:
        await relay.start()
        await relay.step()
        lag = await relay.measure()
        assert lag.waiting == 1
        assert lag.oldest >= 0
        data = reader.get_metrics_data()
        assert data is not None
        [scope] = data.resource_metrics[0].scope_metrics
        points = {metric.name: (metric.unit, next(iter(metric.data.data_points))) for metric in scope.metrics}
    provider.shutdown()
    assert {name: unit for name, (unit, _) in points.items()} == {
        "choreo.outbox.published": "{event}",
        "choreo.outbox.lag": "s",
        "choreo.outbox.waiting": "{event}",
    }
    assert points["choreo.outbox.published"][1].value == 2
    assert points["choreo.outbox.waiting"][1].value == 1
    assert points["choreo.outbox.lag"][1].value == lag.oldest / 1_000_000
    assert points["choreo.outbox.lag"][1].attributes == {"choreo.outbox": "choreo_event_outbox"}


async def test_tables_that_are_missing_are_named(system_url: str, tmp_path: object) -> None:
    database = await SystemDatabase.open(system_url, must_exist=False)
    with pytest.raises(ConfigurationError, match="has no table choreo_event_outbox: make it with --create-table"):
        await open_tables(database, "choreo_event_outbox")
    both = [open_tables(database, "choreo_event_outbox", create=True) for _ in range(2)]
    await asyncio.gather(*both)
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE half (seq INTEGER)"))
    with pytest.raises(ConfigurationError, match="has no column id in half"):
        await open_tables(database, "half")
    await database.close()


def test_a_key_stays_in_its_shard_for_ever() -> None:
    """Rows may wait while the system is upgraded: the numbers are part of the format."""
    assert [shard_of(key) for key in ("", "4711", "Ärger", "a")] == [0, 7, 11, 3]


async def test_the_database_is_left_as_it_was(tmp_path: Any, outbox: Outbox) -> None:
    system = await System.make(f"sqlite:{tmp_path / 'shop.db'}")
    await system.add(outbox, Ordered(number="1"))
    await _drain(system, Broker())

    def journal(connection: Any) -> str:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())

    assert await system.database.read(journal) == "delete"
    await system.database.close()


@pytest.mark.postgres
async def test_fault_35_a_database_that_goes_away_is_waited_for(outbox: Outbox) -> None:
    """The server is stopped as by a crash, and started again; the relay is the same one."""
    try:
        server = PostgresServer(postgres_programs())
    except Missing as missing:
        parts.missing("PostgreSQL", str(missing))
    broker, stop = Broker(), asyncio.Event()
    try:
        server.start()
        system = await System.make(server.create_database())
        async with _relay(system, broker) as relay:
            running = asyncio.create_task(relay.run(stop))
            await system.add(outbox, Ordered(number="1"))
            await _until(lambda: _settled(relay, 1))  # a row whose removal is cut short is sent once more
            server.kill()
            await asyncio.sleep(0.5)
            assert not running.done()
            server.resume()
            await _until(lambda: _reaches(system, outbox))
            await _until(lambda: _sent(broker, "2"))
            stop.set()
            await running
        await system.database.close()
    finally:
        server.stop()
    # A commit whose answer was lost is made again by the system, with another event: "2" may come more than once.
    assert list(dict.fromkeys(number for number, _ in broker.numbers())) == ["1", "2"]


async def _settled(relay: OutboxRelay, count: int) -> bool:
    return relay.published >= count


async def _sent(broker: Broker, number: str) -> bool:
    return number in [sent for sent, _ in broker.numbers()]


async def _reaches(system: System, outbox: Outbox) -> bool:
    try:
        await system.add(outbox, Ordered(number="2"))
    except (StoreUnreachable, DBAPIError):
        return False
    return True


async def _sent_in_all(broker: Broker, count: int) -> bool:
    return len(broker.sent) >= count


async def test_a_relay_that_began_while_the_outbox_was_empty_goes_along_its_index(
    postgres_server: PostgresServer,
) -> None:
    """Its statements are planned for good then, and have to do for what an outage of the broker leaves."""
    system = await System.make(postgres_server.create_database())
    outbox, broker = Outbox(source="shop"), Broker()
    stopping = asyncio.Event()
    async with _relay(system, broker) as relay:
        running = asyncio.create_task(relay.run(stopping))
        for wave in range(1, 13):
            await system.add(outbox, *(Ordered(number=str(number), total=wave) for number in range(120)))
            await _until(lambda wave=wave: _sent_in_all(broker, wave * 120))  # type: ignore[misc]
        stopping.set()
        await running
    await system.database.close()
    database = await SystemDatabase.open(system.url)
    query = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'choreo_event_outbox'"
    found = await database.read(lambda connection: connection.execute(text(query)).all())
    await database.close()
    assert found == [("choreo_event_outbox", 0)]


async def test_what_is_set_for_a_relays_statements_ends_with_their_transaction(postgres_url: str) -> None:
    """A pooler may give the session to the system's own programs next."""
    system = await System.make(postgres_url)
    show = text("SHOW enable_seqscan")
    assert await system.database.read(lambda connection: connection.execute(show).scalar_one()) == "off"
    async with system.database._engine.connect() as connection:
        bare = await connection.execution_options(isolation_level="AUTOCOMMIT")
        assert (await bare.execute(show)).scalar_one() == "on"
    await system.database.close()
