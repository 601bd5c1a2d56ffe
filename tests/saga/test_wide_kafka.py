"""Three coordinators on Kafka and PostgreSQL, killed one after another under load, while topics get more partitions."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from sqlalchemy import func, select

from choreo.events.database import Database
from choreo.events.envelope import Delivery
from choreo.events.partitioner import partition_for
from choreo.events.publisher import Publisher
from choreo.events.settings import Settings
from choreo.events.transport import Transport
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.tables import history, saga
from choreo.services.worker import Worker
from tests.saga import wide_shop
from tests.saga.wide_shop import Bought, Placed, declined, effect
from tests.support.cli import Program, environment

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]

KILLS = 4
BEFORE, AFTER = 4, 7
GROWING = ("shop.orders", "shop.stock", "shop.payments", "shop.stock.commands", "shop.payments.commands")
SHOP = Path(wide_shop.__file__)


@pytest.fixture
def settings(tmp_path: Path, kafka_bootstrap: str, postgres_url: str) -> Settings:
    return Settings(
        broker=f"kafka://{kafka_bootstrap}",
        home=tmp_path,
        store=postgres_url,
        topic_prefix=f"wide-{uuid4().hex[:8]}.",
        session=2,
    )


@pytest.fixture
async def coordinators(settings: Settings, tmp_path: Path) -> AsyncIterator[list[Program]]:
    given = {name: getattr(settings, name) for name in ("broker", "home", "store", "topic_prefix", "session")}
    made = [
        Program(["saga", "run", f"{SHOP}:Bought"], env=environment(**given), folder=tmp_path, name=f"coordinator-{n}")
        for n in range(3)
    ]
    try:
        yield made
    finally:
        for program in made:
            program.close()


async def test_coordinators_that_are_killed_while_topics_grow_lose_nothing_and_double_nothing(
    settings: Settings, coordinators: list[Program], kafka_bootstrap: str, tmp_path: Path
) -> None:
    chance = random.Random(4711)
    stores = [f"sqlite:{tmp_path / name}.db" for name in ("stock", "bank")]
    services = wide_shop.services(*stores)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(connect(settings.broker_url, settings))
        await broker.create_topics(Parts(services, (Bought,)).topics(partitions=BEFORE))
        for service in services:
            await stack.enter_async_context(Worker(service, broker, settings=settings))
        for program in coordinators:
            program.start()
        for program in coordinators:
            await asyncio.to_thread(program.until, "running")
        publisher = await stack.enter_async_context(Publisher(broker, source="shop", settings=settings))
        done = asyncio.Event()
        load = asyncio.create_task(_publish(publisher, done))
        database = await Database.open(settings.store_url)
        stack.push_async_callback(database.close)
        for kill in range(KILLS):
            seen = await _decided(database)
            await _until(lambda: _decided(database), lambda now, seen=seen: now > seen + 20)
            await asyncio.sleep(chance.uniform(0, 0.5))
            victim = chance.choice(coordinators)
            await asyncio.to_thread(victim.kill)
            if kill == 1:
                await _grow(kafka_bootstrap, settings)
            victim.start()
        await _until(lambda: _in_new_partitions(broker), lambda count: count >= 20)
        done.set()
        orders = await load
        await _until(lambda: _ended(database), lambda ended: ended >= orders)

        told = {program.name: program.output[-2_000:] for program in coordinators}
        sagas = dict(await _rows(database, select(saga.c.key, saga.c.phase)))
        numbers = [str(number) for number in range(orders)]
        assert sagas == {each: "COMPENSATED" if declined(each) else "COMPLETED" for each in numbers}, told
        events = Counter(await _rows(database, select(history.c.saga_id, history.c.type)))
        assert set(events.values()) == {1}, "no event was applied twice"

        effects = [Counter(await _effects(url)) for url in stores]
        refused = [each for each in numbers if declined(each)]
        assert effects[0] == Counter(
            [("reserved", each) for each in numbers] + [("released", each) for each in refused]
        )
        assert effects[1] == Counter(("declined" if declined(each) else "charged", each) for each in numbers)
        assert _by_id(await broker.snapshot("shop.stock.commands")) == Counter(refused), "one undo for each, one id"
        assert _by_id(await broker.snapshot("shop.payments.commands")) == Counter(numbers), "one command for each"


async def _publish(publisher: Publisher, done: asyncio.Event) -> int:
    """Place orders until it is told to stop; give their number."""
    number = 0
    while not done.is_set():
        await publisher.publish(*(Placed(order_id=str(each)) for each in range(number, number + 2)))
        number += 2
        await asyncio.sleep(0.05)
    return number


async def _grow(bootstrap: str, settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_partitions({f"{settings.topic_prefix}{each}": NewPartitions(AFTER) for each in GROWING})
    finally:
        await admin.close()


async def _in_new_partitions(broker: Transport) -> int:
    """Count the records that stand in partitions which were not there at first."""
    ends = await broker.end_offsets(GROWING)
    return sum(end for place, end in ends.items() if place.partition >= BEFORE)


async def _decided(database: Database) -> int:
    return int((await _rows(database, select(func.count()).select_from(history)))[0][0])


async def _ended(database: Database) -> int:
    query = select(func.count()).select_from(saga).where(saga.c.ended_at.isnot(None))
    return int((await _rows(database, query))[0][0])


async def _rows(database: Database, query: Any) -> list[Any]:
    return await database.read(lambda connection: [tuple(row) for row in connection.execute(query)])


async def _effects(url: str) -> list[Any]:
    database = await Database.open(url)
    try:
        return await _rows(database, select(effect.c.what, effect.c.order_id))
    finally:
        await database.close()


def _by_id(commands: list[Delivery]) -> Counter[str]:
    """Count the commands of each key; copies, which have one id and the same bytes, are one."""
    ids = {(dict(each.headers)["ce_id"], each.key, each.value) for each in commands}
    assert len({id_ for id_, _, _ in ids}) == len(ids), "one id, one command"
    return Counter((key or b"").decode() for _, key, _ in ids)


async def _until(look: Any, holds: Any, seconds: float = 180) -> None:
    async with asyncio.timeout(seconds):
        while not holds(await look()):
            await asyncio.sleep(0.1)


def test_keys_move_where_a_topic_grows() -> None:
    moved = [n for n in range(100) if partition_for(str(n).encode(), BEFORE) != partition_for(str(n).encode(), AFTER)]
    assert len(moved) > 50
