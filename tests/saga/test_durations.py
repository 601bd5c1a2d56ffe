"""Durations judged against their own past: what is kept of them, what is usual, and what is slow."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select, update

from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.saga.durations import ENOUGH, KEPT_WEEKS, WEEK, Slot, record, weeks_of
from choreo.saga.instance import Instance, Step, new_instance
from choreo.saga.pace import FLOOR, LEAST, SAGA, Stretch, Usual, forecasts, lasted
from choreo.saga.tables import HEAD, duration, metadata
from choreo.saga.usual import of_sagas, pace_of
from choreo.saga.words import Phase, StepState
from tests.saga.test_report import ORDER, START
from tests.saga.test_report import _running as running

SHIP = Stretch("do", "ship")


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(store_url)
    await opened.ensure_schema("saga", metadata, HEAD)
    yield opened
    await opened.close()


def slot(week: int = 0, kind: str = "do", step: str = "ship") -> Slot:
    return Slot("order", kind, step, week * WEEK)


async def test_quantiles_are_within_one_per_cent_of_the_exact_ones_whoever_has_written(database: Database) -> None:
    chance = random.Random(7)
    values = [int(chance.lognormvariate(17, 1)) for _ in range(4_000)]
    for part in range(4):  # four coordinators, each with a quarter
        await database.write(lambda c, part=part: record(c, {slot(): values[part::4]}))  # type: ignore[misc]
    ordered = sorted(values)
    pace = await database.read(lambda c: pace_of(c, "order"))
    usual = pace[SHIP]
    assert usual.size == 4_000
    for told, share in ((usual.p50, 0.5), (usual.p95, 0.95), (usual.p99, 0.99)):
        exact = ordered[int(share * (len(ordered) - 1))]
        assert abs(told - exact) <= 0.011 * exact
    [week] = await database.read(weeks_of)
    assert (week.size, week.total) == (4_000, sum(values))


async def test_last_year_does_not_drown_last_week(database: Database) -> None:
    old, new = [SECOND] * 5_000, [60 * SECOND] * ENOUGH
    await database.write(lambda c: record(c, {slot(0): old}))
    await database.write(lambda c: record(c, {slot(20): new}))
    pace = await database.read(lambda c: pace_of(c, "order"))
    assert pace[SHIP].size == ENOUGH
    assert pace[SHIP].p50 == pytest.approx(60 * SECOND, rel=0.02)


async def test_where_little_happens_older_weeks_count_and_those_of_more_than_a_year_go(database: Database) -> None:
    for week in range(0, KEPT_WEEKS + 10, 5):
        await database.write(lambda c, week=week: record(c, {slot(week): [SECOND] * 10}))  # type: ignore[misc]
    pace = await database.read(lambda c: pace_of(c, "order"))
    kept = await database.read(lambda c: c.execute(select(func.count()).select_from(duration)).scalar_one())
    assert pace[SHIP].size == kept * 10 == 110


async def test_a_sketch_that_cannot_be_read_begins_anew(database: Database) -> None:
    await database.write(lambda c: record(c, {slot(): [SECOND] * 50}))
    await database.write(lambda c: c.execute(update(duration).values(sketch=b"\xff\xff")))
    await database.write(lambda c: record(c, {slot(): [SECOND] * 40}))
    pace = await database.read(lambda c: pace_of(c, "order"))
    assert pace[SHIP].size == 40


async def test_of_few_nothing_is_said(database: Database) -> None:
    few = {slot(kind="saga", step=""): [SECOND] * (LEAST - 1)}
    await database.write(lambda c: record(c, few))
    assert await database.read(of_sagas) == {}
    await database.write(lambda c: record(c, few))
    assert (await database.read(of_sagas))["order"].size == 2 * (LEAST - 1)


def test_only_what_ended_well_counts_and_what_one_batch_has_read_has_no_duration() -> None:
    before = running()
    before.steps["reserve"].ended_at = before.steps["reserve"].outcome = None
    after = running()
    charge = after.steps["charge"]
    charge.state = charge.outcome = StepState.FAILED
    charge.ended_at = START + 9 * SECOND
    assert lasted(before, after) == [(Stretch("do", "reserve"), SECOND, START + SECOND)]
    assert lasted(after, after) == []
    reserve = after.steps["reserve"]
    reserve.state = reserve.undo_outcome = StepState.COMPENSATED
    reserve.undo_ready_at, reserve.undo_ended_at = START + 9 * SECOND, START + 12 * SECOND
    assert (Stretch("undo", "reserve"), 3 * SECOND, START + 12 * SECOND) in lasted(before, after)
    reserve.ready_at = START + SECOND
    assert all(each.stretch.kind != "do" for each in lasted(before, after))


def test_a_saga_counts_as_a_whole_when_it_completes_for_the_first_time() -> None:
    ended = running()
    ended.phase, ended.ended_at = Phase.COMPLETED, START + 30 * SECOND
    assert (SAGA, 30 * SECOND, START + 30 * SECOND) in lasted(running(), ended)
    ended.epoch, ended.turned = 1, [START]  # its trace went on in another one
    assert lasted(running(), ended) == [(SAGA, 30 * SECOND, START + 30 * SECOND)]
    ended.turned = []
    assert all(each.stretch != SAGA for each in lasted(running(), ended))


USUAL = Usual(1_000, 38 * SECOND, 120 * SECOND, 300 * SECOND)


def _waiting(seconds: int) -> tuple[Instance, int]:
    instance = new_instance(ORDER, "4711", 1)
    instance.started_at = START
    instance.steps["charge"] = Step(StepState.WAITING, START, START)
    return instance, START + seconds * SECOND


@pytest.mark.parametrize(("seconds", "slow"), [(41, None), (121, "P95"), (301, "P99")])
def test_an_open_step_is_slow_beyond_its_quantiles(seconds: int, slow: str | None) -> None:
    [forecast] = forecasts(_waiting(seconds)[0], {Stretch("do", "charge"): USUAL}, _waiting(seconds)[1])
    assert forecast.slow == slow
    assert str(forecast).endswith("so far, usually done in 38.0s, 95 % in 2m 00s")
    if slow:
        assert forecast.slow_since == START + (120 if slow == "P95" else 300) * SECOND


def test_what_takes_less_than_a_second_is_never_slow() -> None:
    quick = Usual(1_000, 5_000, 9_000, 10_000)
    assert quick.beyond(FLOOR) is None
    assert quick.beyond(FLOOR + 1) == "P99"
    assert Usual(100, 5_000, 9_000, 10_000).beyond(FLOOR + 1) == "P95"


def test_a_saga_that_has_completed_is_judged_as_a_whole_and_one_that_failed_is_not() -> None:
    instance, now = _waiting(500)
    instance.phase, instance.ended_at = Phase.COMPLETED, START + 200 * SECOND
    [forecast] = forecasts(instance, {SAGA: USUAL, Stretch("do", "charge"): USUAL}, now)
    assert (forecast.slow, str(forecast)) == ("P95", "3m 20s, usually done in 38.0s, 95 % in 2m 00s")
    instance.phase = Phase.FAILED
    assert forecasts(instance, {SAGA: USUAL}, now) == []
