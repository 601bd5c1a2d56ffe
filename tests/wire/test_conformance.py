"""What a service owes those that it takes part with, in whatever language it is written (docs/wire.md).

Each test looks at Kafka from outside. It runs against choreo's own `Service`, against a participant in Go
(`tests/wire/participant`), and against the one of `CHOREO_PARTICIPANT`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from choreo import Saga, Service, step
from choreo.events.catalog import catalog_topics, read_catalog
from choreo.events.clock import from_rfc3339, system_clock
from choreo.events.codec import Codec, UnknownSchema, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record, read_envelope
from choreo.events.event import Event
from choreo.events.failures import HandlerFailed
from choreo.events.ids import new_id
from choreo.events.partitioner import partition_for
from choreo.events.registry import SCHEMAS_TOPIC, EmbeddedRegistry
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec, Transport
from choreo.events.transports import connect
from choreo.saga.loading import Parts
from choreo.saga.names import saga_id
from choreo.saga.queries import Filter, SagaRow, list_sagas
from choreo.saga.running import Process
from choreo.saga.words import Phase
from tests.services.shop import Published
from tests.support import parts
from tests.support.parts import Missing
from tests.wire.participants import COMMANDS, Participant
from tests.wire.shop import (
    OPENING,
    OrderPacked,
    OrderPlaced,
    OrderUnpacked,
    PackOrder,
    ReleaseStock,
    StockRefused,
    StockReleased,
    StockReserved,
    UnpackOrder,
)

pytestmark = pytest.mark.kafka
PATIENCE = 180.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    "tracestate": "shop=1",
    "saga_traceparent": f"00-{TRACE}-53995c3f42cd8ad8-01",
}


class Table:
    """Where a test sits: it publishes to the participant and reads what that says."""

    def __init__(self, participant: Participant, broker: Transport, settings: Settings) -> None:
        self.participant = participant
        self.broker = broker
        self.settings = settings
        self._codec = Codec(EmbeddedRegistry(broker))

    async def prepare(self) -> None:
        topics = ("orders", "stock", "stock.commands")
        names = [*topics, *(f"{name}.dlq" for name in topics), "choreo.failures"]
        compacted = [*catalog_topics(), TopicSpec(SCHEMAS_TOPIC, partitions=1, compacted=True)]
        await self.broker.create_topics([*(TopicSpec(name, 4) for name in names), *compacted])
        await self._codec.prepare((OrderPlaced, ReleaseStock, PackOrder, UnpackOrder))

    def record(self, event: Event, **headers: Any) -> Record:
        given = {"id": new_id(), "type": event.spec().type, "source": "test", "time": system_clock(), "key": ""}
        return to_record(event, Envelope(**{**given, **headers}), self._codec)

    async def publish(self, event: Event, **headers: Any) -> str:
        """Publish an event and give its id; headers are fields of its envelope."""
        record = self.record(event, **headers)
        await self.broker.send([record])
        return dict(record.headers)["ce_id"].decode()

    async def read(self, topic: str, key: str) -> list[Published]:
        """Everything that lies on a topic under a key, in order."""
        found = []
        for delivery in await self.broker.snapshot(topic):
            if delivery.key == key.encode():
                envelope = read_envelope(delivery)
                fields: dict[str, object] = {}
                if not topic.endswith(".dlq"):
                    fields = await self._decode(delivery.value or b"", envelope.content_type)
                found.append(Published(envelope, fields, delivery))
        return found

    async def answers(self, key: str, number: int, topic: str = "stock") -> list[Published]:
        """Wait until this many records lie there under a key."""
        found: list[Published] = []
        async with asyncio.timeout(PATIENCE):
            while len(found := await self.read(topic, key)) < number:
                assert self.participant.program.code is None, self.participant.program.output[-3000:]
                await asyncio.sleep(0.05)
        return found

    async def settled(self) -> None:
        """Wait until the participant has come past all that was published so far: one more order is answered.

        Each partition gets one, as it is only in order within a partition.
        """
        for topic, wanted in (("orders", OrderPlaced), ("stock.commands", PackOrder)):
            missing = set(range(4))
            while missing:
                key = f"tail-{uuid.uuid4().hex}"
                if (partition := partition_for(key.encode(), 4)) not in missing:
                    continue
                missing.discard(partition)
                fields = {"order_id": key} | ({"article": key} if topic == "orders" else {})
                await self.publish(wanted(**fields))
                await self.answers(key, 1)

    async def _decode(self, value: bytes, content_type: str) -> dict[str, object]:
        while True:
            try:
                return self._codec.decode_any(value, content_type)
            except UnknownSchema as unknown:
                await self._codec.learn(unknown.schema_id)


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def participant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Participant]:
    """One participant for all tests of this module, killed and started again by some."""
    bootstrap = request.getfixturevalue("kafka_server").bootstrap
    try:
        found = Participant(request.param, bootstrap, tmp_path_factory.mktemp(request.param))
    except Missing as missing:
        parts.missing("the participant in Go", str(missing))
    yield found
    found.program.close()


@pytest.fixture
async def table(participant: Participant) -> AsyncIterator[Table]:
    settings = Settings(broker=participant.broker, topic_prefix=participant.prefix)
    async with connect(settings.broker_url, settings) as broker:
        found = Table(participant, broker, settings)
        await found.prepare()
        if not participant.program.lives:
            participant.program.start()
        yield found


@pytest.fixture
def key() -> str:
    """An order, and an article, that no other test uses; not all of it is ASCII."""
    return f"ö-{uuid.uuid4().hex[:12]}"


def saga_of(key: str) -> str:
    """Name the saga of an order, as it travels."""
    return saga_id("fulfilment", key)


def of_saga(
    key: str, step: str, attempt: int | None = None, *, undoes: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """Give the headers of what belongs to a saga; a command has an attempt."""
    named = {"saga_id": saga_of(key), "saga_type": "fulfilment", "saga_run": 2, "saga_step": step}
    return {**named, "saga_attempt": attempt, "undoes": tuple(undoes), **TRACED, **more}


# ---- forward ------------------------------------------------------------------------------------------------------


async def test_it_announces_itself_in_the_catalog(table: Table) -> None:
    async with asyncio.timeout(PATIENCE):
        while (found := (await read_catalog(table.broker)).get("warehouse")) is None:
            await asyncio.sleep(0.1)
    assert found.group == "warehouse"
    handlers = {each.name: each for each in found.handlers}
    assert [(each.type, each.topic) for each in handlers["reserve"].consumes] == [("OrderPlaced", "orders")]
    assert {each.type for each in handlers["reserve"].produces} == {"StockReserved", "StockRefused"}
    assert (handlers["release"].undoes, handlers["unpack"].undoes) == ("reserve", "pack")


async def test_forward_an_event_is_answered_with_its_saga_and_its_cause(table: Table, key: str) -> None:
    event_id = await table.publish(OrderPlaced(order_id=key, article=key), **of_saga(key, "place"))
    (answer,) = await table.answers(key, 1)
    assert (answer.type, answer.event) == (
        "StockReserved",
        {"order_id": key, "article": key, "left": OPENING - 1},
    )
    envelope = answer.envelope
    assert answer.header("ce_specversion") == "1.0"
    assert (envelope.source, envelope.causation_id, envelope.content_type) == (
        "warehouse",
        event_id,
        "application/avro",
    )
    assert 0 < len(envelope.id) <= 255
    assert envelope.id != event_id
    assert from_rfc3339(answer.header("ce_time") or "") > 0
    assert (envelope.saga_id, envelope.saga_type, envelope.saga_run) == (saga_of(key), "fulfilment", 2)
    assert envelope.saga_step is None, "the step is that of who said the order, not of what answers it"
    assert (envelope.saga_attempt, envelope.undoes, answer.header("undo-empty")) == (None, (), None)
    assert answer.delivery.partition == partition_for(key.encode(), 4), "murmur2 of the key"
    names = [name for name, _ in answer.delivery.headers]
    assert len(names) == len(set(names)), "each header once"


async def test_forward_the_trace_is_carried_on(table: Table, key: str) -> None:
    await table.publish(OrderPlaced(order_id=key, article=key), **of_saga(key, "place"))
    (answer,) = await table.answers(key, 1)
    assert answer.header("saga-traceparent") == TRACED["saga_traceparent"]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-[0-9a-f]{{2}}", answer.header("traceparent") or "")


async def test_forward_without_a_saga_no_saga_is_made_up(table: Table, key: str) -> None:
    await table.publish(OrderPlaced(order_id=key, article=key))
    (answer,) = await table.answers(key, 1)
    told = [name for name, _ in answer.delivery.headers if name.startswith("saga-")]
    assert (told, answer.envelope.causation_id is None) == ([], False)


async def test_forward_a_refusal_is_an_event_like_any_other_and_may_be_json(table: Table, key: str) -> None:
    await table.publish(OrderPlaced(order_id=key, article=key, quantity=OPENING + 1))
    (answer,) = await table.answers(key, 1)
    assert (answer.type, answer.event) == (StockRefused.spec().type, {"order_id": key})
    assert answer.envelope.content_type == "application/json"
    assert json.loads(answer.delivery.value or b"") == {"order_id": key}


async def test_forward_the_answer_to_a_command_is_of_its_step(table: Table, key: str) -> None:
    command = of_saga(key, "pack", 1, saga_occurrence="ee5b38282387a5c7")
    await table.publish(PackOrder(order_id=key), **command)
    (answer,) = await table.answers(key, 1)
    assert (answer.type, answer.event) == (OrderPacked.spec().type, {"order_id": key, "boxes": 1})
    assert (answer.envelope.saga_step, answer.envelope.saga_occurrence) == ("pack", "ee5b38282387a5c7")
    assert answer.envelope.saga_attempt is None, "an answer with an attempt would be taken for a command"


async def test_forward_types_of_others_are_passed_over(table: Table, key: str) -> None:
    other = table.record(OrderPlaced(order_id=key, article=key), type="OrderFulfilled")
    await table.broker.send([other, replace(other, value=b"\x00garbage")])
    await table.settled()
    assert await table.read("stock", key) == await table.read("orders.dlq", key) == []


async def test_forward_plain_json_is_read_where_the_header_says_so(table: Table, key: str) -> None:
    record = table.record(OrderPlaced(order_id=key, article=key))
    headers = {**dict(record.headers), "content-type": b"application/json"}
    value = json.dumps({"order_id": key, "article": key, "quantity": 2}).encode()
    await table.broker.send([replace(record, value=value, headers=tuple(headers.items()))])
    (answer,) = await table.answers(key, 1)
    assert answer.event["left"] == OPENING - 2


# ---- again --------------------------------------------------------------------------------------------------------


async def test_duplicate_a_copy_of_an_event_has_no_second_effect(table: Table, key: str) -> None:
    order = table.record(OrderPlaced(order_id=key, article=key))
    await table.broker.send([order, order])
    await table.broker.send([order])
    await table.answers(key, 1)
    await table.settled()
    answers = await table.read("stock", key)
    assert len({each.envelope.id for each in answers}) == 1
    assert {each.event["left"] for each in answers} == {OPENING - 1}
    await table.publish(OrderPlaced(order_id=f"{key}-next", article=key))
    (after,) = await table.answers(f"{key}-next", 1)
    assert after.event["left"] == OPENING - 2


async def test_duplicate_a_command_that_comes_again_is_answered_again_as_before(table: Table, key: str) -> None:
    command = table.record(PackOrder(order_id=key), **of_saga(key, "pack", 1))
    await table.broker.send([command])
    (first,) = await table.answers(key, 1)
    await table.broker.send([command])
    first, second = await table.answers(key, 2)
    assert (second.envelope.id, second.delivery.value) == (first.envelope.id, first.delivery.value)
    assert first.event["boxes"] == 1


async def test_retry_a_participant_that_lost_its_memory_says_the_same_under_the_same_id(table: Table, key: str) -> None:
    order = table.record(OrderPlaced(order_id=key, article=key), **of_saga(key, "place"))
    command = table.record(PackOrder(order_id=key), **of_saga(key, "pack", 1))
    await table.broker.send([order, command])
    before = {each.type: each.envelope.id for each in await table.answers(key, 2)}
    assert len(before) == 2
    table.participant.restart(forgetful=True)
    await table.broker.send([order, command])
    after = {each.type: each.envelope.id for each in (await table.answers(key, 4))[2:]}
    assert after == before


async def test_retry_killed_at_work_it_answers_everything_and_nothing_twice(table: Table, key: str) -> None:
    articles = [f"{key}-{number}" for number in range(3)]
    orders = [
        table.record(OrderPlaced(order_id=f"{article}-{number}", article=article))
        for number in range(2 * OPENING)
        for article in articles
    ]
    for start in range(0, len(orders), 20):
        await table.broker.send(orders[start : start + 20])
        if start in (0, 40):
            table.participant.restart()
    said: dict[str, Published] = {}
    async with asyncio.timeout(PATIENCE):
        while len(said) < len(orders):
            for article in articles:
                for number in range(2 * OPENING):
                    said.pop(f"{article}-{number}", None)
            for delivery in await table.broker.snapshot("stock"):
                name = (delivery.key or b"").decode()
                if name.startswith(key):
                    envelope = read_envelope(delivery)
                    earlier = said.get(name)
                    assert earlier is None or earlier.envelope.id == envelope.id, f"{name} is answered in two ways"
                    said[name] = Published(envelope, {}, delivery)
            await asyncio.sleep(0.05)
    for article in articles:
        left: Counter[object] = Counter()
        for number in range(2 * OPENING):
            found = said[f"{article}-{number}"]
            if found.type == "StockReserved":
                (read, *_) = await table.read("stock", f"{article}-{number}")
                left[read.event["left"]] += 1
        assert left == dict.fromkeys(range(OPENING), 1), "each piece was given to one order"


# ---- undo ---------------------------------------------------------------------------------------------------------


async def test_undo_what_was_done_is_taken_back_once_and_answered(table: Table, key: str) -> None:
    order = await table.publish(OrderPlaced(order_id=key, article=key, quantity=3))
    await table.answers(key, 1)
    undo = await table.publish(ReleaseStock(order_id=key), **of_saga(key, "reserve", 1, undoes=[order]))
    *_, answer = await table.answers(key, 2)
    assert (answer.type, answer.event) == (StockReleased.spec().type, {"order_id": key, "left": OPENING})
    assert (answer.envelope.saga_step, answer.envelope.causation_id) == ("reserve", undo)
    assert answer.header("undo-empty") is None
    await table.publish(ReleaseStock(order_id=key), **of_saga(key, "reserve", 2, undoes=[order]))
    *_, again = await table.answers(key, 3)
    assert (again.type, again.header("undo-empty")) == ("StockReleased", None), "asked with another attempt"
    await table.publish(OrderPlaced(order_id=f"{key}-next", article=key))
    (after,) = await table.answers(f"{key}-next", 1)
    assert after.event["left"] == OPENING - 1


async def test_undo_first_it_is_answered_as_empty_and_the_late_event_is_refused(table: Table, key: str) -> None:
    late = table.record(OrderPlaced(order_id=key, article=key))
    order = dict(late.headers)["ce_id"].decode()
    await table.publish(ReleaseStock(order_id=key), **of_saga(key, "reserve", 1, undoes=["unknown", order]))
    (answer,) = await table.answers(key, 1)
    assert (answer.type, answer.header("undo-empty")) == ("StockReleased", "1")
    assert (answer.envelope.saga_id, answer.envelope.saga_step) == (saga_of(key), "reserve")
    await table.broker.send([late])
    await table.settled()
    assert len(await table.read("stock", key)) == 1, "nothing but the answer"
    await table.publish(OrderPlaced(order_id=f"{key}-next", article=key))
    (after,) = await table.answers(f"{key}-next", 1)
    assert after.event["left"] == OPENING - 1, "nothing was laid aside for the late one"


async def test_undo_first_holds_for_commands_and_over_a_restart(table: Table, key: str) -> None:
    late = table.record(PackOrder(order_id=key), **of_saga(key, "pack", 1))
    command = dict(late.headers)["ce_id"].decode()
    await table.publish(UnpackOrder(order_id=key), **of_saga(key, "pack", 1, undoes=[command]))
    (answer,) = await table.answers(key, 1)
    assert (answer.type, answer.header("undo-empty")) == (OrderUnpacked.spec().type, "1")
    table.participant.restart()
    await table.broker.send([late])
    await table.settled()
    after = {each.envelope.id for each in await table.read("stock", key)}
    assert after == {answer.envelope.id}, "nothing but the answer; the participant that died may send it once more"


# ---- failure ------------------------------------------------------------------------------------------------------


async def test_failure_what_a_handler_gives_up_is_a_dead_letter_and_the_sagas_hear_of_it(
    table: Table, key: str
) -> None:
    order = table.record(
        OrderPlaced(order_id=key, article="broken"), **of_saga(key, "place"), extra=(("shop", b"\xff\x00"),)
    )
    event_id = dict(order.headers)["ce_id"].decode()
    await table.broker.send([order])
    (dead,) = await table.answers(key, 1, "orders.dlq")
    assert (dead.delivery.value, dead.delivery.headers[: len(order.headers)]) == (order.value, order.headers)
    (lies,) = [each for each in await table.broker.snapshot("orders") if each.key == order.key]
    assert [dead.header(f"dlq-{name}") for name in ("service", "handler", "topic", "partition", "offset")] == [
        "warehouse",
        "reserve",
        "orders",
        str(lies.partition),
        str(lies.offset),
    ]
    assert int(dead.header("dlq-attempts") or 0) >= 1
    assert dead.header("dlq-error")
    assert "the shelf broke" in (dead.header("dlq-message") or "")
    assert from_rfc3339(dead.header("dlq-time") or "") > 0

    (news,) = await table.answers(key, 1, "choreo.failures")
    told = HandlerFailed.model_validate_json(news.delivery.value or b"")
    assert (told.key, told.service, told.handler, told.dead) == (key, "warehouse", "reserve", True)
    assert (told.event_id, told.event_type, told.topic) == (event_id, "OrderPlaced", "orders")
    assert (told.partition, told.offset) == (lies.partition, lies.offset)
    assert (news.type, news.envelope.causation_id) == ("HandlerFailed", event_id)
    assert (news.envelope.saga_id, news.envelope.saga_run) == (saga_of(key), 2)
    assert await table.read("stock", key) == []
    await table.settled()


async def test_failure_a_dead_letter_runs_again_only_if_a_person_sends_it(table: Table, key: str) -> None:
    order = table.record(OrderPlaced(order_id=key, article="broken"))
    await table.broker.send([order, order])
    await table.answers(key, 1, "orders.dlq")
    await table.settled()
    assert len(await table.read("orders.dlq", key)) == 1, "a copy is dropped"
    await table.broker.send([replace(order, headers=(*order.headers, ("replay-id", b"r1"), ("replay-count", b"1")))])
    _, again = await table.answers(key, 2, "orders.dlq")
    assert again.header("replay-id") is None, "or it would be sent again by itself"
    assert len({each.envelope.id for each in await table.answers(key, 2, "choreo.failures")}) == 1


@pytest.mark.parametrize(
    ("spoil", "handler"),
    [
        (lambda record: replace(record, value=b"\x00\x00\x00\x00\x01"), "reserve"),
        (lambda record: replace(record, value=b"nonsense"), "reserve"),
        (lambda record: replace(record, value=(record.value or b"") + b"\x00"), "reserve"),
        (lambda record: replace(record, headers=(*record.headers, ("ce_id", b"another"))), ""),
        (lambda record: replace(record, headers=(*record.headers, ("saga-run", b"two"))), ""),
        (lambda record: replace(record, headers=(*record.headers, ("undoes", b"\xff"))), ""),
        (lambda record: replace(record, headers=(*record.headers, *((f"x-{n}", b"") for n in range(64)))), ""),
    ],
    ids=["unknown-schema", "no-magic", "trailing", "twice", "no-number", "no-text", "too-many"],
)
async def test_failure_what_cannot_be_read_is_a_dead_letter_and_stops_nothing(
    table: Table, key: str, spoil: Any, handler: str
) -> None:
    spoilt = spoil(table.record(OrderPlaced(order_id=key, article=key)))
    await table.broker.send([spoilt])
    async with asyncio.timeout(PATIENCE):
        while not (found := [d for d in await table.broker.snapshot("orders.dlq") if d.key == key.encode()]):
            await asyncio.sleep(0.05)
    (dead,) = found
    reasons = {name: value.decode() for name, value in dead.headers if name.startswith("dlq-")}
    assert (reasons["dlq-attempts"], reasons["dlq-handler"]) == ("0", handler)
    assert dead.value == spoilt.value
    await table.publish(OrderPlaced(order_id=key, article=key))
    assert len(await table.answers(key, 1)) == 1


async def test_malformed_trace_headers_are_passed_over(table: Table, key: str) -> None:
    record = table.record(OrderPlaced(order_id=key, article=key))
    doubled = (("traceparent", b"\xff"), ("baggage", b"a=1"), ("baggage", b"b=2"))
    await table.broker.send([replace(record, headers=(*record.headers, *doubled))])
    (answer,) = await table.answers(key, 1)
    assert answer.type == "StockReserved"


# ---- in a saga ----------------------------------------------------------------------------------------------------


class OrderPaid(Event, topic="payments", key="order_id"):
    order_id: str


class PaymentDeclined(Event, topic="payments", key="order_id"):
    order_id: str


payments = Service("payments")


@payments.on(OrderPacked)
async def pay(packed: OrderPacked) -> OrderPaid | PaymentDeclined:
    return (
        PaymentDeclined(order_id=packed.order_id) if "poor" in packed.order_id else OrderPaid(order_id=packed.order_id)
    )


class Fulfilment(Saga, start=OrderPlaced, key="order_id", deadline="1h"):
    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="10m")
    pack = step(after=reserve, send=PackOrder, done=OrderPacked, undo=UnpackOrder, undone=OrderUnpacked, within="10m")
    pay = step(after=pack, done=OrderPaid, failed=PaymentDeclined, undo=None, within="10m")


async def test_a_saga_runs_forward_back_and_hears_of_failures(table: Table, key: str) -> None:
    """With the coordinator on one side, and a service of choreo's beside it."""
    wanted = {
        f"{key}-rich": Phase.COMPLETED,
        f"{key}-poor": Phase.COMPENSATED,  # paid for last: reserve and pack are undone
        f"{key}-many": Phase.COMPENSATED,  # refused
        f"{key}-broken": Phase.COMPENSATED,  # given up by the handler
    }
    home = table.participant.home.parent
    settings = table.settings.model_copy(update={"home": home, "store": f"sqlite:{home / 'saga.db'}"})
    process = Process(Parts((payments,), (Fulfilment,)), table.broker, settings, create_topics=True)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(process)
        database = await Database.open(settings.store_url)
        stack.push_async_callback(database.close)
        for order_id in wanted:
            article = "broken" if "broken" in order_id else key
            await table.publish(
                OrderPlaced(order_id=order_id, article=article, quantity=99 if "many" in order_id else 1)
            )
        phases: dict[str, str] = {}
        rows: list[SagaRow] = []
        until = time.monotonic() + PATIENCE
        while phases != wanted:
            if time.monotonic() > until:
                pytest.fail("\n".join([*map(str, rows), table.participant.program.output[-3000:]]))
            await asyncio.sleep(0.1)
            rows = await database.read(lambda connection: list_sagas(connection, Filter(keys=list(wanted)), limit=None))
            phases = {row.key: row.phase for row in rows}
    poor = [each.type for each in await table.read("stock", f"{key}-poor")]
    assert poor == ["StockReserved", "OrderPacked", "OrderUnpacked", "StockReleased"]
    broken = await table.read("stock", f"{key}-broken")
    assert [(each.type, each.header("undo-empty")) for each in broken] == [("StockReleased", "1")]
