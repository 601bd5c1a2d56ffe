"""How a saga stands, over HTTP: the long poll, and that whoever asks again finds the run that is theirs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from choreo import Saga, approval, step
from choreo.events.gateway import Gateway
from choreo.saga import door as door_module
from choreo.saga.cli.app import call
from choreo.saga.door import SagaDoor
from tests.saga.stage import Again, Declined, Paid, Placed, Refused, Released, Reserved, Stage, header


class Asked(Saga, start=Placed, key="order_id"):
    check = approval(who="the board", within="1h")
    reserve = step(after=check, done=Reserved, undo=None, within="30s")


class Caller:
    """Somebody who speaks HTTP."""

    def __init__(self, stage: Stage, door: SagaDoor, client: httpx.AsyncClient) -> None:
        self.stage, self.door, self.client = stage, door, client

    async def place(self, order: str, run: str, **data: Any) -> httpx.Response:
        """Start an order, as the task of a scheduler does, with its run id."""
        headers = {
            "ce-specversion": "1.0",
            "ce-source": "/scheduler",
            "ce-type": "Placed",
            "content-type": "application/json",
            "idempotency-key": run,
        }
        return await self.client.post("/events", content=json.dumps({"order_id": order, **data}), headers=headers)

    async def outcome(self, accepted: httpx.Response, wait: float = 60) -> httpx.Response:
        """Wait for the end of the run that was accepted."""
        assert accepted.status_code == 202, accepted.text
        return await self.get(f"{accepted.headers['location']}&wait={wait}")

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path, timeout=90)


@asynccontextmanager
async def calling(stage: Stage) -> AsyncIterator[Caller]:
    settings = stage.settings.model_copy(update={"store": stage.url})
    door = SagaDoor(settings)
    gateway = Gateway([Placed], broker=stage.broker, settings=settings, tokens=[], doors=[door])
    async with gateway, httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://here") as client:
        yield Caller(stage, door, client)


@pytest.fixture
async def caller(stage: Stage) -> AsyncIterator[Caller]:
    await stage.start()
    async with calling(stage) as made:
        yield made


async def finish(stage: Stage, order: str = "1") -> None:
    await stage.publish(Reserved(order_id=order), Paid(order_id=order))


async def ended(stage: Stage, name: str) -> None:
    await stage.until(lambda all_: name in all_ and all_[name].phase.ended)


# -- how it stands -----------------------------------------------------------------------------------------------------


async def test_a_caller_waits_for_the_end_of_what_it_has_started(caller: Caller) -> None:
    accepted = await caller.place("1", "run-17")
    assert accepted.json()["sagas"] == [
        {"type": "order", "key": "1", "url": f"/sagas/order/1?event={accepted.json()['id']}"}
    ]
    waiting = asyncio.create_task(caller.outcome(accepted))
    await caller.stage.until(lambda all_: "order/1" in all_)
    assert not waiting.done()
    await finish(caller.stage)
    answer = await waiting
    assert (answer.status_code, answer.json()["phase"]) == (200, "COMPLETED")
    assert answer.headers["cache-control"] == "no-store"


async def test_the_answer_is_what_saga_status_says(caller: Caller, capsys: pytest.CaptureFixture[str]) -> None:
    await caller.stage.publish(Placed(order_id="1"), Refused(order_id="1"))
    await ended(caller.stage, "order/1")
    told = (await caller.get("/sagas/order/1")).json()
    arguments = ["status", "order/1", "-o", "json", "--store", caller.stage.url, "--broker", "memory:x"]
    assert await asyncio.to_thread(call, arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert told.pop("observed").keys() == said.pop("observed").keys()
    assert told == said


async def test_without_wait_it_is_answered_at_once(caller: Caller) -> None:
    await caller.stage.publish(Placed(order_id="1"))
    await caller.stage.until(bool)
    answer = await caller.get("/sagas/order/1")
    assert (answer.status_code, answer.json()["phase"], answer.json()["ended_at"]) == (200, "RUNNING", None)


async def test_a_wait_that_is_over_tells_that_the_saga_is_open(caller: Caller) -> None:
    await caller.stage.publish(Placed(order_id="1"))
    began = time.monotonic()
    answer = await caller.get("/sagas/order/1?wait=0.5")
    assert (answer.status_code, answer.json()["phase"]) == (200, "RUNNING")
    assert time.monotonic() - began >= 0.5


async def test_what_has_not_begun_is_waited_for_and_then_not_found(caller: Caller) -> None:
    answer = await caller.get("/sagas/order/1?wait=0.3")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:choreo:problem:not-begun")
    waiting = asyncio.create_task(caller.get("/sagas/order/1?wait=60"))
    await asyncio.sleep(0.2)
    await caller.stage.publish(Placed(order_id="1"), Refused(order_id="1"))
    assert (await waiting).json()["phase"] == "COMPENSATED"


async def test_whoever_waits_is_told_that_a_person_is_needed(stage: Stage) -> None:
    stage.sagas = (Asked,)
    await stage.start()
    async with calling(stage) as caller:
        await stage.publish(Placed(order_id="1"))
        answer = await caller.get("/sagas/asked/1?wait=60")
        assert answer.json()["phase"] == "RUNNING"
        assert [each["type"] for each in answer.json()["conditions"]] == ["WaitingForPerson"]


async def test_the_saga_of_another_type_with_that_key_is_not_meant(caller: Caller) -> None:
    await caller.stage.publish(Placed(order_id="1"))
    await caller.stage.until(bool)
    assert (await caller.get("/sagas/other/1")).status_code == 404


@pytest.mark.parametrize("key", ["a/b c", "a~2", "100%", "größe", "a%2Fb", "?x=1&y"])
async def test_every_key_finds_its_saga(sqlite_stage: Stage, key: str) -> None:
    await sqlite_stage.start()
    async with calling(sqlite_stage) as caller:
        accepted = await caller.place(key, "run-17")
        await sqlite_stage.until(bool)
        answer = await caller.outcome(accepted, wait=0)
        assert (answer.status_code, answer.json()["key"]) == (200, key), answer.text
        by_name = await caller.get(accepted.json()["sagas"][0]["url"].partition("?")[0])
        assert (by_name.status_code, by_name.json()["key"]) == (200, key), by_name.text


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/sagas/Order/1", "type"),
        ("/sagas/order/", "key"),
        ("/sagas/order/a%00b", "key"),
        ("/sagas/order/1?wait=61", "wait"),
        ("/sagas/order/1?wait=-1", "wait"),
        ("/sagas/order/1?wait=nan", "wait"),
        ("/sagas/order/1?wait=soon", "wait"),
        ("/sagas/order/1?event=", "event"),
        ("/sagas/order/1?timeout=3", "timeout"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(sqlite_stage: Stage, path: str, named: str) -> None:
    await sqlite_stage.start()
    async with calling(sqlite_stage) as caller:
        answer = await caller.get(path)
        assert (answer.status_code, [each["field"] for each in answer.json()["errors"]]) == (400, [named])


async def test_a_store_that_is_not_there_yet_is_told_and_found_later(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = f"sqlite:{tmp_path_factory.mktemp('later') / 'saga.db'}"
    async with Stage(f"sqlite:{tmp_path_factory.mktemp('other') / 'saga.db'}") as other:
        other.url = url
        async with calling(other) as caller:
            assert (await caller.place("1", "run-17")).json()["sagas"] == [], "nobody knows yet which saga it starts"
            answer = await caller.get("/sagas/order/1")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            async with Stage(url, broker=other.broker) as stage:
                await stage.start()
                await caller.place("2", "run-18")
                await stage.until(lambda all_: "order/2" in all_)
                assert (await caller.get("/sagas/order/2")).status_code == 200


async def test_only_so_many_wait_at_once(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MOST_WAITING", 1)
    await caller.stage.publish(Placed(order_id="1"))
    await caller.stage.until(lambda found: "order/1" in found)
    waiting = asyncio.create_task(caller.get("/sagas/order/1?wait=60"))
    while not caller.door._waiting:
        await asyncio.sleep(0.01)
    answer = await caller.get("/sagas/order/1?wait=60")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await caller.get("/sagas/order/1")).status_code == 200
    caller.door.end_waiting()
    assert (await waiting).status_code == 200, "who waits is answered when the process ends"


# -- again -------------------------------------------------------------------------------------------------------------


async def test_a_retry_while_the_saga_runs_finds_the_same_saga(caller: Caller) -> None:
    first = await caller.place("1", "run-17")
    await caller.stage.until(lambda all_: "order/1" in all_)
    again = await caller.place("1", "run-17")
    assert again.json() == first.json()
    waiting = [asyncio.create_task(caller.outcome(each)) for each in (first, again)]
    await finish(caller.stage)
    answers = [await each for each in waiting]
    assert [each.json()["phase"] for each in answers] == ["COMPLETED"] * 2
    assert list(await caller.stage.instances()) == ["order/1"]


async def test_a_retry_after_the_end_is_told_that_end(caller: Caller) -> None:
    first = await caller.place("1", "run-17")
    await finish(caller.stage)
    await ended(caller.stage, "order/1")
    seq = (await caller.stage.instances())["order/1"].seq
    again = await caller.place("1", "run-17")
    answer = await caller.outcome(again)
    assert (again.json(), answer.json()["phase"]) == (first.json(), "COMPLETED")
    await caller.stage.settled()
    assert (await caller.stage.instances())["order/1"].seq == seq, "nothing has come to it"


async def test_a_retry_after_the_gateway_died_finds_the_same_saga(stage: Stage) -> None:
    """It had published, and its answer never came: the next one knows nothing of it."""
    await stage.start()
    async with calling(stage) as before:
        lost = await before.place("1", "run-17")
    async with calling(stage) as caller:
        again = await caller.place("1", "run-17")
        assert again.json() == lost.json()
        assert len(await stage.sent("orders")) == 2, "it was published again, under the same id"
        await finish(stage)
        assert (await caller.outcome(again)).json()["phase"] == "COMPLETED"
        await stage.settled()
        assert list(await stage.instances()) == ["order/1"]
        assert (await stage.ignored())["Placed", "duplicate"] == 1


async def test_two_callers_at_once_with_one_run_id_share_one_saga(caller: Caller) -> None:
    both = await asyncio.gather(caller.place("1", "run-17"), caller.place("1", "run-17"))
    assert both[0].json() == both[1].json()
    waiting = [asyncio.create_task(caller.outcome(each)) for each in both]
    await caller.stage.until(bool)
    await finish(caller.stage)
    assert [(await each).json()["phase"] for each in waiting] == ["COMPLETED"] * 2
    assert list(await caller.stage.instances()) == ["order/1"]


async def test_a_retry_finds_its_own_run_of_a_key_that_ran_again(stage: Stage) -> None:
    stage.sagas = (Again,)
    await stage.start()
    async with calling(stage) as caller:
        monday = await caller.place("report", "monday")
        await stage.publish(Reserved(order_id="report"))
        await ended(stage, "again/report")
        tuesday = await caller.place("report", "tuesday")
        await stage.until(lambda all_: "again/report~2" in all_)
        retried = [await caller.place("report", "monday"), await caller.place("report", "tuesday")]
        assert [each.json() for each in retried] == [monday.json(), tuesday.json()]
        found = [(await caller.outcome(each, wait=0)).json() for each in retried]
        assert [(each["id"], each["phase"]) for each in found] == [
            ("again/report", "COMPLETED"),
            ("again/report~2", "RUNNING"),
        ]
        await stage.settled()
        assert sorted(await stage.instances()) == ["again/report", "again/report~2"]


async def test_another_run_id_for_a_key_that_ran_is_told_so(caller: Caller) -> None:
    """It is refused by the saga, not by the broker: whoever waits for it must not be told of another run's end."""
    await caller.place("1", "run-17")
    await finish(caller.stage)
    await ended(caller.stage, "order/1")
    answer = await caller.outcome(await caller.place("1", "run-18"))
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:choreo:problem:not-attached")
    assert "order/1" in answer.json()["detail"]
    assert "rerun=True" in answer.json()["remedy"]


