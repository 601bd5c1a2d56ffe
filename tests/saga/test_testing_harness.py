"""The Harness itself: time, stand-ins, order, and what a test is told when it is used wrongly."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from contextvars import ContextVar
from datetime import timedelta

import pytest

from choreo import (
    ConfigurationError,
    Context,
    DefinitionError,
    Event,
    Refused,
    Retry,
    Saga,
    SagaNotFound,
    Service,
    Transaction,
    step,
)
from choreo.saga.testing import Harness, NeverSettles, answers, crashes, in_turn, silent


class Asked(Event, topic="asks", key="name"):
    name: str
    amount: int = 1


class Reminded(Event, topic="reminders", key="name"):
    name: str


class Agreed(Event, topic="answers", key="name"):
    name: str
    by: str


class Declined(Event, topic="answers", key="name"):
    name: str


class Withdraw(Event, topic="withdrawals", key="name"):
    name: str


class Withdrawn(Event, topic="answers", key="name"):
    name: str


class Filed(Event, topic="files", key="name"):
    name: str


class Consent(Saga, start=Asked, key="name"):
    agree = step(done=Agreed, failed=Declined, undo=Withdraw, undone=Withdrawn, within="3d")
    file = step(after=agree, done=Filed, undo=None, within="1h")


AGREE = answers(Agreed, by="bob")


async def test_three_days_pass_on_the_virtual_clock_only() -> None:
    async with Harness(Consent, play={Asked: silent(), Withdraw: answers(Withdrawn)}) as harness:
        began, before = harness.now, time.monotonic()
        await harness.publish(Asked(name="a"))
        await harness.advance("2d 23h 59m 59s")
        assert harness.saga("consent/a").steps["agree"] == "WAITING"
        await harness.advance("1s")
        assert harness.saga("consent/a").phase == "COMPENSATED"
        assert harness.now - began == timedelta(days=3)
        assert time.monotonic() - before < harness.now.timestamp() - began.timestamp()


async def test_time_stands_still_while_the_test_waits() -> None:
    async with Harness(Consent, play={Asked: answers(Agreed, by="bob", after="1ms")}) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
        before = harness.now
        await asyncio.sleep(0.02)
        assert harness.now == before
        assert harness.sent(Agreed) == []


async def test_a_handler_sleeps_on_the_virtual_clock() -> None:
    clerk = Service("clerk", store=None)

    @clerk.on(Asked)
    async def think(asked: Asked) -> Agreed:
        await asyncio.sleep(3600)
        return Agreed(name=asked.name, by="clerk")

    async with Harness(clerk) as harness:
        began = harness.now
        await harness.publish(Asked(name="a"))
        await harness.advance("59m 59s")
        assert harness.sent(Agreed) == []
        await harness.advance("1s")
        [told] = [each for each in harness.published if isinstance(each.event, Agreed)]
        assert told.at - began == timedelta(hours=1)
        assert told.source == "clerk"


async def test_a_timeout_in_a_handler_passes_on_the_virtual_clock() -> None:
    clerk = Service("clerk", store=None)

    @clerk.on(Asked)
    async def wait(asked: Asked) -> Agreed | Declined:
        try:
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        except TimeoutError:
            return Declined(name=asked.name)
        return Agreed(name=asked.name, by="clerk")

    async with Harness(clerk) as harness:
        began = harness.now
        await harness.publish(Asked(name="a"))
        await harness.run()
        assert len(harness.sent(Declined)) == 1
        assert harness.now - began == timedelta(hours=1)


async def test_a_handler_that_sleeps_in_its_transaction_holds_up_nothing_but_its_store() -> None:
    clerk = Service("clerk")

    @clerk.on(Asked, exhausted="park")
    async def slow(asked: Asked, tx: Transaction) -> Agreed:
        await tx.execute("SELECT 1")
        await asyncio.sleep(3600)
        return Agreed(name=asked.name, by="clerk")

    async with Harness(clerk, Consent) as harness:
        began = harness.now
        await harness.publish(Asked(name="a"))
        await harness.settle()
        assert harness.now == began
        assert harness.saga("consent/a").steps["agree"] == "WAITING"
        await harness.advance("1h")
        assert harness.saga("consent/a").steps["agree"] == "DONE"
        assert harness.now - began == timedelta(hours=1)


async def test_a_thread_of_a_handler_is_waited_for() -> None:
    clerk = Service("clerk", store=None)

    @clerk.on(Asked)
    async def look_up(asked: Asked) -> Agreed:
        await asyncio.to_thread(time.sleep, 0.05)
        return Agreed(name=asked.name, by="clerk")

    async with Harness(clerk) as harness:
        began = harness.now
        await harness.publish(Asked(name="a"))
        await harness.settle()
        assert len(harness.sent(Agreed)) == 1
        assert harness.now == began


async def test_pauses_between_tries_are_exact() -> None:
    tries: list[timedelta] = []
    clerk = Service("clerk")
    harness = Harness(clerk)
    began = None

    @clerk.on(Asked, retry=Retry(attempts=3, first="10m", most="1h"))
    async def fail(_asked: Asked, context: Context) -> None:
        tries.append(harness.now - began)
        assert context.attempt == len(tries)
        raise ConnectionError

    async with harness:
        began = harness.now
        await harness.publish(Asked(name="a"))
        await harness.run()
    assert tries[0] == timedelta(0)
    assert timedelta(minutes=5) <= tries[1] <= timedelta(minutes=10)
    assert timedelta(minutes=10) <= tries[2] - tries[1] <= timedelta(minutes=20)


async def test_what_is_parked_is_tried_again_until_it_works() -> None:
    clerk = Service("clerk")
    tries = []

    @clerk.on(Asked, retry=Retry(attempts=1, first="1h", most="1h"), exhausted="park")
    async def stubborn(asked: Asked) -> Agreed:
        tries.append(asked.name)
        if len(tries) < 3:
            raise ConnectionError
        return Agreed(name=asked.name, by="clerk")

    async with Harness(clerk) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
        assert len(tries) == 1
        await harness.run()
        assert len(tries) == 3
        assert len(harness.sent(Agreed)) == 1
        assert harness.dead_letters() == []


async def test_a_stand_in_takes_its_time_and_fills_its_answer_by_name() -> None:
    async with Harness(Consent, play={Asked: answers(Agreed, by="bob", after="2h"), Agreed: answers(Filed)}) as harness:
        await harness.publish(Asked(name="a"), Asked(name="b"))
        await harness.run()
        assert sorted(each.name for each in harness.sent(Agreed)) == ["a", "b"]
        assert {each.by for each in harness.sent(Agreed)} == {"bob"}
        saga = harness.saga("consent/a")
        assert saga.phase == "COMPLETED"
        assert saga.ended_at is not None
        assert saga.ended_at - saga.started_at == timedelta(hours=2)


async def test_stand_ins_take_turns_for_each_key() -> None:
    turns = in_turn(crashes(ConnectionError(), instead_of=Agreed), AGREE)
    async with Harness(Consent, play={Asked: turns, Agreed: answers(Filed)}) as harness:
        await harness.publish(Asked(name="a"), Asked(name="b"))
        await harness.settle()
        assert harness.sent(Agreed) == []
        await harness.run()
        assert sorted(each.name for each in harness.sent(Agreed)) == ["a", "b"]
        assert harness.dead_letters() == []


async def test_a_crash_fails_the_step_whose_outcome_it_owed() -> None:
    crash = crashes(RuntimeError("no paper"), instead_of=Agreed)
    async with Harness(Consent, play={Asked: crash, Withdraw: answers(Withdrawn)}) as harness:
        await harness.publish(Asked(name="a"))
        await harness.run()
        saga = harness.saga("consent/a")
        assert saga.phase == "COMPENSATED"
        assert str(saga.cause) == "agree: RuntimeError: no paper"
        [letter] = harness.dead_letters()
        assert (letter.service, letter.message, letter.attempts) == ("stand-in.asked", "no paper", 5)


async def test_one_event_may_have_several_stand_ins() -> None:
    async with Harness(play={Asked: [AGREE, answers(Declined)]}) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
        assert {each.source for each in harness.published} == {"test", "stand-in.asked.1", "stand-in.asked.2"}


async def test_an_undo_that_failed_is_asked_for_again_or_done_by_hand() -> None:
    play = {Asked: AGREE, Withdraw: silent()}
    async with Harness(Consent, play=play) as harness:
        await harness.publish(Asked(name="a"), Asked(name="b"))
        await harness.run()
        assert {saga.phase for saga in harness.sagas.values()} == {"FAILED"}
        assert {saga.steps["agree"] for saga in harness.sagas.values()} == {"UNDO_FAILED"}
        await harness.mark_undone("consent/a", reason="by phone")
        assert harness.saga("consent/a").phase == "COMPENSATED"
        await harness.retry_undo("consent/b")
        assert harness.saga("consent/b").phase == "COMPENSATING"
        await harness.publish(Withdrawn(name="b"))
        await harness.run()
        assert harness.saga("consent/b").phase == "COMPENSATED"
        assert len(harness.saga("consent/b").commands) == 2


async def test_what_a_person_must_let_go_on_is_not_waited_for() -> None:
    async with Harness(Consent, play={Asked: silent(), Withdraw: answers(Withdrawn)}) as harness:
        await harness.publish(*(Asked(name=str(n)) for n in range(60)))
        await harness.run()
        assert {saga.phase for saga in harness.sagas.values()} == {"RUNNING"}
        await harness.stop(reason="what is this?")
        await harness.resume(reason="they all had three days")
        await harness.run()
        assert {saga.phase for saga in harness.sagas.values()} == {"COMPENSATED"}


async def test_compensation_stops_for_a_person() -> None:
    async with Harness(Consent, play={Asked: silent(), Withdraw: answers(Withdrawn)}) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
        await harness.stop()
        await harness.run()
        assert harness.saga("consent/a").phase == "COMPENSATING"
        assert harness.sent(Withdraw) == []
        await harness.resume()
        await harness.run()
        assert harness.saga("consent/a").phase == "COMPENSATED"


async def test_a_person_starts_a_saga() -> None:
    async with Harness(Consent, play={Asked: AGREE, Agreed: answers(Filed)}) as harness:
        await harness.start(Consent, Asked(name="a"))
        await harness.settle()
        assert harness.saga("consent/a").phase == "COMPLETED"
        with pytest.raises(Refused, match="does not start consent"):
            await harness.start(Consent, Declined(name="b"))


async def test_a_repeated_event_changes_nothing() -> None:
    async with Harness(Consent, play={Asked: AGREE, Agreed: answers(Filed)}) as harness:
        id_ = str(uuid.UUID(int=7))
        for _ in range(3):
            assert await harness.publish(Asked(name="a"), id=id_) == [id_]
        await harness.settle()
        assert [entry.type for entry in harness.saga("consent/a").history] == ["Asked", "Agreed", "Filed"]


async def test_run_stops_when_somebody_answers_nobody() -> None:
    ping = Service("ping", store=None)

    @ping.on(Asked)
    async def again(asked: Asked) -> Asked:
        return Asked(name=asked.name, amount=asked.amount + 1)

    async with Harness(ping) as harness:
        await harness.publish(Asked(name="a"))
        with pytest.raises(NeverSettles):
            await harness.settle()


async def test_run_tells_where_sagas_stand_when_they_take_too_long() -> None:
    async with Harness(Consent, play={Asked: silent(), Withdraw: silent()}) as harness:
        await harness.publish(Asked(name="a"))
        with pytest.raises(AssertionError, match="not at rest after 1h 00m: consent/a"):
            await harness.run(most="1h")


async def test_a_failed_test_is_told_where_every_saga_stood() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        async with Harness(Consent, play={Asked: AGREE}, seed=7) as harness:
            await harness.publish(Asked(name="a"))
            await harness.settle()
            _ = 1 / 0
    [note] = caught.value.__notes__
    assert note.startswith("Harness(seed=7) at 2026-01-01 00:00:00")
    assert "consent/a is RUNNING: agree DONE, file WAITING" in note


async def test_an_error_of_a_part_is_the_tests_error() -> None:
    class Other(Saga, start=Asked, key="name", type="consent"):
        agree = step(done=Agreed, undo=None, within="1d")

    with pytest.raises(DefinitionError, match="version=2"):
        async with Harness(Consent, Other):
            raise AssertionError("it must not start")


async def test_the_tests_context_reaches_handlers() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen = []
    clerk = Service("clerk", store=None)

    @clerk.on(Asked)
    async def note(_asked: Asked) -> None:
        seen.append(tenant.get("nobody"))

    tenant.set("shop")
    async with Harness(clerk) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
    assert seen == ["shop"]


async def test_a_test_that_is_cancelled_stops_its_harness() -> None:
    ping = Service("ping", store=None)

    @ping.on(Asked)
    async def again(asked: Asked) -> Asked:
        await asyncio.sleep(1)
        return asked

    async with Harness(ping) as harness:
        await harness.publish(Asked(name="a"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await harness.run(most="100000d")
        await harness.advance("1s")
        assert len(harness.sent(Asked)) > 1


async def test_calls_from_several_tasks_come_one_after_another() -> None:
    async with Harness(Consent, play={Asked: AGREE, Agreed: answers(Filed)}) as harness:
        await asyncio.gather(*(harness.publish(Asked(name=str(n))) for n in range(20)), harness.run(most="1d"))
        await harness.run()
        assert {saga.phase for saga in harness.sagas.values()} == {"COMPLETED"}
        assert len(harness.sagas) == 20


async def test_two_harnesses_know_nothing_of_each_other() -> None:
    async with Harness(play={Asked: AGREE}) as one, Harness(play={Asked: AGREE}) as other:
        await one.publish(Asked(name="a"))
        await asyncio.gather(one.advance("1h"), other.advance("1d"))
        assert (len(one.sent(Agreed)), len(other.sent(Agreed))) == (1, 0)
        assert other.now - one.now == timedelta(hours=23)


async def test_no_environment_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_STORE", "postgresql://nobody@nowhere.invalid/x")
    monkeypatch.setenv("CHOREO_TOPIC_PREFIX", "live.")
    async with Harness(Service("clerk", store="postgresql://nobody@nowhere.invalid/x"), Consent) as harness:
        await harness.publish(Asked(name="a"))
        await harness.settle()
        assert list(harness.sagas) == ["consent/a"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Harness, "give it services and saga classes"),
        (lambda: Harness(Asked), "give it services and saga classes"),  # type: ignore[arg-type]
        (lambda: Harness(Service("a"), Service("a")), "two services are called 'a'"),
        (lambda: Harness(play={Asked: answers(Agreed)}), r"'by' is not in Asked; say it: answers\(Agreed, by=...\)"),
        (lambda: Harness(play={Asked: in_turn(silent(), answers(Agreed))}), "'by' is not in Asked"),
        (lambda: answers(Agreed, of="bob"), "none of Agreed has a field 'of'"),
        (answers, "silent"),
        (lambda: answers(Agreed, after="soon"), "is not a positive duration"),
        (in_turn, "takes stand-ins"),
    ],
)
def test_a_mistake_is_told_in_one_line(make: object, told: str) -> None:
    with pytest.raises((ConfigurationError, DefinitionError), match=told) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


async def test_a_harness_is_used_while_it_runs() -> None:
    harness = Harness(Consent)
    with pytest.raises(ConfigurationError, match="async with"):
        await harness.settle()
    async with harness:
        with pytest.raises(SagaNotFound):
            harness.saga("consent/nobody")
        with pytest.raises(ConfigurationError, match="one event"):
            await harness.publish(Asked(name="a"), Asked(name="b"), id="7")
    with pytest.raises(ConfigurationError, match="async with"):
        harness.saga("consent/a")
    with pytest.raises(ConfigurationError, match="one run"):
        async with harness:
            pass


PROGRAM = """
import asyncio
from decimal import Decimal
from choreo.saga.demo.events import CRASHES, DECLINED, PIANO, OrderPlaced
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.testing import Harness

