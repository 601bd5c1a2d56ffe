"""The coordinator on a broker and a store: what it applies, refuses, sends and remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, select
from sqlalchemy import event as sqlalchemy_event

from choreo import DefinitionError, PositionLost
from choreo.events import prepared
from choreo.events.catalog import EventRef, HandlerAnnouncement, ServiceAnnouncement, announce
from choreo.events.clock import SECOND
from choreo.events.codec import Codec
from choreo.events.envelope import Record
from choreo.events.failures import HandlerFailed
from choreo.events.ids import new_id
from choreo.events.outbox import Relay
from choreo.saga import store, timers
from choreo.saga.options import Options
from choreo.saga.tables import saga, sent
from choreo.saga.timers import Breaker
from tests.saga.stage import (
    Again,
    Asking,
    Backwards,
    Changed,
    Declined,
    Fulfilled,
    Order,
    Paid,
    Past,
    Placed,
    Release,
    Released,
    Reserved,
    Stage,
    header,
)


async def test_a_saga_runs_to_its_end_and_announces_it(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Paid(order_id="4711"))
    found = await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase.ended)
    assert found["order/4711"].phase == "COMPLETED"
    await stage.settled()
    types = [header(each, "ce_type") for each in await stage.sent("orders")]
    assert types == ["Placed", "Fulfilled"]


async def test_a_failure_sends_the_undo_with_its_place_and_its_triggers(stage: Stage) -> None:
    await stage.start()
    (placed,) = await stage.publish(Placed(order_id="4711", total=12))
    await stage.publish(Reserved(order_id="4711", reservation="r-1"), Declined(order_id="4711"))
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase == "COMPENSATING")
    await stage.settled()
    (undo,) = await stage.sent("inventory.commands")
    assert header(undo, "saga-id") == "order/4711"
    assert header(undo, "saga-step") == "reserve"
    assert header(undo, "undoes") == placed
    release = stage.codec.decode(Release, undo.value or b"", "application/avro")
    assert release.reservation == "r-1", "filled by name from the newest event that has the field"
    await stage.publish(Released(order_id="4711"), causation_id=header(undo, "ce_id"))
    await stage.until(lambda all_: all_["order/4711"].phase == "COMPENSATED")
    await stage.settled()
    assert [header(each, "ce_type") for each in await stage.sent("orders")] == ["Placed", "Cancelled"]


async def test_row_1_events_before_their_saga_wait_for_it(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Paid(order_id="4711"), Reserved(order_id="4711"))
    await stage.settled()
    assert await stage.instances() == {}
    await stage.publish(Placed(order_id="4711"))
    found = await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase.ended)
    assert found["order/4711"].phase == "COMPLETED"


async def test_row_1_an_event_whose_saga_never_comes_is_counted_in_the_end(sqlite_stage: Stage) -> None:
    await sqlite_stage.start()
    await sqlite_stage.publish(Paid(order_id="lost"))
    await sqlite_stage.settled()
    sqlite_stage.now += 25 * 3_600 * SECOND
    for _ in range(6_000):
        if ("Paid", "unmatched") in await sqlite_stage.ignored():
            break
        await asyncio.sleep(0.01)
    assert (await sqlite_stage.ignored())["Paid", "unmatched"] == 1


async def test_row_4_a_duplicate_changes_nothing_and_is_counted(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"), id="one")
    await stage.publish(Placed(order_id="4711"), id="one")
    await stage.publish(Reserved(order_id="4711"), id="two")
    await stage.settled()
    await stage.publish(Reserved(order_id="4711"), id="two")
    await stage.settled()
    assert [row.event_id for row in await stage.history("order/4711")] == ["one", "two"]
    assert (await stage.ignored())["Reserved", "duplicate"] == 1
    assert (await stage.ignored())["Placed", "duplicate"] == 1


async def test_an_unknown_and_an_undecodable_event_change_nothing_else_and_are_visible(stage: Stage) -> None:
    await stage.start()
    await stage.raw("inventory", b"4711", b"{}", (("ce_id", b"u"), ("ce_type", b"Stranger")))
    await stage.raw("inventory", b"\xff\xfe", b"junk", (("ce_id", b"v"), ("ce_type", b"Reserved")))
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Paid(order_id="4711"))
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase.ended)
    await stage.settled()
    assert (await stage.ignored())["Stranger", "unknown"] == 1
    (dead,) = await stage.sent("inventory.dlq")
    assert dead.value == b"junk"
    assert header(dead, "dlq-message") == "the record's key is not UTF-8 text"


async def test_the_happy_path_decodes_no_payload(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[type] = []
    original = Codec.decode

    def decode(self, cls, value, content_type):  # type: ignore[no-untyped-def]
        decoded.append(cls)
        return original(self, cls, value, content_type)

    monkeypatch.setattr(Codec, "decode", decode)
    await stage.start()
    orders = [str(number) for number in range(50)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.publish(*(Reserved(order_id=order) for order in orders))
    await stage.publish(*(Paid(order_id=order) for order in orders))
    await stage.until(lambda all_: len(all_) == 50 and all(each.phase == "COMPLETED" for each in all_.values()))
    assert decoded == []


async def test_a_batch_is_one_transaction(
    stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "driver_of", lambda _: None)  # SQLAlchemy tells of what it runs itself
    orders = [str(number) for number in range(200)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.publish(*(Reserved(order_id=order) for order in orders))
    await stage.publish(*(Paid(order_id=order) for order in orders))
    stage.sagas = (Past,)
    wrote: set[Connection] = set()
    commits = 0

    def executed(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT INTO choreo_history"):
            wrote.add(connection)

    def committed(connection: Connection) -> None:
        nonlocal commits
        commits += connection in wrote
        wrote.discard(connection)

    for name, heard in (("after_cursor_execute", executed), ("commit", committed)):
        sqlalchemy_event.listen(Engine, name, heard)
        request.addfinalizer(partial(sqlalchemy_event.remove, Engine, name, heard))
    coordinator = await stage.start()
    await stage.until(lambda all_: len(all_) == 200 and all(each.phase == "COMPLETED" for each in all_.values()))
    await stage.until(lambda _: coordinator.events == 600)  # counted a moment after the commit
    assert 0 < commits <= coordinator.batches <= 6, "per event there would be six hundred"


async def test_a_restart_goes_on_where_it_stopped_and_applies_nothing_twice(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    await stage.stop()
    await stage.publish(Reserved(order_id="4711"), Paid(order_id="4711"))
    await stage.start()
    found = await stage.until(lambda all_: all_["order/4711"].phase.ended)
    assert found["order/4711"].seq == 3


async def test_row_7_a_saga_that_another_coordinator_changed_is_not_overwritten(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    mine = (await stage.instances())["order/4711"]
    await stage.publish(Reserved(order_id="4711"))
    await stage.settled()
    stale = mine.copy()
    stale.seq += 1

    with pytest.raises(store.LostRace):
        await stage.database.write(lambda connection: store.update_sagas(connection, [(mine.seq, stale)], stage.now))
    assert (await stage.instances())["order/4711"].seq == 2


async def test_row_8_two_start_events_at_once_make_one_saga(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"), Placed(order_id="4711"), Placed(order_id="4711"))
    await stage.settled()
    assert set(await stage.instances()) == {"order/4711"}
    assert [row.reason for row in await stage.history("order/4711")] == ["", "SecondStart", "SecondStart"]


async def test_row_9_no_command_is_published_before_its_state_is_committed(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    published_early: list[int] = []
    original = stage.broker.send

    async def send(records: Sequence[Record]) -> None:
        if any(record.topic == "inventory.commands" for record in records):
            held = await stage.database.read(lambda connection: connection.execute(select(sent.c.id)).all())
            published_early.extend([1] if not held else [])
        await original(records)

    stage.broker.send = send  # type: ignore[method-assign]
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Declined(order_id="4711"))
    await stage.eventually_sent("inventory.commands", 1)
    assert published_early == []


async def test_row_25_timers_can_be_listed(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    query = select(saga.c.id, saga.c.next_due, saga.c.limit_due)
    ((name, next_due, limit_due),) = await stage.database.read(lambda connection: connection.execute(query).all())
    assert name == "order/4711"
    assert next_due == limit_due == stage.now + 30 * SECOND


async def test_row_27_an_event_on_which_the_rules_raise_is_set_aside_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import choreo.saga.batch as batch_module

    original = batch_module.advance

    def advance(definition, instance, input_, now):  # type: ignore[no-untyped-def]
        if instance.key == "bad":
            raise ValueError("a defect")
        return original(definition, instance, input_, now)

    monkeypatch.setattr(batch_module, "advance", advance)
    await stage.start()
    await stage.publish(Placed(order_id="bad"), Placed(order_id="good"))
    await stage.publish(Reserved(order_id="bad"), Reserved(order_id="good"), Paid(order_id="good"))
    await stage.until(lambda all_: "order/good" in all_ and all_["order/good"].phase.ended)
    await stage.settled()
    assert (await stage.instances())["order/bad"].seq == 1
    (dead,) = await stage.sent("inventory.dlq")
    assert header(dead, "dlq-message") == "ValueError"


async def test_ruling_1_after_an_outage_the_answers_are_read_before_the_limits(
    sqlite_stage: Stage,
) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    await stage.stop()
    await stage.publish(Reserved(order_id="4711"), Paid(order_id="4711"))
    stage.now += 3_600 * SECOND
    await stage.start()
    found = await stage.until(lambda all_: all_["order/4711"].phase.ended)
    assert found["order/4711"].phase == "COMPLETED"
    assert await stage.sent("inventory.commands") == []


async def test_ruling_1_a_limit_that_passed_after_everything_was_read_fires(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    stage.now += 31 * SECOND
    found = await stage.until(lambda all_: all_["order/4711"].phase == "COMPENSATING")
    assert found["order/4711"].steps["reserve"].state == "COMPENSATING"


async def test_ruling_1_a_mass_of_timeouts_is_held_until_a_person_lets_it_through(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = Options(poll=0.01, tick=0.0, breaker=Breaker(share=0.5, least=5))
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(10)))
    await stage.settled()
    stage.now += 31 * SECOND
    await asyncio.sleep(0.3)
    assert {each.phase.value for each in (await stage.instances()).values()} == {"RUNNING"}
    assert (await stage.ask("resume", reason="checked")).state == "applied"
    await stage.until(lambda all_: {each.phase.value for each in all_.values()} == {"COMPENSATING"})


async def test_ruling_1_the_breaker_lets_go_when_the_late_answers_have_come(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = Options(poll=0.01, tick=0.0, breaker=Breaker(share=0.5, least=5))
    await stage.start()
    orders = [str(number) for number in range(10)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.settled()
    stage.now += 31 * SECOND
    while not await stage.database.read(timers.held):
        await asyncio.sleep(0.01)
    await stage.publish(*(Reserved(order_id=order) for order in orders))
    await stage.publish(*(Paid(order_id=order) for order in orders))
    await stage.until(lambda all_: {each.phase.value for each in all_.values()} == {"COMPLETED"})
    while await stage.database.read(timers.held):
        await asyncio.sleep(0.01)


async def test_ruling_1_the_breaker_holds_limits_and_not_what_is_sent_again(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.sagas = (Asking, Order)
    stage.options = Options(poll=0.01, tick=0.0, breaker=Breaker(share=0.4, least=5))
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(10)))
    await stage.settled()
    stage.now += 31 * SECOND
    while not await stage.database.read(timers.held):
        await asyncio.sleep(0.01)
    assert len(await stage.eventually_sent("inventory.commands", 20)) == 20, "each asked, and asked again"


async def test_ruling_1_compensation_can_be_stopped_and_resumed(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    assert (await stage.ask("stop", reason="wrong prices")).state == "applied"
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Declined(order_id="4711"))
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase == "COMPENSATING")
    await asyncio.sleep(0.2)
    assert await stage.sent("inventory.commands") == []
    assert (await stage.ask("resume", reason="fixed")).state == "applied"
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert header(undo, "saga-step") == "reserve"


async def test_ruling_1_undo_commands_are_sent_at_a_bounded_rate(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = Options(poll=0.01, tick=0.0, undo_rate=5)
    await stage.start()
    orders = [str(number) for number in range(20)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.publish(*(Reserved(order_id=order) for order in orders))
    await stage.publish(*(Declined(order_id=order) for order in orders))
    await stage.until(lambda all_: len(all_) == 20 and all(each.phase == "COMPENSATING" for each in all_.values()))
    assert len(await stage.eventually_sent("inventory.commands", 5)) == 5
    await asyncio.sleep(0.2)
    assert len(await stage.sent("inventory.commands")) == 5, "the clock stands still: one second's worth"
    stage.now += 10 * SECOND
    assert len(await stage.eventually_sent("inventory.commands", 20)) == 20


async def test_ruling_2_events_before_the_registration_start_nothing(stage: Stage) -> None:
    await stage.raw("orders", b"old", b"x", (("ce_id", b"o"), ("ce_type", b"Placed")))
    stage.now += 60 * SECOND
    await asyncio.sleep(0.01)
    await stage.start()
    await stage.publish(Placed(order_id="new"))
    await stage.until(lambda all_: bool(all_))
    await stage.settled()
    assert set(await stage.instances()) == {"order/new"}


async def test_ruling_2_a_gap_in_the_log_stops_the_coordinator_until_a_person_decides(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(20)))
    await stage.settled()
    await stage.stop()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(20, 60)))
    ends = await stage.broker.end_offsets(["orders"])
    await stage.broker.delete_records(ends)
    coordinator = await stage.start()
    with pytest.raises(PositionLost, match=r"topic orders, partition \d: records \d+ to \d+ were deleted before"):
        await coordinator.wait()
    await stage.stop()
    stage.options = Options(poll=0.01, tick=0.0, gap="continue")
    await stage.start()
    await stage.publish(Placed(order_id="after"))
    await stage.until(lambda all_: "order/after" in all_)


async def test_ruling_5_undoes_lists_what_the_catalog_says_that_the_handler_consumes(stage: Stage) -> None:
    reserving = HandlerAnnouncement(
        name="reserve",
        consumes=[EventRef(type="Paid", topic="payments")],
        produces=[EventRef(type="Reserved", topic="inventory")],
    )
    await announce(stage.broker, ServiceAnnouncement(service="inventory", group="inventory", handlers=[reserving]))
    stage.sagas = (Backwards,)
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    (paid,) = await stage.publish(Paid(order_id="4711"))
    await stage.publish(Reserved(order_id="4711"), Fulfilled(order_id="4711"))
    await stage.publish(Declined(order_id="4711"))
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert header(undo, "undoes") == paid


async def test_ruling_10_a_command_that_was_committed_and_not_sent_is_sent_by_the_next_coordinator(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.start()
    monkeypatch.setattr(Relay, "publish", lambda self, rows: None)  # as if killed between commit and send
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Declined(order_id="4711"))
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].phase == "COMPENSATING")
    assert await stage.sent("inventory.commands") == []
    await stage.stop()
    monkeypatch.undo()
    stage.now += 10 * SECOND
    await stage.start()
    assert len(await stage.eventually_sent("inventory.commands", 1)) == 1


async def test_ruling_9_two_coordinators_share_the_work_and_apply_each_event_once(stage: Stage) -> None:
    await stage.start()
    await stage.start()
    while not all(coordinator.partitions for coordinator in stage.coordinators):
        await asyncio.sleep(0.01)
    orders = [str(number) for number in range(100)]
    await stage.publish(*(Placed(order_id=order) for order in orders))
    await stage.publish(*(Reserved(order_id=order) for order in orders))
    await stage.publish(*(Paid(order_id=order) for order in orders))
    found = await stage.until(
        lambda all_: len(all_) == 100 and all(each.phase == "COMPLETED" for each in all_.values())
    )
    assert {each.seq for each in found.values()} == {3}
    # Each counts what it has read a moment after that is committed.
    await stage.until(lambda _: all(coordinator.events > 0 for coordinator in stage.coordinators))


async def test_ruling_12_a_header_decides_only_for_the_saga_type_that_it_names(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="a"), Placed(order_id="b"))
    await stage.publish(Reserved(order_id="a"), saga_id="order/b", saga_type="order", saga_run=1)
    await stage.publish(Reserved(order_id="a"), saga_id="loyalty/b", saga_type="loyalty", saga_run=1)
    found = await stage.until(lambda all_: len(all_) == 2 and all(e.steps["reserve"].done for e in all_.values()))
    assert set(found) == {"order/a", "order/b"}


async def test_ruling_13_the_same_version_with_another_content_refuses_to_start(stage: Stage) -> None:
    await stage.start()
    await stage.stop()
    stage.sagas = (Changed,)
    with pytest.raises(DefinitionError, match=r"version 1 exists with another content; .* give this one version=2"):
        await stage.start()


@pytest.mark.parametrize("late", [False, True], ids=["announced-before", "announced-after-the-start"])
async def test_ruling_14_a_dead_handler_fails_the_step_that_the_catalog_says_it_produces(
    stage: Stage, late: bool
) -> None:
    inventory = ServiceAnnouncement(
        service="inventory",
        group="inventory",
        handlers=[
            HandlerAnnouncement(
                name="reserve",
                consumes=[EventRef(type="Placed", topic="orders")],
                produces=[EventRef(type="Reserved", topic="inventory")],
            )
        ],
    )
    if not late:
        await announce(stage.broker, inventory)
    await stage.codec.prepare([HandlerFailed])
    await stage.start()
    (placed,) = await stage.publish(Placed(order_id="4711"))
    failed = HandlerFailed(
        key="4711",
        service="inventory",
        handler="count",
        event_id=placed,
        event_type="Placed",
        topic="orders",
        partition=0,
        offset=0,
        dead=True,
        attempts=5,
        error_class="ZeroDivisionError",
        message="division by zero",
    )
    await stage.publish(failed)
    await stage.settled()
    assert (await stage.instances())["order/4711"].phase == "RUNNING"
    if late:
        await announce(stage.broker, inventory)
    await stage.publish(failed.model_copy(update={"handler": "reserve"}))
    found = await stage.until(lambda all_: all_["order/4711"].phase != "RUNNING")
    assert found["order/4711"].cause is not None
    assert found["order/4711"].cause["error"] == "ZeroDivisionError"


async def test_row_6_a_handler_that_gives_up_before_its_saga_is_seen_to_begin_is_not_forgotten(stage: Stage) -> None:
    """The start and the report lie on two topics, and each is read at its own pace."""
    warehouse = HandlerAnnouncement(
        name="reserve",
        consumes=[EventRef(type="Placed", topic="orders")],
        produces=[EventRef(type="Reserved", topic="inventory")],
    )
    await announce(stage.broker, ServiceAnnouncement(service="inventory", group="inventory", handlers=[warehouse]))
    await stage.codec.prepare([HandlerFailed])
    stage.sagas = (Again,)
    await stage.start()
    for saga_id in ("again/4711", "again/4711~2"):
        before = set(await stage.instances())
        event_id = new_id()
        report = HandlerFailed(
            key="4711",
            service="inventory",
            handler="reserve",
            event_id=event_id,
            event_type="Placed",
            topic="orders",
            partition=0,
            offset=0,
            dead=True,
            attempts=1,
            error_class="OSError",
            message="the shelf broke",
        )
        (report_id,) = await stage.publish(report)
        await stage.settled()
        assert set(await stage.instances()) == before
        await stage.publish(Placed(order_id="4711"), id=event_id)
        found = await stage.until(lambda all_, id_=saga_id: id_ in all_ and all_[id_].phase.ended)
        assert found[saga_id].phase == "COMPENSATED"
        assert found[saga_id].cause is not None
        assert found[saga_id].cause["error"] == "OSError"
        await stage.publish(report, id=report_id)
    await stage.settled()
    assert (await stage.ignored())["HandlerFailed", "duplicate"] == 2


async def test_ruling_17_a_persons_command_is_applied_and_answered(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"))
    await stage.until(lambda all_: bool(all_) and all_["order/4711"].steps["reserve"].done is not None)
    told = await stage.ask("cancel", saga_id="order/4711", reason="customer called")
    assert told == ("applied", "order/4711 is COMPENSATING")
    assert (await stage.instances())["order/4711"].cancelling
    assert await stage.ask("cancel", saga_id="order/none") == ("refused", "there is no saga order/none")


async def test_ruling_17_a_person_can_start_a_saga(stage: Stage) -> None:
    await stage.start()
    assert (await stage.ask("start", type="order", data={"order_id": "9"})).state == "applied"
    await stage.until(lambda all_: "order/9" in all_)


async def test_ruling_18_idle_means_read_published_and_nothing_due(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    coordinator = await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    for _ in range(6_000):
        if await coordinator.idle():
            break
        await asyncio.sleep(0.01)
    assert await coordinator.idle(), "an open saga is listed, not awaited"
    await stage.publish(Reserved(order_id="4711"))
    assert not await coordinator.idle()


async def test_a_second_run_of_a_finished_key_starts_only_if_the_saga_says_rerun(stage: Stage) -> None:
    stage.sagas = (Again, Order)
    await stage.start()
    for _ in range(2):
        await stage.publish(Placed(order_id="x"))
        await stage.settled()
        await stage.publish(Reserved(order_id="x"))
        await stage.settled()
    found = await stage.instances()
    assert set(found) == {"again/x", "again/x~2", "order/x"}
    assert found["again/x~2"].phase == "COMPLETED"


async def test_ruling_12_a_start_event_begins_the_saga_of_its_own_key(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="first"))
    await stage.publish(Placed(order_id="again"), saga_id="order/first", saga_type="order", saga_run=1)
    await stage.settled()
    assert set(await stage.instances()) == {"order/first", "order/again"}


async def test_ruling_5_services_that_came_later_are_asked_what_they_consume(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.saga.coordinator._CATALOG", 0.0)
    stage.sagas = (Backwards,)
    coordinator = await stage.start()
    reserving = HandlerAnnouncement(
        name="reserve",
        consumes=[EventRef(type="Placed", topic="orders")],
        produces=[EventRef(type="Reserved", topic="inventory")],
    )
    await announce(stage.broker, ServiceAnnouncement(service="inventory", group="inventory", handlers=[reserving]))
    (placed,) = await stage.publish(Placed(order_id="4711"))
    await stage.publish(Paid(order_id="4711"), Reserved(order_id="4711"), Fulfilled(order_id="4711"))
    await stage.settled()
    while not coordinator._knowledge.catalog:
        await asyncio.sleep(0.01)
    await stage.publish(Declined(order_id="4711"))
    (undo,) = await stage.eventually_sent("inventory.commands", 1)
    assert header(undo, "undoes") == placed


async def test_ruling_18_what_a_person_holds_is_not_awaited(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = Options(poll=0.01, tick=0.0, breaker=Breaker(share=0.5, least=1))
    coordinator = await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(4)))
    await stage.settled()
    stage.now += 31 * SECOND
    for _ in range(6_000):
        if await coordinator.idle():
            break
        await asyncio.sleep(0.01)
    assert await coordinator.idle()
    assert {each.phase.value for each in (await stage.instances()).values()} == {"RUNNING"}


async def test_ruling_18_a_member_without_a_partition_is_idle(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    for _ in range(3):
        await stage.start()
    for _ in range(6_000):
        if all([await coordinator.idle() for coordinator in stage.coordinators]):
            break
        await asyncio.sleep(0.01)
    assert all([await coordinator.idle() for coordinator in stage.coordinators])
    assert any(not coordinator.partitions for coordinator in stage.coordinators)
