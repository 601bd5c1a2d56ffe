"""What a person sees of a saga that does not go on: in `saga status`, by its tags, and while they watch."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from choreo import Retry, Saga, step
from choreo.saga.words import Phase
from tests.e2e.stuck.desk import Delivery, Desk, NotShipped, Ordered, Reserved, Ship, Shipped, shipping, stock
from tests.saga.stage import Paid, Placed, Stage
from tests.saga.stage import Reserved as StockReserved
from tests.support.cli import Program, environment
from tests.support.console import validate


class Tagged(
    Saga,
    start=Ordered,
    key="order_id",
    active_from="beginning",
    type="delivery",
    tags={"team": "harbour", "runbook": "all-01", "runbook.ship": "ship-07"},
):
    """The same as `Delivery`, and somebody cares."""

    reserve = step(done=Reserved, undo=None, within="10m")
    ship = step(
        after=reserve, send=Ship, done=Shipped, failed=NotShipped, undo=None, within="1h", retry=Retry(attempts=1)
    )


async def test_status_names_the_consumer_that_is_down_until_it_is_back(desk: Desk) -> None:
    down = await desk.run(stock())
    await down.stop()
    await desk.run(sagas=[Delivery])
    await desk.publish(Ordered(order_id="4711"))
    await desk.why("delivery/4711", "ConsumerDown")
    told = validate((await asyncio.to_thread(desk.console, "status", "4711", "-o", "json")).json, "saga.status/v1")
    [found] = [each for each in told["conditions"] if each["type"] == "ConsumerDown"]
    assert (found["status"], found["step"]) == (True, "reserve")
    assert "service stock is down" in found["message"]
    assert told["observed"]["lag_age_ms"] is not None
    shown = await desk.type("saga status 4711")
    assert re.search(r"CONDITION +SINCE +MESSAGE", shown)
    assert re.search(r"ConsumerDown +\S+.* service stock is down", shown)
    assert "Stuck" not in shown, "not yet"
    await desk.run(stock())
    for _ in range(300):
        if "service stock is down" not in await desk.type("saga status 4711"):
            return
        await asyncio.sleep(0.2)
    raise AssertionError("it is still said to be down")


@pytest.mark.parametrize("desk", ["local"], indirect=True)
async def test_tags_find_the_sagas_of_a_team_and_name_the_runbook(desk: Desk) -> None:
    await desk.run(stock(), shipping(lambda command: NotShipped(order_id=command.order_id)), sagas=[Tagged])
    await desk.publish(Ordered(order_id="4711"))
    await desk.ends("delivery/4711", Phase.COMPENSATED)
    for tags in (["team=harbour"], ["team=harbour", "runbook=all-01"]):
        words = [word for tag in tags for word in ("--tag", tag)]
        assert (await desk.type("saga list", *words, "-o", "id")).split() == ["delivery/4711"]
    for tags in (["team=airport"], ["team=harbour", "runbook=all-02"]):
        words = [word for tag in tags for word in ("--tag", tag)]
        assert (await desk.type("saga list", *words, "-o", "id")).split() == []
    told = await asyncio.to_thread(desk.console, "status", "4711", "-o", "json")
    assert told.json["tags"]["team"] == "harbour"
    assert told.json["cause"]["runbook"] == "ship-07", "the step's own counts more than the saga's"
    assert "ship-07" in await desk.type("saga status 4711")
    grouped = await desk.type("saga list --group-by error")
    assert re.search(r"RUNBOOK\n.* ship +NotShipped.* delivery/4711 +ship-07", grouped)


# ---- a store that breaks while somebody watches ---------------------------------------------------------------------


class Wire:
    """The way to a PostgreSQL server, which can be cut and mended."""

    def __init__(self, behind: Path, folder: Path) -> None:
        self._behind = behind
        self._place = folder / behind.name
        self._open: list[asyncio.StreamWriter] = []

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._place)

    async def cut(self) -> None:
        self._server.close()
        with suppress(FileNotFoundError):
            self._place.unlink()
        for each in self._open:
            each.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_unix_connection(self._behind)
        self._open += [writer, there]
        await asyncio.gather(_hand_on(reader, there), _hand_on(there_reader, writer))


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.postgres
async def test_watch_says_that_the_store_is_away_and_goes_on_when_it_is_back(postgres_url: str, tmp_path: Path) -> None:
    host = Path(parse_qs(urlsplit(postgres_url).query)["host"][0])
    [socket] = host.glob(".s.PGSQL.*[0-9]")
    wire = Wire(socket, tmp_path)
    await wire.mend()
    url = postgres_url.replace(quote(str(host)), quote(str(tmp_path)))
    assert url != postgres_url
    async with Stage(postgres_url) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1"))
        await stage.until(lambda all_: len(all_) == 1)
        env = environment(home=tmp_path, store=url, broker="memory:")
        watch = Program(("saga", "watch", "order/1"), env=env, folder=tmp_path, name="watch")
        watch.start()
        try:
            await asyncio.to_thread(watch.until, "RUNNING")
            await wire.cut()
            await asyncio.to_thread(watch.until, "waiting for the store")
            await stage.publish(StockReserved(order_id="1"))
            await stage.until(lambda all_: all_["order/1"].seq == 2)
            assert watch.code is None
            await wire.mend()
            await asyncio.to_thread(watch.until, "Reserved")
            await stage.publish(Paid(order_id="1"))
            code = await asyncio.to_thread(watch.wait)
        finally:
            if watch.code is None:
                watch.kill()
            await wire.cut()
    assert code == 0, watch.output
    lines = watch.output.splitlines()
    assert sum("reserve" in line and "DONE" in line for line in lines) == 1, "each change is told once"
    assert any("COMPLETED" in line for line in lines)
