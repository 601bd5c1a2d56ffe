"""Alerts: what somebody should hear of goes out by itself, each occurrence once, with what `saga why` says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from choreo.events.clock import SECOND
from choreo.events.failures import HandlerFailed
from choreo.saga import alerting, timers
from choreo.saga.alerts import Alert, AlertRaised, holds, of_moves, stuck
from choreo.saga.beside import noticed
from choreo.saga.explanation import Explanation, Reason
from choreo.saga.instance import Remark
from choreo.saga.options import Options
from choreo.saga.queries import Brakes, Filter, list_sagas, load
from choreo.saga.surroundings import look_around
from choreo.saga.timers import Breaker
from choreo.saga.words import Condition, Phase, StepState
from choreo.saga.work import Moved
from tests.saga.stage import Asking, Declined, Order, Paid, Placed, Release, Released, Reserved, Stage, header
from tests.saga.test_webhook import Receiver, posting, receiver, verified

__all__ = ["receiver"]  # a fixture

ON = Options(poll=0.01, tick=0.0, alerts=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "_PAUSE", 0.05)


async def alerts(stage: Stage, number: int) -> list[dict[str, Any]]:
    """Wait for so many alerts, and for no more."""
    found = await stage.eventually_sent("choreo.alerts", number)
    await asyncio.sleep(0.5)
    found = await stage.sent("choreo.alerts")
    told = [json.loads(each.value or b"") for each in found]
    assert len({header(each, "ce_id") for each in found}) == len(found) == number, [each["summary"] for each in told]
    for each in found:
        assert header(each, "ce_type") == "AlertRaised"
        AlertRaised.model_validate_json(each.value or b"")
    return told


def report(event_id: str, **changed: Any) -> HandlerFailed:
    values = {
        "key": "4711",
        "service": "inventory",
        "handler": "count",
        "event_id": event_id,
        "event_type": "Placed",
        "topic": "orders",
        "partition": 0,
        "offset": 0,
        "dead": True,
        "attempts": 5,
        "error_class": "ZeroDivisionError",
        "message": "division by zero",
    }
    return HandlerFailed(**{**values, **changed})


async def test_a_late_saga_is_told_once_with_what_why_says_whoever_looks(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    await stage.start()  # two that share the work
    await stage.publish(Placed(order_id="4711"))
    await stage.until(lambda all_: "order/4711" in all_)
    stage.now += 31 * SECOND
    (told,) = await alerts(stage, 1)
    assert {name: told[name] for name in ("kind", "saga", "type", "key", "step", "reason")} == {
        "kind": "Late",
        "saga": "order/4711",
        "type": "order",
        "key": "4711",
        "step": "reserve",
        "reason": "Timeout",
    }
    assert told["why"].startswith("order/4711 is COMPENSATING and waits for")
    assert "why   " in told["why"]
    await stage.stop()
    await stage.stop()
    await stage.start()
    assert await alerts(stage, 1) == [told], "a restart tells nothing again"


async def test_what_was_noted_before_a_crash_is_told_after_it_once(stage: Stage) -> None:
    stage.options = ON
    await stage.start()
    await stage.stop()
    noted = Alert("an-id", "Stuck", "order/1", "order", "1", None, "ConsumerDown", "order/1 is stuck", 5, ("look",))
    await stage.database.write(lambda connection: alerting.note(connection, [noted, noted]))
    assert await stage.database.read(alerting.any_untold)
    await asyncio.gather(stage.start(), stage.start())
    (told,) = await alerts(stage, 1)
    assert (told["summary"], told["remedies"]) == ("order/1 is stuck", ["look"])
    assert told["why"] == "order/1 is stuck\ndo    look", "the saga is not there any more"
    assert not await stage.database.read(alerting.any_untold)


async def test_a_saga_whose_undo_fails_for_good_is_told_as_failed(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Declined(order_id="1"))
    await stage.until(lambda all_: bool(all_) and all_["order/1"].phase == "COMPENSATING")
    for _ in range(1_200):
        if (await stage.instances())["order/1"].phase.ended:
            break
        stage.now += 3_600 * SECOND
        await asyncio.sleep(0.05)
    told = [each for each in await _kinds(stage, "Failed") if each["saga"] == "order/1"]
    assert len(told) == 1
    assert told[0]["remedies"] == ["saga retry-undo order/1 --step reserve --reason ...", *told[0]["remedies"][1:]]
    assert "has FAILED" in told[0]["summary"]
    assert told[0]["why"].startswith("order/1 is FAILED")


async def _kinds(stage: Stage, kind: str) -> list[dict[str, Any]]:
    for _ in range(3_000):
        found = [json.loads(each.value or b"") for each in await stage.sent("choreo.alerts")]
        if wanted := [each for each in found if each["kind"] == kind]:
            return wanted
        await asyncio.sleep(0.02)
    raise AssertionError(f"no alert {kind} in a minute; there are {[each['kind'] for each in found]}")


async def test_each_dead_letter_is_told_with_its_saga_or_without_one(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.codec.prepare([HandlerFailed])
    await stage.start()
    (placed,) = await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    (first,) = await stage.publish(report(placed))
    await stage.publish(report(placed), id=first)  # the same report comes twice
    await stage.publish(report(placed, dead=False))  # it will be tried again: nobody needs to know
    await stage.publish(report("elsewhere", key="none", service="mail", event_type="Invited"))
    told = {each["key"]: each for each in await alerts(stage, 2)}
    assert told["4711"]["kind"] == told["none"]["kind"] == "DeadLetter"
    assert told["4711"]["saga"] == "order/4711"
    assert told["4711"]["why"].startswith("order/4711 is RUNNING")
    assert told["none"]["reason"] == "ZeroDivisionError"
    assert told["none"]["remedies"][0] == "saga dlq list --service mail"
    assert "mail, handler count, has given Invited up after 5 tries" in told["none"]["why"]


async def test_a_record_that_the_coordinator_cannot_apply_is_told(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    names = (("ce_specversion", "1.0"), ("ce_id", "e-1"), ("ce_type", "HandlerFailed"), ("ce_source", "x"))
    await stage.raw("choreo.failures", b"x", b"no JSON", tuple((name, text.encode()) for name, text in names))
    (told,) = await alerts(stage, 1)
    assert (told["kind"], told["reason"]) == ("DeadLetter", "Unreadable")
    assert "choreo.failures" in told["summary"]
    assert "JSON" not in told["why"], "no payloads"


async def test_a_breaker_that_opens_is_told_each_time(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.options = Options(poll=0.01, tick=0.0, alerts=True, breaker=Breaker(share=0.5, least=5))
    await stage.start()
    await stage.publish(*(Placed(order_id=str(number)) for number in range(10)))
    await stage.settled()
    stage.now += 31 * SECOND
    (first,) = await alerts(stage, 1)
    assert (first["kind"], first["saga"]) == ("BreakerOpened", None)
    assert "10 sagas pass a limit at once" in first["summary"]
    assert "saga resume" in first["why"]
    await stage.publish(*(Reserved(order_id=str(number)) for number in range(10)))
    await stage.publish(*(Paid(order_id=str(number)) for number in range(10)))
    await stage.until(lambda all_: {each.phase.value for each in all_.values()} == {"COMPLETED"})
    while await stage.database.read(timers.held):  # it lets go by itself
        await asyncio.sleep(0.01)
    await stage.publish(*(Placed(order_id=f"again-{number}") for number in range(20)))
    await stage.settled()
    stage.now += 31 * SECOND
    second = [each for each in await alerts(stage, 2) if each != first]
    assert [each["kind"] for each in second] == ["BreakerOpened"]


async def test_a_stuck_saga_is_told_once_and_names_who_should_answer(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    stage.sagas = (Asking,)
    stage.options = Options(poll=0.01, tick=0.0, alerts=True, stuck=60 * SECOND)
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await stage.settled()
    assert await stage.sent("choreo.alerts") == []
    stage.now += 61 * SECOND
    (told,) = await alerts(stage, 1)
    assert (told["kind"], told["saga"], told["step"], told["reason"]) == (
        "Stuck",
        "asking/1",
        "release",
        "NobodyAnswers",
    )
    assert f"no service has ever said that it takes {Release.spec().type}" in told["why"]
    stage.now += 61 * SECOND
    await stage.stop()
    await stage.start()
    assert await alerts(stage, 1) == [told], "it is still the same"
    wanted = Filter(conditions=("Stuck",))
    (row,) = await stage.database.read(lambda c: list_sagas(c, wanted, limit=None))
    assert (row.id, "Stuck" in row.conditions) == ("asking/1", True)
    found = await stage.database.read(lambda c: load(c, "asking/1"))
    around = await look_around(stage.broker, stage.settings.group, found.definition.topics.values())
    brakes = Brakes(timers_held=False, undo_stopped=False)
    seen = noticed(found, {}, around, brakes, stage.now, stuck=60 * SECOND)
    assert [(each["type"], each["reason"], each["step"]) for each in seen] == [("Stuck", "NobodyAnswers", "release")]
    assert not noticed(found, {}, around, brakes, stage.now, stuck=10_000 * SECOND)
    await stage.publish(Released(order_id="1"))
    await stage.settled()
    assert await stage.database.read(lambda c: list_sagas(c, wanted, limit=None)) == []


async def test_sagas_that_only_watch_and_who_wants_no_alerts_tell_none(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    await stage.start()
    await stage.publish(Placed(order_id="4711"))
    await stage.settled()
    stage.now += 31 * SECOND
    await stage.until(lambda all_: all_["order/4711"].phase == "COMPENSATING")
    await asyncio.sleep(0.2)
    assert await stage.sent("choreo.alerts") == []
    assert not await stage.database.read(alerting.any_untold)


async def test_an_alert_is_posted_as_a_signed_cloudevent(sqlite_stage: Stage, receiver: Receiver) -> None:
    stage = sqlite_stage
    stage.options = ON
    await stage.start()
    async with posting(stage, receiver.url, alerts=True):
        await stage.publish(Placed(order_id="4711"))
        await stage.settled()
        stage.now += 31 * SECOND
        [(headers, body)] = await receiver.eventually(1)
    told = verified(headers, body)
    assert (told["type"], told["subject"], told["id"]) == ("AlertRaised", "order/4711", headers["webhook-id"])
    assert (told["data"]["kind"], told["data"]["saga"]) == ("Late", "order/4711")
    assert told["data"]["why"].startswith("order/4711 is")


# ---- what is due, pure -------------------------------------------------------------------------------------------


def _instance(**values: Any) -> Any:
    from choreo.saga.advance import begin
    from choreo.saga.inputs import Observed

    definition = Order.definition()
    instance = begin(definition, "1", 1, Observed("e", "Placed", "test", 0), 0).instance
    for name, value in values.items():
        setattr(instance, name, value)
    return instance


def _due(before: Any, after: Any) -> list[tuple[str, str]]:
    return [(each.kind, each.reason) for each in of_moves([Moved(Order.definition(), before, after)], 1)]


def test_a_condition_is_due_when_it_begins_and_again_when_it_comes_again_and_never_in_between() -> None:
    late = {Condition.LATE: Remark("Timeout", "too late", 5, "reserve")}
    other = {Condition.LATE: Remark("Timeout", "too late again", 9, "charge")}
    assert _due(_instance(), _instance(conditions=late)) == [("Late", "Timeout")]
    assert _due(_instance(conditions=late), _instance(conditions=late, seq=7)) == []
    assert _due(_instance(conditions=late), _instance(conditions=late, seq=8, epoch=1)) == []
    assert _due(_instance(conditions=late), _instance(conditions=other)) == [("Late", "Timeout")]
    moves = [Moved(Order.definition(), None, _instance(conditions=late, seq=seq)) for seq in (3, 3, 4)]
    ids = {next(of_moves([move], 1)).id for move in moves}
    assert len(ids) == 2, "the same occurrence has the same id, another one another"


def test_a_person_who_is_asked_to_approve_is_no_alert_and_one_who_must_mend_is() -> None:
    def waiting(reason: str) -> dict[Any, Remark]:
        return {Condition.WAITING_FOR_PERSON: Remark(reason, "x", 5, "reserve")}

    assert _due(None, _instance(conditions=waiting("Approval"))) == []
    assert _due(None, _instance(conditions=waiting("UndoFailed"))) == [("Stuck", "UndoFailed")]
    assert _due(None, _instance(conditions=waiting("UndoFailed"), phase=Phase.FAILED, ended_at=1)) == [
        ("Failed", "Failed")
    ]


def test_stuck_is_who_has_waited_long_for_something_that_is_wrong() -> None:
    instance = _instance()
    ready = instance.steps["reserve"].ready_at

    def judged(code: str, now: int, step: str | None = "reserve", since: int | None = None) -> Alert | None:
        return stuck(instance, Explanation("x", (Reason(code, "y", step, since),)), now, 10)

    assert judged("ConsumerDown", ready + 9) is None
    alert = judged("ConsumerDown", ready + 10)
    assert alert is not None
    assert (alert.kind, alert.step, alert.reason) == ("Stuck", "reserve", "ConsumerDown")
    assert judged("NobodyAnswers", ready + 500) == alert._replace(reason="NobodyAnswers", at=ready + 500)
    for fine in ("Working", "Approval", "WaitingForLock", "ChildOpen", "Slow"):
        assert judged(fine, ready + 500) is None
    assert judged("NotLoaded", 500, None, 100) is not None
    assert judged("NotLoaded", 105, None, 100) is None
    instance.epoch = 1
    assert judged("ConsumerDown", ready + 10) == alert, "its trace goes on in another"
    later = _instance()
    later.steps["reserve"].ready_at = ready + 1_000  # its turn came again
    again = stuck(later, Explanation("x", (Reason("ConsumerDown", "y", "reserve"),)), ready + 2_000, 10)
    assert again is not None
    assert again.id != alert.id
    assert holds(instance, alert.id, "reserve")
    assert not holds(later, alert.id, "reserve"), "that was another time"
    instance.steps["reserve"].state = StepState.DONE
    assert not holds(instance, alert.id, "reserve")
