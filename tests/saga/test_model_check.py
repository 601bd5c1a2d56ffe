"""The model check: what it says of the demo saga and of small ones, and that it finds what is wrong."""

from __future__ import annotations

import pytest

from choreo.saga.checking.scope import Scope
from choreo.saga.checking.search import model_check
from choreo.saga.demo.saga import Fulfilment
from tests.saga.play import define, plan

QUICK = Scope(duplicates=1, crashes=0, commands=0, attempts=1)


def test_the_demo_saga_keeps_every_invariant_in_a_small_world() -> None:
    report = model_check(Fulfilment.definition(), QUICK)
    assert report.stopped == ""
    assert report.bad == ()
    assert report.states > 10_000


SMALL = {
    "line": define(plan("reserve", 0), plan("charge", 1, "reserve")),
    "commanded": define(plan("reserve", 0, send="reserve.do"), plan("charge", 1, "reserve", send="charge.do")),
    "fork": define(plan("reserve", 0), plan("charge", 1)),
    "join": define(plan("reserve", 0), plan("charge", 1), plan("pack", 2, "reserve", "charge")),
    "pivot": define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do", pivot=True)),
    "optional": define(plan("gift", 0, optional=True), plan("charge", 1, "gift", send="charge.do")),
    "nothing to undo": define(plan("look", 0, undo=None, undone=()), plan("charge", 1, "look")),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_sagas_keep_every_invariant(name: str) -> None:
    report = model_check(SMALL[name], Scope(duplicates=1, crashes=1, commands=0, attempts=1))
    assert report.stopped == ""
    assert [bad.lines for bad in report.bad] == []


@pytest.mark.parametrize("name", ["nothing to undo", "pivot"])
def test_people_change_nothing_about_that(name: str) -> None:
    report = model_check(SMALL[name], Scope(duplicates=1, crashes=1, commands=1))
    assert report.stopped == ""
    assert [bad.lines for bad in report.bad] == []
