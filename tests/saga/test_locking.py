"""What a saga does with its lock (row 23), on the pure function: times, reasons, and what it says of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from choreo.events.clock import SECOND
from choreo.events.errors import DefinitionError
from choreo.saga.advance import advance, begin
from choreo.saga.inputs import Locked, Observed, Transition
from choreo.saga.lock import Lock, LockKey, LockPlan, lock
from choreo.saga.words import Condition
from tests.saga.play import Play, define, plan

START = 1_000 * SECOND
PLAN = LockPlan("customer_id", "customer", waits=60 * SECOND, expires=600 * SECOND)
ONE = plan("ship", 0, send="ship.do")
KEPT = define(ONE, lock=PLAN, deadline=3_600 * SECOND)


@dataclass
class Locking(Play):
    """A saga that wants Ann's lock before its first step."""

    def __post_init__(self) -> None:
        start = Observed("e-start", "placed", time=self.now, lock="ann")
        self._took(begin(self.definition, "4711", 1, start, self.now))

    def told_of_lock(self, granted: bool, holder: str | None = None, ahead: int = 0) -> Transition:
        """The store says how its lock stands."""
        return self._took(advance(self.definition, self.instance, Locked(granted, holder, ahead), self.now))

    @property
    def lock(self) -> Lock:
        assert self.instance.lock is not None
        return self.instance.lock

    def condition(self, condition: Condition) -> tuple[str, str]:
        """Why a condition is set, in a word and in a sentence."""
        found = self.instance.conditions[condition]
        return found.reason, found.message


def test_a_lock_waits_an_hour_and_expires_after_a_day_unless_said_otherwise() -> None:
    made = lock("customer_id")
    assert made == LockPlan("customer_id", "", 3_600 * SECOND, 86_400 * SECOND, "wait")
    assert lock("customer_id", name="customer", waits="1m", expires="10m") == PLAN
    assert lock(field="customer_id", otherwise="refuse").otherwise == "refuse"
    assert str(LockKey("customer", "ann")) == "customer/ann"


def test_a_lock_that_makes_no_sense_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(DefinitionError, match="write 'wait' or 'refuse'"):
        lock("customer_id", otherwise="queue")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="who is refused does not wait; leave out one of them"):
        lock("customer_id", otherwise="refuse", waits="1m")
    for nothing in ("", None):
        with pytest.raises(DefinitionError, match=r'as in lock\("customer_id"\)'):
            lock(nothing)  # type: ignore[arg-type]


def test_what_a_lock_is_made_of_cannot_be_changed() -> None:
    standing = Lock("customer", "ann", "held", 1)
    assert standing.of == LockKey("customer", "ann")
    for value, name in ((PLAN, "waits"), (standing, "state")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)
        assert not hasattr(value, "__dict__")


def test_it_waits_so_long_from_its_start_and_its_deadline_has_not_begun() -> None:
    play = Locking(KEPT)
    assert play.lock == Lock("customer", "ann", "waiting", START, START + 60 * SECOND)
    assert play.instance.deadline_at is None
    assert play.states() == {"ship": "PENDING"}


def test_who_waits_is_told_who_has_the_lock_and_how_many_wait_before_it() -> None:
    play = Locking(KEPT)
    play.told_of_lock(False, "order/1", 2)
    assert play.condition(Condition.WAITING_FOR_LOCK) == (
        "Queued",
        "waits for the lock customer/ann, held by order/1, 2 before it",
    )
    assert [change.reason for change in play.last.changes] == ["waits for the lock customer/ann"]
    assert play.lock.holder == "order/1"
    play.told_of_lock(False)
    assert play.condition(Condition.WAITING_FOR_LOCK)[1] == "waits for the lock customer/ann, passed on to the next one"
    assert play.commands() == []


