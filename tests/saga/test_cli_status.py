"""What `saga status` and `saga watch` say beyond the steps: who shares the error, who is away, and how far it is."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from choreo.saga.cli import exits
from choreo.saga.cli.glyphs import ASCII, PHASES, STEPS
from choreo.saga.cli.watching import Progress
from tests.saga.shelf import CHARGING, COMPENSATED, COMPENSATING, COMPLETED, FAILED
from tests.support.cli import SAGA, Program, environment
from tests.support.console import Console, validate
from tests.support.terminal import in_terminal


def test_an_error_is_told_with_how_many_share_it(looking: Console) -> None:
    """Three orders of the shelf were declined, one of them about an hour ago."""
    cause = validate(looking("status", COMPENSATED, "-o", "json").json)["cause"]
    assert re.fullmatch("[0-9a-f]{8}", cause["signature"])
    assert cause["signature"] == looking("status", COMPENSATING, "-o", "json").json["cause"]["signature"]
    assert cause["same_signature_last_hour"] >= 1
    assert re.search(
        r"first error at .*; \d+ other sagas? hit the same error in the", looking("status", COMPENSATED).out
    )


def test_errors_are_counted_by_step_with_an_example(looking: Console) -> None:
    rows = [validate(each, "saga.group/v1") for each in looking("list", "--group-by", "error", "-o", "json").json]
    [declined] = [each for each in rows if each["value"] == "Declined"]
    assert (declined["type"], declined["step"], declined["count"]) == ("order", "charge", 3)
    assert declined["signature"] == looking("status", COMPENSATED, "-o", "json").json["cause"]["signature"]
    lines = looking("list", "--group-by", "error").out.splitlines()
    assert lines[0].split() == ["COUNT", "FIRST", "SEEN", "LAST", "SEEN", "TYPE", "STEP", "ERROR", "EXAMPLE"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--error", "declin"], {COMPENSATED, COMPENSATING, FAILED}),
        (["--error", "100%"], set()),
        (["--key", "order_id=4712"], {CHARGING}),
        (["--key", "4710", "--key", "parcel_id=4712"], {COMPENSATED, "parcel/4712"}),
        (["--tag", "team=nobody"], set()),
        (["--older", "20m"], {FAILED}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_more_filters_choose(looking: Console, arguments: list[str], expected: set[str]) -> None:
    assert set(looking("list", *arguments, "-o", "id").out.split()) >= expected
    if "--older" not in arguments:
        assert set(looking("list", *arguments, "-o", "id").out.split()) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tag", "team"], "write name=value"),
        (["--older", "long"], "is no time"),
        (["-w", "--group-by", "error"], "leave out --group-by"),
        (["-o", "mermaid"], "-o mermaid is for saga graph"),
        (["--tz", "Mars/Olympus", "--since", "2026-01-01"], "--tz: 'Mars/Olympus' is no time zone"),
    ],
)
def test_what_cannot_be_listed_is_one_line(looking: Console, arguments: list[str], said: str) -> None:
    done = looking("list", *arguments)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert said in done.err


def test_each_attempt_has_a_line_when_asked(looking: Console) -> None:
    assert "#1" not in looking("status", COMPENSATED).out
    assert re.search(r"#1  failed at \+.*: Declined", looking("status", COMPENSATED, "--all-attempts").out)


def test_what_was_said_comes_with_the_history(looking: Console) -> None:
    told = validate(looking("status", COMPENSATED, "--payloads", "-o", "json").json)
    assert [each["type"] for each in told["history"]] == ["Placed", "Reserved", "Declined", "Released"]
    assert all(each["payload_error"] for each in told["history"])


def test_local_times_are_in_the_zone_that_is_named(looking: Console) -> None:
    assert "+05:30" in looking("status", COMPENSATED, "--tz", "Asia/Kolkata").out
    assert "+05:30" not in looking("status", COMPENSATED, "--tz", "UTC").out


def test_the_web_view_or_jaeger_is_opened(looking: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert looking("status", COMPENSATED, "--web").code == exits.USAGE
    monkeypatch.setenv("CHOREO_JAEGER", "http://127.0.0.1:16686")
    looking("status", COMPENSATED, "--web")
    monkeypatch.setenv("CHOREO_WEB", "http://127.0.0.1:8080/")
    assert "http://127.0.0.1:8080" in looking("status", COMPENSATED, "--web").err
    assert opened[0].startswith("http://127.0.0.1:16686/trace/")
    assert opened[1] == f"http://127.0.0.1:8080/sagas/{COMPENSATED}"


@pytest.mark.parametrize("width", [60, 70, 90])
def test_conditions_are_wrapped_within_the_page(looking: Console, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, looking("status", FAILED).out.splitlines())) <= width
    assert "▏" not in looking("status", FAILED).out or width >= 80


def test_an_open_saga_is_explained_next(looking: Console) -> None:
    assert f"saga why {CHARGING}" in looking("status", CHARGING).err
    assert "saga why" not in looking("status", COMPLETED[0]).err


def test_glyphs_are_one_cell_wide_and_have_an_ascii_twin() -> None:
    from rich.cells import cell_len

    for look in (*PHASES.values(), *STEPS.values()):
        assert cell_len(look.glyph) == 1
        assert look.glyph.translate(ASCII).isascii()


def test_a_bar_never_runs_backwards() -> None:
    progress, shares = Progress(), []
    for done, known in ((0, 4), (2, 4), (2, 8), (1, 4), (3, 4), (0, 4)):
        progress = progress.onward({"progress": {"done": done, "known": known}})
        shares.append(progress.share)
    assert shares == sorted(shares) == [0, 0.5, 0.5, 0.5, 0.75, 0.75]


def test_watching_can_be_of_the_saga_alone(looking: Console) -> None:
    lines = looking("watch", COMPENSATED, "--compact").out.splitlines()
    assert [line.split()[1:3] for line in lines] == [
        ["saga", "RUNNING"],
        ["saga", "COMPENSATING"],
        ["saga", "COMPENSATED"],
    ]
    assert looking("status", COMPENSATED, "-w").code == exits.COMPENSATED
    assert looking("watch", COMPENSATED, "-o", "id").out == f"{COMPENSATED}\n"


def test_a_list_goes_on_until_it_is_interrupted(shelf_home: Path, tmp_path: Path) -> None:
    program = Program(
        ["saga", "list", "-w", "--failed"], env=environment(home=shelf_home), folder=tmp_path, name="list"
    )
    try:
        program.start()
        program.until(f"{FAILED}  ")
        program.tell(signal.SIGINT)
        assert program.wait() == exits.INTERRUPTED
    finally:
        program.close()
    [line] = program.output.splitlines()
    assert re.search(rf"\d\d:\d\d:\d\d\.\d{{3}}  {FAILED} +FAILED +.*WaitingForPerson", line)


def test_the_last_frame_stays_and_a_terminal_is_told(shelf_home: Path) -> None:
    env = {**environment(home=shelf_home), "TERM": "xterm", "LANG": "C.UTF-8"}
    seen = in_terminal([SAGA, "watch", COMPENSATED, "--notify"], env)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert re.search(r"↩ order/4710  COMPENSATED +━", plain)
    assert "✖ charge FAILED" in plain
    assert "\x1b]9;saga order/4710 is over\x07" in seen
