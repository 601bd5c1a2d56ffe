"""The read model: what is told of a saga's time, its conditions and its trace, as values."""

from __future__ import annotations

import pytest

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition, RetryPlan, StepPlan
from choreo.saga.inputs import Change
from choreo.saga.instance import Fact, Failure, Instance, Step, new_instance
from choreo.saga.queries import Brakes, Entry, Found, SagaRow
from choreo.saga.report import (
    Observed,
    Segment,
    conditions,
    history_entry,
    progress,
    rfc3339,
    segments,
    status,
    summary,
)
from choreo.saga.traces import build_trace, tell
from choreo.saga.waterfall import Scale, axis, bar
from choreo.saga.words import Phase, StepState
from choreo.tracing.ids import span_id, step_path, trace_id
from choreo.tracing.tree import SpanRow
from tests.support.console import validate

START = 1_795_000_000 * SECOND
NONE = Brakes(False, False)
PLAN = StepPlan(
    "charge",
    1,
    ("Paid",),
    ("Declined",),
    ("reserve",),
    within=60 * SECOND,
    send="Charge",
    retry=RetryPlan(attempts=3, first=2 * SECOND, most=60 * SECOND),
)
ORDER = Definition(
    "order",
    2,
    "order_id",
    ("Placed",),
    (StepPlan("reserve", 0, ("Reserved",), undo="ReleaseStock", undone=("Released",)), PLAN),
)


def _running() -> Instance:
    instance = new_instance(ORDER, "4711", 1)
    instance.seq, instance.started_at, instance.opened_at, instance.started_time = 2, START, START, START
    instance.started_by = Fact("Placed", "e1")
    instance.steps["reserve"] = Step(
        StepState.DONE,
        START + SECOND,
        START,
        done=Fact("Reserved", "e2"),
        ended_at=START + SECOND,
        outcome=StepState.DONE,
    )
    instance.steps["charge"] = Step(
        StepState.WAITING, START + SECOND, START + SECOND, attempt=1, sends=1, limit_at=START + 61 * SECOND
    )
    return instance


def _compensating() -> Instance:
    instance = _running()
    instance.phase = Phase.COMPENSATING
    instance.cause = {"step": "charge", "error": "Declined", "message": "", "event": "e3", "at": START + 3 * SECOND}
    charge, reserve = instance.steps["charge"], instance.steps["reserve"]
    charge.state = charge.outcome = StepState.FAILED
    charge.ended_at, charge.limit_at, charge.error = START + 3 * SECOND, None, "Declined"
    charge.failures = [Failure(START + 3 * SECOND, "Declined")]
    reserve.state, reserve.undo_ready_at, reserve.undo_attempt = StepState.COMPENSATING, START + 3 * SECOND, 1
    return instance


def _entry(seq: int, id_: str, type_: str, source: str, *changes: Change, kind: str = "event") -> Entry:
    return Entry(
        seq, START + seq * SECOND, id_, kind, type_, START, "applied", "", changes, source, "orders/0 offset 1"
    )


# ---- time -----------------------------------------------------------------------------------------------------------