def test_its_time_begins_when_it_has_the_lock() -> None:
    play = Locking(KEPT)
    play.told_of_lock(False, "order/1")
    play.now += 20 * SECOND
    play.told_of_lock(True)
    have = START + 20 * SECOND
    assert play.lock == Lock("customer", "ann", "held", have, have + 600 * SECOND, "order/1", have)
    assert play.instance.deadline_at == have + 3_600 * SECOND
    assert Condition.WAITING_FOR_LOCK not in play.instance.conditions
    assert "has the lock customer/ann" in [change.reason for change in play.last.changes]
    assert play.commands() == ["ship.do#1"]
    assert play.step("ship").trigger == "e-start"


def test_what_the_store_says_when_nobody_asked_is_ignored_quietly() -> None:
    for play in (Locking(KEPT), Play(define(ONE))):
        if isinstance(play, Locking):
            play.told_of_lock(True)
        before = play.instance
        play._took(advance(play.definition, before, Locked(True), play.now))
        assert (play.last.verdict, play.last.reason) == ("ignored", "NoLock")
        assert play.last.changes == []
        assert play.instance.conditions == before.conditions


def test_who_waited_too_long_is_undone() -> None:
    play = Locking(KEPT)
    play.told_of_lock(False, "order/1")
    play.later(59)
    assert play.phase == "RUNNING"
    play.later(1)
    assert play.phase == "COMPENSATED"
    assert play.lock == Lock("customer", "ann", "left", START + 60 * SECOND, None, "order/1")
    message = "the lock customer/ann was not free within 1m 00s"
    assert play.condition(Condition.LATE) == ("LockTimeout", message)
    assert play.instance.cause is not None
    assert play.instance.cause["error"] == "LockTimeout"
    assert Condition.WAITING_FOR_LOCK not in play.instance.conditions


def test_who_may_not_wait_ends_and_says_who_has_it() -> None:
    play = Locking(define(ONE, lock=dataclasses.replace(PLAN, otherwise="refuse")))
    play.told_of_lock(False, "order/1")
    assert (play.phase, play.lock.state, play.lock.until) == ("COMPENSATED", "refused", None)
    assert play.instance.cause is not None
    assert play.instance.cause["message"] == "the lock customer/ann is held by order/1"


def test_who_holds_it_too_long_loses_it_and_goes_on() -> None:
    play = Locking(KEPT)
    play.told_of_lock(True)
    play.now += 599 * SECOND
    play.later(0)
    assert play.lock.state == "held"
    play.later(1)
    assert (play.lock.state, play.lock.since, play.lock.until) == ("expired", START + 600 * SECOND, None)
    message = "it held the lock customer/ann for 10m 00s, now the next one has its turn"
    assert play.condition(Condition.LATE) == ("LockExpired", message)
    assert "its lock customer/ann expired" in [change.reason for change in play.last.changes]


def test_its_end_gives_the_lock_back() -> None:
    play = Locking(KEPT)
    play.told_of_lock(True)
    play.now += SECOND
    play.sees("ship.done")
    assert play.phase == "COMPLETED"
    assert play.lock == Lock("customer", "ann", "released", START + SECOND, None, None, START)


def test_who_waits_and_is_cancelled_leaves_the_queue() -> None:
    play = Locking(KEPT)
    play.told_of_lock(False, "order/1")
    play.person("cancel")
    assert (play.phase, play.lock.state) == ("CANCELLED", "left")
    assert Condition.WAITING_FOR_LOCK not in play.instance.conditions


def test_an_observer_and_a_start_without_a_key_want_no_lock() -> None:
    assert Play(KEPT).instance.lock is None
    assert Play(KEPT).commands() == ["ship.do#1"]
    assert Locking(dataclasses.replace(KEPT, observe_only=True)).instance.lock is None


def test_a_saga_whose_pivot_has_happened_goes_on_without_the_lock() -> None:
    pivot = define(plan("pay", 0, pivot=True), plan("ship", 1, "pay", send="ship.do", undo=None, undone=()), lock=PLAN)
    play = Locking(pivot)
    play.told_of_lock(False, "order/1")
    play.sees("pay.done")
    play.later(60)
    assert play.phase == "RUNNING"
    assert play.lock.state == "left"
    assert play.commands() == ["ship.do#1"]
    assert any("it goes on without the lock" in change.reason for change in play.last.changes)
