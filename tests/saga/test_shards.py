"""Several stores share the sagas of one installation: each key is in exactly one, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from choreo import Saga, lock, step
from choreo.events.envelope import read_envelope
from choreo.events.errors import ConfigurationError
from choreo.events.settings import load_settings
from choreo.saga import shard
from choreo.saga.backup import copy_file
from choreo.saga.shard import Shard
from choreo.saga.tables import ignored, saga
from tests.saga.stage import Declined, Order, Paid, Placed, Released, Reserved, Stage
from tests.support.console import Console, validate


class Locking(Saga, start=Placed, key="order_id", lock=lock("total", name="total", waits="10m", expires="2h")):
    reserve = step(done=Reserved, undo=None, within="5m")


@given(st.text(min_size=1), st.integers(1, 12), st.integers(1, 4))
def test_every_key_is_in_one_shard_and_stays_in_its_half_when_that_splits(key: str, of: int, times: int) -> None:
    [owner] = [each for number in range(1, of + 1) if (each := Shard(number, of)).owns(key)]
    parts = [
        Shard(number, of * times) for number in range(1, of * times + 1) if owner.halves(Shard(number, of * times))
    ]
    assert len(parts) == times
    assert sum(each.owns(key) for each in parts) == 1


def test_where_a_key_belongs_never_changes() -> None:
    assert [shard.slot(key) % 8 for key in ("4711", "order-1", "ü", "customer/7")] == [2, 5, 7, 2]


@pytest.mark.parametrize("wrong", ["2", "0/2", "3/2", "1/1", "a/b", "1/2/3"])
def test_what_is_no_shard_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="CHOREO_SHARD"):
        load_settings(broker="memory:", shard=wrong)


def test_each_shard_has_a_group_of_its_own() -> None:
    groups = [load_settings(broker="memory:", group="shop", shard=each).group for each in ("1/2", "2/2", "2/4", "")]
    assert groups == ["shop.shard-1-of-2", "shop.shard-2-of-2", "shop.shard-2-of-4", "shop"]


def _settings(text: str) -> Any:
    return load_settings(broker="memory:", shard=text)


async def _everywhere(stages: list[Stage]) -> dict[str, str]:
    """Say of each saga how it is; it must be in one store only, that of its key."""
    found: dict[str, str] = {}
    for stage in stages:
        own = Shard.read(stage.settings.shard)
        for name, instance in (await stage.instances()).items():
            assert own.owns(instance.key) and name not in found
            found[name] = str(instance.phase)
    return found


async def _until(stages: list[Stage], count: int) -> dict[str, str]:
    for _ in range(3_000):
        found = await _everywhere(stages)
        if len(found) == count and all(phase in ("COMPLETED", "COMPENSATED") for phase in found.values()):
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"not all have ended: {found}")


async def _commands(stage: Stage) -> Counter[str]:
    """Count the undo commands by their saga's key; a copy has the id of the first."""
    ids = {
        read_envelope(each).id: read_envelope(each).key for each in await stage.broker.snapshot("inventory.commands")
    }
    return Counter(ids.values())


@pytest.fixture
async def urls(store_url: str, tmp_path: Path) -> list[str]:
    return [store_url, f"sqlite:{tmp_path / 'second.db'}"]


async def test_two_shards_have_each_saga_once_and_send_each_command_once(urls: list[str]) -> None:
    async with AsyncExitStack() as stack:
        stages = [
            await stack.enter_async_context(Stage(url, settings=_settings(f"{number}/2")))
            for number, url in enumerate(urls, 1)
        ]
        one = stages[0]
        for stage in stages:
            await stage.start()
        orders = [f"o{number}" for number in range(40)]
        one.now = stages[1].now = max(stage.now for stage in stages)
        for order in orders:
            await one.publish(Placed(order_id=order), Reserved(order_id=order))
        for number, order in enumerate(orders):
            await one.publish(Declined(order_id=order) if number % 2 else Paid(order_id=order))
        await one.raw("inventory", b"4711", b"{}", (("ce_id", b"u"), ("ce_type", b"Stranger")))
        await one.raw("inventory", b"\xff\xfe", b"junk", (("ce_id", b"v"), ("ce_type", b"Reserved")))
        for order in orders[1::2]:
            await one.publish(Released(order_id=order))
        found = await _until(stages, len(orders))
        assert Counter(found.values()) == {"COMPLETED": 20, "COMPENSATED": 20}
        for stage in stages:
            await stage.settled()
            assert 5 < len(await stage.instances()) < 35, "both have their share"
        assert await _commands(one) == dict.fromkeys(orders[1::2], 1)
        assert len(await one.broker.snapshot("inventory.dlq")) == 1, "what nobody can read is set aside by one shard"
        counted = select(ignored.c.count).where(ignored.c.event_type == "Stranger")
        told = [await stage.database.read(lambda c: c.execute(counted).scalars().all()) for stage in stages]
        assert sorted(told) == [[], [1]], "what nobody knows is counted by one shard"


