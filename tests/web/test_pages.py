"""Pages that say what a command of the command line says: counted sagas, the audit, batches, dead letters."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from choreo.saga.web.visitors import Role
from tests.saga.stage import Placed, Refused, Stage
from tests.support.console import Console, validate
from tests.web.visits import Client

Ask = Any


@pytest.fixture
def saga(capsys: pytest.CaptureFixture[str], tmp_path: Path, sqlite_stage: Stage) -> Ask:
    """The command line over the stage's store: `await saga("list")` gives its JSON."""
    console = Console(capsys, tmp_path, beside=True)

    async def ask(*words: object) -> Any:
        done = await asyncio.to_thread(console, *words, "--store", sqlite_stage.url, "-o", "json")
        return done.json

    return ask


@pytest.mark.parametrize("by", ["error", "step", "type", "state"])
async def test_sagas_are_counted_by_what_they_share_as_the_command_line_counts_them(
    client: Client, sqlite_stage: Stage, saga: Ask, by: str
) -> None:
    await sqlite_stage.publish(Placed(order_id="8"), Refused(order_id="8"))
    await sqlite_stage.until(lambda found: len(found) == 2 and found["order/8"].phase.ended)
    web = await client(local=Role.VIEWER)
    told = (await web.get(f"/sagas.json?group-by={by}&since=1000d")).json()
    assert told == await saga("list", "--group-by", by, "--since", "1000d")
    assert sum(each["count"] for each in told) == (1 if by == "error" else 2)
    for each in told:
        validate(each)
    page = await web.get(f"/sagas?group-by={by}")
    assert f'<code dir="ltr">saga list --group-by {by}</code>' in page.text
    for alike in re.findall(r'<th scope="row"><a href="([^"]+)"', page.text):
        rows = (await web.get(alike.replace("&amp;", "&").replace("/sagas?", "/sagas.json?"))).json()
        assert len(rows) == 1 + (by == "type"), alike
