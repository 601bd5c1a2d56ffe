"""Middleware: functions around every call of a service's handlers, one input object plus `next`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..events.errors import DefinitionError
from ..events.event import Event
from .context import Context, Transaction

Answer = Event | Sequence[Event] | None
"""What a handler returns."""

BatchAnswer = Sequence[Event | Sequence[Event] | None]
"""What a batch handler returns: an entry for each event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a handler, as middleware sees it; `replace(call, event=...)` hands on another one.

    Args:
        service: the service's name.
        handler: the handler's name.
        event: the event.
        context: the circumstances, as for the handler.
        tx: the transaction that the call is part of; None for a handler that takes none.
        batch: for a batch handler all events of the call, of which `event` is the first; what it answers is a list.
    """

    service: str
    handler: str
    event: Event
    context: Context
    tx: Transaction | None = None
    batch: Sequence[Event] | None = None


Next = Callable[[Call], Awaitable[Answer]]
"""What stands behind a middleware: the next one, or the handler with its dependencies."""

Middleware = Callable[[Call, Next], Awaitable[Answer]]


def check_middleware(service: str, function: object) -> None:
    """Refuse what cannot be a middleware.

    Raises:
        DefinitionError: naming it and the remedy.
    """
    name = getattr(function, "__name__", type(function).__name__)
    form = f"write `async def {name}(call: Call, next: Next) -> Answer` and `return await next(call)` in it"
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    if not inspect.iscoroutinefunction(called):
        raise DefinitionError(f"Service({service!r}): middleware {name!r} is no coroutine function; {form}")
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        raise DefinitionError(
            f"Service({service!r}): middleware {name!r} does not take a call and `next`; {form}"
        ) from None


def around(middleware: Sequence[Middleware], last: Next) -> Next:
    """Put middleware around a call: the first one stands outermost."""
    for each in reversed(middleware):
        last = _link(each, last)
    return last


def _link(middleware: Middleware, following: Next) -> Next:
    def call(call: Call) -> Awaitable[Answer]:
        return middleware(call, following)

    return call
