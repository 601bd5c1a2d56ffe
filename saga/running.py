"""Run services and sagas in one process: what `saga run` does, and the demo."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from ..events.clock import Clock, system_clock
from ..events.database import Database
from ..events.settings import Settings
from ..events.transport import Transport
from ..services.announce import announce
from ..services.health import Health
from ..services.service import Service
from ..services.worker import Worker
from ..tracing.export import open_tracing
from ..tracing.meters import Meters
from ..tracing.spans import Tracing
from .coordinator import Coordinator
from .loading import Parts
from .metering import Measuring, installed
from .options import Options

COORDINATOR = "choreo-coordinator"
_LOOK = 0.1


class Process:
    """Services and sagas that run together on one broker: `async with Process(parts, transport, settings)`.

    Args:
        parts: what to run.
        transport: an open broker.
        settings: stores, namespace, group.
        options: how the coordinator works.
        create_topics: make the missing topics first.
        partitions: of the topics that are made.
        drain: how long the coordinator's end may take, seconds; a service has its own.
        meters: measure what runs (`tracing.metrics.exported_metrics`); default: nothing is measured, unless the
            application has installed a meter provider of its own.
        clock: this process's clock.
    """

    def __init__(
        self,
        parts: Parts,
        transport: Transport,
        settings: Settings,
        *,
        options: Options | None = None,
        create_topics: bool = False,
        partitions: int = 4,
        drain: float = 10.0,
        meters: Meters | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.parts = parts
        self.created: list[str] = []
        self.coordinator: Coordinator | None = None
        self.workers: list[Worker] = []
        self._measuring = Measuring(meters) if meters is not None else installed()
        self._transport = self._measuring.transport(transport) if self._measuring is not None else transport
        self._settings = settings
        self._options = options
        self._create_topics = create_topics
        self._partitions = partitions
        self._drain = drain
        self._clock = clock
        self._stack = AsyncExitStack()
        self._waiting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        # First of all: whose settings are wrong shall not find topics made and a coordinator started.
        workers = [self._worker(service) for service in self.parts.services]
        if self._create_topics:
            self.created = await self._transport.create_topics(self.parts.topics(partitions=self._partitions))
        # Both sides are told of each other before either begins: handlers' spans find their step, an undo its cause.
        await asyncio.gather(*(announce(service, self._transport) for service in self.parts.services))
        if self.parts.sagas:
            self.coordinator = await self._start_coordinator()
        self.workers = workers
        # Side by side, as most of it is waiting; all have come to an end of it before the first failure is told.
        started = await asyncio.gather(*(worker.start() for worker in self.workers), return_exceptions=True)
        for failure in started:
            if failure is not None:
                raise failure
        waits = [worker.wait() for worker in self.workers]
        if self.coordinator is not None:
            waits.append(self.coordinator.wait())
        self._waiting = [asyncio.create_task(wait) for wait in waits]
        if self._measuring is not None:
            self._stack.push_async_callback(self._measuring.close)
            self._measuring.begin()

    def _worker(self, service: Service) -> Worker:
        tracing, measuring = self._tracing(service.name), self._measuring
        meters = measuring.meters if measuring is not None else None
        worker = Worker(
            service, self._transport, settings=self._settings, tracing=tracing, meters=meters, clock=self._clock
        )
        if measuring is not None:
            measuring.service(worker, tracing)
        return worker

    async def _start_coordinator(self) -> Coordinator:
        database = await Database.open(self._settings.store_url, clock=self._clock, by_index=True)
        self._stack.push_async_callback(database.close)
        tracing, measuring = self._tracing(COORDINATOR), self._measuring
        coordinator = Coordinator(
            self.parts.sagas,
            transport=self._transport,
            database=database,
            settings=self._settings,
            tracing=tracing,
            clock=self._clock,
            options=replace(
                self._options or Options(),
                rotation=self._settings.rotation,
                alerts=True,
                presence=True,
                stuck=self._settings.stuck_after,
            ),
            committed=measuring.sagas(self._settings.group, database, tracing) if measuring is not None else None,
        )
        self._stack.push_async_callback(coordinator.stop, drain=self._drain)
        await coordinator.start()
        return coordinator

    def _tracing(self, name: str) -> Tracing:
        alone = len(self.parts.services) + bool(self.parts.sagas) == 1
        tracing = open_tracing(self._settings, name, install=alone)
        self._stack.push_async_callback(tracing.aclose)
        return tracing

    async def wait(self) -> None:
        """Wait until a part fails.

        Raises:
            ChoreoError: a part cannot go on without a person.
        """
        done, _ = await asyncio.wait(self._waiting, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def health(self) -> list[Health]:
        """Say how each part is; while they start, and once they stop, those that run so far."""
        parts: list[Coordinator | Worker] = [*([self.coordinator] if self.coordinator else []), *self.workers]
        return list(await asyncio.gather(*(part.health() for part in parts)))

    async def measure(self) -> None:
        """Look at what metrics tell of stores and lags, if that was not done just now."""
        if self._measuring is not None:
            await self._measuring.measure()

    @property
    def size(self) -> int:
        """How many parts it has when all of them run."""
        return len(self.parts.services) + bool(self.parts.sagas)

    async def until_idle(self) -> None:
        """Wait until nothing is left to do, in any part (ruling R18)."""
        quiet = -1
        while True:
            before = self._work()
            if await self._idle() and before == self._work():
                # What one part did while another was asked shows in the next round.
                if quiet == before:
                    return
                quiet = before
            await asyncio.sleep(_LOOK)

    async def _idle(self) -> bool:
        for worker in self.workers:
            if not await worker.idle():
                return False
        return self.coordinator is None or await self.coordinator.idle()

    def _work(self) -> int:
        done = self.coordinator.batches if self.coordinator else 0
        for worker in self.workers:
            counters = worker.counters
            done += counters.handled + counters.skipped + counters.duplicates + counters.transactions
        return done

    async def stop(self) -> None:
        """Let every part finish what it has begun, within the deadline."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._waiting = []
        workers, self.workers = self.workers, []
        await asyncio.gather(*(worker.stop() for worker in workers))
        await self._stack.aclose()
