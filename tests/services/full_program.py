"""A service whose store lies on a file system that fills up: `full_program.py FOLDER [pages]`; it says how it went.

A ballast takes most of the room; when the store has said that the disk is full, the ballast goes. With `pages` it is
SQLite that gives the file no more room, for machines on which nobody may mount a small file system.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from pathlib import Path

import structlog
from sqlalchemy import Column, Engine, Integer, LargeBinary, MetaData, Table, event, insert

from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.services.context import Transaction
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, idle, until

MANY = 60
tables = MetaData()
letters = Table("letters", tables, Column("id", Integer, primary_key=True), Column("text", LargeBinary))


async def main(folder: Path, by_pages: bool) -> None:
    """Fill the folder's file system, free it, and tell what became of every event."""
    ballast, pages = folder / "ballast", [100_000_000]
    if by_pages:
        pages[0] = 300
        event.listen(
            Engine, "begin", lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")
        )
        ballast.touch()
    else:
        room = os.statvfs(folder)
        ballast.write_bytes(os.urandom(room.f_bavail * room.f_frsize - 1_500_000))
    store = f"sqlite:{folder / 'service.db'}"
    service = Service("inventory", store=store, tables=tables)

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="100ms"))
    async def keep(order: OrderPlaced, tx: Transaction) -> None:
        await tx.execute(insert(letters).values(id=order.number, text=os.urandom(50_000)))

    with structlog.testing.capture_logs() as logs:
        async with MemoryBroker() as broker:
            rig = Rig(broker, Settings(home=folder))
            await rig.prepare()
            async with rig.worker(service) as worker:
                await rig.publish(*(OrderPlaced(order_id=str(n), number=n) for n in range(MANY)))
                await until(lambda: any("full" in str(entry.get("error")) for entry in logs))
                await asyncio.sleep(3)  # longer than a handler's own tries take
                before = worker.counters.handled
                ballast.unlink()
                pages[0] = 100_000_000
                await idle(worker)
                handled, dead = worker.counters.handled, worker.counters.dead
    with sqlite3.connect(folder / "service.db") as connection:
        [[sound]] = connection.execute("PRAGMA integrity_check")
        [[kept]] = connection.execute("SELECT count(*) FROM letters")
    told = {"before": before, "handled": handled, "dead": dead, "kept": kept, "integrity": sound}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), "pages" in sys.argv[2:]))
