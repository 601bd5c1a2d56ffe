"""The flow of the README in processes of their own; and the sharp edges, end to end with real services."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from choreo import Context, Event, Publisher, Saga, Service, Transaction, step
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Record, read_envelope
from choreo.events.errors import SagaNotFound
from choreo.events.settings import Settings, load_settings
from choreo.events.transport import Consumer, Transport
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.queries import load
from choreo.saga.running import Process
from choreo.saga.words import Condition, Phase, StepState
from choreo.services.inbox import inbox
from tests.support.cli import Program, environment, saga
from tests.support.kafka import KafkaServer, kafka_jars
from tests.support.server import running

ORDER = {
    "order_id": "4711",
    "customer": "ada",
    "email": "ada@mail.example",
    "article": "lamp",
    "quantity": 1,
    "total": "39.90",
    "card": "card-1",
}
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "quickstart"
PLACED = "choreo.saga.demo.events:OrderPlaced"


# ---- as the README says -------------------------------------------------------------------------------------------


@pytest.fixture
def kafka() -> Iterator[KafkaServer]:
    """A broker of its own, to be stopped."""
    yield from running("Apache Kafka", lambda: KafkaServer(kafka_jars()))


@pytest.mark.kafka
@pytest.mark.slow
def test_an_order_on_kafka_and_its_status_after_kafka_is_gone(kafka: KafkaServer, tmp_path: Path) -> None:
    env = environment(home=tmp_path, broker=f"kafka://{kafka.bootstrap}")
    assert saga("topics", "apply", "choreo.saga.demo.shop", env=env).returncode == 0
    services = Program(["saga", "run", "choreo.saga.demo.services"], env=env, folder=tmp_path, name="services")
    coordinator = Program(
        ["saga", "run", "choreo.saga.demo.saga:Fulfilment"], env=env, folder=tmp_path, name="coordinator"
    )
    try:
        for program in (services, coordinator):
            program.start()
        for program in (services, coordinator):
            program.until("running")
        assert saga("publish", PLACED, "--data", json.dumps(ORDER), env=env).returncode == 0
        _until(lambda: saga("status", "4711", "--exit-status", env=env).returncode == 0)
        watched = saga("watch", "4711", env=env)
        assert watched.returncode == 0, "a finished saga: watch ends at once, with its outcome"

        began = time.monotonic()
        assert [services.stop(), coordinator.stop()] == [0, 0], services.output + coordinator.output
        assert time.monotonic() - began < 2 * 30, "each stops long before it would be killed"
    finally:
        services.close()
        coordinator.close()

    kafka.kill()
    after = saga("status", "4711", env=env)
    assert after.returncode == 0
    assert "COMPLETED" in after.stdout
    told = json.loads(saga("status", "4711", "-o", "json", env=env).stdout)
    assert told["phase"] == "COMPLETED"
    assert told["observed"]["broker"] == "down"
    assert "down" in after.stdout + after.stderr


def _until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_quickstart_works_as_typed(tmp_path: Path) -> None:
    env = environment(home=tmp_path, session=1)
    shop = Program(["saga", "run", EXAMPLE / "shop.py"], env=env, folder=tmp_path, name="shop")
    publish = ("publish", f"{EXAMPLE / 'shop.py'}:OrderPlaced", EXAMPLE / "orders.csv", "-o", "json")
    try:
        shop.start()
        shop.until("running")
        assert json.loads(saga(*publish, env=env).stdout)["published"] == 3
        _until(lambda: _phases(env) == {"4711": "COMPLETED", "4712": "COMPENSATED", "4713": "COMPENSATED"})
        assert json.loads(saga(*publish, env=env).stdout)["published"] == 0
        for look in ("list", "status", "trace"):
            shown = saga(look, *(["4712"] if look != "list" else []), env=env)
            assert shown.returncode == 0, shown.stderr
            assert "COMPENSATED" in shown.stdout
        assert shop.stop() == 0, shop.output
    finally:
        shop.close()


# ---- on every broker ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The settings of an empty home: on an embedded broker, then on Kafka."""
    if request.param == "embedded":
        return load_settings(home=tmp_path, broker=f"memory:{uuid4().hex}", session=2)
    broker = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    return load_settings(home=tmp_path, broker=broker, topic_prefix=f"edges-{uuid4().hex[:8]}.", session=2)


class Asked(Event, topic="asked", key="order_id"):
    order_id: str


class Reserved(Event, topic="stock", key="order_id"):
    order_id: str


