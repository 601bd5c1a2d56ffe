"""Seeded bugs: `explore` must find each within so many seeds, with the bug in the real code and no other change."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from tests.mutants.bugs import BUGS, Bug
from tests.mutants.patching import install, replaced

NEVER = 400
"""Seconds of processor time after which a hunt counts as one that found something: a bug may make it go on for ever."""


class Found(NamedTuple):
    """What became of one bug.

    Args:
        rule: the invariant that it broke; "" if none.
        seed: the run that showed it.
        told: how.
        runs: how many were made.
        seconds: how long they took.
    """

    rule: str
    seed: str
    told: str
    runs: int
    seconds: float


def hunt(bug: Bug) -> Found:
    """Look for one bug in a process of its own.

    Raises:
        AssertionError: the bug cannot be seeded: its text is not there any more.
        RuntimeError: the process died.
    """
    name = f"choreo.{bug.module}"
    changed = {name: replaced(name, bug.old, bug.new)} if bug.old else {}
    here, there = multiprocessing.Pipe(duplex=False)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (NEVER, NEVER + 10))
            install(changed)
            there.send(_explored(bug))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    there.close()
    try:
        return Found(*here.recv())
    except EOFError:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return Found("it ends", "-", f"no end within {NEVER} s", 0, time.monotonic() - began)
        raise RuntimeError(f"the process that looked for {bug.name!r} died") from None
    finally:
        here.close()


def _explored(bug: Bug) -> tuple[str, str, str, int, float]:
    gc.freeze()
    scenarios = importlib.import_module("tests.mutants.scenarios")
    explorer = scenarios.SCENARIOS[bug.scenario](bug.faults or None)
    began = time.monotonic()
    failure = explorer.first_failure(bug.seeds)
    seconds = time.monotonic() - began
    if failure is None:
        return "", "", "", bug.seeds, seconds
    seed = str(failure.seed)
    runs = int(seed) + 1 if seed.isdigit() else 0
    return failure.rule, seed, failure.told.splitlines()[0], runs + 1, seconds


def preload() -> None:
    """Import what is not ours, so that the children need not."""
    for name in ("pydantic", "fastavro", "sqlalchemy", "aiosqlite", "structlog", "opentelemetry.sdk.trace", "alembic"):
        importlib.import_module(name)


def table(bugs: Sequence[Bug] = BUGS, *, sober: bool = True) -> bool:
    """Hunt bugs and print a line for each; True if every one was found.

    Args:
        bugs: which.
        sober: run the same seeds without a bug before: what fails there would count as finding each of them.
    """
    preload()
    for scenario, faults in dict.fromkeys((bug.scenario, bug.faults) for bug in bugs if sober):
        seeds = max(bug.seeds for bug in bugs if (bug.scenario, bug.faults) == (scenario, faults))
        found = hunt(Bug("no bug", "", "", "", seeds, faults, scenario))
        if found.rule:
            print(f"{scenario} with {faults or 'all faults'} breaks {found.rule} without any bug: {found.told}")
            return False
    survived = 0
    print(f"{'bug':<68} {'module':<22} {'found by':<9} {'seed':>6} {'of':>4} {'a second':>8}")
    for bug in bugs:
        found = hunt(bug)
        survived += not found.rule
        pace = found.runs / found.seconds if found.seconds else 0.0
        rule = found.rule or "SURVIVED"
        print(f"{bug.name:<68} {bug.module:<22} {rule:<9} {found.seed:>6} {bug.seeds:>4} {pace:>8.1f}", flush=True)
    print(f"{len(bugs) - survived} of {len(bugs)} bugs were found")
    return survived == 0
