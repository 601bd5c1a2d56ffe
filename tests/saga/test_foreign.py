"""Sagas follow events as other systems write them: what they are, and which saga they belong to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from choreo import DefinitionError, Event, Saga, cron, header, step, value
from choreo.events.envelope import Record
from choreo.events.transport import TopicSpec
from choreo.saga.words import Phase
from tests.saga.stage import Again, Placed, Stage
from tests.saga.stage import header as header_of
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

Correlations = dict[type[Event], Any]


def tracking(done: type[Event], correlate: Correlations | None = None) -> type[Saga]:
    class Tracking(Saga, start=Placed, key="order_id", correlate=correlate or {}):
        ship = step(done=done, undo=None, within="1h")

    return Tracking


class Returned(Event, topic="payments.commands", key="order_id"):
    order_id: str
    carrier: str


class Declined(Event, topic="payments", key="order_id"):
    order_id: str


class Undoing(Saga, start=Line, key="order_id", compensated=Returned):
    check = step(done=Plain, failed=Declined, undo=None, within="1h")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage("sqlite::memory:") as made:
        topics = sorted({cls.spec().topic for cls in CLASSES})
        await made.broker.create_topics([TopicSpec(name) for topic in topics for name in (topic, f"{topic}.dlq")])
        await made.codec.prepare([Returned, Declined])
        yield made


async def send(stage: Stage, *records: Record) -> None:
    stage.now += 1_000
    await stage.broker.send([replace(record, timestamp=stage.now // 1_000) for record in records])


def ended(saga_id: str, phase: Phase = Phase.COMPLETED) -> Callable[[dict[str, Any]], bool]:
    return lambda found: saga_id in found and found[saga_id].phase is phase


@pytest.mark.parametrize("done", [Plain, Cloud, Legacy, Line, Sent, Nested, Cut], ids=lambda cls: cls.__name__)
async def test_every_kind_of_foreign_event_is_a_step_of_the_right_saga(stage: Stage, done: type[Event]):
    stage.sagas = (tracking(done),)
    await stage.start()
    await stage.publish(Placed(order_id="4711"), Placed(order_id="4712"))
    records = await foreign_records(stage.codec._registry, "4711")
    await send(stage, records[done])
    found = await stage.until(ended("tracking/4711"))
    assert found["tracking/4712"].phase is Phase.RUNNING
    assert not [name for name in await stage.broker.topics() if name.endswith(".dlq") and await stage.sent(name)]


async def test_an_event_whose_headers_say_enough_is_never_decoded(stage: Stage):
    stage.sagas = (tracking(Sent),)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    record = (await foreign_records(stage.codec._registry, "1"))[Sent]
    await send(stage, replace(record, value=b"\xff neither JSON nor Avro"))
    await stage.until(ended("tracking/1"))


async def test_a_binary_cloud_event_in_json_is_never_decoded(stage: Stage):
    stage.sagas = (tracking(Cloud),)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await send(stage, replace(binary_cloud_event("1"), value=b"\xff neither JSON nor Avro"))
    await stage.until(ended("tracking/1"))


@pytest.mark.parametrize(
    ("done", "where", "sent"),
    [
        (Plain, "carrier", Record("abroad.plain", b"x", json_bytes(order_id="x", carrier="1"))),
        (Plain, value("meta.order"), Record("abroad.plain", b"x", json_bytes(meta={"order": 1}))),
        (Plain, header("order"), Record("abroad.plain", b"x", json_bytes(), (("order", b"1"),))),
        (
            Plain,
            lambda event: event.order_id.removeprefix("AT-"),
            Record("abroad.plain", None, json_bytes(order_id="AT-1")),
        ),
        (Cut, "order_id", Record("abroad.cut", b"tenant-1", json_bytes(carrier="dhl"))),
        (Cut, lambda event: event.order_id[:1], Record("abroad.cut", b"tenant-17", json_bytes(carrier="dhl"))),
        (Lost, header("ref"), Record("abroad.spring", b"x", b"?", (("__TypeId__", b"x.Lost"), ("ref", b"1")))),
    ],
    ids=["field", "path", "header", "function", "key", "function of a lent key", "header of a typed one"],
)
async def test_a_saga_is_found_by_field_header_key_or_function(
    stage: Stage, done: type[Event], where: Any, sent: Record
):
    stage.sagas = (tracking(done, {done: where}),)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await send(stage, sent)
    await stage.until(ended("tracking/1"))


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (header("order"), "an event of type Plain has no header 'order', so it belongs to no saga"),
        (value("meta.order"), "an event of type Plain has no 'meta.order', so it belongs to no saga"),
        (lambda event: event.carrier[99], "the function of correlate= for Plain raised IndexError"),
        (lambda event: {}, "the function of correlate= for Plain gave dict; let it give text"),
        (lambda event: None, "an event of type Plain has no key by the function of correlate=, so it belongs to no"),
    ],
)
async def test_an_event_that_names_no_saga_is_a_dead_letter_with_its_reason(stage: Stage, where: Any, reason: str):
    stage.sagas = (tracking(Plain, {Plain: where}),)
    await stage.start()
    await send(stage, Record("abroad.plain", b"k", json_bytes(order_id="1")))
    [letter] = await stage.eventually_sent("abroad.plain.dlq", 1)
    assert reason in (header_of(letter, "dlq-message") or "") and letter.value == json_bytes(order_id="1")


async def test_what_a_decoder_refuses_is_a_dead_letter_as_it_came(stage: Stage):
    stage.sagas = (Undoing,)
    await stage.start()
    await send(stage, Record("abroad.lines", b"k", b"gibberish", (("mine", b"kept"),)))
    [letter] = await stage.eventually_sent("abroad.lines.dlq", 1)
    assert header_of(letter, "dlq-message") == "the decoder read_line raised ValueError"
    assert (letter.key, letter.value, header_of(letter, "mine")) == (b"k", b"gibberish", "kept")


async def test_what_is_sent_is_filled_from_what_a_decoder_has_read(stage: Stage):
    stage.sagas = (Undoing,)
    await stage.start()
    await send(stage, (await foreign_records(stage.codec._registry, "7"))[Line])
    await stage.until(lambda found: "undoing/7" in found)
    await stage.publish(Declined(order_id="7"))
    await stage.until(ended("undoing/7", Phase.COMPENSATED))
    [told] = await stage.eventually_sent("payments.commands", 1)
    assert stage.codec.decode(Returned, told.value or b"", "application/avro").carrier == "dhl"


async def test_unknown_types_of_a_topic_are_counted(stage: Stage):
    stage.sagas = (tracking(Sent),)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    record = (await foreign_records(stage.codec._registry, "1"))[Sent]
    await send(
        stage, replace(record, headers=(("__TypeId__", b"com.acme.Painted"),)), replace(record, headers=()), record
    )
    await stage.until(ended("tracking/1"))
    assert (await stage.ignored())["com.acme.Painted", "unknown"] == 1


async def test_an_event_that_comes_before_its_saga_waits_for_it_with_what_was_read(stage: Stage):
    stage.sagas = (tracking(Line),)
    await stage.start()
    await send(stage, (await foreign_records(stage.codec._registry, "1"))[Line])
    await stage.settled()
    await stage.publish(Placed(order_id="1"))
    await stage.until(ended("tracking/1"))
    [row] = [row for row in await stage.history("tracking/1") if row.type == "Line"]
    assert row.event_id == "l-1" and row.value == json_bytes(order_id="1", carrier="dhl").replace(b" ", b"")


def test_a_definition_says_where_keys_stand_and_others_keep_their_hash():
    found = tracking(Plain, {Plain: header("order")}).definition().correlate
    assert found == {"Plain": "header:order"}
    assert tracking(Cut).definition().correlate == {"Cut": "key:order_id"}
    assert tracking(Plain, {Plain: value("a.b")}).definition().correlate == {"Plain": "a.b"}
    assert tracking(Plain, {Plain: len}).definition().correlate == {"Plain": "call:len"}
    assert Again.definition().correlate == {}


def test_a_schedule_cannot_start_a_saga_whose_key_stands_in_a_header():
    with pytest.raises(DefinitionError, match="the key of Plain stands in no field of it"):

        class Nightly(Saga, start=Plain, key="order_id", correlate={Plain: header("o")}, schedule=cron("0 2 * * *")):
            ship = step(done=Cloud, undo=None, within="1h")
