"""The metrics of one process: its transport, services and coordinator measured, and looked at from time to time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ..events.database import Database
from ..events.errors import ChoreoError
from ..events.outbox import OutboxRow
from ..events.transport import Transport
from ..services.measured import MeasuredTransport
from ..services.measuring import ServiceMeter
from ..services.worker import Worker
from ..tracing.meters import Meters
from ..tracing.metrics import SCOPE, installed_provider
from ..tracing.spans import Tracing
from .measuring import SagaMeter
from .work import Moved

log = structlog.get_logger("choreo.run")

EVERY = 10.0
"""Seconds between two looks at stores and lags, which cost queries."""

KEPT = 1.0
"""Seconds for which what was seen is good enough for another scrape."""

_SHARE = 20
"""A look never takes more than one in so many parts of the time."""


class _Measured(Protocol):
    async def measure(self) -> None: ...

    def forget(self) -> None: ...


def installed() -> Measuring | None:
    """Measure with the meter provider that the application has installed; None where it has none."""
    provider = installed_provider()
    return Measuring(Meters(provider.get_meter(SCOPE)), lasting=True) if provider is not None else None


class Measuring:
    """Measures the parts of one process.

    Args:
        meters: where it goes.
        lasting: the meters outlive the process's parts; else the last values are there to the end.
    """

    def __init__(self, meters: Meters, *, lasting: bool = False) -> None:
        self.meters = meters
        self._lasting = lasting
        self._parts: list[_Measured] = []
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._good_until = 0.0

    def transport(self, transport: Transport) -> Transport:
        """Give a transport that is measured."""
        measured = MeasuredTransport(transport, self.meters)
        self._parts.append(measured)
        return measured

    def service(self, worker: Worker, tracing: Tracing) -> None:
        """Measure a service."""
        self._parts.append(ServiceMeter(worker, tracing, self.meters))

    def sagas(
        self, group: str, database: Database, tracing: Tracing
    ) -> Callable[[Sequence[OutboxRow], Sequence[Moved]], None]:
        """Measure a coordinator; give what it tells of its transactions."""
        meter = SagaMeter(group, database, tracing, self.meters)
        self._parts.append(meter)
        return meter.committed

    def begin(self) -> None:
        """Look from now on, every few seconds."""
        self._task = asyncio.create_task(self._run(), name="choreo-metrics")

    async def measure(self) -> None:
        """Look at everything, if that was not done just now; what does not answer stays as it was seen last."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            began = loop.time()
            if began < self._good_until:
                return
            for part in self._parts:
                try:
                    await part.measure()
                except (ChoreoError, SQLAlchemyError) as error:
                    log.debug("metrics are as they were", error=type(error).__name__)
            now = loop.time()
            self._good_until = now + max(KEPT, _SHARE * (now - began))

    async def close(self) -> None:
        """Look no more, and be observed no more where the meters go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for part in self._parts if self._lasting else ():
            part.forget()

    async def _run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(EVERY)
