"""The coordinator's store: one contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from choreo import StoreMismatch
from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Record, TopicPartition
from choreo.saga import early, store, timers
from choreo.saga.advance import begin
from choreo.saga.inputs import Observed
from choreo.saga.instance import Instance
from choreo.saga.tables import HEAD, history, metadata, saga
from choreo.saga.words import Phase
from tests.saga.play import LINE, define

NOW = 1_700_000_000 * SECOND


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(store_url)
    await opened.ensure_schema("saga", metadata, HEAD)
    yield opened
    await opened.close()


def instance(key: str, *, at: int = NOW) -> Instance:
    return begin(LINE, key, 1, Observed(f"start-{key}", "placed", time=at), at).instance


def row(saga_id: str, seq: int, event_id: str, value: bytes | None = b"v") -> store.HistoryRow:
    delivery = Delivery("orders", 0, seq, 0, b"k", value, ())
    return store.HistoryRow(
        saga_id, seq, event_id, "event", "placed", NOW, NOW, "applied", "", [], "{}", delivery, "application/avro"
    )


async def test_what_was_inserted_is_found_by_key_with_all_its_runs(database: Database) -> None:
    odd = instance("a/b~c %")
    second = instance("a/b~c %")
    second.run = 2
    await database.write(lambda c: store.insert_sagas(c, [odd, second, instance("other")], NOW))
    found = await database.write(lambda c: store.lock_sagas(c, [("order", "a/b~c %"), ("order", "nobody")]))
    assert found == {("order", "a/b~c %"): {1: odd, 2: second}}


async def test_a_saga_is_inserted_once(database: Database) -> None:
    await database.write(lambda c: store.insert_sagas(c, [instance("x")], NOW))
    with pytest.raises(store.LostRace):
        await database.write(lambda c: store.insert_sagas(c, [instance("w"), instance("x")], NOW))
    rows = await database.read(lambda c: c.execute(select(saga.c.key)).scalars().all())
    assert rows == ["x"], "the whole transaction is undone"


async def test_many_sagas_fit_in_one_batch(database: Database) -> None:
    many = [instance(str(number)) for number in range(1_200)]
    await database.write(lambda c: store.insert_sagas(c, many, NOW))
    await database.write(lambda c: store.insert_history(c, [row(each.id, 1, f"e{each.key}") for each in many]))
    keys = [("order", each.key) for each in many]
    found = await database.write(lambda c: store.lock_sagas(c, keys))
    assert len(found) == 1_200
    seen = await database.read(lambda c: store.seen_events(c, [(each.id, f"e{each.key}") for each in many]))
    assert len(seen) == 1_200


async def test_the_history_takes_an_event_once_for_each_saga(database: Database) -> None:
    await database.write(lambda c: store.insert_history(c, [row("order/1", 1, "e"), row("order/2", 1, "e")]))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await database.write(lambda c: store.insert_history(c, [row("order/1", 2, "e")]))
    seen = await database.read(lambda c: store.seen_events(c, [("order/1", "e"), ("order/3", "e")]))
    assert seen == {("order/1", "e")}
    count = await database.read(lambda c: c.execute(select(func.count()).select_from(history)).scalar())
    assert count == 2


async def test_the_raw_value_of_an_event_comes_back_byte_for_byte(database: Database) -> None:
    value = bytes(range(256))
    await database.write(lambda c: store.insert_history(c, [row("order/1", 1, "e", value)]))
    assert await database.read(lambda c: store.event_value(c, "order/1", "e")) == (value, "application/avro")
    assert await database.read(lambda c: store.event_value(c, "order/1", "none")) == (None, "")


async def test_a_saved_position_only_grows(database: Database) -> None:
    place = TopicPartition("orders", 3)
    await database.write(lambda c: store.save_positions(c, "g", {place: 10}, {place: 500}))
    await database.write(lambda c: store.save_positions(c, "g", {place: 7}, {place: 400}))
    assert await database.read(lambda c: store.load_positions(c, "g")) == {place: (10, 500)}
    await database.write(lambda c: store.save_positions(c, "g", {place: 12}, {}))
    assert await database.read(lambda c: store.load_positions(c, "g")) == {place: (12, 500)}
    assert await database.read(lambda c: store.load_positions(c, "another")) == {}


async def test_parked_events_come_out_in_order_and_once(database: Database) -> None:
    def event(number: int) -> early.Parked:
        event = Observed(f"e{number}", "charge.done", time=NOW, causation_id="c", traceparent="t")
        return early.Parked("order", "1", NOW + number, event, Delivery("t", 0, number, 0, b"1", b"v", ()), "x")

    await database.write(lambda c: early.park(c, [event(2), event(0), event(1), event(1)], NOW + SECOND, 100))
    taken = await database.write(lambda c: early.take(c, [("order", "1"), ("order", "2")]))
    assert [each.input.id for each in taken["order", "1"]] == ["e0", "e1", "e2"]
    assert taken["order", "1"][0].input == event(0).input
    assert await database.write(lambda c: early.take(c, [("order", "1")])) == {}


async def test_there_is_room_for_so_many_parked_events_and_no_more(database: Database) -> None:
    rows = [
        early.Parked("order", str(n), NOW, Observed(f"e{n}", "x"), Delivery("t", 0, n, 0, b"", b"", ()), "")
        for n in range(5)
    ]
    refused = await database.write(lambda c: early.park(c, rows, NOW + SECOND, 3))
    assert [each.key for each in refused] == ["3", "4"]
    late = await database.write(lambda c: early.expired(c, NOW + 2 * SECOND))
    assert {each.key for each in late} == {"0", "1", "2"}


async def test_what_was_ignored_is_counted(database: Database) -> None:
    key = ("order", "inventory", "Reserved", "duplicate")
    await database.write(lambda c: store.count_ignored(c, {key: (3, "a")}, NOW))
    await database.write(lambda c: store.count_ignored(c, {key: (2, "b")}, NOW + 1))
    from choreo.saga.tables import ignored

    (counted,) = await database.read(lambda c: c.execute(select(ignored)).all())
    assert (counted.count, counted.first_at, counted.last_at, counted.last_event_id) == (5, NOW, NOW + 1, "b")


async def test_a_sent_command_is_kept_and_a_held_one_is_released_in_time(database: Database) -> None:
    record = Record("inventory.commands", b"1", b"\x00\xff", (("ce_id", b"a"), ("undoes", b"x,y")))
    rows = [store.Held(name, "order/1", "reserve", "undo", record) for name in ("now", "later")]
    await database.write(lambda c: store.put_sent(c, rows, NOW, {"later": NOW + SECOND}))
    assert await database.read(lambda c: store.load_sent(c, "now")) == record
    assert await database.read(lambda c: store.load_sent(c, "later")) is None
    assert await database.write(lambda c: store.release(c, NOW, 10)) == []
    assert await database.write(lambda c: store.release(c, NOW + SECOND, 10)) == [record]
    assert await database.write(lambda c: store.release(c, NOW + SECOND, 10)) == []


async def test_due_sagas_are_found_up_to_the_time_that_was_read(database: Database) -> None:
    early, late = instance("early"), instance("late", at=NOW + 20 * SECOND)
    await database.write(lambda c: store.insert_sagas(c, [early, late], NOW))
    now = NOW + 31 * SECOND
    due = await database.read(lambda c: timers.due(c, now, lambda each: now, held=False, stopped=False))
    assert [(each.key, until) for each, until in due] == [("early", now)]
    unread = await database.read(lambda c: timers.due(c, now, lambda each: NOW, held=False, stopped=False))
    assert unread == []
    held = await database.read(lambda c: timers.due(c, now, lambda each: now, held=True, stopped=False))
    assert held == []


async def test_switches_keep_their_last_value(database: Database) -> None:
    assert await database.read(lambda c: store.switch(c, "undo")) == ""
    await database.write(lambda c: store.set_switch(c, "undo", "stopped", NOW, "ann"))
    await database.write(lambda c: store.set_switch(c, "undo", "", NOW, "bob"))
    assert not await database.read(timers.stopped)


async def test_a_definition_keeps_its_first_registration(database: Database) -> None:
    await database.write(lambda c: store.save_definition(c, LINE, NOW, NOW))
    observing = define(*LINE.steps, observe_only=True)
    await database.write(lambda c: store.save_definition(c, observing, NOW + 5, NOW + 5))
    stored = await database.read(store.stored_definitions)
    definition, digest, active_from = stored["order", 1]
    assert (definition.observe_only, digest, active_from) == (True, LINE.hash, NOW)


async def test_ended_sagas_are_untraced_until_their_spans_were_emitted(database: Database) -> None:
    ended = instance("ended")
    ended.phase, ended.ended_at = Phase.COMPLETED, NOW
    await database.write(lambda c: store.insert_sagas(c, [ended, instance("open")], NOW))
    assert [each.key for each in await database.read(store.untraced)] == ["ended"]
    await database.write(lambda c: store.mark_traced(c, ["order/ended", "order/open"]))
    assert await database.read(store.untraced) == []


async def test_a_store_of_a_newer_release_is_refused_in_one_line(database: Database) -> None:
    with pytest.raises(StoreMismatch, match=r"this release of choreo knows 0000") as refused:
        await database.ensure_schema("saga", metadata, "0000")
    assert "\n" not in str(refused.value)
