"""What goes wrong in a run: each fault of a plan happens when the run has come to its place."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from ....events.clock import SECOND
from ....events.database import Database
from ....events.envelope import Record, TopicPartition
from .broker import Sent
from .faults import PEOPLE, Fault, Plan
from .person import act
from .process import PROCESS, Killed, Process, State
from .stores import BUSY, LOST, unreachable

TEST = "test"
"""The kind of process that publishes a run's events; nothing goes wrong with it."""

COORDINATOR = "the coordinator"
"""The kind of a process that coordinates; no service can be called so."""


class Injected(Exception):
    """What a handler fails with when it is told to."""


@dataclass(slots=True)
class Call:
    """One call of a handler.

    Args:
        handler: its full name.
        event_id: of what it was called with.
        process: who called it.
        number: when it began, in the order of all beginnings and ends.
        at: the same by the parts' clock, microseconds.
        ended: when it ended well, in that order; None if it did not.
    """

    handler: str
    event_id: str
    process: str
    number: int
    at: int
    ended: int | None = None


class World(Protocol):
    """What troubles may do to a run."""

    def clock(self) -> int:
        """Give the time that every part sees, microseconds."""

    def running(self, kind: str) -> Process | None:
        """Give a process of a kind that runs."""

    def die(self, process: Process, back: float | None) -> None:
        """Let a process die at once, and another one of its kind be started `back` seconds later."""

    async def stand_still(self, process: Process, seconds: float) -> None:
        """Let a process have no turn for a while."""

    async def visit(self, kind: str, seconds: float) -> None:
        """Start one more process of a kind, and stop it again."""

    async def copy(self, record: Record) -> None:
        """Write a record once more."""

    def database(self, name: str) -> Database:
        """Open the store of a kind of process."""

    def outside(self, work: Coroutine[object, object, None]) -> None:
        """Start a task that belongs to no process."""

    def tell(self, what: str) -> None:
        """Note something for the story."""

    def look_again(self) -> None:
        """Wake whoever waits for records."""


