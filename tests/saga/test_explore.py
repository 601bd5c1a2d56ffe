"""`explore`: the demo shop, the examples and small sagas, run with everything going wrong that may."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from choreo import Event, Saga, Service, Transaction, step
from choreo.events.errors import ConfigurationError
from choreo.saga.testing import Explorer, Run, Seed, explore

from .explored import demo, olist, quickstart

ROOT = Path(__file__).parents[2]


def test_the_demo_shop_keeps_every_rule_and_its_books_whatever_goes_wrong() -> None:
    explored = demo(100, jobs=2)
    assert explored.runs == 100
    assert explored.hit[("broker-away", "")] > 0


def test_the_quickstart_keeps_every_rule_whatever_goes_wrong() -> None:
    assert quickstart(60).runs == 60


def test_the_olist_example_keeps_every_rule_whatever_goes_wrong() -> None:
    assert olist(40).runs == 40


@pytest.mark.slow
def test_a_seed_gives_the_same_run_in_every_process() -> None:
    program = (
        "from tests.saga.explored import explorer_of_the_demo\n"
        "explorer = explorer_of_the_demo()\n"
        "print([explorer.digest(seed) for seed in ('calm', 3, 41, 105)])\n"
    )
    found = set()
    for hash_seed in ("0", "1", "4711"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "PATH": ""}
        ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        found.add(ended.stdout)
    assert len(found) == 1


# ---- what it finds, and how it tells ---------------------------------------------------------------------------------


class Asked(Event, topic="desk", key="number"):
    number: str


class Given(Event, topic="desk", key="number"):
    number: str
    at: Decimal = Decimal(0)


given: list[str] = []
careless = Service("careless", store=None)


@careless.on(Asked)
async def give(asked: Asked) -> Given:
    given.append(asked.number)
    return Given(number=asked.number)


class Desk(Saga, start=Asked, key="number"):
    give = step(done=Given, undo=None, within="1m")


def once_each(run: Run) -> None:
    assert len(given) == len(set(given)), "given twice"


def asked_for(random: Random) -> list[Event]:
    return [Asked(number=str(number)) for number in range(random.randint(1, 3))]


def explorer_of_the_desk() -> Explorer:
    return Explorer(Desk, [careless], events=asked_for, finally_=once_each, fresh=given.clear)


def test_a_service_without_an_inbox_is_found_out_and_the_story_is_short() -> None:
    with pytest.raises(AssertionError) as caught:
        explore(Desk, [careless], events=asked_for, finally_=once_each, fresh=given.clear, seeds=60)
    told = str(caught.value)
    assert told.startswith("finally: given twice")
    assert "  fault: " in told
    assert told.count("  fault: ") == 1
    assert "run it again: explore(..., seeds=[Seed(" in told


def test_the_seed_of_a_failure_shows_it_again() -> None:
    explorer = explorer_of_the_desk()
    failure = explorer.first_failure(60)
    assert failure is not None
    shortest = explorer.shrink(failure)
    again = explorer.run(Seed(shortest.seed.text))
    explorer.close()
    assert again == shortest
    assert len(shortest.seed.faults or ()) == 1


def test_what_goes_wrong_without_any_fault_is_told_as_such() -> None:
    def never(run: Run) -> None:
        assert not run.sent(Given), "it was given"

    with pytest.raises(AssertionError, match=r"(?s)always: it was given.*without any fault"):
        explore(Desk, [careless], events=asked_for, always=never, fresh=given.clear, seeds=1)


@pytest.mark.asyncio
async def test_it_can_be_called_where_a_loop_runs() -> None:
    assert explore(Desk, [careless], events=asked_for, fresh=given.clear, seeds=2).runs == 2


def test_a_kind_of_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'earthquake' is none of kill, "):
        explore(Desk, [careless], events=asked_for, faults=["earthquake"])


@pytest.mark.parametrize("text", ["", "x", "1:g2", "1:f0:e0"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no seed"):
        Seed(text)


# ---- how true the simulated processes are ----------------------------------------------------------------------------

ran: list[str] = []
till = Service("till")


@till.on(Asked)
async def take(asked: Asked, tx: Transaction) -> Given:
    ran.append(asked.number)
    return Given(number=asked.number)


class Till(Saga, start=Asked, key="number"):
    take = step(done=Given, undo=None, within="1m")


def test_every_place_at_which_a_process_may_die_is_met() -> None:
    explorer = Explorer(Till, [till], events=[Asked(number="1")])
    passed = explorer.survey.passes
    explorer.close()
    assert sorted(passed) == [
        "the coordinator@coordinator.after_commit",
        "the coordinator@coordinator.before_commit",
        "the coordinator@coordinator.before_offsets",
        "the coordinator@coordinator.before_transaction",
        "the coordinator@coordinator.in_transaction",
        "the coordinator@relay.after_send",
        "the coordinator@relay.before_send",
        "till@relay.after_send",
        "till@relay.before_send",
        "till@service.after_commit",
        "till@service.after_effect",
        "till@service.after_publish",
        "till@service.before_commit",
        "till@service.before_effect",
        "till@service.before_offsets",
    ]


@pytest.mark.parametrize(
    ("place", "runs"), [("before_effect", 1), ("after_effect", 2), ("before_commit", 2), ("after_commit", 1)]
)
def test_what_a_process_had_not_committed_when_it_died_is_done_again(place: str, runs: int) -> None:
    explorer = Explorer(Till, [till], events=[Asked(number="1")], fresh=ran.clear, faults=["kill"])
    targets = [target for _, target in explorer.survey.targets(["kill"])]
    seed = targets.index(f"till@service.{place}")
    assert explorer.run(f"{seed}:f0:plain") is None
    explorer.close()
    assert len(ran) == runs
