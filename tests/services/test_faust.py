"""Faust agents that take part, on a real Kafka, in processes of their own as people run them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from choreo.events.catalog import read_catalog
from choreo.events.envelope import TopicPartition
from choreo.events.errors import ChoreoError, ConfigurationError, DefinitionError
from choreo.events.partitioner import partition_for
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.services.faust import App, Stream
from choreo.services.following import STALLED, Following
from choreo.services.worker import Worker
from tests.services.shop import OrderChanged, OrderPlaced, Published, Rig, StockReserved, command
from tests.support.cli import Program, environment
from tests.support.console import validate
from tests.support.ports import free_ports

PATIENCE = 240.0
"""Seconds: a rebalance may take Faust its whole limit, more than once where a worker is killed meanwhile."""


# ---- where it is declared -----------------------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("screening", settings=Settings(home=tmp_path, broker="kafka://127.0.0.1:1", topic_prefix="t."))


def test_an_agent_is_announced_like_any_handler(app: App) -> None:
    @app.on(OrderPlaced, OrderChanged)
    async def screen(orders: Stream[OrderPlaced | OrderChanged]) -> AsyncIterator[StockReserved]:
        async for order in orders:
            yield StockReserved(order_id=order.order_id)

    told = app.service_of_choreo.announcement()
    [handler] = told.handlers
    assert (told.service, told.group, handler.name) == ("screening", "screening", "screen")
    assert [each.type for each in handler.consumes] == ["OrderPlaced", "OrderChanged"]
    assert [each.type for each in handler.produces] == ["StockReserved"]
    assert app.conf.id == "t.screening"
    assert [sorted(topic.topics) for topic in (agent.channel for agent in app.agents.values())] == [["t.orders"]]


def test_what_an_agent_may_be_is_checked_where_it_is_declared(app: App) -> None:
    async def silent(orders: Stream[OrderPlaced]):
        async for order in orders:
            yield order

    async def returns(orders: Stream[OrderPlaced]) -> StockReserved: ...

    def blocking(orders: Stream[OrderPlaced]) -> None: ...

    for wrong, told in ((silent, "AsyncIterator"), (returns, "publishes what it yields"), (blocking, "async def")):
        with pytest.raises(DefinitionError, match=told):
            app.on(OrderPlaced)(wrong)


@pytest.mark.parametrize(
    "options",
    [{"processing_guarantee": "exactly_once"}, {"value_serializer": "pickle"}, {"key_serializer": "pickle"}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_break_a_promise_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    settings = Settings(home=tmp_path, broker="kafka://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="leave it out"):
        App("screening", settings=settings, **options)


async def test_without_a_kafka_its_start_says_so(tmp_path: Path) -> None:
    app = App("screening", settings=Settings(home=tmp_path))
    with pytest.raises(ConfigurationError, match="CHOREO_BROKER=kafka://"):
        await app.on_first_start()


async def test_saga_run_refuses_it_before_it_reads_anything(rig: Rig, app: App) -> None:
    @app.on(OrderPlaced)
    async def screen(orders: Stream[OrderPlaced]) -> None: ...

    with pytest.raises(ChoreoError, match="run it with `faust -A MODULE worker`"):
        await Worker(app.service_of_choreo, rig.broker, settings=rig.settings).start()


# ---- on Kafka -----------------------------------------------------------------------------------------------------


class Screening:
    """Topics and a store of their own, and workers on them."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.settings = Settings(
            home=folder / "home", broker=f"kafka://{bootstrap}", topic_prefix=f"f{uuid.uuid4().hex[:8]}.", session=3
        )
        self._folder = folder
        self._workers: list[Program] = []

    def worker(self, *, hole: bool = False, **settings: object) -> Program:
        chosen = self.settings
        env = environment(
            home=chosen.home,
            broker=chosen.broker,
            topic_prefix=chosen.topic_prefix,
            session=chosen.session,
            service_store=f"sqlite:{chosen.home}/{{name}}.db",
            **settings,
        )
        env["HOLE"] = "1" if hole else ""
        number = len(self._workers)
        command = ["python", "-m", "faust", "--datadir", self._folder / f"data{number}"]
        command += ["-A", "tests.services.faust_program", "worker", "-l", "info", "--without-web"]
        program = Program(command, env=env, folder=self._folder, name=f"worker{number}")
        self._workers.append(program)
        program.start()
        return program

    def close(self) -> None:
        for program in self._workers:
            program.close()