class Release(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Released(Event, topic="stock", key="order_id"):
    order_id: str


class GivenUp(Event, topic="asked", key="order_id"):
    order_id: str


class Impatient(Saga, start=Asked, key="order_id", compensated=GivenUp):
    reserve = step(done=Reserved, undo=Release, undone=Released, within="500ms")


class Warehouse:
    """A service whose shelves lie outside of every store; it counts what it is asked, and takes its time."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.service = Service("warehouse")

        @self.service.on(Asked)
        async def reserve(asked: Asked, context: Context) -> Reserved:
            self.begun.set()
            await self.may_end.wait()
            self.calls["reserved"] += 1
            return Reserved(order_id=asked.order_id)

        @self.service.on(Release, undoes=reserve)
        async def release(command: Release, tx: Transaction) -> Released:
            self.calls["released"] += 1
            return Released(order_id=command.order_id)


async def saga_of(settings: Settings, key: str) -> Any:
    """The saga's state, None before it exists."""
    database = await Database.open(settings.store_url)
    try:
        return (await database.read(lambda connection: load(connection, f"impatient/{key}"))).instance
    except SagaNotFound:
        return None
    finally:
        await database.close()


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.1)


async def _is(settings: Settings, wanted: Phase) -> bool:
    found = await saga_of(settings, "1")
    return found is not None and found.phase is wanted


class Withheld:
    """A broker whose records of one topic do not arrive for now: a slow partition, as seen by its reader."""

    def __init__(self, transport: Transport, topic: str) -> None:
        self._transport = transport
        self._topic = topic
        self.open = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def subscribe(self, group: str, topics: Sequence[str], **options: Any) -> Consumer:
        consumer: Any = _WithheldConsumer(await self._transport.subscribe(group, topics, **options), self)
        return consumer

    def withholds(self, delivery: Delivery) -> bool:
        return delivery.topic == self._topic and not self.open.is_set()


class _WithheldConsumer:
    def __init__(self, consumer: Consumer, broker: Withheld) -> None:
        self._consumer = consumer
        self._broker = broker
        self._kept: list[Delivery] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        found = [*self._kept, *await self._consumer.poll(most=most, timeout=timeout)]
        self._kept = [each for each in found if self._broker.withholds(each)]
        return [each for each in found if not self._broker.withholds(each)]


@asynccontextmanager
async def stage(
    settings: Settings, warehouse: Warehouse, *, withheld: str
) -> AsyncIterator[tuple[Any, Publisher, Process, Process]]:
    """Coordinator and service side by side, one of which the topic of the first event does not reach for now."""
    services, sagas = Parts((warehouse.service,)), Parts((), (Impatient,))
    async with connect(settings.broker_url, settings) as broker:
        await broker.create_topics(Parts((warehouse.service,), (Impatient,)).topics())
        slow: Any = Withheld(broker, "asked")
        async with (
            Process(sagas, slow if withheld == "coordinator" else broker, settings) as coordinator,
            Process(services, slow if withheld == "service" else broker, settings) as service,
            Publisher(broker, source="test", settings=settings) as publisher,
        ):
            yield slow, publisher, coordinator, service


async def test_a_late_success_after_a_timeout_is_undone_once(settings: Settings) -> None:
    warehouse = Warehouse()
    async with stage(settings, warehouse, withheld="coordinator") as (broker, publisher, coordinator, service):
        await publisher.publish(Asked(order_id="1"))
        await warehouse.begun.wait()
        broker.open.set()  # only now the saga begins, and its limit runs while the service is at work
        await until(lambda: _is(settings, Phase.COMPENSATING))
        warehouse.may_end.set()
        await until(lambda: _is(settings, Phase.COMPENSATED))
        await service.until_idle()
        await coordinator.until_idle()
    assert warehouse.calls == {"reserved": 1, "released": 1}
    instance = await saga_of(settings, "1")
    assert instance.phase is Phase.COMPENSATED
    assert instance.steps["reserve"].state is StepState.COMPENSATED
    assert instance.steps["reserve"].undo_attempt == 1
    assert instance.conditions[Condition.LATE].reason == "LateSuccess"


async def test_an_undo_that_overtakes_its_step_leaves_no_trace_of_the_step(settings: Settings) -> None:
    warehouse = Warehouse()
    warehouse.may_end.set()
    async with stage(settings, warehouse, withheld="service") as (broker, publisher, coordinator, service):
        [asked] = await publisher.publish(Asked(order_id="1"))
        await until(lambda: _is(settings, Phase.COMPENSATED))
        broker.open.set()
        await until(lambda: _refused(settings, asked))
        await service.until_idle()
        await coordinator.until_idle()
        said = [read_envelope(delivery).type for delivery in await broker.snapshot("stock")]
    assert warehouse.calls == {}, "neither the step nor its undo ran"
    assert said == ["Released"], "the undo was answered once, the step said nothing"
    instance = await saga_of(settings, "1")
    assert instance.phase is Phase.COMPENSATED
    assert instance.steps["reserve"].done is None
    assert instance.epoch == 0


