"""What the figures were measured on, for whoever compares them."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from tests.support.parts import Missing
from tests.support.postgres import postgres_programs

from .environments import RESTATE, pinned
from .plan import Peer

_LIBRARIES = ("aiokafka", "fastavro", "pydantic", "SQLAlchemy", "aiosqlite")


def facts(jars: Path) -> dict[str, str | int | float | dict[str, str]]:
    """Describe this machine, without naming it."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "kafka": jars.name.removeprefix("kafka-"),
        "java": _java(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms": round(_fsync() * 1_000, 2),
        "postgresql": _postgres(),
        "peers": {peer: pinned(peer) for peer in get_args(Peer)} | {"restate-server": RESTATE},
        **{name.lower(): version(name) for name in _LIBRARIES},
    }


def load() -> float:
    """Give the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _java() -> str:
    shown = subprocess.run(["java", "-version"], check=False, capture_output=True, text=True).stderr
    return shown.partition('"')[2].partition('"')[0]


def _postgres() -> str:
    try:
        told = subprocess.run(
            [postgres_programs() / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except Missing:
        return "missing"
    return told.stdout.split()[2]


def _fsync() -> float:
    """Measure the median time of a durable write of 4 KiB, which is what every commit waits for."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
