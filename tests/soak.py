"""`make soak`: explore the demo shop for as long as one wants.

`make soak SOAK=60` explores for an hour, `make soak SEED=100000` goes on from that seed.
It ends with what happened how often, Ctrl-C ends it sooner. A failure prints its story, and the seed that shows it
again.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from choreo.saga.testing import Explored
from choreo.saga.testing.exploring.jobs import in_jobs
from choreo.saga.testing.exploring.quiet import quiet

from .saga.explored import explorer_of_the_demo


def main() -> int:
    """Run it; 1 when a run has failed."""
    minutes, first = float(os.environ.get("SOAK") or 1), int(os.environ.get("SEED") or 0)
    jobs = os.cpu_count() or 1
    until = time.monotonic() + minutes * 60

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

    signal.signal(signal.SIGINT, lambda *_: None)  # the jobs hear it too, end their run, and tell what they have seen
    print(f"exploring the demo shop for {minutes:g} minutes with {jobs} jobs, from seed {first}; Ctrl-C ends it")
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
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
