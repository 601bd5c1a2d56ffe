"""Ends a run in which somebody works on and on without ever waiting: a loop without end, in a handler or in ours.

Nothing else can: what never waits gives the event loop no turn, so no limit of the loop's own is looked at.
"""

from __future__ import annotations

import ctypes
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

MOST_SECONDS = 10.0
"""Processor time that one turn of the loop may take; a thousandth of it is very long."""

_LOOK = 0.5


class Endless(KeyboardInterrupt):
    """One turn of the loop did not end. Event loops let nothing through but interruptions."""

    def __str__(self) -> str:
        frames = traceback.extract_tb(self.__traceback__)
        where = f": {Path(frames[-1].filename).name}, {frames[-1].name}" if frames else ""
        return f"somebody works on and on and never waits{where}"


class Patience:
    """Raises `Endless` in the thread that enters it when a turn takes too long; use it with `with`.

    Args:
        turns: gives how many turns the loop has had.
        seconds: of processor time, for one of them.
    """

    def __init__(self, turns: Callable[[], int], seconds: float) -> None:
        self._turns = turns
        self._seconds = seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(watched,), name="choreo-patience", daemon=True)
        self._thread.start()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, watched: int) -> None:
        seen, since = -1, 0.0
        while not self._over.wait(min(_LOOK, self._seconds)):
            turns, now = self._turns(), time.process_time()
            if turns != seen:
                seen, since = turns, now
            elif now - since >= self._seconds:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(watched), ctypes.py_object(Endless))
                return