async def main(seed):
    async with Harness(*SERVICES, Fulfilment, seed=seed) as harness:
        kinds = [("lamp", "card"), (PIANO, "card"), ("lamp", DECLINED), ("lamp", CRASHES)]
        for number, (article, card) in enumerate(kinds * 2):
            order = dict(order_id=str(number), customer="c", email="c@d.example", article=article, card=card)
            await harness.publish(OrderPlaced.model_validate({**order, "quantity": 1, "total": Decimal(1)}))
            await harness.advance("300ms")
        await harness.run()
        print(harness.story(), *harness.published, *harness.dead_letters(), sep="\\n")

import logging, structlog, sys
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
asyncio.run(main(int(sys.argv[1])))
"""


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    def run(seed: int, hash_seed: int) -> str:
        command = [sys.executable, "-c", PROGRAM, str(seed)]
        environment = {"PYTHONHASHSEED": str(hash_seed), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    one = run(1, 1)
    assert one.count("\n") > 100
    assert run(1, 2) == one


async def test_another_seed_gives_other_ids_and_other_pauses() -> None:
    found = set()
    for seed in (1, 2, 1):
        crash = crashes(ConnectionError(), instead_of=Agreed)
        async with Harness(play={Asked: crash}, seed=seed) as harness:
            [id_] = await harness.publish(Asked(name="a"))
            await harness.run()
            found.add((id_, harness.now))
    assert len(found) == 2


async def test_pauses_of_months_end_when_they_are_over() -> None:
    woken: list[float] = []
    sleeper = Service("sleeper", store=None)

    @sleeper.on(Asked)
    async def sleep(asked: Asked) -> None:
        woken.append(asyncio.get_running_loop().time())
        for _ in range(3):
            await asyncio.sleep(60 * 86_400.1)
            woken.append(asyncio.get_running_loop().time())

    async with Harness(sleeper) as harness:
        await harness.publish(Asked(name="a"))
        await harness.advance("190d")
    assert [round(at - woken[0]) for at in woken] == [0, 5_184_006, 10_368_012, 15_552_018]
