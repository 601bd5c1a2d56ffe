"""A server that was started for the tests ends with them, however they die: a second process watches a pipe to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_WATCH = """
import os, shutil, signal, sys, time
sys.stdin.buffer.read()
try:
    os.kill(int(sys.argv[1]), getattr(signal, sys.argv[2]))
    for _ in range(100):
        time.sleep(0.1)
        os.kill(int(sys.argv[1]), 0)
except ProcessLookupError:
    pass
shutil.rmtree(sys.argv[3], ignore_errors=True)
"""


class Watchdog:
    """Ends the process `pid` and deletes `folder` when this process is gone.

    Args:
        pid: the server's.
        folder: its data.
        ends_with: the name of the signal that ends it at once.
    """

    def __init__(self, pid: int, folder: Path, ends_with: str = "SIGKILL") -> None:
        command = [sys.executable, "-c", _WATCH, str(pid), ends_with, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        """Stop watching: the server is being stopped in order."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
