"""What a worker says of the circuit breakers that it holds open, so that people see elsewhere why a handler rests."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from ..events.catalog import BREAKER_HOLDS, BreakerAnnouncement, announce_breakers
from ..events.clock import SECOND, Clock
from ..events.errors import ChoreoError
from ..events.transport import Transport
from .gates import Rest

log = structlog.get_logger("choreo.services")


class Resting:
    """Tells `choreo.breakers`: when one opens or closes, and again while it is open.

    Args:
        service: its name.
        transport: an open broker.
        clock: this process's clock.
        process: names this process; by default at random.
    """

    def __init__(self, service: str, transport: Transport, clock: Clock, process: str | None = None) -> None:
        self._service = service
        self._transport = transport
        self._clock = clock
        self._process = process or os.urandom(4).hex()
        self._told: dict[str, BreakerAnnouncement] = {}
        self._wait_until = 0

    async def tell(self, resting: Mapping[str, Rest]) -> None:
        """Say what has changed, and what has not been said for long; a broker that takes nothing is tried again later.

        Args:
            resting: the handlers whose breaker is not closed.
        """
        if not (resting or self._told):
            return
        now = self._clock()
        opened = []
        for handler, rest in resting.items():
            told = self._told.get(handler)
            reopened = told is not None and rest.left > 0 and told.until <= now
            if told is not None and not reopened and told.at + BREAKER_HOLDS // 3 > now:
                continue
            since = now - round(rest.since * SECOND) if told is None else told.since
            until = now + round(rest.left * SECOND)
            opened.append(
                BreakerAnnouncement(
                    service=self._service,
                    handler=handler,
                    process=self._process,
                    at=now,
                    since=since,
                    until=until,
                    waiting=rest.waiting,
                    error=rest.error,
                )
            )
        closed = [handler for handler in self._told if handler not in resting]
        if now < self._wait_until or not (opened or closed):
            return
        try:
            await announce_breakers(self._transport, opened, [self._told[handler].key for handler in closed])
        except ChoreoError as error:
            log.warning("open breakers cannot be announced, tried again", service=self._service, error=error.message)
            self._wait_until = now + BREAKER_HOLDS // 3
            return
        self._told.update({each.handler: each for each in opened})
        for handler in closed:
            del self._told[handler]
