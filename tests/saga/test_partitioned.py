"""The recipe of `docs/scaling.md` that puts the history into partitions, as it stands there, on a real PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
from sqlalchemy import func, select, text

from choreo.saga import archiving
from choreo.saga.tables import history
from choreo.saga.words import Phase
from tests.saga.stage import Declined, Paid, Placed, Released, Reserved, Stage

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


async def test_coordinators_and_archives_go_on_with_a_history_in_partitions(postgres_url: str, tmp_path: Path) -> None:
    [recipe] = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    orders = [str(number) for number in range(12)]
    async with Stage(postgres_url) as stage:
        await stage.start()
        for order in orders:
            await stage.publish(Placed(order_id=order), Reserved(order_id=order))
        await stage.until(lambda all_: len(all_) == len(orders))
        await stage.settled()
        await stage.stop()
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(recipe)
        await connection.close()
        await stage.start()
        again = await stage.publish(Declined(order_id="1"), Declined(order_id="3"))
        await stage.publish(Declined(order_id="3"), id=again[1])  # a copy: the inbox must know it
        await stage.publish(*(Paid(order_id=order) for order in orders if order not in ("1", "3")))
        await stage.publish(Released(order_id="1"), Released(order_id="3"))
        found = await stage.until(lambda all_: all(each.phase.ended for each in all_.values()))
        assert [name for name, each in sorted(found.items()) if each.phase is Phase.COMPENSATED] == [
            "order/1",
            "order/3",
        ]
        await stage.settled()
        used = text("SELECT count(DISTINCT tableoid) FROM choreo_history")
        assert (await stage.database.read(lambda c: c.execute(used).scalar_one())) > 4
        assert await stage.differing() == {}
        archive = await archiving.open_archive(f"sqlite:{tmp_path / 'archive.db'}", stage.database)
        archiver = archiving.Archiver(stage.database, archive, archiving.Which(2**62))
        for phase in archiving.PHASES:
            await archiver.phase(phase, lambda _: True)
        assert archiver.done.sagas == len(orders)
        rows = select(func.count()).select_from(history)
        assert await stage.database.read(lambda c: c.execute(rows).scalar_one()) == 0
        assert await archive.read(lambda c: c.execute(rows).scalar_one()) == archiver.done.rows
        await archive.close()
