"""What one worker gives to its handlers: settings made once, what lifespans yield, and dependencies for each call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from ..events.errors import ChoreoError, ConfigurationError
from ..events.event import Event
from ..events.settings import Settings
from .calls import limited
from .context import Context, Transaction
from .dependencies import Dependency, Given, Kind, Lifespan, Source, Value, in_order, transactional, values_of
from .middleware import Answer, Call, Next, around
from .service import Handler, Service

log = structlog.get_logger("choreo.services")

Overrides = Mapping[Any, Any]
"""What stands in for the real things in tests: a class for a value, a function for another one."""

BACKGROUND: ContextVar[bool] = ContextVar("choreo_background", default=False)
"""Set in lifespans and the tasks that they start: what these wait for is no work that a simulation waits for."""

_Manager = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]
_Arguments = Callable[[Call, Mapping[Any, Any]], dict[str, Any]]


class Provided:
    """What the handlers of one worker are given.

    Args:
        service: with all its handlers declared.
        settings: choreo's own, for who asks for them.
        overrides: what stands in for settings, for what lifespans yield (by class), and for functions (by function).

    Raises:
        ConfigurationError: a setting is missing or wrong, or nothing of the service asks for what is overridden.
    """

    def __init__(self, service: Service, settings: Settings, overrides: Overrides | None = None) -> None:
        self._service = service
        overrides = dict(overrides or {})
        check_overrides([service], overrides)
        lifespans = [each for each in service.lifespans if each.type is None or each.type not in overrides]
        self._lifespans = [_lifespan(service, each, overrides.get(each.function)) for each in lifespans]
        self._sources = {each.name: _sources(service, each, overrides) for each in service.handlers}
        asked = set().union(*(values_of(each) for each in self._sources.values()))
        asked |= {value.type for each in self._lifespans for value in each.parameters.values()}
        self._values: dict[Any, Any] = {each: overrides[each] for each in asked if each in overrides}
        makes = sorted(
            (each for each in asked - self._values.keys() if _is_settings(each)), key=lambda cls: cls.__name__
        )
        for cls in makes:
            self._values[cls] = settings if cls is Settings else make_settings(cls, service.name)
        self._calls: dict[str, Next] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[None] | None = None
        if not self._lifespans:
            self._wire()

    # ---- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> asyncio.Task[None] | None:
        """Begin the lifespans, in order.

        Returns:
            The task in which they live: it ends with `close`, or with the error of a lifespan that ended by itself.

        Raises:
            ChoreoError: a lifespan raised it.
            ConfigurationError: a lifespan raised something else; which, where and what.
        """
        if not self._lifespans:
            return None
        loop = asyncio.get_running_loop()
        self._opened = loop.create_future()
        context = copy_context()
        context.run(BACKGROUND.set, True)
        # In one task from their beginning to their end, as task groups and time limits need it.
        self._task = loop.create_task(self._live(), name=f"{self._service.name} lifespan", context=context)
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return self._task

    async def close(self, timeout: float) -> None:
        """End the lifespans, in reverse, within `timeout` seconds; what goes wrong is logged."""
        task = self._task
        if task is None:
            return
        self._closing.set()
        _, left = await asyncio.wait({task}, timeout=timeout)
        if left:
            log.error("lifespans do not end; the stop goes on without them", service=self._service.name)
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        self._task = None

    async def _live(self) -> None:
        opened = self._opened
        assert opened is not None
        name = ""
        try:
            async with AsyncExitStack() as stack:
                for lifespan in self._lifespans:
                    name = lifespan.name
                    function = lifespan.function
                    if inspect.isasyncgenfunction(function):
                        function = asynccontextmanager(function)
                    arguments = {key: self._values[value.type] for key, value in lifespan.parameters.items()}
                    yielded = await stack.enter_async_context(function(**arguments))
                    if lifespan.type is not None:
                        self._values[lifespan.type] = yielded
                self._wire()
                opened.set_result(None)
                await self._closing.wait()
        except asyncio.CancelledError:
            if not opened.done():
                opened.cancel()
            raise
        except Exception as error:
            if not opened.done():
                opened.set_exception(_failed(self._service.name, name, error))
                return
            log.error(
                "a lifespan failed",
                service=self._service.name,
                error=f"{type(error).__name__}: {error}".splitlines()[0],
            )
            if not self._closing.is_set():
                raise
        if not self._closing.is_set():
            raise ConfigurationError(f"service {self._service.name}: a lifespan ended before the service did")

    # ---- calls -----------------------------------------------------------------------------------------------------

    def call(self, handler: Handler, event: Event, context: Context, tx: Transaction | None) -> Awaitable[Answer]:
        """Call a handler with all that it asks for, inside the service's middleware."""
        call = self._calls.get(handler.name)
        if call is None:  # neither middleware nor dependencies: nothing is added
            return handler.target(**handler.arguments(event, context, tx))
        return call(Call(service=handler.service, handler=handler.name, event=event, context=context, tx=tx))

    def call_batch(
        self, handler: Handler, events: list[Event], context: Context, tx: Transaction | None
    ) -> Awaitable[Any]:
        """Call a batch handler with all that it asks for, inside the service's middleware."""
        call = self._calls.get(handler.name)
        if call is None:
            return handler.target(**handler.arguments(events, context, tx))
        name = handler.service
        return call(Call(service=name, handler=handler.name, event=events[0], context=context, tx=tx, batch=events))

    def _wire(self) -> None:
        """Work out how each handler is called, once all values are there."""
        for handler in self._service.handlers:
            sources = self._sources[handler.name]
            timeout = handler.limits.timeout
            if sources or self._service.around or timeout is not None:
                call = around(self._service.around, self._inner(handler, sources))
                self._calls[handler.name] = call if timeout is None else limited(call, timeout)

    def _inner(self, handler: Handler, sources: Mapping[str, Source]) -> Next:
        fill = _filler(sources, self._values)
        openers = [(each.function, _opener(each), _filler(each.parameters, self._values)) for each in in_order(sources)]

        def plain(call: Call) -> Awaitable[Answer]:
            return handler.target(**handler.arguments(_taken(call), call.context, call.tx), **fill(call, {}))

        async def within(call: Call) -> Answer:
            made: dict[Any, Any] = {}
            opened: list[_Manager] = []
            failure: BaseException | None = None
            answer: Answer = None
            try:
                for function, opener, arguments in openers:
                    made[function] = await opener(opened, arguments(call, made))
                given = handler.arguments(_taken(call), call.context, call.tx)
                answer = await handler.target(**given, **fill(call, made))
            except BaseException as error:
                failure = error
            for manager in reversed(opened):
                failure = await _closed(manager, failure)
            if failure is not None:
                raise failure
            return answer

        return within if openers else plain


