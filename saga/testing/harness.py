"""`Harness`: services and sagas on a virtual clock, moved by the test.

The parts run in an event loop and a thread of their own, and only while the test awaits one of the harness's methods:
nothing moves behind a test's back, and whichever loop the test itself runs in keeps its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from ...events.clock import duration, format_duration, from_datetime, to_datetime
from ...events.errors import ConfigurationError
from ...events.event import Event
from ...events.secret import Showing
from ...services.provided import Overrides, check_overrides
from ...services.service import Service
from ..loading import Parts
from ..saga import Saga
from .loop import VirtualLoop
from .standins import StandIn, standin_services
from .views import DeadLetter, Published, SagaView
from .world import World

E = TypeVar("E", bound=Event)
T = TypeVar("T")

Work = Callable[[World], Coroutine[Any, Any, T]]

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""When every run begins."""

_MOST_TOLD = 10


class Harness:
    """Runs services and sagas for a test: `async with Harness(inventory, Fulfilment) as harness`.

    Everything is that of production but the broker and the stores, which are in memory, and time, which stands still
    until the test moves it. The same seed gives the same run: ids, jitter, order. What a handler makes by itself
    (`uuid4()`, the machine's clock) is not covered.

    When the test fails, where every saga stood is added to the error as a note.

    Args:
        parts: services, and saga classes.
        play: who answers in place of services that are not there, by the class of events that they take.
        seed: of the run.
        overrides: what stands in for settings and for what lifespans yield (by class: a value), for dependencies and
            lifespans (by function: a function).

    Raises:
        ConfigurationError: a part is neither, two services have one name, or no handler asks for an override.
        DefinitionError: a stand-in cannot answer what it is to take.
    """

    def __init__(
        self,
        *parts: Service | type[Saga],
        play: Mapping[type[Event], StandIn | Sequence[StandIn]] | None = None,
        seed: int = 0,
        overrides: Overrides | None = None,
    ) -> None:
        services = [part for part in parts if isinstance(part, Service)]
        sagas = [part for part in parts if isinstance(part, type) and issubclass(part, Saga)]
        strangers = [part for part in parts if part not in services and part not in sagas]
        if strangers or not (parts or play):
            what = repr(strangers[0]) if strangers else "nothing"
            raise ConfigurationError(f"Harness({what}): give it services and saga classes")
        services += standin_services(play or {})
        names = [service.name for service in services]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"two services are called {name!r}; a harness runs each name once")
        check_overrides(services, overrides or {})
        self.seed = seed
        self._overrides = overrides or {}
        self._parts = Parts(tuple(services), tuple(sagas))
        self._thread: ThreadPoolExecutor | None = None
        self._running: tuple[VirtualLoop, World] | None = None

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise ConfigurationError("a harness makes one run; make another one for the next")
        self._thread = ThreadPoolExecutor(1, "choreo-harness")
        loop = VirtualLoop(from_datetime(BEGIN))
        self._running = loop, World(self._parts, loop, self.seed, self._overrides)
        try:
            await self._run(World.start)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                error.add_note(self.story())
        finally:
            await self._close()

    # ---- time --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time in the run."""
        return to_datetime(self._world().now())

    async def settle(self) -> None:
        """Let everything happen that happens at the present time: all is read, all is published, no handler runs.

        A handler that sleeps goes on when its time has come. Where a person's command or a parked event waits for
        somebody to look, some milliseconds pass.

        Raises:
            ChoreoError: a part cannot go on: the error that it would have stopped with.
        """
        await self._run(World.settle)

    async def advance(self, by: str | float | timedelta) -> None:
        """Let time pass: step by step through every timer, pause and sleep that is due, settling at each.

        Args:
            by: how much, e.g. `"30s"`, `"2h"`, `"3d"`.

        Raises:
            ChoreoError: as `settle`.
        """
        time = duration(by)
        await self._run(lambda world: world.advance(world.now() + time))

    async def run(self, *, most: str | float | timedelta = "365d") -> None:
        """Let time pass until every saga has ended or only waits for a person; without sagas, until nothing is due.

        Args:
            most: time that this may take.

        Raises:
            AssertionError: they have not, after `most`.
            ChoreoError: as `settle`.
        """
        time = duration(most)
        if not await self._run(lambda world: world.run(world.now() + time)):
            running = [saga.id for saga in self.sagas.values() if not saga.phase.ended]
            raise AssertionError(f"not at rest after {format_duration(time)}: {', '.join(running[:_MOST_TOLD])}")

    # ---- doing -------------------------------------------------------------------------------------------------

    async def publish(self, event: Event, *more: Event, id: str | None = None) -> list[str]:  # noqa: A002
        """Publish events in order, from source `test`; nothing reads them before time is settled or moved.

        Args:
            event, more: the events.
            id: of the event, if there is one only; default: a fresh one each.

        Returns:
            Their ids.

        Raises:
            ConfigurationError: one id for several events.
            EventError: an event is at fault.
        """
        if id is not None and more:
            raise ConfigurationError("id= names one event; publish events with ids of their own one by one")
        return await self._run(lambda world: world.publish((event, *more), id))

    async def start(self, saga: type[Saga], event: Event) -> None:
        """Start a saga as a person does (`saga start`), and settle.

        Args:
            saga: its class.
            event: its start event.

        Raises:
            Refused: with the reason.
        """
        data = event.model_dump(mode="json", by_alias=True, context=Showing.VALUE)
        await self._ask("start", None, type=saga.definition().type, event=event.spec().type, data=data)

    async def cancel(self, saga: str, *, reason: str = "") -> None:
        """Ask for a saga to be undone, as a person does (`saga cancel`), and settle.

        Args:
            saga: its name.
            reason: for the record.

        Raises:
            Refused: with the reason, such as that it has ended.
        """
        await self._ask("cancel", saga, reason)

    async def retry_undo(self, saga: str, *, step: str | None = None, reason: str = "") -> None:
        """Ask for a failed undo to be tried again (`saga retry-undo`), and settle.

        Args:
            saga: its name.
            step: whose undo; None for every one that failed.
            reason: for the record.

        Raises:
            Refused: with the reason.
        """
        await self._ask("retry-undo", saga, reason, step=step)

    async def mark_undone(self, saga: str, *, step: str | None = None, reason: str = "") -> None:
        """Say that a person has undone a step by hand (`saga mark-undone`), and settle.

        Args:
            saga: its name.
            step: which; None for every one whose undo failed.
            reason: for the record.

        Raises:
            Refused: with the reason.
        """
        await self._ask("mark-undone", saga, reason, step=step)

    async def approve(self, saga: str, *, step: str | None = None, by: str = "test", reason: str = "") -> None:
        """Approve a step that waits for a person (`saga approve`), and settle.

        Args:
            saga: its name.
            step: which; None for the only one that waits.
            by: who approves it.
            reason: for the record.

        Raises:
            Refused: with the reason, such as that no step waits for an approval.
        """
        await self._ask("approve", saga, reason, by, step=step)

    async def reject(self, saga: str, *, step: str | None = None, by: str = "test", reason: str = "") -> None:
        """Reject a step that waits for a person (`saga reject`), and settle: the step has failed.

        Args:
            saga: its name.
            step: which; None for the only one that waits.
            by: who rejects it.
            reason: for the record.

        Raises:
            Refused: with the reason, such as that no step waits for an approval.
        """
        await self._ask("reject", saga, reason, by, step=step)

    async def dismiss(self, saga: str, *, reason: str = "") -> None:
        """Say that an event about which a person is asked is of no importance (`saga dismiss`), and settle.

        Args:
            saga: its name.
            reason: for the record.

        Raises:
            Refused: with the reason, such as that the saga asks about no event.
        """
        await self._ask("dismiss", saga, reason)

    async def stop(self, *, reason: str = "") -> None:
        """Stop all compensation (`saga stop`), and settle.

        Args:
            reason: for the record.
        """
        await self._ask("stop", None, reason)

    async def resume(self, *, reason: str = "") -> None:
        """Let compensation go on, and timers that were held because too many sagas ran out of time at once
        (`saga resume`), and settle.

        Args:
            reason: for the record.
        """
        await self._ask("resume", None, reason)

    async def _ask(self, kind: str, saga: str | None, reason: str = "", by: str = "test", **arguments: object) -> None:
        if not self._parts.sagas:
            raise ConfigurationError("this harness runs no saga; give it a saga class")
        await self._run(lambda world: world.ask(kind, saga, reason, by, **arguments))

    # ---- looking -----------------------------------------------------------------------------------------------

    def saga(self, name: str) -> SagaView:
        """Look at a saga.

        Args:
            name: `fulfilment/4711`, or the key alone where only one type has it.

        Raises:
            SagaNotFound: there is none; what comes near is named.
        """
        return self._look(lambda world: world.view(name))

    @property
    def sagas(self) -> dict[str, SagaView]:
        """Every saga by its name, in the order in which they began."""
        return {saga.id: saga for saga in self._look(World.sagas)}

    @property
    def published(self) -> list[Published]:
        """Every event and command that was published, by whomever, in order, as often as it was sent."""
        return self._look(World.published)

    def sent(self, event: type[E]) -> list[E]:
        """Give the events or commands of a class that were published, in order, as often as they were sent."""
        return [each.event for each in self.published if isinstance(each.event, event)]

    def dead_letters(self) -> list[DeadLetter]:
        """Give what handlers gave up on, and what nobody could read, in order."""
        return self._look(World.dead_letters)

    def story(self) -> str:
        """Tell where every saga stands and what lies in the dead letters, for people."""
        sagas = self.sagas
        lines = [f"Harness(seed={self.seed}) at {self.now:%Y-%m-%d %H:%M:%S.%f}"]
        lines += [str(view) for view in list(sagas.values())[:_MOST_TOLD]]
        if len(sagas) > _MOST_TOLD:
            lines.append(f"... and {len(sagas) - _MOST_TOLD} more sagas")
        for letter in self.dead_letters()[:_MOST_TOLD]:
            who = f"{letter.service}.{letter.handler}".rstrip(".")
            lines.append(f"dead letter: {letter.type} {letter.key}, {who}: {letter.error} {letter.message}".rstrip())
        return "\n".join(lines)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _world(self) -> World:
        return self._opened()[1]

    def _opened(self) -> tuple[VirtualLoop, World]:
        if self._running is None:
            raise ConfigurationError("the harness does not run; use it inside `async with Harness(...) as harness`")
        return self._running

    def _begin(self, work: Work[T]) -> tuple[Future[T], Callable[[], object]]:
        """Hand work to the thread; give its result to come, and what interrupts it."""
        loop, world = self._opened()
        context = copy_context()
        begun: list[asyncio.Task[T]] = []

        def run() -> T:
            begun.append(loop.create_task(work(world), context=context))
            return loop.run_until_complete(begun[0])

        def interrupt() -> None:
            for task in begun:
                loop.call_soon_threadsafe(task.cancel)

        assert self._thread is not None
        return self._thread.submit(run), interrupt

    def _look(self, work: Work[T]) -> T:
        return self._begin(work)[0].result()

    async def _run(self, work: Work[T]) -> T:
        future, interrupt = self._begin(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            interrupt()
            raise

    async def _close(self) -> None:
        assert self._thread is not None
        loop, _ = self._opened()
        try:
            await self._run(_end)
        finally:
            self._running = None
            self._thread.submit(loop.close).result()
            self._thread.shutdown()


async def _end(world: World) -> None:
    """Stop the parts, and what a handler may have left behind."""
    await world.stop()
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()
