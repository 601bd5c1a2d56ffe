"""Steps that run once per element, on brokers, stores and services."""

from __future__ import annotations

from uuid import uuid4

import pytest

from choreo.events.settings import load_settings
from choreo.saga.definition import Definition
from choreo.saga.occurrence import occurrence_id
from choreo.saga.testing import Harness, answers, crashes, silent
from choreo.services.worker import Worker
from tests.saga import fans
from tests.saga.fans import (
    Billed,
    Line,
    LineReleased,
    LineReserved,
    Lines,
    Ordered,
    ReleaseLine,
    ReserveLine,
    Unpaid,
    Watched,
    lines,
)
from tests.saga.stage import Stage, header


@pytest.fixture
async def fanned(stage: Stage) -> Stage:
    stage.sagas = (Lines,)
    await stage.codec.prepare(fans.EVENTS)
    await stage.start()
    return stage


async def test_each_element_gets_its_command_with_its_fields_and_its_occurrence(fanned: Stage) -> None:
    ordered = Ordered(order_id="1", lines=[Line(sku="a", quantity=1), Line(sku="b c", quantity=2)])
    await fanned.publish(ordered)
    commands = await fanned.eventually_sent("inventory.commands", 2)
    sent = [fanned.codec.decode(ReserveLine, each.value or b"", "application/avro") for each in commands]
    assert [(each.sku, each.quantity) for each in sent] == [("a", 1), ("b c", 2)]
    assert [header(each, "saga-step") for each in commands] == ["reserve", "reserve"]
    assert [header(each, "saga-occurrence") for each in commands] == [occurrence_id("a"), occurrence_id("b c")]
    assert len({header(each, "ce_id") for each in commands}) == 2


async def test_answers_find_their_element_by_header_or_by_field(fanned: Stage) -> None:
    await fanned.publish(Ordered(order_id="1", lines=lines("a", "b")))
    await fanned.eventually_sent("inventory.commands", 2)
    await fanned.publish(
        LineReserved(order_id="1", sku="ignored, the header decides"),
        saga_id="lines/1",
        saga_step="reserve",
        saga_occurrence=occurrence_id("a"),
    )
    await fanned.publish(LineReserved(order_id="1", sku="b"))
    found = await fanned.until(lambda all_: all_["lines/1"].steps["reserve"].state == "DONE")
    assert {name: step.state.value for name, step in found["lines/1"].steps.items()} == {
        "reserve": "DONE",
        "reserve[a]": "DONE",
        "reserve[b]": "DONE",
        "bill": "WAITING",
    }


async def test_the_undo_of_an_element_is_filled_from_its_own_answer_and_its_own_line(fanned: Stage) -> None:
    await fanned.publish(Ordered(order_id="1", lines=[Line(sku="a", quantity=7), Line(sku="b", quantity=8)]))
    do = await fanned.eventually_sent("inventory.commands", 2)
    await fanned.publish(LineReserved(order_id="1", sku="a", shelf="left"))
    await fanned.publish(LineReserved(order_id="1", sku="b", shelf="right"))
    await fanned.stop()  # the elements come from the history then
    await fanned.start()
    await fanned.publish(Unpaid(order_id="1"))
    undos = (await fanned.eventually_sent("inventory.commands", 4))[2:]
    made = [fanned.codec.decode(ReleaseLine, each.value or b"", "application/avro") for each in undos]
    assert {(each.sku, each.quantity, each.shelf) for each in made} == {("a", 7, "left"), ("b", 8, "right")}
    for undo in undos:
        own = next(each for each in do if header(each, "saga-occurrence") == header(undo, "saga-occurrence"))
        assert header(own, "ce_id") in str(header(undo, "undoes")).split(",")
    for undo, each in zip(undos, made, strict=True):
        await fanned.publish(LineReleased(order_id="1", sku=each.sku), causation_id=header(undo, "ce_id"))
    found = await fanned.until(lambda all_: all_["lines/1"].phase.ended)
    assert found["lines/1"].phase == "COMPENSATED"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lines("a", "b", "a"), "elements 1 and 3 have the same sku"),
        (lines(*(str(number) for number in range(1_001))), "has 1001 elements, at most 1000 are run"),
        (lines("a", ""), "element 2 has no sku"),
        (lines("x" * 201), "the sku of element 1 has 201 characters"),
    ],
)
async def test_elements_that_cannot_be_told_apart_fail_the_step_for_certain(
    given: list[Line], problem: str, sqlite_stage: Stage
) -> None:
    sqlite_stage.sagas = (Lines,)
    await sqlite_stage.codec.prepare(fans.EVENTS)
    await sqlite_stage.start()
    await sqlite_stage.publish(Ordered(order_id="1", lines=given))
    found = await sqlite_stage.until(lambda all_: bool(all_) and all_["lines/1"].phase.ended)
    assert found["lines/1"].phase == "COMPENSATED"
    assert found["lines/1"].cause is not None
    assert problem in found["lines/1"].cause["message"]
    assert await sqlite_stage.sent("inventory.commands") == []


