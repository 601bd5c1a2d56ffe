"""`saga list`, `status`, `watch`, `trace`, `ignored`: what they say of sagas in every state, and how they end."""

from __future__ import annotations

import json
import re

import pytest

from choreo.saga.cli import exits
from tests.saga.shelf import CANCELLED, CHARGING, COMPENSATED, COMPENSATING, COMPLETED, FAILED, RESERVING, SHARED, TWICE
from tests.support.console import Console, validate

ALL = 15


@pytest.fixture
def saga(looking: Console) -> Console:
    return looking


# ---- list -----------------------------------------------------------------------------------------------------------


def test_failed_and_open_sagas_come_first(saga: Console) -> None:
    done = saga("list")
    assert done.code == exits.OK
    states = [line.split()[2] for line in done.out.splitlines()[1:]]
    assert len(states) == ALL
    assert states[0] == "FAILED"
    opened = [state in ("RUNNING", "COMPENSATING") for state in states[1:]]
    assert opened == sorted(opened, reverse=True)
    assert done.err == "15 of 15 · 6 completed · 1 compensated · 1 failed · 1 cancelled · 6 open\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--type", "order", "--state", "COMPLETED"], set(COMPLETED)),
        (["--state", "failed", "--state", "cancelled"], {FAILED, CANCELLED}),
        (["--failed"], {FAILED}),
        (["--open", "--type", "order"], {COMPENSATING, CHARGING, RESERVING}),
        (["--condition", "waitingforperson"], {FAILED}),
        (["--step", "charge"], {CHARGING}),
        (["--key", "p1"], {TWICE, f"{TWICE}~2"}),
        (["--key", SHARED, "--type", "parcel"], {f"parcel/{SHARED}"}),
        (["--until", "30m"], {FAILED}),
        (["--since", "30m", "--type", "parcel"], {TWICE, f"{TWICE}~2", f"parcel/{SHARED}", "parcel/a%20b%2F%C3%BC"}),
        (["--since", "2020-01-01", "--type", "none"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_choose(saga: Console, arguments: list[str], expected: set[str]) -> None:
    assert set(saga("list", *arguments, "-o", "id").out.split()) == expected
    rows = saga("list", *arguments, "-o", "json").json
    assert {validate(row, "saga.summary/v1")["id"] for row in rows} == expected


def test_limit_bounds_and_all_lifts_the_bound(saga: Console) -> None:
    assert len(saga("list", "--limit", "3", "-o", "json").json) == 3
    assert len(saga("list", "--all", "-o", "json").json) == ALL
    assert len(saga("list", "--all", "--limit", "20000", "-o", "jsonl").out.splitlines()) == ALL


@pytest.mark.parametrize("order", ["attention", "started", "updated", "key", "duration"])
def test_sorting_loses_nothing(saga: Console, order: str) -> None:
    ids = saga("list", "--sort", order, "-o", "id").out.split()
    assert len(set(ids)) == len(ids) == ALL
    if order == "key":
        assert ids.index(TWICE) + 1 == ids.index(f"{TWICE}~2")
    if order == "duration":
        assert ids[0] == FAILED


def test_full_rows_are_statuses(saga: Console) -> None:
    rows = saga("list", "--full", "-o", "json").json
    assert len(rows) == ALL
    for row in rows:
        assert validate(row, "saga.status/v1")["steps"]


def test_nothing_found_is_an_empty_list(saga: Console) -> None:
    done = saga("list", "--type", "none", "-o", "json")
    assert (done.code, done.json, done.err) == (exits.OK, [], "")
    done = saga("list", "--type", "none", "-o", "jsonl")
    assert (done.code, done.out) == (exits.OK, "")


def test_wide_shows_more_and_raw_times_are_numbers(saga: Console) -> None:
    lines = saga("list", "-o", "wide", "--time", "raw", "--type", "parcel").out.splitlines()
    assert "VERSION" in lines[0]
    assert "STARTED" in lines[0]
    assert all(re.search(r"\b\d{16}\b", line) for line in lines[1:])


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("order/4710", "order/4710"),
        ("4710", "order/4710"),
        ("p1", f"{TWICE}~2"),
        ("p1~1", TWICE),
        (TWICE, TWICE),
        (f"{TWICE}~2", f"{TWICE}~2"),
        ("parcel/a b/ü", "parcel/a%20b%2F%C3%BC"),
        ("parcel/a%20b%2F%C3%BC", "parcel/a%20b%2F%C3%BC"),
        ("a b/ü", "parcel/a%20b%2F%C3%BC"),
        ("a%20b%2F%C3%BC", "parcel/a%20b%2F%C3%BC"),
        ("@latest:order", "order/4714"),
    ],
)
def test_a_saga_is_found_by_what_people_call_it(saga: Console, text: str, found: str) -> None:
    assert saga("status", text, "-o", "id").out == f"{found}\n"


