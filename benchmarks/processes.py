"""What other processes of a measurement cost, read from Linux' /proc; elsewhere only our own process is known."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Add up the CPU time of processes and of all that descend from them, those that have ended included."""
    roots = list(pids)
    if not roots or not _PROC.is_dir():
        return 0.0
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended just now
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
            ticks[int(folder.name)] = sum(int(each) for each in fields[11:15])
    found: set[int] = set()
    while roots:
        pid = roots.pop()
        found.add(pid)
        roots += parents.get(pid, [])
    return sum(ticks.get(pid, 0) for pid in found) / _TICK


def peak_memory(pids: Iterable[int] = ()) -> float:
    """Add up the peak memory of this process and of others, MB.

    What `getrusage` says of a process begins with the peak of the one that started it, so it is only the second choice.
    """
    own = _peak("self")
    if own is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return own + sum(_peak(str(pid)) or 0.0 for pid in pids)


def _peak(pid: str) -> float | None:
    try:
        lines = (_PROC / pid / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