async def test_an_answer_without_the_field_is_a_dead_letter(sqlite_stage: Stage) -> None:
    sqlite_stage.sagas = (Lines,)
    await sqlite_stage.codec.prepare(fans.EVENTS)
    await sqlite_stage.start()
    await sqlite_stage.publish(Ordered(order_id="1", lines=lines("a")))
    headers = (("ce_id", b"x"), ("ce_type", b"LineReserved"), ("content-type", b"application/json"))
    await sqlite_stage.raw("inventory", b"1", b'{"order_id": "1"}', headers)
    (dead,) = await sqlite_stage.eventually_sent("inventory.dlq", 1)
    assert "has no 'sku'" in str(header(dead, "dlq-message"))


def test_a_definition_with_elements_survives_its_json() -> None:
    definition = Lines.definition()
    assert Definition.from_json(definition.to_json()) == definition
    assert (definition.by_name["reserve"].each, definition.by_name["reserve"].by) == ("lines", "sku")


async def test_a_whole_order_runs_line_by_line() -> None:
    async with Harness(Lines, fans.warehouse(), play={LineReserved: silent()}) as harness:
        await harness.publish(Ordered(order_id="1", lines=lines("a", "b", "c")))
        await harness.settle()
        assert harness.saga("lines/1").steps["reserve"] == "DONE"
        await harness.publish(Billed(order_id="1"))
        await harness.settle()
        assert harness.saga("lines/1").phase == "COMPLETED"


async def test_one_refused_line_releases_the_others() -> None:
    async with Harness(Lines, fans.warehouse(refused=("b",))) as harness:
        await harness.publish(Ordered(order_id="1", lines=lines("a", "b", "c")))
        await harness.run()
        saga = harness.saga("lines/1")
        assert saga.phase == "COMPENSATED"
        assert {name: str(state) for name, state in saga.steps.items()} == {
            "reserve": "FAILED",
            "reserve[a]": "COMPENSATED",
            "reserve[b]": "FAILED",
            "reserve[c]": "COMPENSATED",
            "bill": "SKIPPED",
        }
        assert sorted(each.sku for each in harness.sent(ReleaseLine)) == ["a", "c"]
        assert sorted(each.sku for each in harness.sent(LineReleased)) == ["a", "c"]


async def test_a_line_in_flight_and_a_line_done_are_both_undone() -> None:
    async with Harness(Lines, play={ReserveLine: silent(), ReleaseLine: answers(LineReleased)}) as harness:
        await harness.publish(Ordered(order_id="1", lines=lines("a", "b")))
        await harness.settle()
        await harness.publish(LineReserved(order_id="1", sku="b"))
        await harness.advance("31s")
        saga = harness.saga("lines/1")
        assert saga.phase == "COMPENSATED"
        assert (saga.steps["reserve[a]"], saga.steps["reserve[b]"]) == ("COMPENSATED", "COMPENSATED")


async def test_ruling_5_the_guard_refuses_the_late_command_of_its_own_element_only(stage: Stage) -> None:
    """The service was away: the undo of `a` overtakes its command; that of `b` is another occurrence and runs."""
    service = fans.warehouse(name=f"inventory-{uuid4().hex[:8]}")
    headers = {"saga_id": "lines/1", "saga_type": "lines", "saga_run": 1, "saga_step": "reserve"}
    await stage.codec.prepare(fans.EVENTS)
    release = ReleaseLine(order_id="1", sku="a", quantity=1)
    await stage.publish(
        release, **headers, saga_occurrence=occurrence_id("a"), saga_attempt=1, undoes=("c-a",), id="u-a"
    )
    for sku in ("a", "b"):
        command = ReserveLine(order_id="1", sku=sku, quantity=1)
        await stage.publish(command, **headers, saga_occurrence=occurrence_id(sku), saga_attempt=1, id=f"c-{sku}2")
    settings = load_settings(broker="memory:", store=stage.url)
    async with Worker(service, stage.broker, settings=settings):
        sent = await stage.eventually_sent("inventory", 2)
        told = {(header(each, "ce_type"), header(each, "saga-occurrence"), header(each, "undo-empty")) for each in sent}
        assert told == {("LineReleased", occurrence_id("a"), "1"), ("LineReserved", occurrence_id("b"), None)}


async def test_a_service_that_does_all_lines_by_itself_is_undone_line_by_line() -> None:
    async with Harness(Watched, fans.store_room()) as harness:
        order = Ordered(order_id="1", lines=[*lines("a", "b"), Line(sku="small", quantity=1)])
        await harness.publish(order)
        await harness.settle()
        assert list(harness.saga("watched/1").steps) == ["reserve", "reserve[a]", "reserve[b]", "bill"]
        assert harness.saga("watched/1").steps["reserve"] == "DONE"
        await harness.publish(Unpaid(order_id="1"))
        await harness.settle()
        assert harness.saga("watched/1").phase == "COMPENSATED"
        assert sorted((each.sku, each.shelf) for each in harness.sent(ReleaseLine)) == [("a", "A"), ("b", "A")]


async def test_a_handler_that_gives_up_on_a_line_is_told_of_that_line() -> None:
    play = {ReserveLine: crashes(ValueError("no"), instead_of=LineReserved), ReleaseLine: answers(LineReleased)}
    async with Harness(Lines, play=play) as harness:
        await harness.publish(Ordered(order_id="1", lines=lines("a")))
        await harness.run()
        saga = harness.saga("lines/1")
        (report,) = [entry for entry in saga.history if entry.kind == "failure"]
        assert [(change.step, change.state) for change in report.changes] == [("reserve[a]", "RETRYING")]
        assert saga.phase == "COMPENSATED"
