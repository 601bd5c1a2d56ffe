"""How a run is ended from outside: once to finish what has begun, twice to end at once; nothing is lost either way."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.cli import Program, environment, saga

SLOW = """
import asyncio
from pathlib import Path

from choreo import Event, Service


class Asked(Event, topic="asked", key="number"):
    number: str


class Given(Event, topic="given", key="number"):
    number: str


desk = Service("desk", drain="50s")


@desk.on(Asked)
async def give(asked: Asked) -> Given:
    print("it has begun", flush=True)
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    return Given(number=asked.number)
"""


def test_fault_13_a_second_signal_ends_a_run_at_once_and_its_event_comes_again(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "asked.csv").write_text("number\n7\n")
    settings = environment(home=tmp_path / ".choreo")
    said = saga("publish", "slow.py:Asked", "asked.csv", env=settings, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    program = Program(["saga", "run", "slow.py"], env=settings, folder=tmp_path, name="desk", cwd=tmp_path)
    try:
        program.start()
        program.until("it has begun")
        program.tell(signal.SIGTERM)
        program.until("finishing what has begun; once more to stop at once")
        program.tell(signal.SIGTERM)
        assert program.wait() == 130
        (tmp_path / "go").touch()
        again = saga("run", "slow.py", "--until-idle", env=settings, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("it has begun") == 1
    finally:
        program.close()