def test_a_commanded_step_is_work_and_pauses() -> None:
    step = Step(StepState.DONE, 0, START, attempt=3, ended_at=START + 10 * SECOND, outcome=StepState.DONE)
    step.failures = [Failure(START + SECOND, "A"), Failure(START + 4 * SECOND, "B")]
    found = [(kind, (start - START) // SECOND, (end - START) // SECOND) for kind, start, end in segments(PLAN, step, 0)]
    assert found == [("work", 0, 1), ("pause", 1, 3), ("work", 3, 4), ("pause", 4, 8), ("work", 8, 10)]


def test_what_has_no_outcome_is_open_until_now() -> None:
    step = Step(StepState.WAITING, 0, START)
    assert segments(PLAN, step, START + 5) == [Segment("open", START, START + 5)]
    assert segments(PLAN, Step(), START) == []


def test_segments_never_leave_the_step() -> None:
    step = Step(StepState.FAILED, 0, START, ended_at=START + SECOND, outcome=StepState.FAILED)
    step.failures = [Failure(START + 2 * SECOND, "later than its end")]
    assert segments(PLAN, step, 0) == [Segment("work", START, START + SECOND)]


@pytest.mark.parametrize("width", [10, 33, 60])
def test_a_bar_has_its_width_and_shows_the_shortest_stretch(width: int) -> None:
    scale = Scale(START, START + 100 * SECOND, width)
    drawn = bar([Segment("work", START + 99 * SECOND, START + 99 * SECOND)], scale)
    assert len(drawn) == width + 2
    assert drawn.count("█") == 1
    full = [Segment("open", START, START + 100 * SECOND)]
    assert bar(full, scale) == f"▏●{'━' * (width - 1)}▏"
    assert bar([], scale).strip("▏").strip() == ""


@pytest.mark.parametrize(
    ("length", "last"),
    [
        (3_000, "ms"),
        (12 * SECOND, "s"),
        (600 * SECOND, "m"),
        (86_400 * SECOND, "h"),
        (30 * 86_400 * SECOND, "d"),
        (0, ""),
    ],
)
def test_an_axis_has_round_ticks_that_do_not_run_into_each_other(length: int, last: str) -> None:
    for width in (10, 40, 80):
        text = axis(Scale(START, START + length, width))
        assert len(text) == width + 2
        labels = text.split()
        assert len(labels) <= 1 + width // 8
        assert labels[0].startswith("0")
        assert len(labels) == 1 or labels[-1].endswith(last)


def test_times_have_milliseconds_and_the_zone() -> None:
    assert rfc3339(START + 123_456) == "2026-11-18T11:06:40.123Z"
    assert rfc3339(None) is None


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_progress_counts_what_needs_nothing_more_of_a_number_that_never_changes() -> None:
    assert progress(_running()) == {"done": 1, "known": 2}


def test_who_did_what_comes_from_the_history_and_who_will_from_the_catalog() -> None:
    entries = [
        _entry(1, "e1", "Placed", "shop", Change(None, "RUNNING")),
        _entry(2, "e2", "Reserved", "inventory", Change("reserve", "DONE"), Change("charge", "WAITING")),
    ]
    observed = Observed(START + 5 * SECOND, services={"Declined": "payment", "Reserved": "somebody else"})
    told = validate(status(Found(ORDER, _running(), START), entries, observed, NONE, ""), "saga.status/v1")
    assert [step["service"] for step in told["steps"]] == ["inventory", "payment"]
    assert told["steps"][1]["note"] == "waiting for Paid or Declined"
    assert told["steps"][1]["duration_ms"] == 4_000


def test_an_undo_is_a_row_of_its_own_named_after_its_command() -> None:
    entries = [_entry(3, "e3", "Declined", "payment", Change("charge", "FAILED"), Change("reserve", "COMPENSATING"))]
    told = validate(
        status(Found(ORDER, _compensating(), START), entries, Observed(START + 9 * SECOND), NONE, "", ["cancel"])
    )
    undo = told["steps"][-1]
    assert (undo["name"], undo["compensates"], undo["state"]) == ("release-stock", "reserve", "COMPENSATING")
    assert told["cause"]["service"] == "payment"
    assert told["queued_commands"] == ["cancel"]
    assert told["cause"]["first_error_at"] == rfc3339(START + 3 * SECOND)


def test_a_handler_that_gave_up_is_who_answered() -> None:
    entries = [_entry(3, "r1", "HandlerFailed", "payment", Change("charge", "FAILED"), kind="failure")]
    told = status(Found(ORDER, _compensating(), START), entries, Observed(START), NONE, "")
    assert told["cause"]["service"] == "payment"


@pytest.mark.parametrize(
    ("brakes", "coordinators", "reason"),
    [
        (NONE, None, "Unread"),
        (NONE, 2, "Unread"),
        (NONE, 0, "NoCoordinator"),
        (Brakes(True, False), 2, "Held"),
        (Brakes(False, True), 2, "Unread"),
    ],
)
def test_a_timer_that_is_overdue_says_why(brakes: Brakes, coordinators: int | None, reason: str) -> None:
    observed = Observed(START + 70 * SECOND, coordinators=coordinators)
    [condition] = conditions(_running(), observed, brakes)
    assert (condition["type"], condition["reason"]) == ("CoordinatorLagging", reason)


def test_a_stopped_compensation_says_so_and_an_ended_saga_nothing() -> None:
    instance = _compensating()
    instance.steps["reserve"].undo_limit_at = START + 10 * SECOND
    observed = Observed(START + 70 * SECOND)
    assert [each["reason"] for each in conditions(instance, observed, Brakes(False, True))] == ["Stopped"]
    instance.phase = Phase.COMPENSATED
    assert conditions(instance, observed, Brakes(True, True)) == []


def test_a_timer_that_was_due_just_now_is_no_lag() -> None:
    assert conditions(_running(), Observed(START + 62 * SECOND), NONE) == []


def test_the_other_shapes_are_as_their_schemas_say() -> None:
    row = SagaRow("order/1", "order", "1", 1, 2, "FAILED", None, "Timeout", ("Late",), 0, START, START, START + SECOND)
    assert validate(summary(row, START))["duration_ms"] == 1_000
    validate(history_entry("order/1", _entry(1, "e1", "Placed", "shop", Change(None, "RUNNING", "Placed"))))


# ---- the trace ------------------------------------------------------------------------------------------------------


def _handler(instance: Instance, step: str, service: str, epoch: int = 0) -> SpanRow:
    return SpanRow(
        f"{trace_id('', instance.id, epoch):032x}",
        f"{hash(service) & 0xFFFF:016x}",
        f"{span_id('', instance.id, *step_path(step)):016x}",
        "process orders",
        "CONSUMER",
        service,
        START + 1_000,
        START + 2_000,
        attributes={"saga.queue_ms": 3},
    )


def test_spans_of_services_stand_beneath_their_step() -> None:
    instance = _running()
    trace = build_trace(ORDER, instance, [_handler(instance, "reserve", "inventory")], "", START + 9 * SECOND, "saga")
    told = validate(tell(trace, instance, None), "saga.trace/v1")
    assert [(span["name"], span["depth"], span["open"]) for span in told["spans"]] == [
        ("saga order", 0, True),
        ("saga order started", 1, False),
        ("step reserve", 1, False),
        ("process orders", 2, False),
        ("step charge", 1, True),
    ]
    assert told["source"] == ["history", "spans"]
    assert told["steps_without_spans"] == []
    assert told["spans"][3]["queue_ms"] == 3


def test_a_step_without_a_span_is_told_where_others_have_theirs() -> None:
    instance = _running()
    other = build_trace(ORDER, instance, [_handler(instance, "charge", "payment")], "", START + 9 * SECOND, "saga")
    assert other.silent == ["reserve"]
    assert build_trace(ORDER, instance, [], "", START, "saga").silent == []


def test_spans_of_an_earlier_epoch_stand_in_a_tree_of_their_own() -> None:
    instance = _compensating()
    instance.epoch, instance.opened_at = 1, START + 3 * SECOND
    trace = build_trace(
        ORDER, instance, [_handler(instance, "reserve", "inventory", 0)], "", START + 9 * SECOND, "saga"
    )
    spans = tell(trace, instance, None)["spans"]
    assert {span["trace_id"] for span in spans} == {f"{trace_id('', instance.id, epoch):032x}" for epoch in (0, 1)}
    assert trace.trace_id == f"{trace_id('', instance.id, 1):032x}"
    assert trace.silent == []


def test_an_unsampled_saga_is_told_whole() -> None:
    instance = _running()
    instance.sampled = False
    assert len(build_trace(ORDER, instance, [], "", START + SECOND, "saga").nodes) == 4
