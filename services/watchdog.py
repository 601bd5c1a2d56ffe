"""Notices a blocked event loop from a thread beside it, and names the handler that blocks it.

An `async` handler that computes or sleeps without awaiting stops everything in its process: other handlers, commits,
and the signs of life to the broker, which then gives the partitions to somebody else. The handlers pay nothing for the
watch: only when the loop does not answer is its thread's stack looked at.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from pathlib import Path
from types import CodeType
from weakref import WeakKeyDictionary

import structlog

from .service import Service

log = structlog.get_logger("choreo.services")

BLOCKED = 1.0
"""Seconds without an answer of the loop after which it is told."""

_EVERY = 0.25
_watchdogs: WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = WeakKeyDictionary()


class Watchdog:
    """Watches one event loop, whichever services run on it; made by `watch`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._services: list[Service] = []
        self._codes: dict[CodeType, str] = {}
        self._answered = threading.Event()
        self._stopped = threading.Event()

    def add(self, service: Service) -> None:
        """Know a service's handlers too; with the first one the watch begins."""
        self._services.append(service)
        for handler in service.handlers:
            code = getattr(inspect.unwrap(handler.function), "__code__", None)
            if code is not None:
                self._codes[code] = handler.full_name
        if len(self._services) == 1:
            threading.Thread(target=self._run, name="choreo-watchdog", daemon=True).start()

    def remove(self, service: Service) -> None:
        """Forget a service; with the last one the watch ends."""
        self._services.remove(service)
        if not self._services:
            self._stopped.set()
            self._answered.set()
            _watchdogs.pop(self._loop, None)

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY):
            self._answered.clear()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # it is closed
                return
            asked = time.monotonic()
            if self._answered.wait(BLOCKED):
                continue
            handler, place = self._culprit()
            log.warning(
                "the event loop is blocked: nothing else goes on, and the broker may take this process for dead; write "
                "the handler as a plain `def`, so that it runs in a thread, or await what it waits for",
                handler=handler,
                at=place,
            )
            self._answered.wait()
            log.warning("the event loop goes on", handler=handler, seconds=round(time.monotonic() - asked, 1))

    def _culprit(self) -> tuple[str | None, str | None]:
        """Name the handler that the loop's thread is in, and the line; None where it is in no handler."""
        frame = sys._current_frames().get(self._thread)
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else None
        while frame is not None:
            handler = self._codes.get(frame.f_code)
            if handler is not None:
                return handler, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            frame = frame.f_back
        return None, place


def watch(service: Service) -> Watchdog:
    """Watch the running loop for a service."""
    loop = asyncio.get_running_loop()
    watchdog = _watchdogs.get(loop)
    if watchdog is None:
        watchdog = _watchdogs[loop] = Watchdog(loop)
    watchdog.add(service)
    return watchdog
