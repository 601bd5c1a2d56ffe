"""Many alerts that are alike: the first few are told one by one, the others together, each occurrence once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import func, select

from choreo.events.clock import SECOND
from choreo.saga import alerting, quiet
from choreo.saga.advance import begin
from choreo.saga.alert_bursts import FEW, GATHER, Alike, Member, Part, Waiting, burst, part
from choreo.saga.alerts import Alert
from choreo.saga.inputs import Observed
from choreo.saga.instance import Remark
from choreo.saga.options import Options
from choreo.saga.tables import alert
from choreo.saga.words import Condition, Phase, StepState
from tests.saga.stage import Asking, Order, Placed, Stage, header
from tests.saga.test_webhook import Receiver, posting, receiver, verified

__all__ = ["receiver"]  # a fixture

ON = Options(poll=0.01, tick=0.0, alerts=True)
LIKE = Alike("Failed", "order", "charge", "CardDeclined", "[]")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_PAUSE", 0.05)


def _failed(number: int, at: int, error: str = "CardDeclined") -> Alert:
    name = f"order/{number:05d}"
    return Alert(f"id-{error}-{number}", "Failed", name, "order", str(number), "charge", error, f"{name} failed", at)


def test_the_first_few_of_an_hour_are_told_one_by_one_and_the_others_are_gathered() -> None:
    def told(size: int, lately: int, age: int, *, hurry: bool = False) -> Part:
        return part(Waiting(LIKE, size, 1_000), lately, 1_000 + age, hurry=hurry)

    assert told(1, 0, 0) == Part(1, False)
    assert told(500, 0, 0) == Part(FEW, False), "the others wait for more"
    assert told(497, FEW, GATHER - 1) == Part(0, False)
    assert told(497, FEW, GATHER) == Part(0, True)
    assert told(497, FEW, 0, hurry=True) == Part(0, True), "nothing is left untold at the end"
    assert told(500, 0, GATHER) == Part(FEW, True), "what waited while nobody told anything"
    assert told(2, FEW, GATHER - 1) == Part(0, False)
    assert told(2, FEW, GATHER) == Part(2, False), "two are no burst"
    assert told(FEW + 1, 1, GATHER) == Part(FEW + 1, False), "nor is what is left then"


def test_a_burst_says_how_many_which_for_example_and_what_lists_them() -> None:
    members = [Member(f"id-{number}", f"order/{number}", 10 * SECOND + number * SECOND) for number in range(40)]
    one, count, sagas = burst(_failed(7, 10 * SECOND), members)
    assert (one.kind, one.saga, one.type, one.key, one.step, one.reason) == (
        "Failed",
        None,
        "order",
        "order",
        "charge",
        "CardDeclined",
    )
    assert (count, len(sagas), sagas[0], one.at) == (40, 10, "order/0", 10 * SECOND)
    assert one.summary == (
        "40 more of type order at step charge within 39.0s: Failed, CardDeclined; for example order/00007 failed"
    )
    assert one.remedies == ("saga list --type order --failed --group-by error",)
    assert burst(_failed(8, 0), members[::-1])[0].id == one.id, "it is about the same occurrences"
    assert burst(_failed(7, 0), members[1:])[0].id != one.id


async def _sent(stage: Stage) -> list[dict[str, Any]]:
    """Give the alerts on the broker, copies left out."""
    found = {header(each, "ce_id"): json.loads(each.value or b"") for each in await stage.sent("choreo.alerts")}
    return list(found.values())


async def _told(stage: Stage, occurrences: int) -> list[dict[str, Any]]:
    """Wait until so many occurrences were told, and for no more; give the alerts."""
    async with asyncio.timeout(60):
        while sum(each["count"] for each in await _sent(stage)) < occurrences:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    found = await _sent(stage)
    assert sum(each["count"] for each in found) == occurrences, "each once"
    return found


async def test_a_mass_failure_is_a_few_alerts_and_one_with_the_number_of_the_others(stage: Stage) -> None:
    stage.options = ON
    await stage.start()
    await stage.start()  # two that share the work
    ago = await stage.database.read(stage.database.now) - 2 * GATHER
    failed = [_failed(number, ago + number * SECOND // 10) for number in range(400)]
    await stage.database.write(lambda c: alerting.note(c, [*failed, _failed(1, ago, "Timeout")]))
    told = await _told(stage, 401)
    assert sorted(each["count"] for each in told) == [1] * (FEW + 1) + [400 - FEW], "another error is told by itself"
    [together] = [each for each in told if each["count"] > 1]
    assert (together["saga"], together["key"]) == (None, "order")
    assert together["sagas"] == [f"order/{number:05d}" for number in range(FEW, FEW + 10)]
    words = "397 more of type order at step charge within 39.6s: Failed, CardDeclined; for example order/00003 failed"
    assert together["why"].startswith(words)
    assert together["remedies"] == ["saga list --type order --failed --group-by error"]
    await stage.database.write(lambda c: alerting.note(c, [*failed, _failed(2_000, ago)]))
    assert [each["count"] for each in await _told(stage, 402) if each["saga"] == "order/02000"] == [1], "no burst"
    await stage.stop()
    await stage.stop()
    await stage.start()
    assert len(await _told(stage, 402)) == FEW + 3, "a restart tells nothing again"


async def test_what_comes_while_another_coordinator_tells_a_burst_is_no_second_burst(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.options = ON
    slow, quick = [(await stage.start())._alerting for _ in range(2)]
    for each in (slow, quick):
        await each.close()  # the test says who tells when
    ago = await stage.database.read(stage.database.now) - 2 * GATHER
    await stage.database.write(lambda c: alerting.note(c, [_failed(n, ago) for n in range(30)]))
    survey = slow._survey

    async def meanwhile() -> Any:
        monkeypatch.undo()
        assert await quick.tell() == FEW + 1
        await stage.database.write(lambda c: alerting.note(c, [_failed(2_000, ago)]))
        return await survey()

    monkeypatch.setattr(slow, "_survey", meanwhile)
    await slow.tell()
    await slow.tell()
    told = await _told(stage, 31)
    assert sorted(each["count"] for each in told) == [1] * (FEW + 1) + [30 - FEW]
    assert "order/02000" in {each["saga"] for each in told}, "it is told as what it is"


async def test_the_others_are_gathered_for_a_minute(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    await stage.database.write(lambda c: alerting.note(c, [_failed(n, stage.now) for n in range(30)]))
    assert [each["count"] for each in await _told(stage, FEW)] == [1] * FEW
    await stage.database.write(lambda c: alerting.note(c, [_failed(n, stage.now) for n in range(30, 50)]))
    assert len(await _told(stage, FEW)) == FEW
    stage.now += GATHER
    [together] = [each for each in await _told(stage, 50) if each["count"] > 1]
    assert together["count"] == 50 - FEW


async def test_a_burst_is_posted_like_any_alert_and_told_at_once_where_nothing_else_is_left_to_do(
    sqlite_stage: Stage, receiver: Receiver
) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    async with posting(stage, receiver.url, alerts=True):
        await stage.database.write(lambda c: alerting.note(c, [_failed(n, stage.now) for n in range(50)]))
        await receiver.eventually(FEW)
        await stage.coordinators[-1].idle()  # who waits until nothing is left to do need not wait for more of the same
        bodies = [verified(headers, body) for headers, body in await receiver.eventually(FEW + 1)]
    [together] = [each for each in bodies if each["data"]["count"] > 1]
    assert (together["subject"], together["data"]["count"]) == ("order", 50 - FEW)


async def test_a_saga_is_looked_at_when_it_is_due_however_many_others_are_open(stage: Stage) -> None:
    stage.sagas, stage.options = (Asking,), ON
    await stage.start()
    await stage.publish(*(Placed(order_id=f"{number:03d}") for number in range(60)))
    await stage.until(lambda all_: len(all_) == 60)
    await stage.settled()
    await stage.publish(Placed(order_id="new"))
    all_ = await stage.until(lambda all_: len(all_) == 61)
    begun = all_["asking/new"].steps["release"].ready_at
    assert all(each.steps["release"].ready_at < begun for each in all_.values() if each.key != "new")

    async def page(turn: quiet.Cursor, before: int) -> quiet.Page:
        found = await stage.database.read(lambda c: quiet.page(c, turn, before, 10))
        await stage.database.write(lambda c: quiet.mark(c, found.cases[: found.due], before))
        return found

    def due(found: quiet.Page) -> set[str]:
        return {case.found.instance.key for case in found.cases[: found.due]}

    seen, looks, found = set[str](), 0, await page(quiet.START, begun - 1)
    while found.more:
        seen, looks, found = seen | due(found), looks + 1, await page(found.turn, begun - 1)
        assert looks < 20
    assert seen | due(found) == {f"{number:03d}" for number in range(60)}
    turned = set[str]()
    while not found.turned:  # then all have their turns, ten at a time
        found = await page(found.turn, begun - 1)
        turned |= {case.found.instance.key for case in found.cases}
        assert not due(found), "nobody is due twice of whom nothing is new"
    assert len(turned) >= 50
    found = await page((1, 1, "x"), begun)
    assert due(found) == {"new"}, "at the first look at which it is due"
    assert not due(await page((1, 1, "x"), begun))


def test_a_saga_waits_since_each_of_its_open_steps_and_not_for_a_person() -> None:
    definition = Order.definition()
    instance = begin(definition, "1", 1, Observed("e", "Placed", "test", 5), 7).instance
    first = instance.steps["reserve"].ready_at
    assert list(instance.waits()) == [first]
    instance.conditions[Condition.PAUSED] = Remark("NotLoaded", "its code is away", 9)
    instance.conditions[Condition.LATE] = Remark("Timeout", "too late", 11, "reserve")
    assert sorted(instance.waits()) == sorted([first, 9]), "what concerns no step counts by itself"
    instance.steps["reserve"].state = StepState.COMPENSATING
    instance.steps["reserve"].undo_ready_at = 40
    assert sorted(instance.waits()) == [9, 40]
    instance.conditions[Condition.WAITING_FOR_PERSON] = Remark("UndoFailed", "mend it", 50, "reserve")
    assert list(instance.waits()) == []
    del instance.conditions[Condition.WAITING_FOR_PERSON]
    instance.phase = Phase.COMPENSATED
    assert list(instance.waits()) == []


async def test_many_stuck_sagas_are_a_few_alerts_and_one_that_lists_the_others(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.sagas, stage.options = (Asking,), Options(poll=0.01, tick=0.0, alerts=True, stuck=60 * SECOND)
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(12)))
    await stage.until(lambda all_: len(all_) == 12)
    stage.now += 61 * SECOND
    await _told(stage, FEW)
    stage.now += GATHER + SECOND
    told = await _told(stage, 12)
    assert sorted(each["count"] for each in told) == [1] * FEW + [12 - FEW]
    assert [each["remedies"][0] for each in told if each["count"] > 1] == ["saga list --type asking --condition Stuck"]
    counted = select(func.count()).select_from(alert).where(alert.c.told_at.is_(None))
    assert await stage.database.read(lambda c: c.execute(counted).scalar_one()) == 0
