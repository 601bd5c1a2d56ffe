"""Places where a test may kill this process: `CHOREO_CRASH_AT="NAME:3"` ends it at the third pass of that place.

Unset, a failpoint costs one call and one comparison. The kill is SIGKILL, so nothing cleans up.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("CHOREO_CRASH_AT", "").partition(":")
_left = int(_count) if _count.isdigit() else 1


def failpoint(name: str) -> None:
    """Kill this process here if the environment asked for it."""
    if not _name or name != _name:
        return
    global _left
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
