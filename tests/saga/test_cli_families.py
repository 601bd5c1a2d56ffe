"""Sagas within sagas, and steps per element, on the command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.saga import families, fans
from tests.saga.families import Ordered, Ordering, Packing, Picked, Unpaid, Wrapped
from tests.saga.fans import LineReserved, Lines, lines
from tests.saga.stage import Stage
from tests.support.console import Console, Done, validate


class Desk:
    """A running coordinator, and the command line over its store."""

    def __init__(self, stage: Stage, saga: Console) -> None:
        self.stage = stage
        self._saga = saga

    async def saga(self, *arguments: object) -> Done:
        return await asyncio.to_thread(self._saga, *arguments)


@pytest.fixture(params=["families"])
async def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")
    sagas, events = ((Lines,), fans.EVENTS) if request.param == "fans" else ((Packing, Ordering), families.EVENTS)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas) as stage:
        await stage.codec.prepare(events)
        await stage.start()
        yield Desk(stage, Console(capsys, tmp_path))


async def test_status_names_the_children_and_the_parent(desk: Desk) -> None:
    await desk.stage.publish(Ordered(order_id="1"))
    await desk.stage.until(lambda found: len(found) == 2)
    shown = await desk.saga("status", "ordering/1")
    assert "children  packing/1 (pack)" in shown.out
    assert "saga status packing/1" in shown.err
    shown = await desk.saga("status", "packing/1")
    assert "parent    ordering/1, step pack" in shown.out
    assert "saga status ordering/1" in shown.err
    told = validate((await desk.saga("status", "packing/1", "-o", "json")).json, "saga.status/v1")
    assert told["parent"] == {"id": "ordering/1", "step": "pack", "depth": 1}
    assert validate((await desk.saga("status", "ordering/1", "-o", "json")).json, "saga.status/v1")["children"] == {
        "pack": "packing/1"
    }


async def test_the_history_of_a_child_says_who_undid_it(desk: Desk) -> None:
    await desk.stage.publish(Ordered(order_id="1"))
    await desk.stage.until(lambda found: len(found) == 2)
    await desk.stage.publish(Picked(order_id="1"), Wrapped(order_id="1"))
    await desk.stage.until(lambda found: found["ordering/1"].steps["pack"].state == "DONE")
    await desk.stage.publish(Unpaid(order_id="1"))
    await desk.stage.until(lambda found: found["packing/1"].phase == "COMPENSATING")
    told = validate((await desk.saga("status", "packing/1", "--history", "-o", "json")).json, "saga.status/v1")
    (undo,) = [validate(entry, "saga.history/v1") for entry in told["history"] if entry["kind"] == "undo"]
    assert undo["changes"][0]["reason"] == "ordering/1 undoes it"
    assert told["cause"]["message"] == "undone by ordering/1"


@pytest.mark.parametrize("desk", ["fans"], indirect=True)
async def test_status_shows_the_elements_with_odd_keys_as_they_can_be_typed(desk: Desk) -> None:
    await desk.stage.publish(fans.Ordered(order_id="1", lines=lines("a b", "[bold]x[/bold]", "c")))
    await desk.stage.eventually_sent("inventory.commands", 3)
    await desk.stage.publish(LineReserved(order_id="1", sku="a b"))
    await desk.stage.until(lambda found: found["lines/1"].steps["reserve[a%20b]"].state == "DONE")
    shown = await desk.saga("status", "lines/1", "--history")
    assert "reserve (1 of 3)" in shown.out
    assert "reserve[a%20b]" in shown.out
    assert "reserve[%5Bbold%5Dx%5B%2Fbold%5D]" in shown.out
    refused = await desk.saga("retry-undo", "lines/1", "--step", "reserve[nothing]")
    assert "has no step 'reserve[nothing]'" in refused.err
