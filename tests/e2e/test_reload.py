"""`saga run --reload`: started again when the user's files change, after what has begun is finished."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from choreo.saga.cli.reloading import changed, folders_of, stamps, syntax_error
from tests.support.cli import Program, environment, saga

SHOP = """
import asyncio, os
from pathlib import Path
from choreo import Event, Service

HERE = Path(__file__).parent

def note(text):
    with (HERE / "notes").open("a") as notes:
        notes.write(f"{text}\\n")

note(f"loaded {os.getpid()}")

class Placed(Event, topic="orders", key="order_id"):
    order_id: str

shop = Service("shop-VERSION")

@shop.on(Placed, name="take")
async def take(order: Placed) -> None:
    note("begun VERSION")
    while not (HERE / "go").exists():
        await asyncio.sleep(0.05)
    note("ended VERSION")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    (code / "shop.py").write_text(SHOP.replace("VERSION", "1"))
    return code


@pytest.fixture
def program(folder: Path, tmp_path: Path) -> Iterator[Program]:
    env = environment(home=tmp_path / "home")
    made = Program(["saga", "run", "shop.py", "--reload"], env=env, folder=tmp_path, name="run", cwd=folder)
    made.start()
    try:
        yield made
    finally:
        made.close()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _notes(folder: Path) -> list[str]:
    file = folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


def _alive(note: str) -> bool:
    try:
        os.kill(int(note.removeprefix("loaded ")), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_change_lets_what_has_begun_end_and_runs_the_new_code(folder: Path, program: Program, tmp_path: Path) -> None:
    program.until("running  services shop-1")
    published = saga(
        "publish", "shop.py:Placed", "--data", '{"order_id": "1"}', env=environment(home=tmp_path / "home"), cwd=folder
    )
    assert published.returncode == 0, published.stderr
    _until(lambda: "begun 1" in _notes(folder))
    (folder / "shop.py").write_text(SHOP.replace("VERSION", "2"))
    program.until("shop.py has changed: starting again")
    (folder / "go").touch()
    program.until("running  services shop-2")
    notes = [note for note in _notes(folder) if not note.startswith("loaded")]
    assert notes[:2] == ["begun 1", "ended 1"]
    assert notes.count("begun 1") == 1

    (folder / "shop.py").write_text("def broken(:\n    pass\n")
    program.until("waiting for the next change")
    assert program.output.splitlines()[-4:] == [
        "shop.py:1: invalid syntax",
        "    def broken(:",
        "               ^",
        "nothing is started again; waiting for the next change",
    ]
    loaded = [note for note in _notes(folder) if note.startswith("loaded")]
    assert _alive(loaded[-1]), "the code that worked runs on"

    (folder / "shop.py").write_text("import nowhere_at_all\n")
    program.until("it has ended with 2; waiting for the next change")
    assert "error: cannot load shop.py: shop.py:1: ModuleNotFoundError" in program.output

    (folder / "shop.py").write_text(SHOP.replace("VERSION", "3"))
    program.until("running  services shop-3")
    assert program.stop() == 0
    loaded = [note for note in _notes(folder) if note.startswith("loaded")]
    assert not any(_alive(note) for note in loaded)
    assert "Traceback" not in program.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_runner_ends_with_its_watcher(folder: Path, program: Program, number: signal.Signals) -> None:
    program.until("running  services shop-1")
    code = program._end(number)
    assert code == (0 if number is signal.SIGINT else -number)
    _until(lambda: not _alive(_notes(folder)[0]))


def test_only_the_users_code_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "shop.py",
        "choreo.toml",
        "notes.txt",
        "parts/stock.py",
        ".venv/x.py",
        "env/lib/x.py",
        "__pycache__/x.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    assert folders_of(["shop.py:shop", "parts/stock.py"]) == [tmp_path]
    assert Path(os.__file__).parent in folders_of(["os"]) and tmp_path in folders_of(["os"])
    seen = stamps([tmp_path])
    assert sorted(str(path.relative_to(tmp_path)) for path in seen) == ["choreo.toml", "parts/stock.py", "shop.py"]
    (tmp_path / "shop.py").write_text("x = 1")
    (tmp_path / "choreo.toml").unlink()
    assert changed(seen, stamps([tmp_path])) == [tmp_path / "choreo.toml", tmp_path / "shop.py"]


def test_what_is_no_python_is_shown_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "fine.py": "x = 1",
        "data.toml": "[",
        "broken.py": "if True:\n\tx = (1\n",
        "null.py": "\0",
    }.items():
        (tmp_path / name).write_text(text)
    assert syntax_error([tmp_path / "fine.py", tmp_path / "data.toml", tmp_path / "gone.py"]) is None
    assert syntax_error([tmp_path / "broken.py"]) == "broken.py:2: '(' was never closed\n    \tx = (1\n    \t    ^"
    assert (syntax_error([tmp_path / "null.py"]) or "").startswith("null.py")
