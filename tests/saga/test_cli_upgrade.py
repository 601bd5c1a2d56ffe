"""`saga versions`, `saga replay` and `saga upgrade`, beside a coordinator that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, update

from choreo.events.clock import SECOND, system_clock
from choreo.saga import versions
from choreo.saga.cli import exits
from choreo.saga.tables import history
from tests.saga import test_moving
from tests.saga.stage import Order, Stage
from tests.saga.test_moving import Hasty, Slower, some
from tests.support.console import Console, Done, validate

FILE = Path(test_moving.__file__)


class Desk:
    """A running coordinator, and the command line over its store."""

    def __init__(self, stage: Stage, saga: Console) -> None:
        self.stage = stage
        self._saga = saga

    async def saga(self, *arguments: object) -> Done:
        """Run a command beside the coordinator."""
        return await asyncio.to_thread(self._saga, *arguments)


@pytest.fixture
async def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", f"local:{tmp_path / 'broker.db'}")
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", now=system_clock() - 3_600 * SECOND) as stage:
        await some(stage)
        yield Desk(stage, Console(capsys, tmp_path))


async def test_versions_are_counted_and_say_what_keeps_them(desk: Desk) -> None:
    desk.stage.sagas = (Slower,)
    await desk.stage.start()
    found = (await desk.saga("versions", "order", "-o", "json")).json
    one, two = (validate(each, "saga.version/v1") for each in found)
    assert one["phases"] == {"RUNNING": 2, "COMPENSATING": 1, "COMPENSATED": 1, "COMPLETED": 1}
    assert (len(one["coordinators"]), len(two["coordinators"])) == (1, 1)
    assert one["keeps"][0] == "3 open"
    assert "late success" in one["keeps"][1]
    assert two["keeps"] == ["new sagas begin under it"]
    text = (await desk.saga("versions")).out
    assert "2 running · 1 compensating" in text
    assert (await desk.saga("versions", "nosuch")).code == exits.NOT_FOUND
    late = await desk.stage.database.read(lambda c: versions.versions(c, desk.stage.now, late=0))
    assert late[0].keeps == ["3 open"], "its window is over"


async def test_a_saga_is_replayed_and_many_are_verified(desk: Desk) -> None:
    shown = await desk.saga("replay", "declined")
    assert "3  " in shown.out
    assert "Declined: charge FAILED" in shown.out
    assert "→ Release" in shown.out
    assert (await desk.saga("replay", "declined", "-o", "json")).json["inputs"][2]["outputs"] == [
        {"kind": "undo", "type": "Release"}
    ]
    one = await desk.saga("replay", "declined", "--verify")
    assert (one.code, one.out) == (exits.OK, "1 replayed · 1 the same · 0 differ\n")
    every = await desk.saga("replay", "--verify", "--all", "-o", "json")
    told = validate(every.json, "saga.replay/v1")
    assert (told["verified"], told["differing"]) == (5, 0)

    def tamper(connection: Connection) -> None:
        row = (history.c.saga_id == "order/paid", history.c.seq == 2)
        connection.execute(update(history).where(*row).values(verdict="ignored"))

    desk.stage.verified = False
    await desk.stage.database.write(tamper)
    wrong = await desk.saga("replay", "--verify", "--type", "order")
    assert wrong.code == exits.ERROR
    assert wrong.out.startswith(
        "order/paid  seq 2: verdict was ignored, now applied\n5 replayed · 4 the same · 1 differ"
    )
    assert (await desk.saga("replay", "--verify", "--type", "order", "--open")).code == exits.OK
    await desk.stage.database.write(lambda c: c.execute(delete(history).where(history.c.saga_id == "order/paid")))
    gone = await desk.saga("replay", "--verify", "--all")  # as after `CHOREO_RETENTION`
    assert (gone.code, gone.out.splitlines()[-1]) == (
        exits.OK,
        "4 replayed · 4 the same · 0 differ · 1 ended so long ago that their history is gone",
    )
    assert "the history of order/paid is gone: CHOREO_RETENTION" in (await desk.saga("replay", "paid")).err
    assert (await desk.saga("replay", "--all")).code == exits.USAGE
    assert (await desk.saga("replay")).code == exits.USAGE


async def test_a_new_version_is_checked_and_the_live_sagas_move_to_it(desk: Desk) -> None:
    checked = await desk.saga("upgrade", "--check", f"{FILE}:Slower", "-o", "json")
    told = validate(checked.json, "saga.upgrade-check/v1")
    assert (checked.code, told["tried"], told["differing"]) == (exits.OK, 3, 0)
    assert told["schemas"] == {"checked": 0, "problems": [], "unreachable": None}

    hasty = await desk.saga("upgrade", "--check", f"{FILE}:Hasty")
    assert hasty.code == exits.ERROR
    assert "order/reserved  seq 1, step charge: step was PENDING, now WAITING" in hasty.out
    assert hasty.out.splitlines()[-1] == "3 live sagas tried · 0 the same · 3 would differ"

    refused = await desk.saga("upgrade", f"{FILE}:Slower", "-y")
    assert refused.code == exits.NOT_ALLOWED
    assert "version 2 of order is loaded nowhere; run it first, with saga run" in refused.err

    desk.stage.sagas = (Order, Slower)
    await desk.stage.start()
    moved = await desk.saga("upgrade", f"{FILE}:Slower", "-y", "--reason", "more time", "-o", "json")
    told = validate(moved.json, "saga.upgraded/v1")
    assert (moved.code, told["moved"], told["stayed"]) == (exits.OK, 3, 0)
    again = await desk.saga("upgrade", f"{FILE}:Slower", "-y")
    assert again.out == "0 sagas moved to version 2 of order · 0 stay where they are\n"
    assert (await desk.saga("replay", "--verify", "--all")).code == exits.OK
    row = (await desk.stage.history("order/reserved"))[-1]
    assert '"reason": "more time"' in row.input


async def test_sagas_that_would_differ_stay_and_are_told(desk: Desk) -> None:
    desk.stage.sagas = (Order, Hasty)
    await desk.stage.start()
    moved = await desk.saga("upgrade", f"{FILE}:Hasty", "-y")
    assert moved.code == exits.ERROR
    assert moved.out.splitlines()[-1] == "0 sagas moved to version 3 of order · 3 stay where they are"
    assert {each.version for each in (await desk.stage.instances()).values()} == {1}


async def test_a_check_without_a_broker_says_that_the_schemas_were_not_checked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")
    checked = await desk.saga("upgrade", "--check", f"{FILE}:Slower")
    assert checked.code == exits.UNREACHABLE
    assert "the schemas were not checked: " in checked.out


async def test_the_schemas_are_held_against_the_registry_in_the_same_command(desk: Desk, tmp_path: Path) -> None:
    from choreo.events.codec import Codec
    from choreo.events.registry import open_registry
    from choreo.events.settings import load_settings
    from choreo.events.transports import connect
    from tests.saga.stage import Reserved

    settings = load_settings()
    async with connect(settings.broker_url, settings) as transport:
        await Codec(open_registry(settings, transport)).prepare([Reserved])
    module = tmp_path / "changed.py"
    module.write_text(
        "from choreo import Event, Saga, step\n"
        "from tests.saga.stage import Placed\n"
        "class Reserved(Event, topic='inventory', key='order_id'):\n"
        "    order_id: str\n"
        "    shelf: str\n"
        "class Order(Saga, start=Placed, key='order_id', version=9):\n"
        "    reserve = step(done=Reserved, undo=None, within='30s')\n"
    )
    checked = await desk.saga("upgrade", "--check", f"{module}:Order", "-o", "json")
    assert checked.code == exits.ERROR
    [problem] = checked.json["schemas"]["problems"]
    assert problem.startswith("Reserved: ")
    assert "shelf" in problem
