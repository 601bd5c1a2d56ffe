"""When a step is due, as the start event says: passing it makes a saga late, and fails nothing."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from choreo import DefinitionError, Event, Saga, step
from choreo.events.clock import SECOND
from choreo.saga.advance import advance
from choreo.saga.inputs import Ask, Decided, Unbuildable
from choreo.saga.testing import Harness
from tests.saga.play import Play, define, plan

PROMISED = define(plan("reserve", 0, due="promised", within=3_600 * SECOND), plan("ship", 1, "reserve"))
START = 1_000 * SECOND


def promised(seconds: float | None) -> Play:
    """A saga whose first step is due so many seconds after its start."""
    play = Play(PROMISED)
    assert Ask("due", "reserve") in play.last.outputs
    value = None if seconds is None else START + int(seconds * SECOND)
    play._took(advance(PROMISED, play.instance, Decided("reserve", "due", value), play.now))
    return play


def test_a_step_that_is_later_than_it_was_due_is_remarked_and_goes_on() -> None:
    play = promised(60)
    assert play.instance.next_due == START + 60 * SECOND + 1
    play.later(60)
    assert "Late" not in play.instance.conditions, "due at is not later than"
    play.later(1)
    remark = play.instance.conditions["Late"]
    assert (remark.reason, remark.step) == ("Due", "reserve")
    assert play.states() == {"reserve": "WAITING", "ship": "PENDING"}
    assert play.phase == "RUNNING"
    play.sees("reserve.done")
    assert play.step("reserve").overdue
    assert play.step("reserve").state == "DONE"


def test_in_time_is_not_late_and_a_step_that_nothing_is_said_of_neither() -> None:
    play = promised(60)
    play.sees("reserve.done")
    play.later(20)
    assert not play.step("reserve").overdue
    play = promised(None)
    play.later(100)
    assert "Late" not in play.instance.conditions


def test_a_success_at_the_moment_it_was_due_is_in_time_even_where_that_is_said_afterwards() -> None:
    for after, overdue in ((-1, False), (0, False), (1, True)):
        play = promised(60)
        play.now += 100 * SECOND
        play.sees("reserve.done", time=START + 60 * SECOND + after)
        assert play.step("reserve").overdue is overdue
        play = Play(PROMISED)
        play.sees("reserve.done")
        play._took(advance(PROMISED, play.instance, Decided("reserve", "due", play.now - after), play.now))
        assert play.step("reserve").overdue is overdue
    play = Play(PROMISED)
    play._took(advance(PROMISED, play.instance, Decided("reserve", "due", START - 1), play.now))
    assert not play.step("reserve").overdue, "it is not done yet: its timer will say so"
    play.sees("reserve.failed")
    play._took(advance(PROMISED, play.instance, Decided("reserve", "due", START - 1), play.now))
    assert not play.step("reserve").overdue


def test_a_success_that_we_read_late_but_that_came_in_time_is_in_time() -> None:
    play = promised(60)
    play.now += 100 * SECOND
    play.sees("reserve.done", time=START + 59 * SECOND)
    assert not play.step("reserve").overdue


def test_a_success_before_its_turn_that_is_later_than_due_is_late_all_the_same() -> None:
    definition = define(plan("reserve", 0, within=3_600 * SECOND), plan("ship", 1, "reserve", due="promised"))
    play = Play(definition)
    play._took(advance(definition, play.instance, Decided("ship", "due", START + 60 * SECOND), play.now))
    play.now += 90 * SECOND
    play.sees("ship.done")
    assert play.step("ship").overdue


def test_a_due_that_cannot_be_read_fails_nothing_and_is_remarked() -> None:
    play = Play(PROMISED)
    play._took(advance(PROMISED, play.instance, Unbuildable("reserve", "due", "due= raised KeyError"), play.now))
    assert play.phase == "RUNNING"
    assert play.instance.conditions["Unexpected"].message == "due= raised KeyError"


class Bought(Event, topic="shop", key="order_id"):
    order_id: str
    promised: datetime
    day: date = date(2026, 1, 1)


class Came(Event, topic="shop", key="order_id"):
    order_id: str


class Delivery(Saga, start=Bought, key="order_id", observe_only=True):
    deliver = step(done=Came, within="30d", due="promised")


class ByDay(Saga, start=Bought, key="order_id", observe_only=True):
    deliver = step(done=Came, within="30d", due=lambda saga: saga.started.day)


async def test_the_field_of_the_start_event_says_when_it_is_due() -> None:
    async with Harness(Delivery, ByDay) as harness:
        at = harness.now
        await harness.publish(Bought(order_id="1", promised=at.replace(hour=5)))
        await harness.settle()
        await harness.advance("6h")
        late, by_day = harness.saga("delivery/1"), harness.saga("by-day/1")
        assert "Late" in late.conditions
        assert "Late" not in by_day.conditions, "a date is over at its end"
        await harness.advance("19h")
        assert "Late" in harness.saga("by-day/1").conditions
        await harness.publish(Came(order_id="1"))
        await harness.settle()
        assert harness.saga("delivery/1").phase == "COMPLETED"


def test_a_due_that_is_no_time_is_refused_where_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match=r"step deliver: due= names 'order_id', which is no datetime or date"):

        class Wrong(Saga, start=Bought, key="order_id", observe_only=True):
            deliver = step(done=Came, within="30d", due="order_id")


def test_when_a_step_is_due_is_part_of_the_definition() -> None:
    assert Delivery.definition().by_name["deliver"].due == "promised"
    assert ByDay.definition().by_name["deliver"].due == "<lambda>"