async def test_a_store_is_of_one_shard_for_ever(store_url: str) -> None:
    async with Stage(store_url, settings=_settings("1/2")) as stage:
        await stage.start()
        await stage.stop()
        for other in ("2/2", "1/4", ""):
            stage.settings = _settings(other)
            with pytest.raises(ConfigurationError, match="is of shard 1/2"):
                await stage.start()
        stage.settings = _settings("1/2")
        stage.sagas = (Locking,)
        with pytest.raises(ConfigurationError, match="a lock, which only one store can keep"):
            await stage.start()


async def test_a_store_that_has_no_shards_splits_in_the_middle_of_its_sagas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "PAGE", 7)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    console = Console(capsys, tmp_path)
    first, second = tmp_path / "saga.db", tmp_path / "second.db"
    orders = [f"o{number}" for number in range(30)]
    async with Stage(f"sqlite:{first}") as whole:
        whole.verified = False  # half of them will be elsewhere
        await whole.start()
        for number, order in enumerate(orders):
            await whole.publish(Placed(order_id=order), Reserved(order_id=order))
            if number % 2:
                await whole.publish(Declined(order_id=order))
        await whole.publish(Reserved(order_id="early"))
        await whole.until(
            lambda all_: len(all_) == 30 and sum(each.phase == "COMPENSATING" for each in all_.values()) == 15
        )
        await whole.settled()
        await whole.stop()
        for number, order in enumerate(orders):  # while nobody reads
            await whole.publish(Released(order_id=order) if number % 2 else Paid(order_id=order))
        await whole.publish(Placed(order_id="early"), Paid(order_id="early"))
        now = whole.now
        await asyncio.to_thread(copy_file, first, second)
        told = []
        for number, path in ((1, first), (2, second)):
            command = ("store", "shard", f"{number}/2", "--store", f"sqlite:{path}", "-o", "json")
            tried = validate((await asyncio.to_thread(console, *command, "--dry-run")).json, "saga.sharded/v1")
            done = await asyncio.to_thread(console, *command, "-y", "--reason", "it grows")
            told.append(validate(done.json, "saga.sharded/v1"))
            assert {**tried, "state": "done"} == told[-1]
        assert sum(each["stay"] for each in told) == sum(each["gone"] for each in told) == 30
        async with AsyncExitStack() as stack:
            stages = [
                await stack.enter_async_context(
                    Stage(f"sqlite:{path}", settings=_settings(f"{number}/2"), now=now, broker=whole.broker)
                )
                for number, path in ((1, first), (2, second))
            ]
            for stage in stages:
                await stage.start()
            found = await _until(stages, 31)
            assert Counter(found.values()) == {"COMPLETED": 16, "COMPENSATED": 15}
            for stage in stages:
                await stage.settled()
            assert await _commands(whole) == dict.fromkeys(orders[1::2], 1)
            elsewhere = next(order for order in orders if not Shard(1, 2).owns(order))
            lost = await asyncio.to_thread(console, "status", f"order/{elsewhere}", "--store", f"sqlite:{first}")
            assert lost.code == 7 and "its key belongs to shard 2/2" in lost.err
            wrong = await asyncio.to_thread(console, "store", "shard", "2/4", "--store", f"sqlite:{first}", "-y")
            assert wrong.code == 2 and "1/4 and 3/4" in wrong.err


async def test_a_store_that_is_half_split_is_taken_by_nobody(tmp_path: Path) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Order,)) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1"))
        await stage.until(lambda all_: "order/1" in all_)
        await stage.settled()
        await stage.stop()
        await stage.database.write(lambda c: shard.begin_split(c, Shard(1, 2), "choreo.coordinator"))
        for text in ("1/2", "2/2", ""):
            stage.settings = _settings(text)
            with pytest.raises(ConfigurationError, match="say `saga store shard 1/2` again"):
                await stage.start()
        with pytest.raises(ConfigurationError, match="it is being made shard 1/2"):
            await stage.database.write(lambda c: shard.begin_split(c, Shard(2, 4), "choreo.coordinator"))
        await stage.database.write(lambda c: shard.begin_split(c, Shard(1, 2), "choreo.coordinator"))
        await stage.database.write(lambda c: shard.prune(c, Shard(1, 2), ""))
        left = await stage.database.read(lambda c: c.execute(select(func.count()).select_from(saga)).scalar_one())
        assert left == Shard(1, 2).owns("1")
        stage.settings = _settings("1/2")
        await stage.start()
        await stage.settled()
