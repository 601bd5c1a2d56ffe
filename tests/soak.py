"""`make soak`: explore the demo shop for as long as one wants, fuzz what strangers send, and check the capacity model.

`make soak SOAK=60` takes an hour, a fifth of it for the fuzzers; `make soak SEED=100000` goes on from that seed. The
model of `docs/scaling.md` is held against a simulation, up to 100,000 sagas a second and a billion stored ones, and
against a real coordinator, in two minutes more.
It ends with what happened how often, Ctrl-C ends it sooner. A failure prints its story, and the seed or the file that
shows it again.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from benchmarks import scale
from choreo.saga.testing import Explored
from choreo.saga.testing.exploring.jobs import in_jobs
from choreo.saga.testing.exploring.quiet import quiet

from .fuzz import run as fuzz
from .saga.explored import explorer_of_the_demo

FUZZING = 0.2
"""The fuzzers' share of the time."""


def main() -> int:
    """Run it; 1 when a run has failed."""
    minutes, first = float(os.environ.get("SOAK") or 1), int(os.environ.get("SEED") or 0)
    jobs = os.cpu_count() or 1
    until = time.monotonic() + minutes * 60 * (1 - FUZZING)

    def work(job: int) -> Explored:
        stopped: list[int] = []
        signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
        with quiet():
            explorer = explorer_of_the_demo()
            explored = explorer.explore(
                itertools.count(first + job, jobs), stop=lambda: bool(stopped) or time.monotonic() >= until
            )
            if explored.failure is not None:
                explored.failure = explorer.shrink(explored.failure)
            explorer.close()
        return explored

    ended: list[int] = []  # the jobs hear it too, end their run, and tell what they have seen
    signal.signal(signal.SIGINT, lambda number, _: ended.append(number))
    print(
        f"exploring the demo shop for {minutes * (1 - FUZZING):g} of {minutes:g} minutes with {jobs} jobs, from seed "
        f"{first}; Ctrl-C ends it"
    )
    began = time.monotonic()
    whole = Explored()
    failures = []
    for part in in_jobs(work, list(range(jobs))):
        whole.add(part)
        if part.failure is not None:
            failures.append(part.failure)
    whole.seconds = time.monotonic() - began
    print(whole)
    for failure in failures:
        print(f"\n{failure}\n\nexplorer_of_the_demo().run({failure.seed!r}) in tests/saga/explored.py shows it again")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    broken = [] if ended else fuzz.fuzz_all(minutes * 60 * FUZZING)
    off = [] if ended else scale.check()
    for each in off:
        print(f"off: {each}")
    return 1 if failures or broken or off else 0


if __name__ == "__main__":
    sys.exit(main())