async def test_of_two_run_ids_at_once_one_has_the_saga_and_the_other_is_told(caller: Caller) -> None:
    accepted = await asyncio.gather(caller.place("1", "run-17"), caller.place("1", "run-18"))
    waiting = [asyncio.create_task(caller.outcome(each)) for each in accepted]
    await caller.stage.until(bool)
    await finish(caller.stage)
    answers = sorted([await each for each in waiting], key=lambda each: each.status_code)
    assert [each.status_code for each in answers] == [200, 409]
    assert answers[0].json()["phase"] == "COMPLETED"


async def test_an_undone_saga_is_told_to_the_retry_as_what_it_is(caller: Caller) -> None:
    accepted = await caller.place("1", "run-17")
    await caller.stage.publish(Reserved(order_id="1"), Declined(order_id="1"))
    (undo,) = await caller.stage.eventually_sent("inventory.commands", 1)
    await caller.stage.publish(Released(order_id="1"), causation_id=header(undo, "ce_id"))
    for each in (accepted, await caller.place("1", "run-17")):
        told = (await caller.outcome(each)).json()
        assert (told["phase"], told["cause"]["step"]) == ("COMPENSATED", "charge")


async def test_an_event_that_is_a_step_of_the_saga_is_found_too(caller: Caller) -> None:
    id_ = f"e-{uuid4()}"
    await caller.stage.publish(Placed(order_id="1"))
    await caller.stage.publish(Reserved(order_id="1"), id=id_)
    answer = await caller.get(f"/sagas/order/1?event={id_}&wait=60")
    assert (answer.status_code, answer.json()["id"]) == (200, "order/1")
