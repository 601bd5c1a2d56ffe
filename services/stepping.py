"""A function that reads a stream, driven one event at a time: it is suspended where it asks for the next event.

The function runs in the task and the context of whoever feeds it, so what the caller has set there (a span, the current
event of a stream library) is what it sees. Nothing else is assumed of it: it may await what it likes in between.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from ..events.errors import DefinitionError

T = TypeVar("T")


class _Ask:
    """What travels up to the feeder when the function wants the next event."""

    def __await__(self) -> Generator[_Ask, None, None]:
        yield self


_ASK = _Ask()


class Stream(Generic[T]):
    """The events that an agent iterates over with `async for`; each once."""

    def __init__(self) -> None:
        self._next: list[T] = []
        self._ended = False

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Give the next event, once there is one; what it was given before is finished with that."""
        while not self._next:
            if self._ended:
                raise StopAsyncIteration
            await _ASK
        return self._next.pop()

    def end(self) -> None:
        """Let there be no more; called by whoever feeds it."""
        self._ended = True

    def put(self, item: T) -> None:
        """Let the function have one more; called by whoever feeds it."""
        self._next.append(item)

    @property
    def empty(self) -> bool:
        """Whether it has taken all that it was given."""
        return not self._next


class Feeder(Generic[T]):
    """Feeds a function, and begins it anew after it has ended or failed.

    Args:
        function: takes a `Stream`; an async generator, or a coroutine function that yields nothing.
        name: for messages.
    """

    def __init__(self, function: Callable[[Stream[T]], Any], name: str) -> None:
        self._function = function
        self._name = name
        self.yields = inspect.isasyncgenfunction(function)
        self._stream: Stream[T] | None = None
        self._running: Any = None
        self._step: Any = None

    async def feed(self, item: T) -> list[Any]:
        """Give it one more and run it until it asks for the next; give what it yielded.

        Raises:
            DefinitionError: it ended without taking the event.
            Exception: what it raised; the next event finds it begun anew.
        """
        given: list[Any] = []
        stream = self._begin()
        stream.put(item)
        try:
            while (output := await _Advance(self)) is not _ASK and output is not _END:
                given.append(output)
        except BaseException:
            self._stream = self._running = None
            raise
        if output is _END:
            self._stream = self._running = None
            if not stream.empty:
                raise DefinitionError(
                    f"{self._name} ended without taking an event; iterate over the stream: `async for event in stream`"
                )
        return given

    async def close(self) -> None:
        """End its stream, so that it comes to its own end; what it yields after that is dropped."""
        if self._stream is None:
            return
        self._stream.end()
        while await _Advance(self) is not _END:
            pass
        self._stream = self._running = None

    def _begin(self) -> Stream[T]:
        if self._stream is None:
            self._stream = Stream()
            self._running = self._function(self._stream)
        return self._stream

    def next_step(self) -> Any:
        """Give the step that is under way, or begin one."""
        if self._step is None:
            self._step = (anext(self._running) if self.yields else self._running).__await__()
        return self._step

    def ended(self) -> None:
        """Take note that the step has brought an output."""
        self._step = None


class _End:
    """What stands for the function's end."""


_END = _End()


class _Advance(Awaitable[Any]):
    """Runs a function until it yields (its output), asks for an event (`_ASK`), or ends (`_END`)."""

    def __init__(self, feeder: Feeder[Any]) -> None:
        self._feeder = feeder

    def __await__(self) -> Generator[Any, Any, Any]:
        step = self._feeder.next_step()
        error: BaseException | None = None
        answer: Any = None
        while True:
            try:
                awaited = step.throw(error) if error is not None else step.send(answer)
            except StopAsyncIteration:
                self._feeder.ended()
                return _END
            except StopIteration as stopped:
                self._feeder.ended()
                return stopped.value if self._feeder.yields else _END
            except BaseException:
                self._feeder.ended()
                raise
            if awaited is _ASK:
                return _ASK
            error = None
            try:
                answer = yield awaited  # of the event loop: it goes up to the task, and its answer down
            except BaseException as thrown:
                error = thrown
