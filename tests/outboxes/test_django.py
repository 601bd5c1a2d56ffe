"""The recipe for Django in docs/outbox.md, run by Django itself on each database."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from choreo.events.memory import MemoryBroker
from choreo.events.outboxes.database import SystemDatabase
from choreo.events.outboxes.relay import OutboxRelay, open_tables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_djangos_transaction_is_the_events_too(system_url: str, end: str, tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.outboxes.django_shop", system_url, end],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    committed = end == "COMMIT"
    assert done.stdout.split() == ["1" if committed else "0"]
    database = await SystemDatabase.open(system_url)
    try:
        async with MemoryBroker() as broker:
            relay = OutboxRelay(database, broker, await open_tables(database, "choreo_event_outbox"))
            await relay.run(asyncio.Event(), until_empty=True)
            assert relay.published == (2 if committed else 0)
            if committed:
                values = [delivery.value for delivery in await broker.snapshot("orders")]
                assert values == [
                    b'{"order_id":"4711","total_cents":1990}',
                    b'{"order_id":"4711","total_cents":1}',
                ]
    finally:
        await database.close()


def test_the_recipe_of_the_docs_is_the_one_that_runs() -> None:
    """Line by line, but for the names of what is the shop's own."""
    page = (ROOT / "docs" / "outbox.md").read_text().partition("## Django\n")[2].partition("\n## ")[0]
    said = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = (ROOT / "tests" / "outboxes" / "django_shop.py").read_text()
    assert len(said) == 2
    for line in (
        "with transaction.atomic():",
        "outbox.add(connection, ",
        "for statement in ddl(schema_editor.connection.vendor):",
        "schema_editor.execute(statement)",
        "migrations.RunPython(make, atomic=False)",
    ):
        assert line in "".join(said)
        assert line in done