def test_the_latest_of_all_is_the_last_that_started(saga: Console) -> None:
    assert saga("status", "@latest", "-o", "id").out.startswith("parcel/")


def test_a_key_of_two_types_is_ambiguous_and_both_are_named(saga: Console) -> None:
    done = saga("status", SHARED)
    assert done.code == exits.USAGE
    assert f"order/{SHARED}" in done.err
    assert f"parcel/{SHARED}" in done.err


@pytest.mark.parametrize("text", ["9999", "order/9999", "nosuch/4710", "p1~3", "@latest:nosuch", "order/4710~2", ""])
def test_what_is_not_there_is_not_found(saga: Console, text: str) -> None:
    done = saga("status", text)
    assert done.code == exits.NOT_FOUND
    assert done.out == ""
    assert len(done.err.splitlines()) == 1


def test_what_comes_near_is_named(saga: Console) -> None:
    assert "order/4700, order/4701, order/4702" in saga("status", "470").err


# ---- status ---------------------------------------------------------------------------------------------------------

OUTCOMES = {
    COMPLETED[0]: exits.OK,
    COMPENSATED: exits.COMPENSATED,
    FAILED: exits.FAILED,
    CANCELLED: exits.CANCELLED,
    CHARGING: exits.OK,
}


@pytest.mark.parametrize(("name", "code"), OUTCOMES.items())
def test_exit_status_tells_the_outcome_when_asked(saga: Console, name: str, code: int) -> None:
    assert saga("status", name, "--exit-status").code == code
    assert saga("status", name).code == exits.OK


@pytest.mark.parametrize(
    "name", [COMPLETED[0], COMPENSATED, COMPENSATING, CHARGING, RESERVING, CANCELLED, FAILED, f"{TWICE}~2"]
)
def test_status_is_as_its_schema_says(saga: Console, name: str) -> None:
    done = saga("status", name, "--history", "-o", "json")
    assert done.err == ""
    told = validate(done.json, "saga.status/v1")
    assert told["id"] == name
    assert told["observed"]["store"] == "ok"
    assert [entry["seq"] for entry in told["history"]] == list(range(1, len(told["history"]) + 1))


def test_status_says_where_why_and_what_comes_next(saga: Console) -> None:
    done = saga("status", COMPENSATING)
    lines = done.out.splitlines()
    assert lines[0].split() == ["●", COMPENSATING, "COMPENSATING"]
    assert "charge failed: Declined (test)" in done.out
    assert re.search(r"waiting +release: Released, sent again .*, given up in", done.out)
    assert re.search(r"├─✖ charge +FAILED +test +1 ", done.out)
    assert re.search(r"└─● release +COMPENSATING", done.out)
    assert re.search(r"▏ *●━+▏", done.out)
    assert f"saga watch {COMPENSATING}" in done.err


def test_a_failed_undo_names_the_commands_for_a_person(saga: Console) -> None:
    done = saga("status", FAILED)
    assert done.out.startswith("⚠ ")
    assert re.search(r"└─✖ release +UNDO_FAILED", done.out)
    assert "WaitingForPerson" in done.out
    assert "saga retry-undo" in done.err
    assert "saga mark-undone" in done.err


