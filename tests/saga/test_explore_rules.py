"""What `explore` sees on the way of a run, not only at its end: each rule is broken here by hand, and it says so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from choreo import Event, Saga, Service, Transaction, step
from choreo.events.outbox import Relay
from choreo.saga.testing import Explorer, explore
from choreo.saga.testing.exploring import patience, simulation, troubles
from choreo.services import board, inbox
from choreo.services.guard import Undo


class Called(Event, topic="calls", key="number"):
    number: str


class Come(Event, topic="cabs.commands", key="number"):
    number: str


class Waiting(Event, topic="cabs", key="number"):
    number: str


class Leave(Event, topic="cabs.commands", key="number"):
    number: str


class Left(Event, topic="cabs", key="number"):
    number: str


class Paid(Event, topic="fares", key="number"):
    number: str


class Ride(Saga, start=Called, key="number"):
    come = step(send=Come, done=Waiting, undo=Leave, undone=Left, within="1m")
    pay = step(after=come, done=Paid, undo=None, within="1m")


def cabs() -> Service:
    service = Service("cabs")

    @service.on(Come)
    async def come(command: Come, tx: Transaction) -> Waiting:
        return Waiting(number=command.number)

    @service.on(Leave, undoes=come)
    async def leave(command: Leave, tx: Transaction) -> Left:
        return Left(number=command.number)

    return service


CALLS = [Called(number="1"), Called(number="2")]


def test_a_ride_that_nobody_pays_keeps_every_rule() -> None:
    assert explore(Ride, [cabs()], events=CALLS, seeds=20).runs == 20


def test_a_process_that_is_to_stand_still_when_it_has_just_died_stays_dead() -> None:
    explorer = Explorer(Ride, [cabs()], events=CALLS)
    try:
        assert explorer.run("12:f0,1") is None
    finally:
        explorer.close()


def test_a_command_that_came_again_and_was_not_answered_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "unpack", lambda text: [])
    with pytest.raises(AssertionError, match=r"V1: cabs\.\w+ has obeyed \w+ .* did not answer each time that it came"):
        explore(Ride, [cabs()], events=CALLS, seeds=40, faults=["duplicate"])


def test_a_step_that_ran_though_its_undo_found_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "judge_undo", lambda *_: Undo("empty", marks={}))
    with pytest.raises(
        AssertionError, match=r"R4: Leave for ride/1 had nothing to undo, and cabs\.come ran all the same"
    ):
        explore(Ride, [cabs()], events=CALLS, seeds=5)


def test_a_row_that_leaves_the_outbox_before_the_broker_has_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    send: Any = Relay._send

    async def forget_and_send(self: Any, rows: Any) -> None:
        self._sent.extend(row.id for row in rows)
        await send(self, rows)

    monkeypatch.setattr(Relay, "_send", forget_and_send)
    with pytest.raises(AssertionError, match=r"S5: a record for \S+ left the outbox of .* before the broker had it"):
        explore(Ride, [cabs()], events=CALLS, seeds=40, faults=["delay", "broker-away"])


def test_a_fault_that_was_planned_again_and_again_and_never_happened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles.Troubles, "_happen", lambda self, fault: None)
    with pytest.raises(AssertionError, match=r"planned again and again, and never happened: clock-forward"):
        explore(Ride, [cabs()], events=CALLS, seeds=6, faults=["clock-forward"])


def test_a_handler_that_never_waits_and_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "MOST_SECONDS", 0.3)
    service = Service("cabs")

    @service.on(Come)
    async def circle(command: Come) -> Waiting:
        while True:
            pass

    @service.on(Leave)
    async def leave(command: Leave) -> Left:
        return Left(number=command.number)

    with pytest.raises(AssertionError, match=r"V8: somebody works on and on .*: test_explore_rules\.py, circle"):
        explore(Ride, [service], events=CALLS[:1], seeds=1)


def test_patience_lets_work_take_its_time_while_it_goes_on() -> None:
    turns = iter(range(1_000_000))
    end = time.process_time() + 0.5
    with patience.Patience(lambda: next(turns), 0.1):
        while time.process_time() < end:
            pass
