"""What PostgreSQL plans while a store is empty holds when that has filled: no statement of a batch walks a table."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Connection, text

from choreo import Publisher
from choreo.events.database import Database
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.saga import queries
from choreo.saga.running import Process
from tests.saga.metered import Ordered, shop
from tests.support.postgres import PostgresServer

WAVES, ORDERS = 12, 25
"""A statement is planned for good when it has run five times."""


def _phases(connection: Connection) -> dict[str, int]:
    return queries.count_phases(connection, queries.Filter())


def _walked(connection: Connection) -> dict[str, int]:
    """Give how many rows were read of each growing table by walking it."""
    query = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname = ANY(:names) AND n_tup_ins > 0"
    names = ["choreo_inbox", "choreo_outbox", "choreo_saga", "choreo_history", "choreo_sent"]
    return {row.relname: row.seq_tup_read for row in connection.execute(text(query), {"names": names})}


async def _until_all_have_ended(url: str) -> None:
    database = await Database.open(url, by_index=True)
    async with asyncio.timeout(120):
        while (await database.read(_phases)).get("COMPLETED") != WAVES * ORDERS:
            await asyncio.sleep(0.05)
    await database.close()


async def test_a_store_that_was_empty_when_it_was_opened_is_asked_by_index(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    urls = [postgres_server.create_database() for _ in range(2)]
    settings = Settings(home=tmp_path, store=urls[0], service_store=urls[1])
    async with MemoryBroker() as broker, Process(shop(), broker, settings, create_topics=True):
        async with Publisher(broker, source="test", settings=settings) as publisher:
            for wave in range(WAVES):
                orders = (Ordered(order_id=f"{wave}-{number}", card="good") for number in range(ORDERS))
                await publisher.publish(*orders)
                await asyncio.sleep(0.05)
        await _until_all_have_ended(urls[0])
    for url, table in zip(urls, ("choreo_history", "choreo_inbox"), strict=True):
        database = await Database.open(url)
        walked = await database.read(_walked)
        await database.close()
        assert table in walked
        assert not any(walked.values()), walked
