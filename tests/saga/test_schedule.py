"""Sagas that start by the clock: their ticks where clocks change, after an outage, and with several coordinators."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo import Event, Saga, cron, step
from choreo.events.clock import SECOND, from_datetime, from_rfc3339, to_datetime
from choreo.events.errors import DefinitionError
from choreo.saga import ticks
from choreo.saga.options import Options
from choreo.saga.schedule import MOST_TICKS, SchedulePlan, tick_name
from choreo.saga.testing import Harness

from .stage import Fulfilled, Placed, Reserved, Stage

HOUR, DAY = 3_600 * SECOND, 86_400 * SECOND
BERLIN = "Europe/Berlin"


def ticks_of(plan: SchedulePlan, since: str, until: str) -> list[str]:
    """Every tick of a stretch of time, in UTC."""

    def walk() -> Iterator[str]:
        at = from_rfc3339(since)
        while (found := plan.after(at)) is not None and found < from_rfc3339(until):
            at = found
            yield f"{to_datetime(at):%d %H:%M}"

    return list(walk())


# ---- ticks -------------------------------------------------------------------------------


def test_a_tick_is_at_the_local_time_in_summer_and_in_winter() -> None:
    plan = cron("0 2 * * *", tz=BERLIN).plan
    assert ticks_of(plan, "2026-07-01T00:00Z", "2026-07-03T00:00Z") == ["02 00:00"]
    assert ticks_of(plan, "2026-12-01T00:00Z", "2026-12-03T00:00Z") == ["01 01:00", "02 01:00"]


def test_a_fixed_time_that_the_clocks_skip_comes_at_once_after_the_gap() -> None:
    plan = cron("30 2 * * *", tz=BERLIN).plan  # on 29 March 2026 there is no 02:30 in Berlin
    assert ticks_of(plan, "2026-03-28T00:00Z", "2026-03-31T00:00Z") == ["28 01:30", "29 01:00", "30 00:30"]


def test_a_fixed_time_that_comes_twice_counts_once() -> None:
    plan = cron("30 2 * * *", tz=BERLIN).plan  # on 25 October 2026 there are two 02:30 in Berlin
    assert ticks_of(plan, "2026-10-24T12:00Z", "2026-10-27T00:00Z") == ["25 00:30", "26 01:30"]


def test_every_hour_is_every_hour_whatever_the_clocks_do() -> None:
    plan = cron("0 * * * *", tz=BERLIN).plan
    assert ticks_of(plan, "2026-10-24T22:30Z", "2026-10-25T03:30Z") == [
        f"{h} " + m
        for h, m in zip(("24", "25", "25", "25", "25"), ("23:00", "00:00", "01:00", "02:00", "03:00"), strict=True)
    ]
    assert len(ticks_of(plan, "2026-03-28T12:30Z", "2026-03-29T12:30Z")) == 24


@given(
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "15 1,2,3 * * *", "0 0 1 * *", "45 */6 * * 1-5"]),
    st.sampled_from([BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(min_value=0, max_value=2 * 365 * 24 * 60),
)
def test_the_ticks_do_not_depend_on_where_one_begins(expression: str, zone: str, minutes: int) -> None:
    plan = SchedulePlan(expression, zone)
    at = from_rfc3339("2026-01-01T00:00Z") + minutes * 60 * SECOND
    first = plan.after(at)
    assert first is not None
    assert first > at
    for earlier in (at - 1, at - 90 * 60 * SECOND, at - 5 * HOUR):
        found = earlier
        while found <= at:
            following = plan.after(found)
            assert following is not None
            assert following > found
            found = following
        assert found == first


def test_a_year_of_missed_minutes_is_one_catch_up() -> None:
    plan = cron("* * * * *").plan
    now = from_rfc3339("2026-06-01T12:00:30Z")
    assert plan.until(now - 365 * DAY, now) == [from_rfc3339("2026-06-01T12:00Z")]


def test_all_missed_ticks_come_in_portions() -> None:
    plan = cron("* * * * *", missed="all").plan
    now = from_rfc3339("2026-06-01T12:00Z")
    found = plan.until(now - DAY, now)
    assert len(found) == MOST_TICKS
    assert found[0] == now - DAY
    assert plan.until(now - 120 * SECOND, now) == [now - 120 * SECOND, now - 60 * SECOND, now]


def test_missed_ticks_are_skipped_on_request() -> None:
    plan = cron("0 2 * * *", missed="skip").plan
    two = from_rfc3339("2026-06-01T02:00Z")
    assert plan.until(two, two + 5 * SECOND) == [two]
    assert plan.until(two, two + HOUR) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expression": "0 2 * *"}, "Wrong number of fields; write five fields"),
        ({"expression": "61 2 * * *"}, "Bad minute"),
        ({"expression": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"expression": "0 2 * * *", "tz": "Mars/Olympus"}, "no such time zone"),
        ({"expression": "0 2 * * *", "missed": "none"}, "'last' or 'all' or 'skip'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_where_it_is_written(options: dict[str, str], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        cron(**options)  # type: ignore[arg-type]


# ---- declarations ------------------------------------------------------------------------


class Due(Event, topic="orders", key="order_id"):
    order_id: str
    pages: int = 1


class Wanting(Event, topic="orders", key="order_id"):
    order_id: str
    total: int


class Report(Saga, start=Due, key="order_id", schedule=cron("0 2 * * *", tz=BERLIN)):
    write = step(done=Reserved, undo=None, within="1h")


def test_a_start_event_that_a_tick_cannot_fill_is_refused_at_definition() -> None:
    with pytest.raises(DefinitionError, match=r"cannot fill Wanting.total from a tick; .*start=function"):

        class Bad(Saga, start=Wanting, key="order_id", schedule=cron("0 2 * * *")):
            write = step(done=Reserved, undo=None, within="1h")


def test_a_start_function_that_makes_something_else_is_refused_at_definition() -> None:
    def other(tick: datetime) -> Fulfilled:
        return Fulfilled(order_id="1")

    with pytest.raises(DefinitionError, match="makes Fulfilled, which does not start this saga; make Due"):

        class Bad(Saga, start=Due, key="order_id", schedule=cron("0 2 * * *", start=other)):
            write = step(done=Reserved, undo=None, within="1h")


def test_a_schedule_with_several_start_events_needs_a_function() -> None:
    with pytest.raises(DefinitionError, match="by which of Due, Placed"):

        class Bad(Saga, start=(Due, Placed), key="order_id", schedule=cron("0 2 * * *")):
            write = step(done=Reserved, undo=None, within="1h")


def test_when_instances_start_is_no_part_of_what_they_do() -> None:
    class Later(Saga, start=Due, key="order_id", type="report", schedule=cron("0 3 * * *")):
        write = step(done=Reserved, undo=None, within="1h")

    assert Later.definition().hash == Report.definition().hash


# ---- running -----------------------------------------------------------------------------


async def test_each_tick_starts_one_saga_named_after_it() -> None:
    async with Harness(Report) as harness:  # begins on 1 January 2026, 00:00 UTC
        await harness.settle()
        assert harness.sagas == {}
        await harness.advance("3d")
        assert list(harness.sagas) == [f"report/2026010{day}T010000Z" for day in (1, 2, 3)]
        assert harness.saga("report/20260102T010000Z").started_at == datetime(2026, 1, 2, 1, tzinfo=UTC)


async def test_the_start_function_gives_the_key() -> None:
    def of_day(tick: datetime) -> Due:
        return Due(order_id=f"{tick:%Y-%m-%d}", pages=tick.day)

    class Daily(Saga, start=Due, key="order_id", schedule=cron("30 0 * * *", tz=BERLIN, start=of_day)):
        write = step(done=Reserved, undo=None, within="30d")

    async with Harness(Daily) as harness:
        await harness.advance("2d")
        assert list(harness.sagas) == ["daily/2026-01-02", "daily/2026-01-03"]
        assert [event.pages for event in harness.sent(Due)] == [2, 3]


async def test_a_start_function_that_raises_holds_its_tick_and_nobody_else() -> None:
    broken = [True]

    def sometimes(tick: datetime) -> Placed:
        if broken[0]:
            raise RuntimeError("no")
        return Placed(order_id=f"{tick:%d-%H}")

    class Shaky(Saga, start=Placed, key="order_id", schedule=cron("0 1 * * *", start=sometimes)):
        write = step(done=Reserved, undo=None, within="30d")

    async with Harness(Shaky, Report) as harness:
        await harness.advance("2h")
        assert list(harness.sagas) == ["report/20260101T010000Z"]
        broken[0] = False
        await harness.advance("2m")
        assert "shaky/01-01" in harness.sagas


async def test_a_paused_schedule_fires_nothing_and_goes_on_with_the_next_tick(store_url: str) -> None:
    async with Stage(store_url, (Report,), Options(poll=0.01, tick=0.0)) as stage:
        await stage.start()
        assert (await stage.ask("pause-schedule", type="report", reason="audit")).state == "applied"
        assert (await stage.ask("pause-schedule", type="report")).state == "refused"
        (row,) = await stage.database.read(ticks.all_schedules)
        assert (row.paused, row.by, row.reason) == (True, "ann", "audit")
        assert "goes on, next" in (await stage.ask("resume-schedule", type="report")).result
        assert (await stage.ask("resume-schedule", type="order")).result.startswith("saga type 'order' has no schedule")
        (row,) = await stage.database.read(ticks.all_schedules)
        assert not row.paused
        assert row.next_at is not None
        assert row.next_at > await stage.database.read(stage.database.now)


async def overdue(stage: Stage, by: int) -> int:
    """Make a schedule look as if nobody had run for a while; give the tick that it is at."""

    def set_back(connection: object) -> int:
        (row,) = ticks.all_schedules(connection)  # type: ignore[arg-type]
        plan = row.plan
        first = plan.after(stage.database.now(connection) - by)  # type: ignore[arg-type]
        assert first is not None
        update = ticks.schedule.update().values(next_at=first, look_at=first)
        connection.execute(update)  # type: ignore[attr-defined]
        return first

    return await stage.database.write(set_back)


async def test_two_coordinators_start_one_saga_for_a_tick(store_url: str) -> None:
    class Often(Saga, start=Due, key="order_id", schedule=cron("0 */6 * * *", missed="all")):
        write = step(done=Reserved, undo=None, within="30d")

    async with Stage(store_url, (Often,), Options(poll=0.01, tick=0.0)) as stage:
        await stage.start()
        await stage.start()
        first = await overdue(stage, 5 * DAY)
        await stage.until(lambda found: len(found) >= 20)
        found = await stage.settled()
        assert f"often/{tick_name(first)}" in found
        assert len(found) == len(await stage.sent("orders"))
        assert len(found) in (20, 21)  # the clock may have passed a tick meanwhile


async def test_missed_ticks_after_an_outage_are_one_catch_up(store_url: str) -> None:
    async with Stage(store_url, (Report,), Options(poll=0.01, tick=0.0)) as stage:
        await stage.start()
        await overdue(stage, 5 * DAY)
        found = await stage.until(lambda found: len(found) == 1)
        (row,) = await stage.database.read(ticks.all_schedules)
        assert list(found) == [f"report/{tick_name(row.last_at or 0)}"]
        now = await stage.database.read(stage.database.now)
        assert row.next_at is not None
        assert now < row.next_at <= now + DAY + HOUR


async def test_nothing_fires_for_the_time_before_the_registration(store_url: str) -> None:
    class Often(Saga, start=Due, key="order_id", schedule=cron("0 * * * *", missed="all"), active_from="beginning"):
        write = step(done=Reserved, undo=None, within="30d")

    async with Stage(store_url, (Often,)) as stage:
        await stage.start()
        (row,) = await stage.database.read(ticks.all_schedules)
        now = await stage.database.read(stage.database.now)
        assert row.next_at is not None
        assert now - 60 * SECOND < row.next_at <= now + HOUR
        assert row.last_at is None
        assert await stage.settled() == {}


async def test_an_observer_starts_nothing(store_url: str) -> None:
    async with Stage(store_url, (Report.observe_only(),)) as stage:
        await stage.start()
        assert await stage.database.read(ticks.all_schedules) == []


async def test_a_changed_schedule_counts_from_now_on_and_an_older_version_fires_no_more(store_url: str) -> None:
    class Newer(Saga, start=Due, key="order_id", type="report", version=2, schedule=cron("0 5 * * *")):
        write = step(done=Reserved, undo=None, within="30d")

    async with Stage(store_url, (Report,), Options(poll=0.01, tick=0.0)) as stage:
        await stage.start()
        stage.sagas = (Newer,)
        await stage.start()
        (row,) = await stage.database.read(ticks.all_schedules)
        assert (row.version, row.cron, row.zone) == (2, "0 5 * * *", "UTC")
        await stage.stop()
        stage.sagas = (Report,)
        await stage.start()
        (again,) = await stage.database.read(ticks.all_schedules)
        assert again == row
        await overdue(stage, DAY)
        await stage.settled()
        assert await stage.instances() == {}


def test_a_tick_is_named_in_utc() -> None:
    assert tick_name(from_datetime(datetime(2026, 11, 21, 1, tzinfo=UTC) + timedelta(minutes=5))) == "20261121T010500Z"