def test_the_steps_of_a_compensated_saga_are_told_apart_from_their_undos(saga: Console) -> None:
    steps = saga("status", COMPENSATED, "-o", "json").json["steps"]
    told = [(step["name"], step["compensates"], step["state"], step["outcome"]) for step in steps]
    assert told == [
        ("reserve", None, "COMPENSATED", "DONE"),
        ("charge", None, "FAILED", "FAILED"),
        ("release", "reserve", "COMPENSATED", "COMPENSATED"),
    ]


def test_history_shows_every_input_and_what_it_changed(saga: Console) -> None:
    done = saga("status", COMPENSATED, "--history")
    told = done.out.partition("WHAT IT CHANGED")[2].splitlines()[1:]
    assert [line.split()[2] for line in told] == ["Placed", "Reserved", "Declined", "Released"]
    assert "charge FAILED, saga COMPENSATING (charge: Declined), reserve COMPENSATING" in told[2]


@pytest.mark.parametrize(
    ("broker", "reason"),
    [("kafka://127.0.0.1:1", "127.0.0.1:1"), ("local:nowhere/broker.db", "there is no broker at nowhere/broker.db")],
)
def test_status_works_with_the_broker_down_and_says_so(saga: Console, broker: str, reason: str) -> None:
    done = saga("status", CHARGING, "--broker", broker)
    assert done.code == exits.OK
    assert CHARGING in done.out
    assert "the broker is down" in done.out
    assert reason in done.out
    told = validate(saga("status", CHARGING, "--broker", broker, "-o", "json").json)
    assert told["observed"]["broker"] == "down"
    assert reason in told["observed"]["broker_error"]
    assert told["observed"]["coordinator"] == "unknown"


def test_a_broker_of_another_process_memory_is_unknown_not_down(saga: Console) -> None:
    done = saga("status", CHARGING, "--broker", "memory:")
    assert "down" not in done.out
    assert saga("status", CHARGING, "--broker", "memory:", "-o", "json").json["observed"]["broker"] == "unknown"


def test_jaegers_page_is_named_where_it_is_known(saga: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_JAEGER", "http://127.0.0.1:16686/")
    told = saga("status", COMPENSATED, "-o", "json").json["trace"]
    assert told["url"] == f"http://127.0.0.1:16686/trace/{told['trace_id']}"
    assert told["url"] in saga("status", COMPENSATED).out
    assert told["url"] in saga("trace", COMPENSATED).out


# ---- looks ----------------------------------------------------------------------------------------------------------


def test_output_into_a_pipe_has_no_escapes_and_is_never_cut(saga: Console) -> None:
    for command in (["list"], ["status", COMPENSATING], ["trace", COMPENSATING], ["ignored"]):
        done = saga(*command)
        assert "\x1b" not in done.out + done.err
        assert "…" not in done.out


@pytest.mark.parametrize(
    ("environment", "arguments", "colored"),
    [
        ({}, ["--color", "always"], True),
        ({"NO_COLOR": "1"}, ["--color", "always"], True),
        ({"FORCE_COLOR": "1"}, [], True),
        ({"CLICOLOR_FORCE": "1"}, [], True),
        ({"CLICOLOR_FORCE": "0"}, [], False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, [], False),
        ({"FORCE_COLOR": "1"}, ["--color", "never"], False),
        ({}, [], False),
    ],
)
def test_the_flag_beats_no_color_beats_force_color_beats_the_terminal(
    saga: Console, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], arguments: list[str], colored: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in saga("list", *arguments).out) is colored


@pytest.mark.parametrize("command", [["list"], ["status", COMPENSATING], ["trace", COMPENSATED], ["status", FAILED]])
def test_ascii_output_is_ascii(saga: Console, command: list[str]) -> None:
    done = saga(*command, "--type", "order", "--ascii") if command == ["list"] else saga(*command, "--ascii")
    assert done.out.isascii()
    assert done.err.isascii()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 300])
