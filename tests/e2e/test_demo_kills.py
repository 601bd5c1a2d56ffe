"""Killed with SIGKILL at random moments, ten times over: every saga ends, nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.exc import OperationalError

from choreo.events.envelope import Delivery
from choreo.events.settings import Settings
from choreo.events.transport import Transport
from choreo.events.transports import connect
from choreo.saga.demo.books import Books, prove, read_books, read_sagas
from choreo.saga.demo.traffic import Mix, Placed, traffic
from choreo.saga.words import Phase
from tests.support.cli import Program, environment, saga
from tests.support.commands import compose_commands

pytestmark = pytest.mark.slow

KILLS = 10
MIX = Mix(orders=130, seed=99, pace=6)
"""Slow enough that no outage makes so many orders late at once that the breaker would call for a person (R1)."""
COMMANDS = ("inventory.commands", "payment.commands", "shipping.commands", "notification.commands")


def check(books: Books, placed: list[Placed]) -> list[str]:
    """Everything that the books disprove."""
    return [f"{each.name}: {each.told}" for each in prove(books, [order.event for order in placed]) if not each.holds]


async def check_commands(broker: Transport, books: Books) -> None:
    """However often a command was sent, one id is one command, byte for byte; and no step is undone by two."""
    bytes_of: dict[str, set[tuple[bytes | None, bytes | None]]] = {}
    undos: dict[tuple[str, str], set[str]] = {}
    for topic in COMMANDS:
        for delivery in await broker.snapshot(topic):
            headers = _headers(delivery)
            bytes_of.setdefault(headers["ce_id"], set()).add((delivery.key, delivery.value))
            if "undoes" in headers:
                undos.setdefault((headers["saga-id"], headers["saga-step"]), set()).add(headers["ce_id"])
    assert bytes_of, "the sagas sent commands"
    assert {id_ for id_, values in bytes_of.items() if len(values) > 1} == set()
    undone = {(instance.id, name) for instance in books.sagas.values() for name, step in instance.steps.items()
              if step.undo_attempt}  # fmt: skip
    assert undos.keys() == undone
    assert {place for place, ids in undos.items() if len(ids) > 1} == set()


def _headers(delivery: Delivery) -> Mapping[str, str]:
    return {name: value.decode() for name, value in delivery.headers}


async def test_the_demo_is_killed_ten_times_and_proves_itself(tmp_path: Path) -> None:
    home, seed = tmp_path / "demo", 20261121
    chance = random.Random(seed)
    env = environment(session=1)
    demo = Program(
        ["saga", "demo", "--orders", 150, "--seed", seed, "--home", home], env=env, folder=tmp_path, name="demo"
    )
    settings = Settings(home=home)
    open_when_killed = []
    try:
        while len(open_when_killed) < KILLS:
            demo.start()
            if len(open_when_killed) % 2:  # on a slow machine the others die before any saga begins
                await _while_open(settings, 60)
            if demo.wait(chance.uniform(0.5, 5)) is None:
                demo.kill()
                open_when_killed.append(await _open_sagas(settings))
        demo.start()
        assert demo.wait(180) == 0, demo.output[-4000:]
    finally:
        demo.close()
    assert sum(number > 0 for number in open_when_killed) >= 3, "kills hit sagas that were under way"
    books = await read_books(settings)
    assert check(books, list(traffic(Mix(orders=150, seed=seed)))) == []
    async with connect(settings.broker_url, settings) as broker:
        await check_commands(broker, books)


async def _open_sagas(settings: Settings) -> int:
    if not (settings.home / "saga.db").exists():
        return 0
    try:
        return sum(not instance.phase.ended for instance in (await read_sagas(settings)).values())
    except OperationalError:
        return 0  # killed before the store had its tables


async def _while_open(settings: Settings, seconds: float) -> int:
    """Wait for a moment at which sagas are under way."""
    end = time.monotonic() + seconds
    while not (found := await _open_sagas(settings)) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return found


@pytest.fixture
def programs(tmp_path: Path, kafka_bootstrap: str) -> Iterator[tuple[Settings, dict[str, Program]]]:
    """The web shop, each service and the coordinator as processes of their own, by the commands of the compose file."""
    given = {
        "broker": f"kafka://{kafka_bootstrap}",
        "home": tmp_path / "home",
        "topic_prefix": f"kills-{uuid4().hex[:8]}.",
        "session": 2,
    }
    env = environment(**given, demo_orders=MIX.orders, demo_seed=MIX.seed, demo_pace=MIX.pace)
    commands = compose_commands()
    for name in ("fraud", "web"):  # the shop does not need them; tests/e2e/test_fraud.py and tests/web run them
        del commands[name]
    made = saga(*commands.pop("topics")[1:], env=env)
    assert made.returncode == 0, made.stderr
    all_ = {name: Program(command, env=env, folder=tmp_path, name=name) for name, command in commands.items()}
    try:
        yield Settings.model_validate(given), all_
    finally:
        for program in all_.values():
            program.close()


@pytest.mark.kafka
async def test_services_and_coordinator_are_killed_ten_times_on_kafka(
    programs: tuple[Settings, dict[str, Program]],
) -> None:
    settings, running = programs
    shop = running.pop("orders")
    assert len(running) == 6
    for program in running.values():
        program.start()
    for program in running.values():
        program.until("running")
    shop.start()
    placed = list(traffic(MIX))
    chance = random.Random(7)
    victims = [*running, *chance.choices([*running], k=KILLS - len(running))]
    chance.shuffle(victims)
    open_when_killed = []
    await _while_open(settings, 60)
    for name in victims:
        await asyncio.sleep(chance.uniform(0.3, 2))
        open_when_killed.append(await _while_open(settings, 3))
        running[name].kill()
        running[name].start()
    assert shop.wait() == 0, shop.output

    assert sum(number > 0 for number in open_when_killed) >= 3, "kills hit sagas that were under way"
    books = await _settled(settings, placed)
    still_open = [instance.to_json() for instance in books.sagas.values() if not instance.phase.ended]
    assert check(books, placed) == [], (still_open, {name: each.output[-1500:] for name, each in running.items()})
    assert any(instance.phase is Phase.COMPLETED for instance in books.sagas.values())
    async with connect(settings.broker_url, settings) as broker:
        await check_commands(broker, books)
    for program in running.values():
        program.until("running")
        assert program.stop() == 0, program.output[-3000:]
    assert sum(program.lives for program in running.values()) == len(running) + KILLS
    assert check(await read_books(settings), placed) == []


async def _settled(settings: Settings, placed: list[Placed], seconds: float = 300) -> Books:
    """Wait until the books prove everything: an effect that happened twice never goes away by waiting."""
    end = time.monotonic() + seconds
    while True:
        books = await read_books(settings)
        if not check(books, placed) or time.monotonic() > end:
            return books
        await asyncio.sleep(0.5)