def _taken(call: Call) -> Event | list[Event]:
    return call.event if call.batch is None else list(call.batch)


def check_overrides(services: Iterable[Service], overrides: Overrides) -> None:
    """Refuse what nobody asks for, and what cannot stand in.

    Raises:
        ConfigurationError: naming it.
    """
    known: set[Any] = set()
    for service in services:
        known |= asked_for(service)
    for key, value in overrides.items():
        if key not in known:
            raise ConfigurationError(
                f"overrides: no handler here asks for {_shown(key)}; name the class of settings or of what a lifespan "
                "yields, the function of a lifespan, or the function in Depends(...)"
            )
        if not isinstance(key, type) and callable(key) and not callable(value):
            raise ConfigurationError(
                f"overrides: {_shown(key)} is a function, and only another function can stand in for it; write "
                f"`{_shown(key)}: lambda: ...`"
            )


def of_service(service: Service, overrides: Overrides) -> Overrides:
    """Give those overrides that concern a service."""
    known = asked_for(service)
    return {key: value for key, value in overrides.items() if key in known}


def asked_for(service: Service) -> set[Any]:
    """List what can be overridden: classes of settings and of what lifespans yield, and functions."""
    found: set[Any] = set()
    for handler in service.handlers:
        found |= values_of(handler.signature.injected)
        found |= {each.function for each in in_order(handler.signature.injected)}
    for lifespan in service.lifespans:
        found |= {lifespan.function, *(value.type for value in lifespan.parameters.values())}
        if lifespan.type is not None:
            found.add(lifespan.type)
    return found


