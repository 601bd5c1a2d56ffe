"""`saga approve`, `reject` and `dismiss`, and how a saga that waits for a person is shown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo import Saga, approval, policy, step
from choreo.saga.cli import exits
from choreo.saga.words import Condition, Phase, StepState
from tests.saga.stage import Declined, Paid, Placed, Reserved, Stage
from tests.support.console import Console, Done


class Order(Saga, start=Placed, key="order_id", policies={Declined: policy(late="ask")}):
    reserve = step(done=Reserved, failed=Declined, undo=None, within="1h")
    agree = approval(who="credit", within="2d", after=reserve, approved=Paid)


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
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", (Order,)) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
        await stage.until(lambda found: "order/1" in found and found["order/1"].steps["agree"].open)
        yield Desk(stage, Console(capsys, tmp_path))


async def test_an_approval_is_shown_with_what_one_may_type_and_the_history_says_who(desk: Desk) -> None:
    shown = await desk.saga("status", "1")
    assert "WaitingForPerson" in shown.out
    assert "the approval of credit" in shown.out
    assert "saga approve order/1 agree --reason ... · saga reject order/1 agree --reason ..." in shown.err
    listed = await desk.saga("list", "--waiting-for-person")
    assert "step agree waits for the approval of credit" in listed.out
    done = await desk.saga("approve", "1", "--by", "ann", "--reason", "pays well")
    assert (done.code, done.out) == (exits.OK, "approve order/1: order/1 is COMPLETED\n")
    history = (await desk.saga("status", "1", "--history", "-o", "json")).json["history"]
    assert (history[-1]["type"], history[-1]["source"]) == ("approve", "ann")
    assert history[-1]["changes"][0]["reason"] == "approved by ann: pays well"
    again = await desk.saga("approve", "1", "agree")
    assert again.code == exits.NOT_ALLOWED
    assert "order/1" not in (await desk.saga("list", "--waiting-for-person")).out


async def test_why_names_the_approval_and_the_commands(desk: Desk) -> None:
    told = await desk.saga("why", "1")
    assert "waits for the approval of credit" in told.out
    assert "saga approve order/1 agree" in told.out + told.err


async def test_a_rejection_needs_a_reason_and_a_step_that_there_is(desk: Desk) -> None:
    assert (await desk.saga("reject", "1", "--reason", " ")).code == exits.USAGE
    assert "has no step 'pay'" in (await desk.saga("reject", "1", "pay", "--reason", "x")).err
    assert (await desk.saga("reject", "1", "agree", "--reason", "owes us")).code == exits.OK
    assert (await desk.stage.instances())["order/1"].phase is Phase.COMPENSATED


async def test_a_late_event_is_asked_about_and_dismissed(desk: Desk) -> None:
    await desk.stage.publish(Paid(order_id="1"))
    await desk.stage.until(lambda found: found["order/1"].phase is Phase.COMPLETED)
    await desk.stage.publish(Declined(order_id="1"))
    await desk.stage.until(lambda found: Condition.WAITING_FOR_PERSON in found["order/1"].conditions)
    assert (
        "saga dismiss order/1 --reason ... · saga cancel order/1 --reason ..." in (await desk.saga("status", "1")).err
    )
    assert (await desk.saga("status", "1", "--exit-status")).code == 4
    assert (await desk.saga("dismiss", "1", "--reason", "a mistake")).code == exits.OK
    found = (await desk.stage.instances())["order/1"]
    assert (found.phase, found.steps["reserve"].state) == (Phase.COMPLETED, StepState.DONE)
    assert (await desk.saga("dismiss", "1", "--reason", "again")).code == exits.NOT_ALLOWED
