"""How long an attempt was waited for and ran, as its handler says: from the wire to `saga status`, `saga history`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from choreo import Permanent, Retry, Service
from choreo.events.clock import SECOND
from choreo.events.handled import Handled, parse_handled, read_handled, write_handled
from choreo.saga import attempts
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.inputs import Change
from choreo.saga.instance import Failure
from choreo.saga.queries import Entry
from choreo.saga.words import Phase, StepState
from choreo.tracing.ids import trace_id
from tests.saga.stage import Paid, Placed, Reserved, Stage
from tests.saga.traced import inventory_service, run_order
from tests.support.console import Console, validate
from tests.support.otlp import OtlpSink


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (write_handled(12, 1_100, "00f067aa0ba902b7"), Handled(12, 1_100, "00f067aa0ba902b7")),
        (write_handled(-1, 0, ""), Handled(None, 0, None)),
        (write_handled(3, -5, ""), Handled(3, 0, None)),
    ],
)
def test_the_header_says_what_was_written(header: tuple[str, bytes], told: Handled) -> None:
    name, value = header
    kept = read_handled(value)
    assert kept is not None
    assert (name, parse_handled(kept)) == ("handled-ms", told)


@pytest.mark.parametrize(
    "value", [b"", b"12", b"12;3", b"-1,3", b"1,2,xyz", b"1," + b"9" * 70, b"\xff,1", b"1,2,", b" 1,2"]
)
def test_a_malformed_header_is_ignored(value: bytes) -> None:
    kept = read_handled(value)
    assert kept is None or parse_handled(kept) is None


def _entry(seq: int, type_: str, *changes: Change, kind: str = "event", handled: str = "") -> Entry:
    return Entry(seq, seq * SECOND, f"e{seq}", kind, type_, 0, "applied", "", changes, "payment", None, "", handled)


def test_each_failure_finds_its_answer_and_a_passed_limit_has_none() -> None:
    plan = StepPlan("charge", 0, ("Paid",), ("Declined",), send="Charge")
    definition = Definition("order", 1, "id", ("Placed",), (plan,))
    change = Change("charge", StepState.RETRYING, "")
    entries = [
        _entry(1, "Placed", Change(None, "RUNNING", "")),
        _entry(2, "Declined", change, handled="12,1100,00f067aa0ba902b7"),
        _entry(3, "", change, kind="timer"),
        _entry(4, "HandlerFailed", change, kind="failure", handled=",7"),
        _entry(5, "Paid", Change("charge", StepState.DONE, ""), handled="1,2"),
    ]
    came = attempts.answers(definition, entries)
    failures = [Failure(2 * SECOND, "Declined"), Failure(3 * SECOND, "Timeout"), Failure(4 * SECOND, "OSError")]
    told = attempts.ended(failures, came["charge", False], "e5", 5 * SECOND)
    assert [
        (each["n"], each["error_class"], each["event_id"], each["queued_ms"], each["run_ms"], each["span_id"])
        for each in told
    ] == [
        (1, "Declined", "e2", 12, 1_100, "00f067aa0ba902b7"),
        (2, "Timeout", None, None, None, None),
        (3, "OSError", "e4", None, 7, None),
        (4, None, "e5", 1, 2, None),
    ]
    assert [each["failed_at"] is None for each in told] == [False, False, False, True]
    without = attempts.ended(failures, (), "e5", 5 * SECOND)
    assert [(each["event_id"], each["run_ms"]) for each in without] == [(None, None)] * 3 + [("e5", None)]


async def test_attempts_tell_how_long_their_handlers_ran_and_name_their_spans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = Service("payment", store=f"sqlite:{tmp_path}/payment.db")

    @payment.on(Reserved, retry=Retry(attempts=1))
    async def charge(order: Reserved) -> Paid:
        await asyncio.sleep(0.02)
        raise Permanent("no bank")

    console = Console(capsys, tmp_path)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        async with Stage(f"sqlite:{tmp_path / 'saga.db'}", live=True) as stage:
            await run_order(stage, services=[inventory_service(str(tmp_path)), payment])
            told = await asyncio.to_thread(console, "status", "order/4711", "-o", "json")
            history = await asyncio.to_thread(console, "history", "order/4711", "-o", "json")
            lines = await asyncio.to_thread(console, "status", "order/4711", "--all-attempts")
        spans = {span.span_id: span for span in sink.spans(trace_id("", "order/4711"))}
    steps = {each["name"]: each for each in validate(told.json, "saga.status/v1")["steps"]}
    for name, service in (("reserve", "inventory"), ("charge", "payment"), ("release", "inventory")):
        [attempt] = steps[name]["attempts"]
        assert attempt["queued_ms"] is not None
        span = spans[attempt["span_id"]]
        assert (span.name.partition(" ")[0], span.service) == ("process", service)
    [charged] = steps["charge"]["attempts"]
    assert charged["run_ms"] >= 20
    assert (charged["error_class"], charged["failed_at"] is None) == ("Permanent", False)
    assert (steps["reserve"]["attempts"][0]["failed_at"], steps["reserve"]["attempts"][0]["n"]) == (None, 1)
    by_id = {each["event_id"]: each for each in (validate(each, "saga.history/v1") for each in history.json)}
    assert by_id[charged["event_id"]]["run_ms"] == charged["run_ms"]
    assert next(each for each in by_id.values() if each["type"] == "Placed")["run_ms"] is None
    assert "#1  failed at" in lines.out
    assert "handler " in lines.out


async def test_what_says_nothing_of_its_work_takes_part_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(capsys, tmp_path)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", live=True) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1"), Reserved(order_id="1"))
        await stage.publish(Paid(order_id="1"), extra=(("handled-ms", b"soon"),))
        await stage.until(lambda all_: bool(all_) and all_["order/1"].steps["charge"].state is StepState.DONE)
        told = await asyncio.to_thread(console, "status", "order/1", "-o", "json")
    steps = {each["name"]: each for each in validate(told.json, "saga.status/v1")["steps"]}
    for name in ("reserve", "charge"):
        [attempt] = steps[name]["attempts"]
        assert (attempt["queued_ms"], attempt["run_ms"], attempt["span_id"]) == (None, None, None)
    assert told.json["phase"] == Phase.COMPLETED