@pytest.fixture(scope="module")
def screening(kafka_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screening]:
    found = Screening(kafka_server.bootstrap, tmp_path_factory.mktemp("faust"))
    yield found
    found.close()


@pytest.fixture
async def kafka(screening: Screening) -> AsyncIterator[Rig]:
    async with connect(screening.settings.broker_url, screening.settings) as broker:
        rig = Rig(broker, screening.settings)
        await rig.prepare()
        if not screening._workers:
            screening.worker()
        yield rig


async def _answers(rig: Rig, key: str, number: int, topic: str = "inventory") -> list[Published]:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [each for each in await rig.published(topic) if each.envelope.key == key]
            if len(found) >= number:
                return found
            await asyncio.sleep(0.1)


@pytest.mark.kafka
async def test_outputs_carry_saga_and_cause_under_derived_ids(kafka: Rig) -> None:
    key = uuid.uuid4().hex
    headers = {**command("screen", key=key), "saga_traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    [event_id] = await kafka.publish(OrderPlaced(order_id=key, number=2), **headers)
    answers = await _answers(kafka, key, 2)
    assert [(each.type, each.event) for each in answers] == [
        ("StockReserved", {"order_id": key, "number": 1}),
        ("StockReserved", {"order_id": key, "number": -1}),
    ]
    for each in answers:
        assert (each.envelope.source, each.envelope.causation_id) == ("screening", event_id)
        assert (each.envelope.saga_id, each.envelope.saga_run, each.envelope.saga_step) == (
            f"fulfilment/{key}",
            1,
            "screen",
        )
        assert each.envelope.saga_attempt is None
        assert each.envelope.saga_traceparent == headers["saga_traceparent"]
        assert each.envelope.content_type == "application/avro"
    assert len({each.envelope.id for each in answers}) == 2
    announced = (await read_catalog(kafka.broker))["screening"]
    assert [handler.name for handler in announced.handlers] == ["screen", "note"]


@pytest.mark.kafka
async def test_what_an_agent_raises_becomes_a_dead_letter_and_handler_failed_and_the_next_go_on(kafka: Rig) -> None:
    key = uuid.uuid4().hex
    order = kafka.record(OrderPlaced(order_id=key, number=13), **command("screen", key=key))
    garbage = kafka.record(OrderPlaced(order_id=f"x{key}"))
    await kafka.broker.send([order, order, replace(garbage, value=b"garbage")])
    await kafka.publish(OrderPlaced(order_id=key, number=1))
    [answer] = await _answers(kafka, key, 1)
    assert answer.event["number"] == 1
    [dead] = await _answers(kafka, key, 1, "orders.dlq")
    assert [dead.header(f"dlq-{name}") for name in ("handler", "error", "message", "attempts")] == [
        "screen",
        "ValueError",
        "13 is unlucky",
        "3",
    ]
    [news] = await _answers(kafka, key, 1, "choreo.failures")
    told = json.loads(news.delivery.value or b"")
    assert (told["service"], told["handler"], told["dead"], told["attempts"]) == ("screening", "screen", True, 3)
    assert news.envelope.saga_id == f"fulfilment/{key}"
    [unread] = await _answers(kafka, f"x{key}", 1, "orders.dlq")
    assert (unread.header("dlq-error"), unread.header("dlq-attempts")) == ("DecodeError", "0")


@pytest.mark.kafka
async def test_row_31_duplicates_on_rebalances_and_kills_are_dropped_by_the_inbox(
    kafka: Rig, screening: Screening
) -> None:
    key = uuid.uuid4().hex[:8]
    orders = [kafka.record(OrderPlaced(order_id=f"{key}-{n}", number=1)) for n in range(200)]
    await kafka.broker.send(orders[:100])
    await _answers(kafka, f"{key}-0", 1)
    second = screening.worker()
    await kafka.broker.send([*orders[100:], *orders[:50]])
    await _answers(kafka, f"{key}-199", 1)
    await asyncio.to_thread(second.until, "Worker ready", 240)  # a rebalance may take Faust its whole limit
    screening._workers[0].kill()
    await kafka.broker.send(orders)
    # One more in each partition, behind all copies. That its offset is committed is not asked for: Faust may never do
    # it after a rebalance (docs/faust.md).
    lasts = [f"last-{key}-{n}" for n in range(64)]
    lasts = list({partition_for(last.encode(), 4): last for last in lasts}.values())
    await kafka.publish(*(OrderPlaced(order_id=last, number=1) for last in lasts))
    for last in lasts:
        try:
            await _answers(kafka, last, 1)
        except TimeoutError:
            raise AssertionError(f"Faust did not go on after the kill:\n{second.output[-5000:]}") from None
    async with asyncio.timeout(PATIENCE):  # what a killed worker had committed and not published, another one does
        while True:
            mine = [each for each in await kafka.published("inventory") if each.envelope.key.startswith(f"{key}-")]
            if len({each.envelope.key for each in mine}) == len(orders):
                break
            await asyncio.sleep(0.1)
    ids = {each.envelope.key: set() for each in mine}
    for each in mine:
        ids[each.envelope.key].add(each.envelope.id)
    assert {name: len(found) for name, found in ids.items() if len(found) != 1} == {}, "one answer each"
    copies = Counter(each.envelope.id for each in mine)
    assert sum(number - 1 for number in copies.values()) <= 100, "published again only by whoever was killed"
    assert second.stop() == 0, second.output[-2000:]


@pytest.mark.kafka
async def test_what_faust_forgets_to_commit_is_read_again_and_committed_and_it_says_how_it_is(
    kafka_server: Any, tmp_path: Path
) -> None:
    """Acknowledgements get lost in Faust; without a reminder it would not commit these partitions ever again."""
    health = free_ports(1)[0]
    own = Screening(kafka_server.bootstrap, tmp_path)
    try:
        async with connect(own.settings.broker_url, own.settings) as broker, httpx.AsyncClient(timeout=60) as client:
            rig = Rig(broker, own.settings)
            await rig.prepare()
            program = own.worker(hole=True, health=health)

            async def asked() -> httpx.Response | None:
                try:
                    return await client.get(f"http://127.0.0.1:{health}/readyz")
                except httpx.TransportError:
                    return None

            await rig.publish(*(OrderPlaced(order_id=f"{n}", number=1) for n in range(100)))
            async with asyncio.timeout(PATIENCE):
                while not await rig.all_committed("screening", "orders"):
                    assert program.code is None, program.output[-3000:]
                    await asyncio.sleep(0.2)
                while (answer := await asked()) is None or answer.status_code != 200:
                    await asyncio.sleep(0.2)
            assert "Faust does not commit what was handled, and reads it again" in program.output
            [part] = validate(answer.json(), "saga.health/v1")["parts"]
            assert (part["name"], part["ready"], part["store"], part["lag"]) == ("screening", True, True, 0)
            assert part["partitions"] == 4
            ids = Counter(each.envelope.id for each in await rig.published("inventory"))
            assert len(ids) == 100 and set(ids.values()) == {1}, "the inbox has dropped what was read again"
            assert program.stop() == 0, program.output[-2000:]
            assert await asked() is None
    finally:
        own.close()


def test_only_what_was_handled_to_the_end_by_everybody_counts_as_forgotten() -> None:
    place, other = TopicPartition("orders", 0), TopicPartition("orders", 1)
    following = Following()
    for reader in ("screen", "note"):
        following.reads(reader, ["orders"])
    for offset in range(10):
        following.handled("screen", place, offset)
    ends, late = {place: 10}, STALLED + 1
    assert following.stalled({place: 4}, ends, 1) == {}
    assert following.stalled({place: 4}, ends, 1 + late) == {}, "the other reader is not so far"
    for offset in range(3, 10):
        following.handled("note", place, offset)
    assert following.stalled({place: 4}, ends, 2 + late) == {place: 4}
    assert following.stalled({place: 4}, ends, 3 + late) == {}, "it was told just now"
    assert following.stalled({place: 10}, ends, 4 + 2 * late) == {}, "committed"
    # Partition 1 was taken over at offset 5, and Faust went on at 7: what lies between was handled by nobody here.
    for reader in ("screen", "note"):
        following.handled(reader, other, 7)
    for time in (0, late, 2 * late):
        assert following.stalled({other: 5}, {other: 8}, time) == {}
    for reader in ("screen", "note"):
        following.handled(reader, place, 10)
    told = [following.stalled({place: 10}, {place: 11}, number * late) for number in range(8)]
    assert told.count({place: 10}) == 3, "and then it is left alone"
