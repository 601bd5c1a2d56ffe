"""Blocking handlers: plain `def` functions run in a bounded pool of threads, so that the event loop goes on meanwhile.

The threads are daemons: nobody can end a thread from outside, and one that hangs must not hold up the process's end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple["Future[Any]", Callable[[], Any]]


class Threads(Executor):
    """A bounded pool of daemon threads, each started when it is first needed.

    Args:
        most: how many may run at once; what comes then waits its turn.
        name: of the threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self._name = name
        self._work: SimpleQueue[_Work] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        self._started = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[T] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
            elif self._started < self.most:
                self._started += 1
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
            self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _run(self) -> None:
        while True:
            future, work = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work  # a thread that waits for more must not keep an event alive
            with self._lock:
                if self._work.empty():
                    self._free += 1
