"""`saga run --reload`: run in a process of its own, and start it again whenever the user's files change.

The one that watches loads none of the user's code. It tells the one that runs to stop by closing a pipe: so a Ctrl-C,
which the terminal gives to both, counts once, and the runner never outlives its watcher.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType

from . import exits

LOOK = 0.4
"""Seconds between two looks at the files."""

PATIENCE = 75.0
"""Seconds that a runner has to finish what it has begun; a service's own drain is at most 50 s."""

_SKIPPED = {"__pycache__", "node_modules", "site-packages", "build", "dist"}
_MOST_FILES = 20_000
_NAMES = ("choreo.toml", ".env")
_RUNNER = "import sys; from choreo.saga.cli.reloading import run_child; run_child(int(sys.argv[1]), sys.argv[2:])"

_stop_at_end_of: int | None = None
"""In a runner: the pipe whose end means to stop."""

Stamps = Mapping[Path, tuple[int, int]]


# ---- the files ---------------------------------------------------------------------------------------------------


def folders_of(targets: Iterable[str]) -> list[Path]:
    """Give the folders in which the code of these targets lies, and the working directory's own files' folder."""
    found: dict[Path, None] = {}
    for target in targets:
        where = target.partition(":")[0]
        if where.endswith(".py") or "/" in where:
            found[Path(where).resolve().parent] = None
            continue
        spec = PathFinder.find_spec(where.partition(".")[0], [str(Path.cwd()), *sys.path])
        if spec is not None and spec.submodule_search_locations:
            found.update((Path(place).resolve(), None) for place in spec.submodule_search_locations)
        elif spec is not None and spec.origin is not None:
            found[Path(spec.origin).resolve().parent] = None
    found[Path.cwd()] = None
    return [folder for folder in found if not any(other in folder.parents for other in found)]


def stamps(folders: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Note when each file of the user's was changed, and how long it is."""
    found: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for path in _files(folder):
            try:
                status = path.stat()
            except OSError:
                continue  # removed while we look
            found[path] = (status.st_mtime_ns, status.st_size)
            if len(found) >= _MOST_FILES:
                return found
    return found


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            inside = Path(entry.path)
            # A folder with an environment in it is not the user's code.
            if entry.name[0] != "." and entry.name not in _SKIPPED and not (inside / "pyvenv.cfg").exists():
                yield from _files(inside)
        elif entry.name.endswith(".py") or entry.name in _NAMES:
            yield Path(entry.path)


def changed(before: Stamps, now: Stamps) -> list[Path]:
    """Name what is new, gone or different."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def syntax_error(paths: Iterable[Path]) -> str | None:
    """Show the first file that is no Python, as a block of lines; None if all are."""
    for path in paths:
        if path.suffix != ".py":
            continue
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except OSError:
            continue
        except (SyntaxError, ValueError) as error:
            return _block(path, error)
    return None


def _block(path: Path, error: SyntaxError | ValueError) -> str:
    if not isinstance(error, SyntaxError):
        return f"{_short(path)}: {error}"
    lines = [f"{_short(path)}:{error.lineno}: {error.msg}"]
    if error.text is not None:
        text = error.text.rstrip("\n")
        lines.append(f"    {text}")
        if error.offset is not None and error.offset > 0:
            lines.append("    " + "".join("\t" if each == "\t" else " " for each in text[: error.offset - 1]) + "^")
    return "\n".join(lines)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# ---- the one that watches ------------------------------------------------------------------------------------------


class Runner:
    """The process that runs the user's code.

    Args:
        arguments: of `saga`, without `--reload`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        end, self._pipe = os.pipe()
        self._process = subprocess.Popen([sys.executable, "-c", _RUNNER, str(end), *arguments], pass_fds=(end,))
        os.close(end)
        self._open = True

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Tell it to finish what it has begun, and to end."""
        if self._open:
            self._open = False
            os.close(self._pipe)

    def stop(self, patience: float = PATIENCE) -> int:
        """Let it end within `patience` seconds; give its exit code."""
        self.ask_to_stop()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def watch(arguments: Sequence[str], targets: Iterable[str], tell: Callable[[str], None]) -> int:
    """Run `saga` with these arguments, again after each change of the user's files, until a signal.

    Args:
        arguments: of `saga`, without `--reload`.
        targets: what it runs: their folders are watched, and the working directory.
        tell: shows people a line, or a block of lines.

    Returns:
        The exit code of the last run.
    """
    folders = folders_of(targets)
    asked = threading.Event()
    runner: Runner | None = None

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set() and runner is not None:
            runner.kill()
        asked.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        tell(f"watching {', '.join(_short(folder) for folder in folders)}; Ctrl-C ends")
        seen = stamps(folders)
        runner = Runner(arguments)
        told = False
        while not asked.is_set():
            if runner.code is not None and not told:
                tell(f"it has ended with {runner.code}; waiting for the next change")
                told = True
            asked.wait(LOOK)
            now = stamps(folders)
            different = changed(seen, now)
            if not different or asked.is_set():
                continue
            time.sleep(LOOK / 4)  # an editor may be writing still, and other files with it
            seen = stamps(folders)
            if (block := syntax_error([path for path in different if path in seen])) is not None:
                tell(f"{block}\nnothing is started again; waiting for the next change")
                continue
            tell(f"{_short(different[0])} has changed{_more(different)}: starting again")
            runner.stop()
            if asked.is_set():
                break
            runner = Runner(arguments)
            told = False
        code = runner.stop()
        return code if code >= 0 else exits.INTERRUPTED
    finally:
        if runner is not None and runner.code is None:
            runner.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _more(different: Sequence[Path]) -> str:
    return f" (and {len(different) - 1} more)" if len(different) > 1 else ""


# ---- the one that runs ---------------------------------------------------------------------------------------------


def run_child(pipe: int, arguments: Sequence[str]) -> None:
    """Run a command line in the runner."""
    global _stop_at_end_of
    _stop_at_end_of = pipe
    os.set_inheritable(pipe, False)
    from .app import call

    code = call(arguments)
    sys.stdout.flush()
    sys.exit(code)


def when_told(stop: Callable[[], None]) -> None:
    """In a runner, call `stop` once its watcher says so or is gone; elsewhere do nothing. Call it within a loop."""
    if _stop_at_end_of is None:
        return
    import asyncio

    loop = asyncio.get_running_loop()
    pipe = _stop_at_end_of

    def ended() -> None:
        loop.remove_reader(pipe)
        stop()

    loop.add_reader(pipe, ended)
