"""The command line as a user has it: `saga` in processes of its own, which end with the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .watchdog import Watchdog

SAGA = Path(sys.executable).with_name("saga")
_PATIENCE = 120.0


def environment(**settings: object) -> dict[str, str]:
    """This process's environment without settings of choreo's, and with these: `home="x"` becomes `CHOREO_HOME`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
    kept |= {f"CHOREO_{name.upper()}": str(value) for name, value in settings.items()}
    return kept


def saga(
    *arguments: object, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [str(SAGA), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=dict(env), cwd=cwd, timeout=timeout)


class Program:
    """A command that runs on until it is ended; its output goes into one file, over all its lives.

    Args:
        command: `saga`, `python` or a program's whole path, and what follows.
        env: its environment.
        folder: where its output goes.
        name: of the output file.
        cwd: where it runs; here by default.
    """

    def __init__(
        self, command: Sequence[object], *, env: Mapping[str, str], folder: Path, name: str, cwd: Path | None = None
    ) -> None:
        self.name = name
        self._command = [str(SAGA.parent / str(command[0])), *map(str, command[1:])]
        self._env = dict(env)
        self._cwd = cwd
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self.lives = 0
        self._before = 0

    @property
    def output(self) -> str:
        """Everything that it printed so far."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start it, or start it again."""
        assert self._process is None or self._process.poll() is not None, f"{self.name} runs already"
        self.lives += 1
        with self._log.open("ab") as log:
            self._before = log.tell()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, cwd=self._cwd
            )
        self._watchdog = Watchdog(self._process.pid, self._log.with_suffix(".gone"))

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; give the exit code."""
        return self._end(signal.SIGTERM)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = _PATIENCE) -> int | None:
        """Wait until it ends by itself; give the exit code, None if it runs on."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._dismiss()
        return code

    def until(self, text: str, seconds: float = _PATIENCE) -> None:
        """Wait until it has printed something in this life."""
        end = time.monotonic() + seconds
        while not self._log.exists() or text.encode() not in self._log.read_bytes()[self._before :]:
            assert self.code is None, f"{self.name} ended with {self.code}:\n{self.output[-3000:]}"
            assert time.monotonic() < end, f"{self.name} did not say {text!r}:\n{self.output[-3000:]}"
            time.sleep(0.05)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(_PATIENCE)
        self._dismiss()
        return code

    def _dismiss(self) -> None:
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None

    def close(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._dismiss()
