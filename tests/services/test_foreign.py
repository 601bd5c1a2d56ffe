"""Services take events as other systems write them; what cannot be read is a dead letter with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from choreo import Context, Event, Foreign, Retry, Service
from choreo.events.envelope import Record
from choreo.events.errors import DefinitionError
from choreo.events.intake import Intake
from choreo.events.transport import TopicSpec
from choreo.services.letters import read_letter, redrive
from tests.services.shop import Published, Rig
from tests.support.abroad import (
    CLASSES,
    Cloud,
    Cut,
    Legacy,
    Line,
    Lost,
    Nested,
    Plain,
    Sent,
    binary_cloud_event,
    foreign_records,
    json_bytes,
)

TOPICS = sorted({cls.spec().topic for cls in CLASSES})


@pytest.fixture(autouse=True)
async def _topics(rig: Rig) -> None:
    await rig.broker.create_topics([TopicSpec(name) for topic in TOPICS for name in (topic, f"{topic}.dlq")])


def collecting(store: str) -> tuple[Service, list[tuple[Event, Context]]]:
    service, seen = Service("abroad", store=store), []

    @service.on(Plain, Cloud, Legacy, Line, Sent, Nested, Cut)
    async def take(event: Plain | Cloud | Legacy | Line | Sent | Nested | Cut, context: Context) -> None:
        seen.append((event, context))

    return service, seen


async def dead(rig: Rig, topic: str) -> list[Published]:
    return await rig.published(f"{topic}.dlq")


async def test_every_kind_of_foreign_event_reaches_its_handler_as_a_typed_event(rig: Rig, store: str):
    records = await foreign_records(rig.registry, "4711")
    await rig.broker.send(list(records.values()))
    service, seen = collecting(store)
    worker = await rig.run(service)
    assert worker.counters.handled == len(records) and worker.counters.skipped == 0
    found = {type(event): (event, context) for event, context in seen}
    assert found.keys() == records.keys()
    assert {event.key_text() for event, _ in seen} == {"4711"}
    assert {context.envelope.key for _, context in seen} == {"4711"}
    assert found[Legacy][0] == Legacy(order_id="4711", carrier="dhl", weight=1)
    assert found[Nested][0] == Nested(order_id="4711", body={"carrier": "dhl"})
    assert found[Line][1].envelope.id == "l-4711" and found[Line][1].envelope.source == "mainframe"
    assert found[Cloud][1].envelope.id == "c-4711"
    assert found[Nested][1].envelope.time == 1_763_715_600_000_000


async def test_binary_cloud_events_in_json_need_nothing_of_choreo(rig: Rig, store: str):
    await rig.broker.send([binary_cloud_event("1"), replace(binary_cloud_event("2"), key=None)])
    service, seen = collecting(store)
    await rig.run(service)
    assert {(event.key_text(), context.envelope.id) for event, context in seen} == {("1", "b-1"), ("2", "b-2")}
    assert {context.envelope.key for _, context in seen} == {"1", "2"}


async def test_a_copy_of_a_foreign_event_is_known_by_the_id_that_its_system_gave_it(rig: Rig, store: str):
    records = await foreign_records(rig.registry, "1")
    copies = [records[Sent], records[Line], records[Nested]]
    await rig.broker.send([*copies, *copies])
    service, seen = collecting(store)
    worker = await rig.run(service)
    assert (len(seen), worker.counters.duplicates) == (3, 3)


async def test_unknown_types_are_counted_and_stop_nobody(rig: Rig, store: str):
    records = await foreign_records(rig.registry, "1")
    strange = [
        replace(records[Sent], headers=(("__TypeId__", b"com.acme.Events$Painted"),)),
        replace(records[Sent], headers=()),
        replace(records[Nested], value=json_bytes(meta={"kind": "nested.v2"})),
        Record("abroad.lines", None, b"PAINT|1|x|2|y"),
        Record("abroad.avro", b"1", b"\x00\x00\x00\x99\x99not avro"),
        Record("abroad.avro", b"1", b"\x00"),
        Record("abroad.avro", b"1", b'{"order_id": "1"}'),
    ]
    await rig.broker.send([*strange, *records.values()])
    service, seen = collecting(store)
    worker = await rig.run(service)
    assert worker.counters.skipped == len(strange)
    assert {type(event) for event, _ in seen} == records.keys()
    assert worker.counters.dead == 0


async def test_a_type_is_found_by_the_last_part_of_its_name(rig: Rig, store: str):
    records = await foreign_records(rig.registry, "1")
    headers = tuple(
        (name, b'"com.acme.orders.Sent"' if name == "__TypeId__" else value) for name, value in records[Sent].headers
    )
    await rig.broker.send([replace(records[Sent], headers=headers)])
    service, seen = collecting(store)
    await rig.run(service)
    assert [type(event) for event, _ in seen] == [Sent]


@pytest.mark.parametrize(
    ("topic", "value", "headers", "reason"),
    [
        ("abroad.lines", b"no such line: 4111 1111", (), "the decoder read_line raised ValueError"),
        ("abroad.lines", b"\xff", (), "the decoder read_line raised UnicodeDecodeError"),
        ("abroad.nested", b"[1]", (("content-type", b"application/json"),), "the value is not a record"),
        ("abroad.nested", json_bytes(meta={"kind": {}}), (), "the type of the record is dict, and neither text"),
        ("abroad.nested", json_bytes(meta={"kind": "nested.v1", "at": "today"}), (), "neither RFC 3339 nor whole"),
        ("abroad.spring", b"{}", (("__TypeId__", b"\xff"),), "header '__TypeId__' is not UTF-8 text"),
        ("abroad.cut", b"{}", (), "not a valid Cut: carrier: missing"),
        ("abroad.plain", b"{", (), "not a valid Plain: json_invalid"),
    ],
)
async def test_what_cannot_be_read_is_a_dead_letter_as_it_came_with_its_reason(
    rig: Rig, store: str, topic: str, value: bytes, headers: tuple, reason: str
):
    await rig.broker.send([Record(topic, b"k-1", value, headers)])
    service, seen = collecting(store)
    worker = await rig.run(service)
    [letter] = await dead(rig, topic)
    assert reason in letter.header("dlq-message") and letter.delivery.value == value
    assert letter.delivery.key == b"k-1" and seen == [] and worker.counters.dead == 1
    assert "4111" not in letter.header("dlq-message")


async def test_a_dead_letter_that_is_sent_again_is_read_as_it_was(rig: Rig, store: str):
    records = await foreign_records(rig.registry, "1")
    await rig.broker.send(list(records.values()))
    service, seen, failing = Service("abroad", store=store), [], [True]

    @service.on(Plain, Cloud, Legacy, Line, Sent, Nested, Cut, retry=Retry(attempts=1))
    async def take(event: Plain | Cloud | Legacy | Line | Sent | Nested | Cut) -> None:
        if failing:
            raise OSError("away")
        seen.append(event)

    worker = await rig.run(service)
    assert worker.counters.dead == len(records)
    failing.clear()
    for topic in TOPICS:
        for delivery in await rig.deliveries(f"{topic}.dlq"):
            await rig.broker.send([redrive(read_letter(delivery), "again")])
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.duplicates) == (len(records), 0)
    assert {type(event) for event in seen} == records.keys()
    assert {event.key_text() for event in seen} == {"1"}


async def test_a_decoder_that_gives_something_else_is_told_so(rig: Rig, store: str):
    class Odd(Event, topic="abroad.odd", key="order_id", foreign=Foreign(decode=lambda record, envelope: 7)):  # type: ignore[arg-type,return-value]
        order_id: str

    await rig.broker.create_topics([TopicSpec("abroad.odd"), TopicSpec("abroad.odd.dlq")])
    await rig.broker.send([Record("abroad.odd", None, b"?")])
    service = Service("odd", store=store)

    @service.on(Odd)
    async def take(event: Odd) -> None: ...

    await rig.run(service)
    [letter] = await dead(rig, "abroad.odd")
    assert letter.header("dlq-message") == "the decoder <lambda> gave int; let it give (event, envelope) or None"


async def test_events_of_choreo_in_a_foreign_topic_are_read_as_such(rig: Rig, store: str):
    await rig.codec.prepare(CLASSES)
    sent = await rig.publish(Sent(order_id="9", carrier="own"), Line(order_id="9", carrier="own"))
    service, seen = collecting(store)
    await rig.run(service)
    assert {(type(event), context.envelope.id) for event, context in seen} == {(Sent, sent[0]), (Line, sent[1])}
    assert {event.key_text() for event, _ in seen} == {"9"}


def test_two_classes_of_a_topic_must_not_contradict_each_other():
    class Other(Event, topic="abroad.spring", key="order_id", foreign=Foreign(type=lambda record: "Other")):
        order_id: str

    with pytest.raises(DefinitionError, match=r"topic abroad\.spring: two classes say different things"):
        Intake([Lost, Other], None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"type": "__TypeId__"}, "type='__TypeId__' is no place"),
        ({"decode": "read"}, "is no function"),
        ({"decode": lambda record, envelope: None, "types": {"a": "b"}}, "drop type="),
    ],
)
def test_a_wrong_foreign_is_refused_where_it_is_written(options: dict, told: str):
    with pytest.raises(DefinitionError, match=told):
        Foreign(**options)
