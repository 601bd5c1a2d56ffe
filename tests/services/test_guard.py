"""The guard's decisions, as a table."""

from __future__ import annotations

import pytest

from choreo.events.envelope import Envelope
from choreo.services.guard import judge_event, judge_undo
from choreo.services.inbox import Row, reference

NOW = 1_000


@pytest.mark.parametrize(
    ("row", "step", "verdict"),
    [
        (None, None, "run"),
        (Row("done"), None, "duplicate"),
        (Row("empty"), None, "duplicate"),
        (Row("failed"), None, "duplicate"),
        (Row("parked"), None, "duplicate"),
        (Row("refused"), None, "refused"),
        (Row("unknown", 5), None, "refused"),
        (Row("claimed", 5), None, "run"),
        (None, Row("refused"), "refused"),
        (None, Row("unknown"), "refused"),
        (None, Row("done"), "run"),
    ],
)
def test_ruling_5_an_event_runs_once_and_never_after_its_undo(row, step, verdict):
    assert judge_event(row, step) == verdict


def test_a_replayed_dead_letter_runs_again_and_a_parked_event_runs_from_its_place():
    assert judge_event(Row("failed"), None, replayed=True) == "run"
    assert judge_event(Row("parked"), None, retried=True) == "run"
    assert judge_event(Row("done"), None, replayed=True) == "duplicate"


@pytest.mark.parametrize(
    ("rows", "verdict", "marks"),
    [
        ({}, "empty", {"e1": "refused", "e2": "refused", "s": "refused"}),
        ({"e1": Row("done")}, "run", {"e2": "refused", "s": "refused"}),
        ({"s": Row("done")}, "run", {"e1": "refused", "e2": "refused", "s": "unknown"}),
        ({"e1": Row("claimed", NOW)}, "run", {"e1": "unknown", "e2": "refused", "s": "refused"}),
        ({"e1": Row("failed", NOW)}, "run", {"e1": "unknown", "e2": "refused", "s": "refused"}),
        ({"e1": Row("failed")}, "empty", {"e1": "refused", "e2": "refused", "s": "refused"}),
        ({"e1": Row("parked", NOW)}, "run", {"e1": "unknown", "e2": "refused", "s": "refused"}),
        ({"e1": Row("parked")}, "empty", {"e1": "refused", "e2": "refused", "s": "refused"}),
        ({"e1": Row("unknown", 1), "e2": Row("refused"), "s": Row("unknown")}, "run", {}),
        ({"e1": Row("refused"), "e2": Row("refused"), "s": Row("refused")}, "empty", {}),
    ],
)
def test_ruling_4_only_absence_means_that_there_is_nothing_to_undo(rows, verdict, marks):
    found = judge_undo("reserve", ("e1", "e2"), "s", {("reserve", id_): row for id_, row in rows.items()}, NOW)
    assert (found.verdict, found.marks) == (verdict, marks)
    assert found.known == frozenset(marks) & rows.keys()


def test_an_undo_waits_for_a_live_claim_even_when_another_event_is_done():
    rows = {("reserve", "e1"): Row("done"), ("reserve", "e2"): Row("claimed", NOW + 1)}
    found = judge_undo("reserve", ("e1", "e2"), None, rows, NOW)
    assert (found.verdict, found.until) == ("wait", NOW + 1)


def test_another_handlers_rows_say_nothing():
    assert judge_undo("reserve", ("e1",), None, {("charge", "e1"): Row("done")}, NOW).verdict == "empty"


def test_an_undo_that_names_nothing_runs_because_nothing_proves_absence():
    assert judge_undo("reserve", (), None, {}, NOW).verdict == "run"


def _envelope(**headers):
    return Envelope("id", "T", "source", 0, "key", **headers)


def test_a_step_is_known_by_its_saga_and_run_whatever_the_attempt():
    first = _envelope(saga_id="fulfilment/1", saga_step="charge", saga_attempt=1)
    again = _envelope(saga_id="fulfilment/1", saga_run=1, saga_step="charge", saga_attempt=2, saga_occurrence="")
    other_run = _envelope(saga_id="fulfilment/1", saga_run=2, saga_step="charge", saga_attempt=1)
    other_part = _envelope(saga_id="fulfilment/1", saga_step="charge", saga_attempt=1, saga_occurrence="b")
    assert reference(first) == reference(again)
    assert len({reference(first), reference(other_run), reference(other_part)}) == 3


def test_an_inherited_step_header_makes_no_command():
    assert reference(_envelope(saga_id="fulfilment/1", saga_step="charge")) is None
