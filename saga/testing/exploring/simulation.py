"""One run: real services and a real coordinator as processes in one loop, and what goes wrong while they work.

Everything that decides is in the plan: the same plan gives the same run, to the byte. The simulation itself looks only
when nothing can happen at the present moment, and moves the clock to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ....events.clock import SECOND, from_datetime
from ....events.database import Database
from ....events.envelope import Record, TopicPartition
from ....events.errors import ChoreoError
from ....events.event import Event
from ....events.failpoints import watch
from ....events.ids import uuid7
from ....events.publisher import Publisher
from ....events.settings import Settings
from ....services.announce import announce
from ....services.provided import Overrides, of_service
from ....services.service import Service
from ....services.worker import Worker
from ...coordinator import Coordinator
from ...loading import Parts
from ...options import Options
from ...timers import Breaker
from ..harness import BEGIN
from ..keys import TEST_KEYS
from ..loop import NeverSettles, earliest
from ..world import all_at_rest, parked_due, saga_due
from .broker import Broker, Link
from .faults import Plan
from .patience import MOST_SECONDS, Endless, Patience
from .process import Killed, Process, SimulationLoop, State
from .schemas import KnownSchemas
from .stores import Disk, Outboxes
from .troubles import COORDINATOR, TEST, Troubles

_GRID = SECOND // 20
_MOST_MOVES = 6_000
_LONGEST = 400 * 24 * 3_600 * SECOND
_AGAIN = 1.0
_LOOKS = 0.5
_LAST_LOOKS = 10
_LAST_LOOK = SECOND // 4


class Violation(Exception):
    """A run has shown what must not be.

    Args:
        rule: which rule was broken, e.g. `S3`.
        told: how.
    """

    def __init__(self, rule: str, told: str) -> None:
        super().__init__(f"{rule}: {told}")
        self.rule = rule
        self.told = told


@dataclass
class Kit:
    """What runs share, so that the next one begins quickly.

    Args:
        parts: services and sagas.
        stand_ins: makes the stand-ins of a run anew: they count their calls.
        overrides: what stands in for what handlers ask for.
    """

    parts: Parts
    stand_ins: Callable[[], Sequence[Service]]
    overrides: Overrides = field(default_factory=dict)
    schemas: KnownSchemas = field(default_factory=KnownSchemas)
    disks: dict[str, Disk] = field(default_factory=dict)
    # The rules are judged on whole histories, however long a run is.
    settings: Settings = field(
        default_factory=lambda: Settings.model_construct(broker="memory:", retention="forever", keys=TEST_KEYS)
    )

    def disk(self, name: str) -> Disk:
        """Give a store's disk, as new."""
        if name not in self.disks:
            self.disks[name] = Disk(name)
        return self.disks[name]

    def prepare(self) -> None:
        """Have every store's tables made, once."""
        if not self.disks:
            Simulation(self, Plan(), 0, ()).prepare()

    def close(self) -> None:
        """Let go of everything."""
        for disk in self.disks.values():
            disk.close()
        self.disks = {}