def test_no_line_is_wider_than_the_page(saga: Console, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in (["list"], ["status", COMPENSATED, "--history"], ["trace", COMPENSATED]):
        lines = saga(*command).out.splitlines()
        assert max(map(len, lines)) <= width
        bars = [line for line in lines if line.endswith("▏")]
        assert width >= 80 or not bars
    assert saga("list", "-q").err == ""


def test_bars_can_be_left_out(saga: Console) -> None:
    assert "▏" in saga("status", COMPENSATED).out
    assert "▏" not in saga("status", COMPENSATED, "--no-bars").out
    assert "▏" not in saga("trace", COMPENSATED, "--no-bars").out


# ---- watch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [(name, code) for name, code in OUTCOMES.items() if name != CHARGING],
    ids=lambda value: str(value),
)
def test_watching_ends_with_the_saga_and_its_outcome(saga: Console, name: str, code: int) -> None:
    done = saga("watch", name)
    assert done.code == code
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  saga +RUNNING", done.out)


def test_without_a_terminal_each_change_is_one_line_or_one_object(saga: Console) -> None:
    lines = saga("watch", COMPENSATED).out.splitlines()
    objects = saga("watch", COMPENSATED, "-o", "jsonl").out.splitlines()
    assert len(lines) == len(objects) == 9
    told = [validate(json.loads(line), "saga.change/v1") for line in objects]
    assert [(change["step"], change["state"]) for change in told][-2:] == [
        ("reserve", "COMPENSATED"),
        (None, "COMPENSATED"),
    ]
    assert validate(saga("watch", COMPENSATED, "-o", "json").json, "saga.status/v1")["phase"] == "COMPENSATED"


def test_watching_in_vain_names_step_and_reason(saga: Console) -> None:
    done = saga("watch", CHARGING, "--timeout", "0.2")
    assert done.code == exits.TIMED_OUT
    assert f"{CHARGING} is still RUNNING after 0.2s at charge, waiting for Paid or Declined" in done.err


# ---- trace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [COMPLETED[0], COMPENSATED, COMPENSATING, CHARGING, CANCELLED, FAILED])
def test_a_trace_is_told_from_the_history_alone(saga: Console, name: str) -> None:
    told = validate(saga("trace", name, "-o", "json").json, "saga.trace/v1")
    assert told["source"] == ["history"]
    assert told["trace_id"] == validate(saga("status", name, "-o", "json").json)["trace"]["trace_id"]
    root = told["spans"][0]
    assert (root["name"], root["depth"], root["parent_id"]) == ("saga order", 0, None)
    assert root["open"] is (name in (COMPENSATING, CHARGING))
    assert all(span["depth"] == 1 and not span["orphan"] for span in told["spans"][1:])
    assert saga("trace", name, "-o", "id").out == f"{told['trace_id']}\n"


def test_what_is_awaited_is_drawn_open(saga: Console) -> None:
    spans = saga("trace", COMPENSATING, "-o", "json").json["spans"]
    assert [span["name"] for span in spans if span["open"]] == ["saga order", "compensate reserve"]
    done = saga("trace", COMPENSATING)
    assert re.search(r"[├└] compensate reserve .*▏ *●━+▏  compensating", done.out)
    assert "from the history alone" in done.err


def test_only_what_failed_stays_with_what_it_is_part_of(saga: Console) -> None:
    spans = saga("trace", COMPENSATED, "--failed-only", "-o", "json").json["spans"]
    assert [span["name"] for span in spans] == ["saga order", "step charge"]
    assert len(saga("trace", COMPENSATED, "--depth", "1", "-o", "json").json["spans"]) == 1


# ---- the ledger -----------------------------------------------------------------------------------------------------


def test_what_changed_nothing_is_counted_and_what_waits_too(saga: Console) -> None:
    told = validate(saga("ignored", "-o", "json").json, "saga.ignored/v1")
    assert {(row["event_type"], row["count"]) for row in told["ignored"]} == {("Fulfilled", 5), ("Cancelled", 2)}
    assert [(row["saga_type"], row["event_type"], row["count"]) for row in told["waiting"]] == [("order", "Refused", 1)]
    done = saga("ignored")
    assert re.search(r"5 +orders +Fulfilled", done.out)
    assert "1 Refused wait for their order" in done.out
