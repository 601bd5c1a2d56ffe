"""`saga run` and all that looks at what it does, in processes of their own on the embedded broker."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import SAGA, Program, environment, saga
from tests.support.console import validate
from tests.support.terminal import in_terminal

DESK = """
import asyncio

from choreo import Event, Saga, Service, step


class Asked(Event, topic="asked", key="id"):
    id: str
    answer: str = "yes"


class Answered(Event, topic="answered", key="id"):
    id: str


class Refused(Event, topic="answered", key="id"):
    id: str


class Booked(Event, topic="booked", key="id"):
    id: str


class Unbook(Event, topic="booked.commands", key="id"):
    id: str


class Unbooked(Event, topic="booked", key="id"):
    id: str


books = Service("books")
desk = Service("desk")


@books.on(Asked)
async def book(asked: Asked) -> Booked:
    return Booked(id=asked.id)


@books.on(Unbook, undoes=book)
async def unbook(command: Unbook) -> Unbooked:
    return Unbooked(id=command.id)


@desk.on(Asked)
async def answer(asked: Asked) -> Answered | Refused | None:
    if asked.answer == "never":
        return None
    return Answered(id=asked.id) if asked.answer == "yes" else Refused(id=asked.id)


class Question(Saga, start=Asked, key="id"):
    book = step(done=Booked, undo=Unbook, undone=Unbooked, within="1m")
    answer = step(done=Answered, failed=Refused, undo=None, within="1m")
"""

HANGING = """
import asyncio

from choreo import Event, Service


class Asked(Event, topic="asked", key="id"):
    id: str


slow = Service("slow", drain="50s")


@slow.on(Asked)
async def think(asked: Asked) -> None:
    print("thinking", flush=True)
    await asyncio.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "desk.py").write_text(DESK)
    (tmp_path / "hanging.py").write_text(HANGING)
    return tmp_path


@pytest.fixture
def env(folder: Path) -> Mapping[str, str]:
    return environment(home=folder / "home")


@pytest.fixture
def asked(folder: Path) -> Path:
    rows = [{"id": "1", "answer": "yes"}, {"id": "2", "answer": "no"}, {"id": "3", "answer": "never"}]
    path = folder / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def program(folder: Path, env: Mapping[str, str]) -> Iterator[Program]:
    made = Program(["saga", "run", folder / "desk.py"], env=env, folder=folder, name="desk")
    yield made
    made.close()


def _ask(env: Mapping[str, str], *arguments: object) -> Any:
    done = saga(*arguments, "-o", "json", env=env)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_run_until_idle_lists_what_is_still_open(folder: Path, env: Mapping[str, str], asked: Path) -> None:
    first = saga("run", folder / "desk.py", "--until-idle", env=env)
    assert first.returncode == 0, first.stderr
    assert first.stderr.endswith("nothing is left to do, and no saga is open\n")
    assert saga("publish", f"{folder / 'desk.py'}:Asked", asked, env=env).returncode == 0
    done = saga("run", folder / "desk.py", "--until-idle", env=env)
    assert done.returncode == 0, done.stderr
    assert "running  services books, desk · sagas question@1 · broker local:" in done.stderr
    assert "Traceback" not in done.stderr
    assert re.findall(r"question/\d", done.stdout) == ["question/3"]
    assert "1 of 1 · 1 open" in done.stderr
    assert {row["id"]: row["phase"] for row in _ask(env, "list")} == {
        "question/1": "COMPLETED",
        "question/2": "COMPENSATED",
        "question/3": "RUNNING",
    }


