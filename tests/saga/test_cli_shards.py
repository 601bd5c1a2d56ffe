"""Sagas in shards, asked as if there were one store: `--context` with a pattern that all shards' contexts match."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from choreo.events.settings import load_settings
from choreo.saga import queries
from choreo.saga.cli import exits
from choreo.saga.shard import Shard
from tests.saga.stage import Declined, Paid, Placed, Released, Reserved, Stage
from tests.support.cli import Program, environment
from tests.support.console import Console, Done, validate

ORDERS = [f"o{number}" for number in range(12)]
PATTERN = ("--context", "shard-*")


class Installation(NamedTuple):
    """Two shards with their sagas, and a shell in a folder whose choreo.toml names them."""

    stages: list[Stage]
    console: Console

    async def saga(self, *arguments: object) -> Done:
        """Type a command."""
        return await asyncio.to_thread(self.console, *arguments)


@pytest.fixture
async def shards(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    """Twelve orders: every third is refused and undone, every third waits for its payment."""
    monkeypatch.chdir(tmp_path)
    urls = [store_url, f"sqlite:{tmp_path / 'second.db'}"]
    contexts = [
        f'[contexts.shard-{number}]\nstore = "{url}"\nshard = "{number}/2"' for number, url in enumerate(urls, 1)
    ]
    Path("choreo.toml").write_text("\n".join(reversed(contexts)))
    async with AsyncExitStack() as stack:
        stages = [
            await stack.enter_async_context(Stage(url, settings=load_settings(broker="memory:", shard=f"{number}/2")))
            for number, url in enumerate(urls, 1)
        ]
        stages[0].now = stages[1].now = max(stage.now for stage in stages)
        for stage in stages:
            await stage.start()
        for number, order in enumerate(ORDERS):
            await stages[0].publish(Placed(order_id=order), Reserved(order_id=order))
            if number % 3:
                await stages[0].publish(Paid(order_id=order) if number % 3 == 1 else Declined(order_id=order))
            if number % 3 == 2:
                await stages[0].publish(Released(order_id=order))
        for stage in stages:
            own = [order for order in ORDERS if Shard.read(stage.settings.shard).owns(order)]
            assert 2 < len(own) < 10, "both have their share"
            open_ = sum(ORDERS.index(order) % 3 == 0 for order in own)
            await stage.until(
                lambda all_, own=own, open_=open_: (  # type: ignore[misc]
                    len(all_) == len(own) and sum(not each.phase.ended for each in all_.values()) == open_
                )
            )
            await stage.settled()
        yield Installation(stages, Console(capsys, tmp_path))


async def test_a_list_is_that_of_all_shards_in_one_order(shards: Installation) -> None:
    for sort in queries.SORTS:
        listed = (await shards.saga("list", *PATTERN, "--sort", sort, "-o", "json")).json
        assert sorted(validate(each, "saga.summary/v1")["key"] for each in listed) == sorted(ORDERS)
        first = (await shards.saga("list", *PATTERN, "--sort", sort, "--limit", "5", "-o", "id")).out.split()
        assert first == [each["id"] for each in listed[:5]]
    started = (await shards.saga("list", *PATTERN, "--sort", "started", "-o", "json")).json
    times = [each["started_at"] for each in started]
    assert times == sorted(times, reverse=True)
    shown = await shards.saga("list", *PATTERN, "--limit", "3")
    assert "3 of 12 · 4 completed · 4 compensated · 4 open" in shown.err
    whole = (await shards.saga("list", *PATTERN, "--full", "--open", "-o", "json")).json
    assert len(whole) == 4 and all(each["steps"] for each in whole)


@pytest.mark.parametrize("sort", queries.SORTS)
async def test_several_stores_are_sorted_as_a_database_sorts_one(shards: Installation, sort: str) -> None:
    for stage in shards.stages:
        one = await stage.database.read(lambda c: queries.list_sagas(c, queries.Filter(), sort=sort, limit=None))
        ids = [row.id for row in one]
        listed = (await shards.saga("list", *PATTERN, "--sort", sort, "-o", "id")).out.split()
        assert [id_ for id_ in listed if id_ in ids] == ids


async def test_a_list_that_is_watched_shows_what_changes_in_any_shard(shards: Installation, tmp_path: Path) -> None:
    watching = Program(
        ["saga", "list", "-w", "--open", *PATTERN],
        env=environment(home=tmp_path),
        folder=tmp_path,
        name="list",
        cwd=tmp_path,
    )
    try:
        watching.start()
        for order in ORDERS[::3]:
            await asyncio.to_thread(watching.until, f"  order/{order}  ")
        await shards.stages[0].publish(Declined(order_id=ORDERS[0]))
        await asyncio.to_thread(watching.until, "COMPENSATING")
        watching.tell(signal.SIGINT)
        assert await asyncio.to_thread(watching.wait) == exits.INTERRUPTED
    finally:
        watching.close()


async def test_groups_count_the_sagas_of_all_shards(shards: Installation) -> None:
    grouped = (await shards.saga("list", *PATTERN, "--group-by", "state", "-o", "json")).json
    assert [(validate(each, "saga.group/v1")["value"], each["count"]) for each in grouped] == [
        ("COMPENSATED", 4),
        ("COMPLETED", 4),
        ("RUNNING", 4),
    ]
    [burst] = (await shards.saga("list", *PATTERN, "--group-by", "error", "--state", "compensated", "-o", "json")).json
    assert (burst["count"], burst["step"]) == (4, "charge")


async def test_a_saga_is_found_in_the_shard_of_its_key(shards: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_CONTEXT", "shard-*")
    for order in ORDERS:
        for name in (order, f"order/{order}", f"order/{order}~1"):
            assert (await shards.saga("status", name, "-o", "id")).out.split() == [f"order/{order}"]
    for command in ("history", "why", "graph", "trace"):
        assert (await shards.saga(command, ORDERS[0])).code == exits.OK
    assert (await shards.saga("graph", "order")).code == exits.OK, "a type is known to each shard"
    lost = await shards.saga("status", "nosuch")
    assert (lost.code, "nosuch" in lost.err, "shard" in lost.err) == (7, True, False)


async def test_something_is_asked_of_a_saga_where_it_is(shards: Installation) -> None:
    for order in ORDERS[::3]:
        asked = await shards.saga("cancel", order, *PATTERN, "--reason", "changed their mind", "--timeout", "60", "-y")
        assert asked.code == exits.OK, asked.err
    for stage in shards.stages:
        await stage.until(lambda all_: all(each.phase != "RUNNING" for each in all_.values()))


async def test_what_asks_one_store_names_the_contexts(shards: Installation) -> None:
    for command in (["status", "@latest"], ["locks"], ["retention"], ["pause", "--type", "order", "--reason", "x"]):
        refused = await shards.saga(*command, *PATTERN)
        assert refused.code == exits.USAGE
        assert "shard-1, shard-2" in refused.err and "a pattern is for" in refused.err, refused.err
    assert (await shards.saga("context", "list", *PATTERN, "-o", "id")).out.split() == ["shard-2", "shard-1"]


@pytest.mark.parametrize(
    ("contexts", "arguments", "said"),
    [
        ({"shard-1": "1/2"}, [], "shard-1 (1/2): each shard of one installation has to be there, and once"),
        ({"shard-1": "1/2", "shard-2": "2/3"}, [], "each shard of one installation has to be there"),
        ({"shard-1": "1/2", "shard-2": "2/2", "shard-b": "2/2"}, [], "has to be there, and once"),
        ({"shard-1": "1/2", "shard-2": ""}, [], "shard-2, which says of which shard it is with no shard=1/2"),
        ({"other": "1/2"}, [], "no context of choreo.toml is like shard-*: it has other"),
        ({}, [], "no context of choreo.toml is like shard-*: it has none"),
        ({"shard-1": "1/2", "shard-2": "2/2"}, ["--store", "sqlite:x.db"], "--store names one store"),
        ({"shard-1": "1/2", "shard-2": "2/4x"}, [], "write one of several shards as 2/4"),
    ],
)
def test_contexts_that_are_not_all_shards_are_refused(
    contexts: dict[str, str],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        f'[contexts.{name}]\nhome = "h"' + (f'\nshard = "{shard}"' if shard else "") for name, shard in contexts.items()
    ]
    Path("choreo.toml").write_text("\n".join(lines))
    refused = Console(capsys, tmp_path)("list", *PATTERN, *arguments)
    assert refused.code == exits.USAGE
    assert said in refused.err
    assert len(refused.err.splitlines()) == 1


async def test_a_context_with_the_store_of_another_shard_is_refused(shards: Installation) -> None:
    file = Path("choreo.toml")
    file.write_text(file.read_text().replace('"1/2"', '"x"').replace('"2/2"', '"1/2"').replace('"x"', '"2/2"'))
    refused = await shards.saga("list", *PATTERN)
    assert refused.code == exits.USAGE
    assert "context shard-2 says shard=1/2, and its store " in refused.err
    assert refused.err.endswith(" is of shard 2/2\n")
