"""A server of a test run: one process that listens on loopback and dies with the tests, whatever ends them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from . import parts
from .watchdog import Watchdog


class Startable(Protocol):
    """A server that is started, and stopped for good."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


class Server:
    """Starts and kills one process.

    Args:
        name: what it is, for people.
        prefix: of its own folder, in which it runs and logs.
        ends_with: the name of the signal that ends it at once.
    """

    def __init__(self, name: str, prefix: str, ends_with: str = "SIGKILL") -> None:
        self.root = Path(tempfile.mkdtemp(prefix=prefix))
        self.process: subprocess.Popen[bytes] | None = None
        self._name = name
        self._watchdog: Watchdog | None = None
        self._ends_with = ends_with

    def launch(
        self,
        command: Sequence[object],
        answers: Callable[[], bool],
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """Start it; returns when `answers` says so, and fails with the end of its log after so many seconds."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=env,
                user=user,
                start_new_session=True,  # Ctrl-C ends the tests, and the tests end the server
            )
        self._watchdog = Watchdog(self.process.pid, self.root, self._ends_with)
        end = time.monotonic() + seconds
        while not answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self._name} did not start:\n{(self.root / 'log').read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once; its folder stays, for another start."""
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None
        if self.process is not None:
            self.process.send_signal(getattr(signal, self._ends_with))
            self.process.wait(60)
            self.process = None

    def stop(self) -> None:
        """Kill it, and delete its folder."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


def running(part: str, make: Callable[[], S]) -> Iterator[S]:
    """Give a server that runs, for a fixture; where its part is missing, say so instead.

    Args:
        part: what it is called, as `Apache Kafka`.
        make: makes it, or raises `Missing`.
    """
    try:
        server = make()
    except parts.Missing as missing:
        parts.missing(part, str(missing))
    with started(server):
        yield server


@contextmanager
def started(server: S) -> Iterator[S]:
    """Start a server, and stop it at the end."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def run_by_hand(part: str, make: Callable[[], S], told: Callable[[S], str]) -> None:
    """Run a server until the input closes; its address is the first line of output."""
    try:
        with started(make()) as server:
            print(told(server), flush=True)
            sys.stdin.read()
    except parts.Missing as missing:
        sys.exit(f"{part} is missing: {missing}")
    except KeyboardInterrupt:
        pass