class Simulation:
    """One run.

    Args:
        kit: what runs share.
        plan: what goes wrong, and how the processes stand.
        seed: decides ids, jitter, pauses.
        events: what is published, in order.
        always: told of each moment at which something has changed; raises where something is wrong.
    """

    def __init__(
        self,
        kit: Kit,
        plan: Plan,
        seed: int,
        events: Sequence[Event],
        always: Callable[[Simulation], None] | None = None,
    ) -> None:
        self.kit = kit
        self.plan = plan
        self.seed = seed
        self.events = list(events)
        self.services = {service.name: service for service in (*kit.parts.services, *kit.stand_ins())}
        self.parts = Parts(tuple(self.services.values()), kit.parts.sagas)
        self.loop = SimulationLoop(from_datetime(BEGIN))
        self.troubles = Troubles(plan, seed, self)
        self.broker = Broker(self.loop.clock, self.troubles, plan.session)
        self.disks: dict[str, Disk] = {}
        self.processes: list[Process] = []
        self.told: list[tuple[int, str]] = []
        self.at_rest = False
        """Whether at the end nothing was left to do."""
        self.lag: list[tuple[str, TopicPartition, int, int]] = []
        """What at the end was not committed: group, partition, committed offset, end."""
        self.moves = 0
        self._always = always
        self._ids = Random(f"{seed}/ids")
        self._jitter = Random(f"{seed}/jitter")
        self._pauses = Random(f"{seed}/pauses")
        self._context = copy_context()
        self._links: dict[Process, Link] = {}
        self._live_parts: dict[Process, Worker | Coordinator] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._returning = 0
        self._publishing = True
        self._errors: list[Violation] = []
        self._seen = (-1, -1)
        self._outboxes = Outboxes()

    # ---- the run -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run it to its end.

        Raises:
            Violation: something has shown what must not be.
        """
        try:
            self.loop.set_exception_handler(self._unhandled)
            watch(self.troubles.passed)
            with Patience(lambda: self.loop.turns, MOST_SECONDS):
                self.loop.run_until_complete(self._main())
        except (NeverSettles, Endless) as error:
            raise Violation("V8", str(error)) from None
        finally:
            watch(None)
            self.loop.run_until_complete(self._bury())
            self.loop.close()

    def clock(self) -> int:
        """Give the time that every part sees, microseconds."""
        return self.loop.clock() + self.troubles.skew

    def prepare(self) -> None:
        """Start every process and keep the tables that it makes."""
        try:
            self.loop.run_until_complete(self._open())
            for disk in self.disks.values():
                disk.keep()
        finally:
            self.loop.run_until_complete(self._bury())
            self.loop.close()

    async def _main(self) -> None:
        await self._open()
        self.outside(self._publish())
        await self._drive()
        self._heal()
        await self._drive()
        for _ in range(_LAST_LOOKS):  # offsets are committed, and the outbox is swept, now and then only
            self.loop.move(self.loop.clock() + _LAST_LOOK)
            await self.loop.settled()
        await self._drive()
        for group, topics in self.groups().items():
            self.lag += [(group, *each) for each in await self.broker.lag(group, topics)]

    @property
    def records(self) -> int:
        """How many records came after everything had started."""
        return len(self.broker.log) - self.troubles.begun

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Give the topics that each consumer group reads."""
        topics = {name: (*service.consumes, *service.retry_topics) for name, service in self.services.items()}
        if self.parts.sagas:
            read = {topic for cls in self.parts.sagas for topic in cls.definition().consumed_topics}
            topics[self.kit.settings.group] = tuple(sorted(read))
        return topics

    async def _open(self) -> None:
        core = self.broker.core
        await core.__aenter__()
        await core.create_topics(self.parts.topics())
        for service in self.parts.services:
            await announce(service, core)
        kinds = [COORDINATOR, *(name for name, service in self.services.items() if service.store is not None)]
        for name in kinds:
            disk = self.disks[name] = self.kit.disk(name)
            disk.clear()
            disk.committed = self.troubles.committed
        self.saga_disk = self.disks[COORDINATOR]
        for _ in range(self.plan.coordinators if self.parts.sagas else 0):
            self._start(COORDINATOR)
        for name in self.services:
            for _ in range(2 if name == self.plan.doubled else 1):
                self._start(name)
        await self.loop.settled()
        self._raise()
        self.troubles.begin(len(self.broker.log))

    async def _publish(self) -> None:
        process = Process(TEST, 0, self.loop)
        link = await self.broker.link(process)
        async with Publisher(link, source="test", settings=self.kit.settings, clock=self.clock) as publisher:
            for event in self.events:
                pause = self._pauses.uniform(0, self.plan.gap)
                if pause:
                    await asyncio.sleep(pause)
                await publisher.publish(event, id=self.new_id())
        self._publishing = False

    def new_id(self) -> str:
        """Make an id of the run."""
        return uuid7(self.clock() // 1_000, self._ids.randbytes(10))

    async def _drive(self) -> None:
        """Let time go on until nothing is left to do."""
        end = self.loop.clock() + _LONGEST
        for _ in range(_MOST_MOVES):
            await self.loop.settled()
            self._raise()
            if told := self._outboxes.forgotten(self.disks, self.broker.held):
                raise Violation("S5", told)
            self._look()
            busy = self._busy()
            self.at_rest = not busy and self._at_rest()
            if self.at_rest:
                return
            next_ = self.loop.next_look() if busy else earliest((self.loop.next_work(), self._due()))
            if next_ is None:
                return  # what is left to do then is told by the rules of liveness
            if next_ > end:
                break
            if busy:
                work = self.loop.next_work()
                on_grid = -(-next_ // _GRID) * _GRID
                next_ = on_grid if work is None else max(next_, min(on_grid, work))
            self.moves += 1
            self.loop.move(next_)
        raise Violation("V1", "it does not come to rest")

    def _busy(self) -> bool:
        """Whether somebody has something to do now, and only needs to look."""
        if any(not process.started for process in self.processes if process.alive):
            return True
        if self.broker.unread():
            return True
        running = {process.kind for process in self.processes if process.state is State.UP}
        stores = [(name, disk) for name, disk in self.disks.items() if name in running]
        if not self.troubles.away and any(disk.count("choreo_outbox") for _, disk in stores):
            return True
        due = self._due(-1, running)
        return due is not None and due <= self.loop.clock()

    def _at_rest(self) -> bool:
        if self._publishing or self._returning or self.troubles.copying or self.loop.next_work() is not None:
            return False
        if self.saga_disk.turns.taken or not self.parts.sagas:
            return not self.parts.sagas and self._due() is None
        with self.saga_disk.reader.connect() as connection:
            return all_at_rest(connection)

    def unrest(self) -> str:
        """Say what keeps it from being at rest."""
        if self._publishing:
            return "events are still to be published"
        starting = [process.name for process in self.processes if process.alive and not process.started]
        if starting:
            return f"{starting[0]} does not start"
        if self.lag:
            group, place, committed, end = self.lag[0]
            return f"{group} has committed {committed} of {end} in {place.topic}[{place.partition}]"
        return "somebody works on"

    def _due(self, after: int | None = None, among: Collection[str] | None = None) -> int | None:
        """When a store has something due, by the loop's clock."""
        since = self.clock() if after is None else after
        found = []
        for name, disk in self.disks.items():
            if disk.turns.taken or (among is not None and name not in among):
                continue
            if name == COORDINATOR:
                if self.parts.sagas:
                    with disk.reader.connect() as connection:
                        found.append(saga_due(connection, since))
            elif any(handler.exhausted == "park" for handler in self.services[name].handlers):
                with disk.reader.connect() as connection:
                    found.append(parked_due(connection, since))
        due = earliest(found)
        return None if due is None else due - self.troubles.skew

    def _look(self) -> None:
        if self._always is None:
            return
        seen = (len(self.broker.log), sum(self.troubles.commits.values()))
        if seen != self._seen and not any(disk.turns.taken for disk in self.disks.values()):
            self._seen = seen
            self._always(self)

    def _raise(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.tell("nothing goes wrong from now on")
        self.troubles.end()
        for process in self.processes:
            if process.state is State.FROZEN:
                self._thaw(process)
        self.look_again()

    async def _bury(self) -> None:
        for task in self._tasks:
            task.cancel()
        for process in self.processes:
            await process.bury()
        for disk in self.disks.values():
            await disk.bury()

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, (Killed, asyncio.CancelledError, ChoreoError)):
            self._errors.append(Violation("a task died", f"{type(error).__name__}: {error}"))

    # ---- processes ---------------------------------------------------------------------------------------------

    def outside(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that belongs to no process."""
        task = self.loop.create_task(work, context=self._context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _start(self, kind: str) -> Process:
        process = Process(kind, len(self.processes) + 1, self.loop)
        self.processes.append(process)
        process.spawn(self._live(process), f"{process.name} life")
        return process

    async def _live(self, process: Process) -> None:
        try:
            link = self._links[process] = await self.broker.link(process)
            part = self._part(process, link)
            await part.start()
            self._live_parts[process] = part
            process.started = True
            await part.wait()
        except ChoreoError as error:
            if process.state is not State.UP or process.leaving:
                return
            if error.retryable and not process.started:
                self.die(process, _AGAIN)
            else:
                told = f"{process.name} stopped by itself: {type(error).__name__}: {error.message}"
                self._errors.append(Violation("V1", told))
        except Exception as error:
            self._errors.append(Violation("V1", f"{process.name} died of {type(error).__name__}: {error}"))

    def _part(self, process: Process, link: Link) -> Worker | Coordinator:
        owner = f"p{process.number:04d}"
        if process.kind == COORDINATOR:
            return Coordinator(
                self.parts.sagas,
                transport=link,
                database=self.database(COORDINATOR),
                settings=self.kit.settings,
                clock=self.clock,
                options=Options(
                    batch=self.plan.batch, poll=_LOOKS, linger=0.0, tick=_LOOKS, breaker=Breaker(share=1.0)
                ),
                registry=self.kit.schemas,
                owner=owner,
            )
        service = self.services[process.kind]
        return Worker(
            service,
            link,
            settings=self.kit.settings,
            registry=self.kit.schemas,
            database=self.database(service.name) if service.store is not None else None,
            clock=self.clock,
            randomness=self._jitter.random,
            owner=owner,
            overrides=of_service(service, self.kit.overrides),
        )

    def database(self, name: str) -> Database:
        """See `World.database`."""
        return self.disks[name].open(self.clock, self.troubles.reach_store)

    def die(self, process: Process, back: float | None) -> None:
        """Let a process die at once.

        Args:
            process: which.
            back: seconds until another one of its kind is started; None for never.
        """
        process.kill()
        if process in self._links:
            self._links[process].lost()
        if process.kind in self.disks:
            turns = self.disks[process.kind].turns
            turns.died(process)
            self.loop.call_soon(turns.died, process, context=self._context)  # for the task that dies right now
        self._live_parts.pop(process, None)
        if back is not None:
            self._returning += 1
            self.outside(self._come_back(process.kind, back))

    async def _come_back(self, kind: str, after: float) -> None:
        await asyncio.sleep(after)
        self._returning -= 1
        self.tell(f"{kind} is started again")
        self._start(kind)

    def running(self, kind: str) -> Process | None:
        """See `World.running`."""
        found = (process for process in self.processes if process.kind == kind and process.state is State.UP)
        return next((process for process in found if process.started and not process.leaving), None)

    async def stand_still(self, process: Process, seconds: float) -> None:
        """See `World.stand_still`."""
        process.freeze()
        self._links[process].lost()
        await asyncio.sleep(seconds)
        self._thaw(process)

    def _thaw(self, process: Process) -> None:
        if process.state is State.FROZEN:
            self._links[process].found()
            process.thaw()

    async def visit(self, kind: str, seconds: float) -> None:
        """See `World.visit`."""
        process = self._start(kind)
        await asyncio.sleep(seconds)
        part = self._live_parts.get(process)
        process.leaving = True
        if part is not None and process.alive:
            stopping = process.spawn(part.stop(), f"{process.name} stop")
            ended = self.loop.create_future()
            stopping.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
            try:
                async with asyncio.timeout(60):
                    await ended
            except TimeoutError:
                pass
        if process.alive:
            self.die(process, None)

    # ---- what troubles ask for ---------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        """Note something for the story."""
        self.told.append((self.loop.clock(), what))

    async def copy(self, record: Record) -> None:
        """See `World.copy`."""
        await self.broker.append([record], "")

    def look_again(self) -> None:
        """See `World.look_again`."""
        self.broker.core.bell.ring()
