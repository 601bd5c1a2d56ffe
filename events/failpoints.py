"""Places where a test may kill this process: `CHOREO_CRASH_AT="NAME:3"` ends it at the third pass of that place.

Unset, a failpoint costs one call and two comparisons. The kill is SIGKILL, so nothing cleans up; `NAME:3:STOP` freezes
the process there instead, until somebody sends SIGCONT. A simulator of processes within this one watches the places
instead: what it raises there, it raises for that place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

Watcher = Callable[[str, tuple[str, ...]], None]

_name, _, _rest = os.environ.get("CHOREO_CRASH_AT", "").partition(":")
_count, _, _how = _rest.partition(":")
_left = int(_count) if _count.isdigit() else 1
_watcher: Watcher | None = None


def failpoint(name: str, *details: str) -> None:
    """Kill this process here if the environment asked for it.

    Args:
        name: of the place.
        details: what it is about, for a watcher.
    """
    if _watcher is not None:
        _watcher(name, details)
    if not _name or name != _name:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGSTOP if _how == "STOP" else signal.SIGKILL)


def watch(watcher: Watcher | None) -> None:
    """Have every pass of a failpoint told to `watcher`; None ends that."""
    global _watcher
    _watcher = watcher
