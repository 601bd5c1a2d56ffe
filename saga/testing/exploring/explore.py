"""`explore`: run a saga and its services many times, each time with something else going wrong."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from ....events.event import Event
from ....services.provided import Overrides
from ....services.service import Service
from ... import asked
from ...saga import Saga
from ..standins import StandIn
from .explorer import Events, Explorer, Rule, Seeds, seeds_of
from .jobs import in_jobs
from .outcome import Explored, Failure
from .quiet import quiet
from .seed import Seed

_OFTEN = 5
"""A fault that was planned as often and never happened is an error of the kit, or of the kinds that were asked for."""


def explore(
    saga: type[Saga] | Sequence[type[Saga]],
    services: Sequence[Service] = (),
    *,
    events: Events,
    seeds: Seeds = 100,
    play: Mapping[type[Event], StandIn | Sequence[StandIn]] | None = None,
    always: Rule | None = None,
    finally_: Rule | None = None,
    faults: Collection[str] | None = None,
    fresh: Callable[[], object] | None = None,
    overrides: Overrides | None = None,
    jobs: int = 1,
) -> Explored:
    """Run a saga and its services many times on a virtual clock, each time with something else going wrong.

    Each run publishes the events and lets real services, a real coordinator and the broker in memory work on them,
    while processes die and stand still, handlers fail, records come twice or late, stores and broker are away, clocks
    jump. Then nothing goes wrong any more, and everything has to come to an end. What must hold in each run: nothing
    lost, nothing twice, histories that fold to the state, undone in order, every saga ends or waits for a person, and
    the caller's own rules.

    Args:
        saga: a saga class, or several.
        services: the real ones.
        events: what is published, in order; or a function that makes it of a `random.Random`.
        seeds: how many runs, or which: numbers, or what an earlier failure printed.
        play: who answers in place of services that are not there, as for `Harness`.
        always: asked at each moment at which something has changed; raises where something is wrong.
        finally_: asked at the end of each run.
        faults: the kinds that may happen, of `KINDS`; by default all but `skip`, which wants another outcome.
        fresh: called before each run, to make fakes of the outside world as new.
        overrides: what stands in for settings, lifespans and dependencies, as for `Harness`; a process that starts
            again begins its lifespans anew.
        jobs: processes that share the work.

    Returns:
        What happened how often.

    Raises:
        AssertionError: a run broke a rule: the shortest story that shows it, and how to run it again. Or a fault was
            planned again and again and never happened.
        ConfigurationError: there is no such kind of fault, or no such seed.
    """

    def work() -> Explored:
        with quiet():
            explorer = Explorer(
                saga,
                services,
                events=events,
                play=play,
                always=always,
                finally_=finally_,
                faults=faults,
                fresh=fresh,
                overrides=overrides,
            )
            try:
                return _explored(explorer, seeds, jobs)
            finally:
                explorer.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1, "choreo-explore") as thread:  # the caller's loop keeps its own time
        return thread.submit(copy_context().run, work).result()


def _explored(explorer: Explorer, seeds: Seeds, jobs: int) -> Explored:
    if asked.seed is not None:
        seeds, jobs = [asked.seed], 1
    elif asked.runs is not None and isinstance(seeds, int):
        seeds = asked.runs
    _ = explorer.survey
    explored = _in_jobs(explorer, list(seeds_of(seeds)), jobs) if jobs > 1 else explorer.explore(seeds)
    if explored.failure is not None:
        shortest = explorer.shrink(explored.failure)
        raise AssertionError(_told(shortest, f"run {explored.runs}, shrunk from {explored.failure.seed!r}"))
    never = [each for each, count in sorted(explored.planned.items()) if count >= _OFTEN and not explored.hit[each]]
    if never:
        told = ", ".join(f"{kind} {target}".rstrip() for kind, target in never)
        raise AssertionError(f"planned again and again, and never happened: {told}\n{explored}")
    return explored


def _in_jobs(explorer: Explorer, seeds: list[Seed], jobs: int) -> Explored:
    def work(share: list[Seed]) -> Explored:
        explorer.reopen()
        return explorer.explore(share)

    began = time.monotonic()
    explored = Explored()
    shares = [seeds[job::jobs] for job in range(jobs)]
    for part in in_jobs(work, shares):
        explored.add(part)
        found, first = part.failure, explored.failure
        if found is not None and (first is None or seeds.index(found.seed) < seeds.index(first.seed)):
            explored.failure = found
    explored.seconds = time.monotonic() - began
    return explored


def _told(failure: Failure, where: str) -> str:
    seed = failure.seed
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    again = f"explore(..., seeds=[{seed!r}]) or pytest --choreo-seed={seed} {test}".rstrip()
    return f"{failure}\n\n{where}; run it again: {again}"
