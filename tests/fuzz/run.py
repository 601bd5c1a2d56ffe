"""All fuzzers for a bounded time, in processes of their own; what they learned is kept in the cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.support.cache import cache_home

from .targets import TARGETS

_LATE = 60


def fuzz_all(seconds: float) -> list[str]:
    """Run the fuzzers side by side.

    Args:
        seconds: for all of them.

    Returns:
        The names of those that found something; each was told with the file that shows it again.
    """
    if find_spec("atheris") is None:
        print("no fuzzing: atheris has no wheel for this platform (tests/requirements.txt says for which)")
        return []
    print(f"fuzzing {', '.join(TARGETS)} for {seconds:.0f} seconds")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="choreo-fuzz-") as logs:
        running = {name: _start(name, seconds, Path(logs) / name) for name in TARGETS}
        try:
            codes = {name: _end(process, began + seconds + _LATE) for name, process in running.items()}
        except KeyboardInterrupt:
            print("fuzzing was ended before its time; nothing found so far")
            return []
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        for name, code in codes.items():
            _tell(name, code, (Path(logs) / name).read_text(errors="replace"))
    return [name for name, code in codes.items() if code]


def _folder(name: str) -> Path:
    return cache_home() / "fuzz" / name


def _start(name: str, seconds: float, log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        name,
        str(_folder(name)),
        f"-max_total_time={max(1, round(seconds))}",
    ]
    with log.open("wb") as out:
        # Ctrl-C ends us and we end them: to a fuzzer it would be an error of the code under test.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def _end(process: subprocess.Popen[bytes], until: float) -> int:
    try:
        return process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return -1


def _tell(name: str, code: int, log: str) -> None:
    lines = log.splitlines()
    if not code:
        done = next((line for line in reversed(lines) if line.startswith("Done ")), "it ended")
        print(f"fuzzing {name}: {done}, nothing found")
        return
    found = [line.rpartition(" ")[2] for line in lines if "Test unit written to" in line]
    again = found[0] if found else str(_folder(name))
    print(f"\nfuzzing {name} found something:\n{log[-3000:]}\npython -m tests.fuzz {name} {again} shows it again")