class Troubles:
    """Lets a plan's faults happen.

    Args:
        plan: the plan.
        seed: decides how long each record is on its way.
        world: what they happen to.
    """

    def __init__(self, plan: Plan, seed: int, world: World) -> None:
        self.plan = plan
        self.active = False
        """Whether anything goes wrong at present."""
        self.skew = 0
        """How far the parts' clock is ahead of the loop's, microseconds."""
        self.copying = 0
        """Copies that are still to come."""
        self.begun = 0
        """Records that were there when it began."""
        self.passes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.sends: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.hits: dict[Fault, int] = {}
        self.ran: list[Call] = []
        """Every call of a handler, in the order in which they began."""
        self._ticks = 0
        self._running: dict[tuple[str, str, str], Call] = {}
        self._world = world
        self._latency = Random(f"{seed}/latency")
        self._cut = 0
        self._away: Counter[str] = Counter()
        self._hidden: Counter[tuple[str, TopicPartition]] = Counter()
        self._doomed: dict[tuple[str, str], Fault] = {}
        self._hopeless: dict[tuple[str, str], Fault] = {}

    def begin(self, records: int) -> None:
        """Begin, when everything has started: what was counted so far does not count."""
        for counter in (self.passes, self.calls, self.sends, self.commits, self.types):
            counter.clear()
        self.begun = records
        self.active = True

    def end(self) -> None:
        """Let nothing go wrong from now on."""
        self.active = False
        self._cut = 0
        self._away.clear()
        self._hidden.clear()

    @property
    def away(self) -> bool:
        """Whether nobody reaches the broker."""
        return self._cut > 0

    def _faults(self, *kinds: str) -> list[Fault]:
        return [] if not self.active else [fault for fault in self.plan.faults if fault.kind in kinds]

    def _hit(self, fault: Fault) -> None:
        self.hits[fault] = self.hits.get(fault, 0) + 1
        self._world.tell(f"! {fault}")

    def passed(self, name: str, details: tuple[str, ...]) -> None:
        """A process comes by a failpoint."""
        process = PROCESS.get()
        if process is None or process.state is not State.UP:
            return
        if name == "service.before_effect":
            self._called(*details)
            self._began(process.name, *details)
        elif name == "service.after_effect":
            self._ended(process.name, *details)
            doomed = self._doomed.pop((details[0], details[1]), None)
            if doomed is not None:
                self._hit(doomed)
                raise Injected("told to fail after its effect")
        place = f"{process.kind}@{name}"
        self.passes[place] += 1
        for fault in self._faults("kill"):
            if fault.target == place and fault.nth == self.passes[place]:
                self._hit(fault)
                self._world.die(process, fault.amount)
                raise Killed

    def _called(self, handler: str, event_id: str) -> None:
        self.calls[handler] += 1
        number = self.calls[handler]
        for fault in self._faults("fail-before", "fail-after", "gives-up"):
            if fault.target != handler:
                continue
            if fault.kind == "gives-up":
                if number == fault.nth:
                    self._hopeless[handler, event_id] = fault
            elif fault.nth <= number < fault.nth + fault.amount:
                if fault.kind == "fail-before":
                    self._hit(fault)
                    raise Injected("told to fail before its effect")
                self._doomed[handler, event_id] = fault
        if (hopeless := self._hopeless.get((handler, event_id))) is not None:
            self._hit(hopeless)
            raise Injected("told to fail each time")

    def _began(self, process: str, handler: str, event_id: str) -> None:
        self._ticks += 1
        call = Call(handler, event_id, process, self._ticks, self._world.clock())
        self.ran.append(call)
        self._running[process, handler, event_id] = call

    def _ended(self, process: str, handler: str, event_id: str) -> None:
        self._ticks += 1
        call = self._running.pop((process, handler, event_id), None)
        if call is not None:
            call.ended = self._ticks

    def committed(self, store: str) -> str:
        """A store is asked to commit; say what becomes of it."""
        self.commits[store] += 1
        for fault in self._faults("store-busy", "store-unknown"):
            if fault.target == store and fault.nth == self.commits[store]:
                self._hit(fault)
                return BUSY if fault.kind == "store-busy" else LOST
        return ""

    def reach_store(self, name: str) -> None:
        """Raise where a store cannot be reached."""
        process = PROCESS.get()
        if process is not None and process.state is not State.UP:
            raise Killed
        if self._away[name]:
            raise unreachable(name)

    def cut(self, process: Process) -> bool:
        """See `Line.cut`."""
        return bool(self._cut) and process.kind != TEST

    def hidden(self, group: str, place: TopicPartition) -> bool:
        """See `Line.hidden`."""
        return self._hidden[group, place] > 0

    async def sending(self, process: Process, records: Sequence[Record]) -> int | None:
        """See `Line.sending`."""
        if process.kind == TEST:
            return None
        self.sends[process.kind] += 1
        number = self.sends[process.kind]
        pause = self._latency.uniform(0, self.plan.latency) if self.plan.latency and self.active else 0.0
        arrive = None
        for fault in self._faults("delay", "torn"):
            if fault.target == process.kind and fault.nth == number:
                self._hit(fault)
                if fault.kind == "delay":
                    pause += fault.amount
                else:
                    arrive = min(int(fault.amount), len(records))
        if pause:
            await asyncio.sleep(pause)
        return arrive

    def arrived(self, sent: Sent) -> None:
        """See `Line.arrived`."""
        type_ = sent.header("ce_type")
        if sent.by and type_:
            self.types[type_] += 1
            for fault in self._faults("duplicate"):
                if fault.target == type_ and fault.nth == self.types[type_]:
                    self._hit(fault)
                    self.copying += 1
                    self._world.outside(self._again(sent.record, fault.amount))
        for fault in self._faults(*_AT_RECORDS):
            if fault.nth == sent.number + 1 - self.begun:
                self._happen(fault)

    async def _again(self, record: Record, after: float) -> None:
        await asyncio.sleep(after)
        await self._world.copy(record)
        self.copying -= 1

    def _happen(self, fault: Fault) -> None:
        """Let one of those faults happen that are bound to the number of records."""
        amount = fault.amount
        match fault.kind:
            case "crash" | "freeze":
                process = self._world.running(fault.target)
                if process is None:
                    return
                if fault.kind == "crash":
                    self._world.die(process, amount)
                else:
                    self._world.outside(self._world.stand_still(process, amount))
            case "pause" | "retry" | "skip":
                self._world.outside(act(fault, self._world.database(COORDINATOR), self._world.clock))
            case "join":
                self._world.outside(self._world.visit(fault.target, amount))
            case "broker-away":
                self._world.outside(self._broker_away(amount))
            case "store-away":
                self._world.outside(self._store_away(fault.target, amount))
            case "lag":
                group, topic, number = fault.target.rsplit("/", 2)
                self._world.outside(self._hide(group, TopicPartition(topic, int(number)), amount))
            case "clock-forward":
                self.skew += int(amount * SECOND)
            case "clock-back":
                self.skew -= int(amount * SECOND)
        self._hit(fault)

    async def _broker_away(self, seconds: float) -> None:
        self._cut += 1
        await asyncio.sleep(seconds)
        self._cut = max(0, self._cut - 1)

    async def _store_away(self, name: str, seconds: float) -> None:
        self._away[name] += 1
        await asyncio.sleep(seconds)
        self._away[name] = max(0, self._away[name] - 1)

    async def _hide(self, group: str, place: TopicPartition, seconds: float) -> None:
        self._hidden[group, place] += 1
        await asyncio.sleep(seconds)
        self._hidden[group, place] = max(0, self._hidden[group, place] - 1)
        self._world.look_again()


_AT_RECORDS = ("crash", "freeze", "join", "broker-away", "store-away", "lag", "clock-forward", "clock-back", *PEOPLE)
