"""What people ask of sagas: with a coordinator that answers, with one that refuses, and with none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo.events.clock import SECOND, system_clock
from choreo.saga.cli import exits
from choreo.saga.words import Phase, StepState
from tests.saga.stage import Declined, Paid, Placed, Released, Reserved, Stage
from tests.support.console import Console, Done, validate


class Desk:
    """A running coordinator, and the command line over its store."""

    def __init__(self, stage: Stage, saga: Console) -> None:
        self.stage = stage
        self._saga = saga

    async def saga(self, *arguments: object) -> Done:
        """Run a command beside the coordinator."""
        return await asyncio.to_thread(self._saga, *arguments)


@pytest.fixture
async def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")  # down: none of these commands may need it
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", now=system_clock() - 3_600 * SECOND) as stage:
        await stage.start()
        yield Desk(stage, Console(capsys, tmp_path))


async def _failed_undo(stage: Stage) -> None:
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Declined(order_id="1"))
    await stage.until(lambda found: "order/1" in found and found["order/1"].phase is Phase.COMPENSATING)
    stage.now += 1_801 * SECOND
    await stage.until(lambda found: found["order/1"].phase is Phase.FAILED)


async def test_a_saga_is_started_by_its_fields_and_named(desk: Desk) -> None:
    done = await desk.saga("start", "order", "order_id=7", "total=3", "-o", "json")
    assert done.code == exits.OK
    told = validate(done.json, "saga.command/v1")
    assert (told["id"], told["state"]) == ("order/7", "applied")
    await desk.stage.until(lambda found: "order/7" in found)
    done = await desk.saga("start", "order", "--data", '{"order_id": "8"}', "-o", "id")
    assert done.out == "order/8\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["order", "order_id=7", "total=many"], exits.NOT_ALLOWED, "Placed.total"),
        (["order", "total=1"], exits.USAGE, "write order_id=..."),
        (["order", "order_id"], exits.USAGE, "write name=value"),
        (["order", "--data", "[1]"], exits.USAGE, "not a JSON object"),
        (["order", "--data", "{"], exits.USAGE, "not JSON"),
        (["order", "order_id=7", "--data", "{}"], exits.USAGE, "not both"),
        (["order", "order_id=7", "--event", "Paid"], exits.USAGE, "Placed does"),
        (["nosuch", "order_id=7"], exits.NOT_FOUND, "it knows order"),
    ],
)
async def test_what_cannot_start_is_told_in_one_line(desk: Desk, arguments: list[str], code: int, said: str) -> None:
    done = await desk.saga("start", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


async def test_a_running_saga_is_cancelled_and_an_ended_one_refuses(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found)
    done = await desk.saga("cancel", "1", "--reason", "the customer asked")
    assert done.code == exits.OK
    assert done.out == "cancel order/1: order/1 is COMPENSATING\n"
    await desk.stage.publish(Released(order_id="1"))
    await desk.stage.until(lambda found: found["order/1"].phase is Phase.CANCELLED)
    assert (await desk.saga("watch", "1")).code == exits.CANCELLED
    await desk.stage.publish(Placed(order_id="2"), Reserved(order_id="2"), Paid(order_id="2"))
    await desk.stage.until(lambda found: "order/2" in found and found["order/2"].phase is Phase.COMPLETED)
    done = await desk.saga("cancel", "2", "--reason", "too late", "-o", "json")
    assert done.code == exits.NOT_ALLOWED
    assert done.out == ""
    import json

    assert validate(json.loads(done.err), "saga.error/v1")["error"] == "Refused"


async def test_a_failed_undo_is_tried_again(desk: Desk) -> None:
    await _failed_undo(desk.stage)
    done = await desk.saga("retry-undo", "1", "--reason", "the warehouse is back")
    assert done.out == "retry-undo order/1: order/1 is COMPENSATING\n"
    await desk.stage.publish(Released(order_id="1"))
    await desk.stage.until(lambda found: found["order/1"].phase is Phase.COMPENSATED)


async def test_a_person_may_undo_by_hand_and_say_so(desk: Desk) -> None:
    await _failed_undo(desk.stage)
    assert (await desk.saga("watch", "1")).code == exits.FAILED
    assert (await desk.saga("mark-undone", "1", "--reason", " ")).code == exits.USAGE
    assert "it has reserve, charge" in (await desk.saga("mark-undone", "1", "--step", "x", "--reason", "y")).err
    done = await desk.saga("mark-undone", "1", "--step", "reserve", "--reason", "put back by hand")
    assert (done.code, done.out) == (exits.OK, "mark-undone order/1: order/1 is COMPENSATED\n")
    told = (await desk.saga("status", "1", "--history", "-o", "json")).json
    assert told["history"][-1]["kind"] == "operator"
    assert told["history"][-1]["source"]


async def test_compensation_stops_and_goes_on(desk: Desk) -> None:
    assert (await desk.saga("stop", "--reason", "x", "-y")).code == exits.USAGE
    assert "say -y" in (await desk.saga("stop", "--all-undo", "--reason", "x")).err
    done = await desk.saga("stop", "--all-undo", "--reason", "the till is on fire", "-y")
    assert done.code == exits.OK
    assert "compensation is stopped" in done.out
    stage = desk.stage
    await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Declined(order_id="1"))
    await stage.until(
        lambda found: "order/1" in found and found["order/1"].steps["reserve"].state is StepState.COMPENSATING
    )
    assert await stage.sent("inventory.commands") == []
    told = validate((await desk.saga("resume", "-y", "-o", "json")).json, "saga.command/v1")
    assert (told["kind"], told["state"], told["id"]) == ("resume", "applied", None)
    await stage.eventually_sent("inventory.commands", 1)


async def test_without_a_coordinator_the_command_waits_for_one(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found)
    await desk.stage.stop()
    done = await desk.saga("cancel", "1", "--reason", "x", "--timeout", "0.2")
    assert done.code == exits.TIMED_OUT
    assert "queued; no coordinator took it within 0.2s" in done.out
    assert validate((await desk.saga("status", "1", "-o", "json")).json)["queued_commands"] == ["cancel"]
    assert "asked for and not applied yet: cancel" in (await desk.saga("status", "1")).out
    done = await desk.saga("start", "order", "order_id=9", "--timeout", "0", "-o", "json")
    assert (done.code, done.json["state"]) == (exits.OK, "queued")
    await desk.stage.start()
    await desk.stage.until(lambda found: "order/9" in found and found["order/1"].phase is Phase.COMPENSATING)


async def test_a_dry_run_asks_nothing(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found)
    for arguments in (
        ["cancel", "1", "--reason", "x"],
        ["start", "order", "order_id=2"],
        ["stop", "--all-undo", "--reason", "x"],
    ):
        told = validate((await desk.saga(*arguments, "--dry-run", "-o", "json")).json, "saga.command/v1")
        assert told["state"] == "dry-run"
    assert validate((await desk.saga("status", "1", "-o", "json")).json)["queued_commands"] == []


async def test_a_timer_that_is_held_shows_that_the_coordinator_lags(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found)
    await desk.stage.stop()
    desk.stage.now += 60 * SECOND
    told = (await desk.saga("status", "1", "-o", "json")).json
    lagging = [condition for condition in told["conditions"] if condition["type"] == "CoordinatorLagging"]
    assert [condition["reason"] for condition in lagging] == ["Unread"]
    assert "CoordinatorLagging" in (await desk.saga("status", "1")).out


async def test_the_plan_of_a_cancellation_is_shown_before_it_is_asked_for(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
    await desk.stage.until(lambda found: "order/1" in found and found["order/1"].steps["reserve"].done is not None)
    done = await desk.saga("cancel", "1", "--plan", "-o", "json")
    assert done.code == exits.OK
    told = validate(done.json, "saga.cancel-plan/v1")
    assert [undo["step"] for wave in told["waves"] for undo in wave][-1] == "reserve"
    assert "undo reserve with Release" in (await desk.saga("cancel", "1", "--plan")).out
    unsaid = await desk.saga("cancel", "1")
    assert unsaid.code == exits.USAGE
    assert "--reason" in unsaid.err
    await desk.stage.until(lambda found: found["order/1"].phase is Phase.RUNNING)


async def test_wait_waits_for_the_beginning_and_gives_the_outcome(desk: Desk) -> None:
    late = await desk.saga("wait", "order/9", "--timeout", "0.3")
    assert late.code == exits.TIMED_OUT
    assert "order/9 has not begun after 0.3s" in late.err
    waiting = asyncio.create_task(desk.saga("wait", "order/9", "--timeout", "60"))
    await desk.stage.publish(Placed(order_id="9"), Reserved(order_id="9"), Paid(order_id="9"))
    done = await waiting
    assert (done.code, done.out) == (exits.OK, "order/9 COMPLETED\n")
    again = await desk.saga("wait", "order/9", "-o", "json")  # a retried task meets the same saga
    assert (again.code, validate(again.json)["phase"]) == (exits.OK, "COMPLETED")


async def test_wait_by_the_event_that_began_it_means_that_run_and_no_other(desk: Desk) -> None:
    await desk.stage.publish(Placed(order_id="9"), Reserved(order_id="9"), Paid(order_id="9"))
    assert (await desk.saga("wait", "order/9")).code == exits.OK
    await desk.stage.publish(Placed(order_id="9"))  # a second run of a finished key is refused
    entries: list[dict[str, object]] = []
    async with asyncio.timeout(60):
        while len(begun := [str(each["event_id"]) for each in entries if each["type"] == "Placed"]) < 2:
            await asyncio.sleep(0.1)
            entries = (await desk.saga("status", "order/9", "--history", "-o", "json")).json["history"]
    first, second = begun
    done = await desk.saga("wait", "order/9", "--event", first)
    assert (done.code, done.out) == (exits.OK, "order/9 COMPLETED\n")
    refused = await desk.saga("wait", "order/9", "--event", second)
    assert refused.code == exits.NOT_ALLOWED
    assert "the event came to order/9 and changed nothing" in refused.err
    late = await desk.saga("wait", "order/9", "--event", "unheard", "--timeout", "0.3")
    assert late.code == exits.TIMED_OUT
    assert "order/9 has not begun by event unheard after 0.3s" in late.err
    assert (await desk.saga("wait", "9", "--event", first)).code == exits.USAGE


async def test_sagas_are_counted_by_what_they_have_in_common(desk: Desk) -> None:
    for key in ("1", "2", "3"):
        await desk.stage.publish(Placed(order_id=key), Reserved(order_id=key), Declined(order_id=key))
    await desk.stage.publish(Placed(order_id="4"))
    await desk.stage.until(lambda found: len(found) == 4 and found["order/3"].phase is Phase.COMPENSATING)
    done = await desk.saga("list", "--group-by", "error", "-o", "json")
    groups = {each["value"]: validate(each, "saga.group/v1")["count"] for each in done.json}
    assert groups == {"Declined": 3}, "what has no error is no group of them"
    assert "Declined" in (await desk.saga("list", "--group-by", "error")).out
    done = await desk.saga("list", "--group-by", "state", "-o", "json")
    assert {each["value"]: each["count"] for each in done.json} == {"COMPENSATING": 3, "RUNNING": 1}
