"""Keeps what a running handler holds: its claim, and its turn in the parking place, for as long as it runs.

Both end by themselves, so that a process that died blocks nobody. A handler that merely takes long must not lose them:
its undo would run beside it, and another process would try the same event.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from ..events.clock import Clock
from ..events.database import Database
from . import inbox, parking
from .inbox import Key
from .job import Job


class Leases:
    """Renews the leases of one worker.

    Args:
        database: the service's store.
        clock: this process's clock, by which parked events are due.
        claim: how long a claim holds, microseconds.
        parked: how long a taken parked event is kept from others, microseconds.
    """

    def __init__(self, database: Database, clock: Clock, claim: int, parked: int) -> None:
        self._database = database
        self._clock = clock
        self._claim = claim
        self._parked = parked
        self._pause = min(claim, parked) // 3
        self._next = 0

    async def keep(self, jobs: Iterable[Job]) -> None:
        """Renew what these jobs hold, where a third of the time is over since the last renewal.

        Raises:
            StoreUnreachable: tried again with the next call.
        """
        now = self._clock()
        if now < self._next:
            return
        running = [job for job in jobs if job.active and job.result is None]
        claims = [key for job in running if job.claimed is not None for key in _claims(job)]
        retried = [job.key for job in running if job.retried]
        if claims or retried:
            await self._database.write(lambda connection: self._renew(connection, claims, retried))
        self._next = now + self._pause

    def _renew(self, connection: Connection, claims: list[Key], retried: list[Key]) -> None:
        inbox.renew(connection, claims, self._database.now(connection) + self._claim)
        parking.renew(connection, retried, self._clock() + self._parked)


def _claims(job: Job) -> list[Key]:
    return [job.key] if job.step is None else [job.key, (job.route.name, job.step)]
