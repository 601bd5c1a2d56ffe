"""`Service`: handlers declared on plain functions, checked where they are declared."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import MetaData

from ..events.catalog import EventRef, HandlerAnnouncement, ServiceAnnouncement
from ..events.clock import SECOND, duration
from ..events.database import parse_store_url
from ..events.errors import ConfigurationError, DefinitionError
from ..events.event import Event
from ..events.failures import HandlerFailed
from ..events.transport import TopicSpec
from .answer import Empty, empty_answer
from .breaker import Breaker
from .calls import in_threads
from .dependencies import Lifespan, Wiring
from .ladder import RetryTopic, rungs_of
from .limits import NO_LIMITS, Batch, Limits, check_priority, limits_of
from .middleware import Answer, BatchAnswer, Middleware, check_middleware
from .retry import Retry
from .signature import Signature, read_signature
from .threads import Threads

F = TypeVar("F", bound=Callable[..., Awaitable[Answer | BatchAnswer]] | Callable[..., Answer | BatchAnswer])
L = TypeVar("L", bound=Callable[..., AsyncIterator[Any] | AbstractAsyncContextManager[Any]])
M = TypeVar("M", bound=Middleware)
Exhausted = Literal["dead", "park"] | RetryTopic


class Default(Enum):
    """Marks what was not given."""

    DEFAULT = "default"


DEFAULT: Final = Default.DEFAULT
"""The service's store is the one that the settings name (`CHOREO_SERVICE_STORE`)."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")

_LONGEST_DRAIN = 50 * SECOND  # the brokers' groups go on after 60 s without whoever has not let go
_HANDLER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """One declared handler; made by `Service.on`.

    Args:
        service: name of its service.
        name: unique in the service; the inbox knows it by this, so renaming it forgets what it has seen.
        function: the user's function.
        target: what is called: the function, or for a blocking one what runs it in a thread.
        events: the classes that it takes.
        signature: what it asks for and returns.
        retry: what happens after an error.
        exhausted: what happens when no retry is left.
        undoes: the handler whose work it undoes.
        empty: builds the answer when there was nothing to undo.
        limits: how long, how often and how many at once.
    """

    service: str
    name: str
    function: Callable[..., Any]
    target: Callable[..., Awaitable[Any]]
    events: tuple[type[Event], ...]
    signature: Signature
    retry: Retry
    exhausted: Exhausted
    undoes: Handler | None = None
    empty: Empty | None = None
    limits: Limits = NO_LIMITS

    @property
    def full_name(self) -> str:
        """Service and name, e.g. `inventory.reserve`."""
        return f"{self.service}.{self.name}"

    def arguments(self, event: Event | list[Event], context: object, tx: object = None) -> dict[str, object]:
        """Give the keyword arguments of a call."""
        signature = self.signature
        arguments: dict[str, object] = {signature.event: event}
        if signature.context is not None:
            arguments[signature.context] = context
        if signature.tx is not None:
            arguments[signature.tx] = tx
        return arguments


