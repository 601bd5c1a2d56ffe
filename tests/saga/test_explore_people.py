"""`explore` lets people act in the middle of a run, and every rule is kept."""

from __future__ import annotations

from collections import Counter

from choreo import Event, Retry, Saga, step
from choreo.saga.tables import command
from choreo.saga.testing import Explored, Run, answers, explore
from choreo.saga.testing.exploring.faults import PEOPLE, USUAL, Survey, make_plan
from choreo.saga.testing.exploring.troubles import COORDINATOR


class Asked(Event, topic="rides", key="ride"):
    ride: str


class Drive(Event, topic="drivers", key="ride"):
    ride: str


class Driven(Event, topic="rides", key="ride"):
    ride: str


class NoDriver(Event, topic="rides", key="ride"):
    ride: str


class Bill(Event, topic="bills", key="ride"):
    ride: str


class Billed(Event, topic="rides", key="ride"):
    ride: str


class Unbill(Event, topic="bills", key="ride"):
    ride: str


class Unbilled(Event, topic="rides", key="ride"):
    ride: str


class Ride(Saga, start=Asked, key="ride"):
    """A bill, and then a driver, of whom there is none at first."""

    bill = step(send=Bill, done=Billed, undo=Unbill, undone=Unbilled, optional=True, within="10m")
    drive = step(
        after=bill,
        send=Drive,
        done=Driven,
        failed=NoDriver,
        undo=None,
        within="10m",
        retry=Retry(attempts=2, first="20s"),
    )


BUSY = [number for number in range(100) if make_plan(number, Survey(), PEOPLE, ()).faults]
"""Seeds in which somebody does something."""


def _rides(kinds: list[str], seeds: list[int]) -> tuple[Explored, Counter[tuple[str, str]]]:
    """Explore rides; give what people asked for and what became of it."""
    became: Counter[tuple[str, str]] = Counter()

    def look(run: Run) -> None:
        for row in run.rows(COORDINATOR, command):
            became[row.kind, row.state] += 1

    explored = explore(
        Ride,
        events=[Asked(ride="1")],
        play={
            Bill: answers(Billed),
            Unbill: answers(Unbilled),
            Drive: [answers(NoDriver), answers(Driven)],
        },
        finally_=look,
        faults=kinds,
        seeds=seeds,
    )
    return explored, became


def test_every_rule_is_kept_while_people_pause_retry_and_skip() -> None:
    explored, became = _rides(["pause", "retry", "skip", "crash", "duplicate"], BUSY[:26])
    assert all(explored.hit[kind, ""] > 0 for kind in ("pause", "retry", "skip"))
    for kind in ("pause", "resume", "retry", "skip"):
        assert became[kind, "applied"] > 0, became
    assert not became["pause", "pending"]


def test_nobody_skips_a_step_unless_that_is_asked_for() -> None:
    explored, became = _rides(list(USUAL), BUSY[:6])
    assert explored.hit["pause", ""] > 0
    assert not any(kind == "skip" for kind, _ in became)