async def _refused(settings: Settings, event_id: str) -> bool:
    """Whether the worker has met the late event and committed past it."""
    database = await Database.open(settings.service_store_url("warehouse"))
    try:
        query = select(inbox.c.state).where(inbox.c.event_id == event_id)
        states = await database.read(lambda connection: set(connection.execute(query).scalars()))
        return states == {"refused"}
    finally:
        await database.close()


# ---- what cannot be used ------------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], Settings]:
    """An empty home for commands, and the settings that these will read."""
    given: dict[str, Any] = {"home": tmp_path, "session": 2}
    if request.param == "kafka":
        given["broker"] = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
        given["topic_prefix"] = f"useless-{uuid4().hex[:8]}."
    return environment(**given), Settings.model_validate(given)


async def test_a_duplicate_an_unknown_and_an_undecodable_event_change_nothing_else_and_are_visible(
    home: tuple[dict[str, str], Settings], tmp_path: Path
) -> None:
    env, settings = home
    assert saga("topics", "apply", "choreo.saga.demo.shop", env=env).returncode == 0
    publish = ("publish", PLACED, "--id", "order-4711", "--data", json.dumps(ORDER))
    shop = Program(["saga", "run", "choreo.saga.demo.shop"], env=env, folder=tmp_path, name="shop")
    try:
        shop.start()
        shop.until("running")
        assert saga(*publish, env=env).returncode == 0
        _until(lambda: _phases(env) == {"4711": "COMPLETED"})
        before = json.loads(saga("status", "4711", "--history", "-o", "json", env=env).stdout)

        assert saga(*publish, env=env).returncode == 0  # a duplicate
        async with connect(settings.broker_url, settings) as broker:
            await broker.send(
                [
                    _record("orders", "stranger", "OrderAdmired", b"{}", "application/json"),
                    _record("orders", "garbage", "OrderPlaced", b"\x00\x00\x00\x00\x07nonsense", "application/avro"),
                    _record("orders", "untimely", "OrderPlaced", b"{}", "application/json", time="yesterday"),
                ]
            )
        _until(lambda: len(_phases(env)) == 2 and "COMPENSATED" in _phases(env).values())
        _until(lambda: _ignored(env).keys() >= {"duplicate", "unknown", "undecodable"})
    finally:
        shop.stop()
        shop.close()

    after = json.loads(saga("status", "4711", "--history", "-o", "json", env=env).stdout)
    for told in (before, after):
        del told["observed"]
    assert after == before, "the order that was there is what it was"
    assert _phases(env) == {"4711": "COMPLETED", "4712": "COMPENSATED"}, "an order that nobody can read fails alone"
    ignored = _ignored(env)
    assert ignored["duplicate"]["orders", "OrderPlaced"] == 1
    assert ignored["unknown"]["orders", "OrderAdmired"] == 1
    assert ignored["undecodable"] == {("orders", None): 1}

    async with connect(settings.broker_url, settings) as broker:
        dead = [dict(delivery.headers) for delivery in await broker.snapshot("orders.dlq")]
    gave_up = Counter((headers["dlq-service"].decode(), headers["ce_id"].decode()) for headers in dead)
    readers = {"order", "inventory", "payment"}
    assert gave_up["order", "garbage"] == 1
    # The first of these two to give up has the saga undone, and then the guard refuses the other one's step unread.
    assert gave_up["inventory", "garbage"] or gave_up["payment", "garbage"]
    assert {name for name, id_ in gave_up if id_ == "untimely"} == {"choreo.coordinator", *readers}
    assert all(headers["dlq-message"] and headers["dlq-topic"] == b"orders" for headers in dead)
    assert not any(b"nonsense" in headers["dlq-message"] for headers in dead), "never a payload in a reason"


def _phases(env: dict[str, str]) -> dict[str, str]:
    listed = json.loads(saga("list", "--all", "-o", "json", env=env).stdout)
    return {each["key"]: each["phase"] for each in listed}


def _ignored(env: dict[str, str]) -> dict[str, dict[tuple[str, str | None], int]]:
    found: dict[str, dict[tuple[str, str | None], int]] = {}
    for each in json.loads(saga("ignored", "-o", "json", env=env).stdout)["ignored"]:
        found.setdefault(each["reason"], {})[each["topic"], each["event_type"]] = each["count"]
    return found


def _record(
    topic: str, id_: str, type_: str, value: bytes, content_type: str, time: str = "2026-11-21T09:00:00Z"
) -> Record:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": id_,
        "ce_type": type_,
        "ce_source": "test",
        "ce_time": time,
        "content-type": content_type,
    }
    return Record(topic, b"4712", value, tuple((name, text.encode()) for name, text in headers.items()))
