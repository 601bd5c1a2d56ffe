"""What is reckoned beside what is played."""

from __future__ import annotations

from typing import NamedTuple

from tests.scale.capacity import Costs, Machines, first, limits, needs
from tests.scale.simulation import Played, play

LOADS = ((10, 1e6), (100, 1e6), (1_000, 1e7), (10_000, 1e8), (100_000, 1e9))
"""Sagas per second, and stored."""
ERROR = 0.35
"""How far what is played may be from what was reckoned, as a share of it."""


class Compared(NamedTuple):
    """One figure: reckoned, and as it was."""

    what: str
    reckoned: float
    found: float

    @property
    def error(self) -> float:
        """How far off, as a share of what was found; of what is next to nothing, nothing."""
        return abs(self.reckoned - self.found) / max(self.found, 1e-9) if max(self.reckoned, self.found) > 0.01 else 0.0


def compared(costs: Costs, machines: Machines, sagas: float, stored: float, seconds: float = 0.0) -> list[Compared]:
    """Reckon what a load needs, play that, and compare."""
    plan = needs(costs, machines, sagas, stored)
    seconds = seconds or min(30.0, max(3.0, 20_000 / sagas))
    shared, shards = costs.shared(plan.databases), plan.databases
    played = play(shared, machines, sagas, stored, coordinators=plan.coordinators, databases=shards, seconds=seconds)
    return [
        Compared("events/s", sagas * costs.events, played.events),
        Compared(
            "processors of the database", plan.database_cores / (machines.cores * plan.databases), played.processors
        ),
        Compared("write-ahead log", plan.log_mb / (machines.log_mb * plan.databases), played.log),
        Compared("index pages beyond memory", plan.reads / (machines.reads * plan.databases), played.disk),
        Compared("events a transaction", plan.batch, played.batch),
        Compared("delay, ms", plan.delay_ms, played.delay_ms),
    ]


def overloaded(
    costs: Costs, machines: Machines, stored: float, coordinators: int, seconds: float = 12.0
) -> tuple[str, float, Played]:
    """Push one database to half again what is reckoned to be the most: what is full and when, and what was played."""
    name, most = first(limits(costs, machines, stored, coordinators=coordinators))
    played = play(costs, machines, most * 1.5, stored, coordinators=coordinators, seconds=seconds)
    return name, most * costs.events, played
