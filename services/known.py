"""What the store knows of a batch that was just read: which events were met before, and which keys wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from ..events.database import Database
from ..events.errors import StoreError
from . import inbox, parking
from .inbox import Key, Row
from .job import lane_of
from .reading import Reading

log = structlog.get_logger("choreo.services")


async def look_up(
    database: Database,
    readings: Sequence[Reading],
    parking_: Collection[str],
    stopping: Callable[[], bool],
    service: str,
) -> tuple[Mapping[Key, Row], set[Key]]:
    """Ask the inbox once for the whole batch, and where parking is possible, which keys wait.

    A store that does not answer is waited for.

    Args:
        database: the service's store.
        readings: the batch.
        parking_: handlers for which something may be parked.
        stopping: says whether to give up waiting; then nothing is known.
        service: its name, for the log.
    """
    ids = [reading.envelope.id for reading in readings if reading.routes]
    lanes = [
        (route.name, lane_of(reading.envelope))
        for reading in readings
        for route in reading.routes
        if route.name in parking_
    ]
    pause = 0.1
    while not stopping():
        try:
            return await database.read(
                lambda connection: (
                    inbox.look_up(connection, ids),
                    parking.lanes(connection, lanes) if lanes else set(),
                )
            )
        except StoreError as error:
            log.warning("the store does not answer, reading waits", service=service, error=error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
    return {}, set()
