"""What a worker does beside its records: tries what is parked, holds what runs, and forgets what is long done."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection

from ..events.clock import SECOND, Clock
from ..events.database import Database
from . import inbox, parking
from .dispatcher import Dispatcher
from .inbox import Key
from .job import Job
from .leases import Leases
from .reading import Reader

log = structlog.get_logger("choreo.services")

_PARKED_LEASE = 30 * SECOND
_SWEEP = 2_000
"""Rows of the inbox that are looked at in one step."""
_SWEEP_PAUSE = 1 * SECOND
_PASS_PAUSE = 3_600 * SECOND


class Housekeeping:
    """Looks after the store of one worker.

    Args:
        database: the service's store.
        reader: makes jobs of parked records.
        dispatcher: takes them.
        handlers: names of the handlers for which something may be parked.
        clock: this process's clock.
        kept: how long the inbox keeps what is done, microseconds; None for ever.
        claim: how long a claim holds, microseconds.
    """

    def __init__(
        self,
        database: Database,
        reader: Reader,
        dispatcher: Dispatcher,
        handlers: Sequence[str],
        clock: Clock,
        kept: int | None,
        claim: int,
    ) -> None:
        self._database = database
        self._reader = reader
        self._dispatcher = dispatcher
        self._handlers = handlers
        self._clock = clock
        self._kept = kept
        self._leases = Leases(database, clock, claim, _PARKED_LEASE)
        self._swept_to: Key | None = None
        self._next_sweep = 0
        self.taking = False
        """Whether parked events are being taken, which are neither due any more nor in flight yet."""

    async def keep(self, assigned: bool) -> None:
        """Do what is due now.

        Args:
            assigned: whether partitions are ours, so that work may begin.

        Raises:
            StoreUnreachable: tried again with the next call.
        """
        await self._leases.keep(self._dispatcher.jobs)
        if self._handlers and assigned:
            await self._try_parked()
        if self._kept is not None and self._clock() >= self._next_sweep:
            await self._sweep(self._kept)

    async def _try_parked(self) -> None:
        now, names = self._clock(), self._handlers
        if not await self._database.read(lambda connection: parking.any_due(connection, names, now)):
            if self._dispatcher.parked and not await self._database.read(
                lambda connection: parking.count(connection, names)
            ):
                self._dispatcher.forget_parked()
            return
        self.taking = True
        try:
            await self._take(now)
        finally:
            self.taking = False

    async def _take(self, now: int) -> None:
        names = self._handlers
        rows = await self._database.write(lambda connection: parking.take_due(connection, names, now, _PARKED_LEASE))
        routes = {route.name: route for route in self._reader.routes}
        for row in rows:
            if (row.handler, row.event_id) in self._dispatcher.met:
                continue
            [reading] = await self._reader.read_all([row.delivery])
            envelope = reading.envelope
            route = routes[row.handler]
            job = Job(route, envelope, row.delivery, None, route.stage, retried=True)
            # One more try for what failed already, and the pauses go on growing; all of them for what only waited.
            job.attempt = row.attempts
            job.told = row.attempts > 0
            self._dispatcher.admit(job)

    async def _sweep(self, kept: int) -> None:
        """Forget what was done long ago, a page of the inbox at a time: no index has to be kept for it."""

        def sweep(connection: Connection) -> tuple[Key | None, int]:
            return inbox.sweep(connection, self._swept_to, _SWEEP, self._database.now(connection) - kept)

        self._swept_to, gone = await self._database.write(sweep)
        self._next_sweep = self._clock() + (_PASS_PAUSE if self._swept_to is None else _SWEEP_PAUSE)
        if gone:
            log.info("cleaned up the inbox", rows=gone)
