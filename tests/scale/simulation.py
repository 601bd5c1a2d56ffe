"""Coordinators, databases, their logs and disks, played transaction by transaction: does `capacity` reckon rightly?

Events come by chance, a coordinator takes what has come into one transaction, a processor of the database works for it,
pages that are not in memory are read one after another, and whoever commits waits for the log, which makes all that
wait durable by one write. Nothing here knows the formulas.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from tests.scale.capacity import RANDOM_PAGES, Costs, Machines, missed

_FULL = 0.9
_WARM = 0.25
"""Of the time, at the beginning, that does not count."""


@dataclass(frozen=True, slots=True)
class Played:
    """What happened.

    Args:
        events: decided each second.
        backlog: events that wait at the end.
        batch: events in a transaction.
        delay_ms: from an event's coming to the end of its transaction, on average.
        processors, log, disk: share of them that was used.
    """

    events: float
    backlog: int
    batch: float
    delay_ms: float
    processors: float
    log: float
    disk: float

    @property
    def fullest(self) -> str:
        """What is full; the coordinators where nothing else is and events wait."""
        shares = {
            "processors of the database": self.processors,
            "write-ahead log": self.log,
            "index pages beyond memory": self.disk,
        }
        name = max(shares, key=lambda name: shares[name])
        return name if shares[name] > _FULL else "coordinators"


class _Log:
    """Makes everything durable that waits, by one write: group commit."""

    def __init__(self, env: simpy.Environment, machines: Machines) -> None:
        self._env, self._machines = env, machines
        self._waiting: list[tuple[simpy.Event, float]] = []
        self._wake = env.event()
        self.busy = 0.0
        env.process(self._run())

    def flush(self, size: float) -> simpy.Event:
        done = self._env.event()
        self._waiting.append((done, size))
        if not self._wake.triggered:
            self._wake.succeed()
        return done

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self._wake
            self._wake = self._env.event()
            waiting, self._waiting = self._waiting, []
            written = sum(size for _, size in waiting) / (self._machines.log_mb * 1e6)
            self.busy += written
            yield self._env.timeout(self._machines.flush_ms / 1e3 + written)
            for done, _ in waiting:
                done.succeed()


class _Server:
    """One database: processors, log and disk, with what of them was used."""

    def __init__(self, env: simpy.Environment, machines: Machines) -> None:
        self.processors = simpy.Resource(env, machines.cores)
        self.disk = simpy.Resource(env, machines.depth)
        self.log = _Log(env, machines)
        self.worked = self.read = 0.0


class _Run:
    def __init__(self, costs: Costs, machines: Machines, rate: float, stored: float, seed: int) -> None:
        self.env = simpy.Environment()
        self.random = random.Random(seed)
        self.costs, self.machines, self.rate = costs, machines, rate
        self.misses = RANDOM_PAGES / costs.events * missed(costs, machines, stored)
        self.began = 0.0
        self.events = self.transactions = self.backlog = 0
        self.delay = 0.0

    def coordinator(self, server: _Server) -> Generator[simpy.Event, Any, None]:
        """Take what has come, decide it, commit it, and begin again."""
        env, costs = self.env, self.costs
        waiting: list[tuple[float, float, int]] = []  # when the first and the last of so many came
        count, last = 0, 0.0
        while True:
            came = self._poisson(self.rate * (env.now - last))
            if came:
                waiting.append((last, env.now, came))
                count += came
            last = env.now
            if not count:
                yield env.timeout(self.random.expovariate(self.rate))
                waiting.append((env.now, env.now, 1))
                count, last = 1, env.now
            size = min(count, self.machines.batch)
            yield env.timeout(self._about(costs.transaction + size * costs.event))
            work = self._about(costs.server_transaction + size * costs.server_event)
            with server.processors.request() as turn:
                yield turn
                yield env.timeout(work)
            pages = self._poisson(size * self.misses)
            for _ in range(-(-pages // 50)):  # so many at a time: a simulation has no hurry for each page
                some = min(pages, 50)
                pages -= some
                with server.disk.request() as turn:
                    yield turn
                    yield env.timeout(some * self.machines.depth / self.machines.reads)
                server.read += some * self.machines.depth / self.machines.reads if self._counts() else 0.0
            yield server.log.flush(size * costs.log_bytes)
            count -= size
            came_at = self._take(waiting, size)
            if self._counts():
                server.worked += work
                self.events += size
                self.transactions += 1
                self.delay += size * env.now - came_at
                self.backlog = max(self.backlog, count)

    def _take(self, waiting: list[tuple[float, float, int]], size: int) -> float:
        """Take the oldest events out; give the sum of the moments when they came."""
        moments = 0.0
        while size:
            first, last, many = waiting[0]
            taken = min(many, size)
            middle = first + (last - first) * taken / many
            moments += taken * (first + middle) / 2
            size -= taken
            if taken == many:
                waiting.pop(0)
            else:
                waiting[0] = (middle, last, many - taken)
        return moments

    def _counts(self) -> bool:
        return self.env.now >= self.began

    def _about(self, microseconds: float) -> float:
        return microseconds / 1e6 * self.random.uniform(0.7, 1.3)

    def _poisson(self, mean: float) -> int:
        if mean > 50:
            return max(0, round(self.random.gauss(mean, mean**0.5)))
        number, at = 0, self.random.expovariate(1.0)
        while at < mean:
            number += 1
            at += self.random.expovariate(1.0)
        return number


def play(
    costs: Costs,
    machines: Machines,
    sagas: float,
    stored: float,
    *,
    coordinators: int,
    databases: int = 1,
    seconds: float = 10.0,
    seed: int = 0,
) -> Played:
    """Play an installation.

    Args:
        costs, machines: as for `capacity`.
        sagas: that begin each second, in all.
        stored: sagas in all databases.
        coordinators: in all, spread over the databases.
        databases: shards.
        seconds: that are played; a quarter is for warming up.
        seed: decides what chance decides.
    """
    run = _Run(costs, machines, sagas * costs.events / coordinators, stored / databases, seed)
    run.began = seconds * _WARM
    servers = [_Server(run.env, machines) for _ in range(databases)]
    for number in range(coordinators):
        run.env.process(run.coordinator(servers[number % databases]))
    run.env.run(run.began)
    flushed = sum(server.log.busy for server in servers)
    run.env.run(seconds)
    counted = seconds - run.began
    capacity = counted * databases
    return Played(
        run.events / counted,
        run.backlog,
        run.events / max(1, run.transactions),
        run.delay / max(1, run.events) * 1e3,
        sum(server.worked for server in servers) / (capacity * machines.cores),
        (sum(server.log.busy for server in servers) - flushed) / capacity,
        sum(server.read for server in servers) / (capacity * machines.depth),
    )