def make_settings(cls: type[BaseSettings], service: str) -> BaseSettings:
    """Make settings of the environment.

    Raises:
        ConfigurationError: one line that names every variable that is missing or wrong, and no value.
    """
    try:
        return cls()
    except ValidationError as error:
        told = [
            f"{_variable(cls, each['loc'])} {'is missing' if each['type'] == 'missing' else 'is wrong: ' + each['msg']}"
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    except SettingsError as error:
        told = [str(error).splitlines()[0]]
    raise ConfigurationError(f"service {service} needs the settings of {cls.__name__}: {'; '.join(told)}")


def _variable(cls: type[BaseSettings], location: Sequence[int | str]) -> str:
    """Name the environment variable of a field."""
    first, *rest = (str(part) for part in location) if location else ("",)
    name = f"{cls.model_config.get('env_prefix', '')}{first}" if first in cls.model_fields else first
    name = (cls.model_config.get("env_nested_delimiter") or ".").join((name, *rest))
    return name if cls.model_config.get("case_sensitive") else name.upper()


def _sources(service: Service, handler: Handler, overrides: Overrides) -> Mapping[str, Source]:
    """Give what fills a handler's further parameters, stand-ins among it."""
    signature = handler.signature
    if not overrides or not signature.injected:
        return signature.injected
    functions = {key: partial(_same, value) if isinstance(key, type) else value for key, value in overrides.items()}
    sources = service.wiring.with_stand_ins(handler.full_name, signature.injected, functions, handler.events)
    if transactional(sources) and not signature.transactional:
        raise ConfigurationError(
            f"overrides: {handler.full_name} takes no Transaction, so what stands in for its dependencies cannot either"
        )
    return sources


def _lifespan(service: Service, lifespan: Lifespan, function: Callable[..., Any] | None) -> Lifespan:
    """Give a lifespan, or what stands in for it."""
    if function is None:
        return lifespan
    where = f"override of the lifespan {service.name}.{lifespan.name}"
    return Lifespan(function, lifespan.type, service.wiring.lifespan_parameters(where, function, {}))


def _same(value: Any) -> Any:
    return value


def _filler(sources: Mapping[str, Source], values: Mapping[Any, Any]) -> _Arguments:
    """Make what gives the keyword arguments of a call."""
    fixed = {name: values[source.type] for name, source in sources.items() if isinstance(source, Value)}
    made = {name: source.function for name, source in sources.items() if isinstance(source, Dependency)}
    given = {name: source for name, source in sources.items() if isinstance(source, Given)}

    def fill(call: Call, dependencies: Mapping[Any, Any]) -> dict[str, Any]:
        arguments = dict(fixed)
        for name, function in made.items():
            arguments[name] = dependencies[function]
        for name, source in given.items():
            if source is Given.EVENT:
                arguments[name] = call.event
            else:
                arguments[name] = call.context if source is Given.CONTEXT else call.tx
        return arguments

    return fill


def _opener(dependency: Dependency) -> Callable[[list[_Manager], dict[str, Any]], Awaitable[Any]]:
    """Make what opens a dependency, and notes what is to be closed after the handler."""
    function = dependency.function
    if dependency.kind is Kind.ASYNC_GENERATOR:
        entered_async = asynccontextmanager(function)

        async def enter_async(opened: list[_Manager], arguments: dict[str, Any]) -> Any:
            manager = entered_async(**arguments)
            value = await manager.__aenter__()
            opened.append(manager)
            return value

        return enter_async
    if dependency.kind is Kind.GENERATOR:
        entered = contextmanager(function)

        async def enter(opened: list[_Manager], arguments: dict[str, Any]) -> Any:
            manager = entered(**arguments)
            value = manager.__enter__()
            opened.append(manager)
            return value

        return enter
    if dependency.kind is Kind.COROUTINE:

        async def wait(_: list[_Manager], arguments: dict[str, Any]) -> Any:
            return await function(**arguments)

        return wait

    async def take(_: list[_Manager], arguments: dict[str, Any]) -> Any:
        return function(**arguments)

    return take


async def _closed(manager: _Manager, failure: BaseException | None) -> BaseException | None:
    """Close a dependency; give the error with which the call stands then.

    Each is told of the handler's error, also behind one that swallows it: else a session would commit.
    """
    kind = None if failure is None else type(failure)
    trace = None if failure is None else failure.__traceback__
    try:
        if isinstance(manager, AbstractAsyncContextManager):
            await manager.__aexit__(kind, failure, trace)
        else:
            manager.__exit__(kind, failure, trace)
    except BaseException as error:
        return error
    return failure


def _failed(service: str, lifespan: str, error: Exception) -> ChoreoError:
    if isinstance(error, ChoreoError):
        return error
    text = str(error).splitlines()
    told = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    failure = ConfigurationError(f"service {service} cannot start: its lifespan {lifespan!r} failed: {told}")
    failure.__cause__ = error
    return failure


def _is_settings(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseSettings)


def _shown(key: Any) -> str:
    return str(getattr(key, "__name__", repr(key)))