def test_everything_is_seen_while_it_runs_and_afterwards(
    program: Program, folder: Path, env: Mapping[str, str], asked: Path
) -> None:
    program.start()
    program.until("running  services")
    assert saga("publish", f"{folder / 'desk.py'}:Asked", asked, env=env).returncode == 0
    assert saga("watch", "2", "--timeout", "60", env=env).returncode == 3
    assert saga("watch", "1", "--timeout", "60", env=env).returncode == 0

    told = validate(_ask(env, "status", "2"), "saga.status/v1")
    assert told["observed"]["broker"] == "ok"
    assert told["observed"]["coordinator"] == "ok"
    assert [(step["name"], step["state"], step["service"]) for step in told["steps"]] == [
        ("book", "COMPENSATED", "books"),
        ("answer", "FAILED", "desk"),
        ("unbook", "COMPENSATED", "books"),
    ]
    waiting = validate(_ask(env, "status", "3"))
    assert waiting["steps"][1]["service"] == "desk", "the catalog says who is expected to answer"

    cancelled = validate(_ask(env, "cancel", "3", "--reason", "nobody answers"), "saga.command/v1")
    assert cancelled["state"] == "applied"
    assert saga("watch", "3", "--timeout", "60", env=env).returncode == 5
    started = validate(_ask(env, "start", "question", "id=4"), "saga.command/v1")
    assert saga("watch", started["id"], "--timeout", "60", env=env).returncode == 0

    assert program.stop() == 0
    assert "stopping" in program.output
    assert "Traceback" not in program.output

    trace = validate(_ask(env, "trace", "2"), "saga.trace/v1")
    assert trace["source"] == ["history", "spans"]
    names = [(span["name"], span["depth"]) for span in trace["spans"]]
    assert names[0] == ("saga question", 0)
    assert ("compensate book", 1) in names
    assert ("process booked.commands", 2) in names
    down = _ask(env, "status", "3")["observed"]
    assert (down["broker"], down["coordinator"]) == ("ok", "down")
    for command in (["list"], ["status", "2"], ["trace", "2"], ["topics", "list"]):
        done = saga(*command, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_start_line_is_json_where_logs_are(program: Program, folder: Path, env: Mapping[str, str]) -> None:
    program = Program(
        ["saga", "run", folder / "desk.py"], env={**env, "CHOREO_LOG": "json"}, folder=folder, name="json"
    )
    try:
        program.start()
        program.until('"event": "running"')
        [line] = [json.loads(line) for line in program.output.splitlines() if '"event": "running"' in line]
        assert line["services"] == ["books", "desk"]
        assert line["sagas"] == ["question@1"]
    finally:
        program.close()


def test_a_second_signal_ends_a_hanging_program_at_once(folder: Path, env: Mapping[str, str]) -> None:
    asked = saga("publish", f"{folder / 'hanging.py'}:Asked", "--data", '{"id":"1"}', env=env)
    assert asked.returncode == 0, asked.stderr
    log = folder / "hanging.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SAGA), "run", str(folder / "hanging.py")], env=dict(env), stdout=output, stderr=output
        )
    try:
        _until(log, "thinking")
        process.send_signal(signal.SIGINT)
        _until(log, "stopping")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def _until(log: Path, said: str) -> None:
    for _ in range(1_200):
        if said in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_a_program_ends_with_one_line_when_a_part_cannot_go_on(
    program: Program, folder: Path, env: Mapping[str, str], asked: Path
) -> None:
    """The broker's file is made anew beneath a coordinator's saved position: a person decides (ruling R2)."""
    saga("run", folder / "desk.py", "--until-idle", env=env)
    saga("publish", f"{folder / 'desk.py'}:Asked", asked, env=env)
    saga("run", folder / "desk.py", "--until-idle", env=env)
    for path in (folder / "home").glob("broker.db*"):
        path.unlink()
    program.start()
    assert program.wait() == 1
    errors = [line for line in program.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "the topic was made anew" in errors[0]
    assert "--on-gap continue" in errors[0]
    assert "Traceback" not in program.output
    assert saga("run", folder / "desk.py", "--until-idle", "--on-gap", "continue", env=env).returncode == 0


def test_whoever_stops_reading_ends_a_command_quietly(folder: Path, env: Mapping[str, str]) -> None:
    command = f"'{SAGA}' help exit-codes | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, env=dict(env))
    assert done.stderr == ""


def test_a_terminal_sees_one_frame_that_stays(folder: Path, env: Mapping[str, str], asked: Path) -> None:
    saga("run", folder / "desk.py", "--until-idle", env=env)
    saga("publish", f"{folder / 'desk.py'}:Asked", asked, env=env)
    saga("run", folder / "desk.py", "--until-idle", env=env)
    seen = in_terminal([str(SAGA), "watch", "2"], {**env, "TERM": "xterm-256color", "LANG": "C.UTF-8"})
    assert seen.count("question/2") >= 1
    assert "COMPENSATED" in seen
    assert "\x1b[" in seen