class Service:
    """A named group of handlers with one consumer group and one store.

    Args:
        name: its name, the consumer group's too, and the source of what it publishes.
        store: `"sqlite:PATH"` or `"postgresql://..."`; by default the settings'. None is the explicit choice to run
            stateless: at least once, no guard, no parking.
        tables: the service's own tables, created in the store at start where they are missing.
        concurrency: how many handlers may be waiting for something at once.
        claim: how long one try of a handler with outside effects may take before an undo no longer waits for it (R4).
        drain: how long a stop or a rebalance waits for handlers that run.
        middleware: functions around each call of a handler, the first one outermost; see `Service.middleware`.
        threads: how many blocking handlers (plain `def`) may run at once, each in a thread.
        priorities: how important the events of a topic are, by topic: higher is served first when much waits; 0 where
            nothing is said.

    Raises:
        DefinitionError: a name that cannot be a group's, a store that is none, or a limit that is none.
    """

    def __init__(
        self,
        name: str,
        *,
        store: str | Default | None = DEFAULT,
        tables: MetaData | None = None,
        concurrency: int = 100,
        claim: str | float | timedelta = "60s",
        drain: str | float | timedelta = "10s",
        middleware: Sequence[Middleware] = (),
        threads: int = 16,
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise DefinitionError(
                f"Service({name!r}): a name is up to 100 letters, digits, '.', '_' and '-', with a letter or digit at "
                "both ends"
            )
        if isinstance(store, str):
            try:
                parse_store_url(store)
            except ConfigurationError as error:
                raise DefinitionError(f"Service({name!r}): {error.message}") from None
        if tables is not None and store is None:
            raise DefinitionError(f"Service({name!r}): tables= needs a store; leave out store=None")
        if concurrency < 1:
            raise DefinitionError(
                f"Service({name!r}): concurrency={concurrency}; at least one handler must be able to run"
            )
        if threads < 1:
            raise DefinitionError(
                f"Service({name!r}): threads={threads}; at least one blocking handler must be able to run"
            )
        if duration(drain) > _LONGEST_DRAIN:
            raise DefinitionError(f"Service({name!r}): drain={drain!r}; a rebalance waits for 50s at most")
        self.name = name
        self.store = store
        self.tables = tables
        self.concurrency = concurrency
        self.claim = duration(claim)
        self.drain = duration(drain)
        self.wiring = Wiring(name)
        self._middleware: list[Middleware] = []
        self.threads = Threads(threads, name)
        self.priorities = dict(priorities or {})
        for topic, priority in self.priorities.items():
            check_priority(priority, f"Service({name!r}): priorities[{topic!r}]={priority!r}")
        self._handlers: dict[str, Handler] = {}
        self._by_function: dict[int, Handler] = {}
        for each in middleware:
            self.middleware(each)

    def __repr__(self) -> str:
        return f"Service({self.name!r})"

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """The declared handlers, in order."""
        return tuple(self._handlers.values())

    @property
    def lifespans(self) -> tuple[Lifespan, ...]:
        """What its workers live in, in order: each begins before the next one and ends after it."""
        return tuple(self.wiring.lifespans.values())

    @property
    def around(self) -> tuple[Middleware, ...]:
        """Its middleware, the outermost first."""
        return tuple(self._middleware)

    def lifespan(self, function: L) -> L:
        """Declare what a worker lives in: an async generator that yields once, or a function of a context manager.

        It begins before the first event is read and ends after the last handler. What it yields is given to every
        handler, dependency and later lifespan that has the type in its return annotation as a parameter's annotation.
        Its parameters are settings and what earlier lifespans yield. Declare it above the handlers that need it.

        Raises:
            DefinitionError: naming the lifespan, the parameter and the remedy.
        """
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        scope = dict(caller.f_locals) if caller is not None else {}
        del frame, caller
        self.wiring.add_lifespan(function, scope)
        return function

    def middleware(self, function: M) -> M:
        """Put a function around each call of each handler: `async def f(call: Call, next: Next) -> Answer`.

        The first one that is declared stands outermost. Dependencies are opened and closed within all of them. What it
        raises counts as raised by the handler, and what it returns as returned by it.

        Raises:
            DefinitionError: it is no coroutine function of two arguments.
        """
        check_middleware(self.name, function)
        self._middleware.append(function)
        return function

    def on(
        self,
        *events: type[Event],
        retry: Retry | None = None,
        exhausted: Exhausted = "dead",
        undoes: Callable[..., Any] | None = None,
        empty: Empty | None = None,
        name: str | None = None,
        timeout: str | float | timedelta | None = None,
        concurrency: int | None = None,
        rate: str | None = None,
        breaker: Breaker | None = None,
        priority: int | None = None,
        batch: Batch | None = None,
    ) -> Callable[[F], F]:
        """Declare a handler; the function itself stays as it is, to be called and tested like any other.

        Args:
            events: the event classes that it takes.
            retry: default: five attempts from 200 ms to 30 s.
            exhausted: `"dead"` (to `<topic>.dlq`, with a reason) or `"park"` (it and what follows of its key wait in
                the store, and it is tried again until it works), or `retry_topic("1m", "10m", "1h")` (it is tried again
                after each pause and then is dead; nothing waits for it, so order within its key is given up).
            undoes: the handler whose work this one undoes: it then runs at most once per step, and only if there was
                something to undo (semantics, rows 14 and 15).
            empty: gives the answer when there was nothing to undo; by default the one class that the handler returns,
                filled by name from the command.
            name: default: the function's name.
            timeout: how long one call may take, e.g. `"10s"`; then it is cancelled and counts as failed. A blocking
                handler's thread cannot be ended: it runs on, and the next try waits for it.
            concurrency: how many calls at once, within the service's limit.
            rate: how many calls begin in a second, minute or hour at most: `"50/s"`, `"600/m"`, `"1000/h"`.
            breaker: leaves the handler alone for a while when too many of its calls fail.
            priority: how important its events are, whatever their topic (see `Service`'s `priorities`).
            batch: how the events of a batch handler, one that takes a `list` of them, are collected: `Batch(most=100)`.

        Raises:
            DefinitionError: naming the handler, the parameter and the remedy.
        """
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        scope = dict(caller.f_locals) if caller is not None else {}
        del frame, caller

        def declare(function: F) -> F:
            where = f"{self.name}.{name or getattr(function, '__name__', '')}"
            limits = limits_of(where, timeout, concurrency, rate, breaker, priority)
            if batch is not None:
                limits = replace(limits, batch=batch)
            handler = self._declare(function, events, retry, exhausted, undoes, empty, name, limits, scope)
            self._handlers[handler.name] = handler
            self._by_function[id(function)] = handler
            return function

        return declare

    def _declare(
        self,
        function: Callable[..., Any],
        events: Sequence[type[Event]],
        retry: Retry | None,
        exhausted: Exhausted,
        undoes: Callable[..., Any] | None,
        empty: Empty | None,
        name: str | None,
        limits: Limits,
        scope: Mapping[str, Any],
    ) -> Handler:
        chosen = name or str(getattr(function, "__name__", ""))
        where = f"{self.name}.{chosen}"
        if not _HANDLER.fullmatch(chosen):
            raise DefinitionError(f"{where}: give the handler a name of letters, digits, '.', '_' and '-' (name=...)")
        if chosen in self._handlers:
            raise DefinitionError(f"{where}: the service has a handler of this name already; rename it or say name=...")
        if not events or not all(isinstance(each, type) and issubclass(each, Event) for each in events):
            raise DefinitionError(f"{where}: `on` takes event classes, e.g. @{self.name}.on(OrderPlaced)")
        for each in events:
            each.spec()
        signature = read_signature(function, events, where, scope, self.wiring)
        if signature.batch and undoes is not None:
            raise DefinitionError(f"{where}: an undo takes one command at a time, since each has an answer of its own")
        if signature.batch != (limits.batch is not None):
            if limits.batch is not None:
                raise DefinitionError(
                    f"{where}: batch= is for a handler that takes a list; write `{signature.event}: "
                    f"list[{events[0].__name__}]`"
                )
            limits = replace(limits, batch=Batch())
        if signature.transactional and limits.concurrency is not None:
            raise DefinitionError(
                f"{where}: concurrency={limits.concurrency}: handlers with a Transaction run one after another anyway; "
                "leave it out"
            )
        if exhausted not in ("dead", "park") and not isinstance(exhausted, RetryTopic):
            raise DefinitionError(
                f'{where}: exhausted={exhausted!r}; write "dead" or "park", or retry_topic("1m", "10m", "1h")'
            )
        if self.store is None:
            if undoes is not None:
                raise DefinitionError(
                    f"{where}: undoes= needs a store, which remembers what there is to undo; leave out store=None"
                )
            if signature.transactional:
                taken = f"parameter {signature.tx!r}" if signature.tx is not None else "of a dependency"
                raise DefinitionError(f"{where}: {taken}: a Transaction needs a store; leave out store=None")
            if exhausted == "park":
                raise DefinitionError(f'{where}: exhausted="park" keeps events in the store; leave out store=None')
        forward = self._forward(where, undoes)
        if forward is None:
            if empty is not None:
                raise DefinitionError(f"{where}: empty= answers an undo; say what it undoes with undoes=")
        elif empty is None:
            empty = empty_answer(where, tuple(events), signature)
        return Handler(
            self.name,
            chosen,
            function,
            in_threads(function, signature.event, self.threads) if signature.blocking else function,
            tuple(events),
            signature,
            retry or Retry(),
            exhausted,
            forward,
            empty,
            limits,
        )

    def _forward(self, where: str, undoes: Callable[..., Any] | None) -> Handler | None:
        if undoes is None:
            return None
        forward = self._by_function.get(id(undoes))
        if forward is None:
            raise DefinitionError(
                f"{where}: undoes={getattr(undoes, '__name__', undoes)!r} is no handler of {self.name!r}; "
                "declare the handler before its undo, in the same service"
            )
        if forward.undoes is not None:
            raise DefinitionError(f"{where}: {forward.name!r} is an undo itself; an undo cannot be undone")
        return forward

    def guarded(self, handler: Handler) -> bool:
        """Say whether some handler undoes this one, so that it must look before it runs."""
        return any(each.undoes is handler for each in self._handlers.values())

    def claims(self, handler: Handler) -> bool:
        """Say whether it claims an event first: its effect is outside the store, and something undoes it (R4)."""
        return not handler.signature.transactional and self.guarded(handler)

    @property
    def consumes(self) -> tuple[str, ...]:
        """The topics that it reads, sorted."""
        return tuple(sorted({event.spec().topic for handler in self.handlers for event in handler.events}))

    @property
    def retry_topics(self) -> tuple[str, ...]:
        """The topics on which what failed waits for a later try, sorted."""
        return tuple(sorted({rung.topic for handler in self.handlers for rung in rungs_of(handler)}))

    @property
    def produces(self) -> tuple[type[Event], ...]:
        """The event classes that it may publish."""
        return tuple(dict.fromkeys(event for handler in self.handlers for event in handler.signature.produces))

    def topics(self) -> list[TopicSpec]:
        """List the topics that it needs: what it reads and publishes, and where failures go."""
        names = {*self.consumes, *(event.spec().topic for event in self.produces)}
        names |= {f"{topic}.dlq" for topic in self.consumes} | {HandlerFailed.spec().topic, *self.retry_topics}
        return [TopicSpec(name) for name in sorted(names)]

    def announcement(self) -> ServiceAnnouncement:
        """Give what the catalog says of it."""
        return ServiceAnnouncement(
            service=self.name,
            group=self.name,
            handlers=[
                HandlerAnnouncement(
                    name=handler.name,
                    consumes=_types(handler.events),
                    produces=_types(handler.signature.produces),
                    undoes=handler.undoes.name if handler.undoes is not None else None,
                    claims=self.claims(handler),
                    blocking=handler.signature.blocking,
                    breaker=handler.limits.breaker is not None,
                    retry_topics=[rung.topic for rung in rungs_of(handler)],
                )
                for handler in self.handlers
            ],
        )


def _types(classes: Sequence[type[Event]]) -> list[EventRef]:
    return [EventRef(type=spec.type, topic=spec.topic) for spec in (each.spec() for each in classes)]
