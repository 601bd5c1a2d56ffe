"""What handlers ask for beside the event: values that live as long as the worker, and dependencies made for each call.

Everything is known by its annotation and checked where the handler is defined; `provided` makes it while a worker runs.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

from pydantic_settings import BaseSettings

from ..events.errors import DefinitionError
from ..events.event import Event
from .context import Context, Transaction
from .signature import Hints, events_of, fits_events
from .yields import most_yields

_YIELDED = (AsyncIterator, AsyncGenerator, Iterator, Generator, AbstractAsyncContextManager)
_EACH_CALL = "`Context`, `Transaction` and events"


@dataclass(frozen=True, slots=True)
class Depends:
    """Marks a parameter that a function fills for each call: `session: Annotated[Session, Depends(open_session)]`.

    Args:
        function: plain or async; or a generator, plain or async, that yields once and is closed after the handler.

    Raises:
        DefinitionError: it is no function.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        if not inspect.isroutine(self.function) and not inspect.isclass(self.function):
            raise DefinitionError(
                f"Depends({self.function!r}): name a function, and do not call it: Depends(open_session)"
            )


class Given(Enum):
    """What a call brings along."""

    EVENT = "the event"
    CONTEXT = "the context"
    TX = "the transaction"


class Kind(Enum):
    """How a dependency's function gives its value."""

    VALUE = "value"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


@dataclass(frozen=True, slots=True)
class Value:
    """Something that is made once at a worker's start: settings, or what a lifespan yields.

    Args:
        type: its annotation.
    """

    type: Any


@dataclass(frozen=True, slots=True, eq=False)
class Dependency:
    """A function that fills a parameter for each call, read; one function is called once in a call.

    Args:
        function: the user's.
        kind: how it gives its value.
        parameters: what its own parameters are filled with.
    """

    function: Callable[..., Any]
    kind: Kind
    parameters: Mapping[str, Source]

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return _name(self.function)


Source = Given | Value | Dependency
"""What a parameter is filled with."""


@dataclass(frozen=True, slots=True, eq=False)
class Lifespan:
    """A context manager around a worker's life; what it yields is a `Value`.

    Args:
        function: gives the context manager.
        type: what it yields; None for nothing.
        parameters: filled at the start.
    """

    function: Callable[..., Any]
    type: Any
    parameters: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return _name(self.function)


class Wiring:
    """Reads what the functions of one service ask for.

    Args:
        service: its name, for messages.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self.lifespans: dict[Any, Lifespan] = {}
        """By what they yield; those that yield nothing by their function."""

    # ---- lifespans -----------------------------------------------------------------------------------------------

    def add_lifespan(self, function: Callable[..., Any], scope: Mapping[str, Any]) -> None:
        """Take note of a lifespan.

        Raises:
            DefinitionError: naming it and the remedy.
        """
        where = f"lifespan {self._service}.{_name(function)}"
        lifespan = self._read_lifespan(where, function, scope)
        if lifespan.type is not None and (other := self.lifespans.get(lifespan.type)) is not None:
            raise DefinitionError(
                f"{where}: {other.name!r} yields {_shown(lifespan.type)} already, and a handler could not tell them "
                "apart; wrap one of them in a class of its own"
            )
        self.lifespans[function if lifespan.type is None else lifespan.type] = lifespan

    def _read_lifespan(self, where: str, function: Callable[..., Any], scope: Mapping[str, Any]) -> Lifespan:
        name = _name(function)
        inner = inspect.unwrap(function)
        if not inspect.isasyncgenfunction(inner):
            raise DefinitionError(
                f"{where}: a lifespan is an async generator; write `async def {name}() -> AsyncIterator[Clients]` with "
                "one `yield`: what stands before it runs at the start, what stands after it at the stop"
            )
        _check_yields(where, inner)
        hints = Hints(inner, where, scope)
        type_ = _yielded(hints.of("return", inspect.signature(inner).return_annotation))
        if type_ is inspect.Signature.empty:
            raise DefinitionError(
                f"{where}: say what it yields, for handlers know it by that; annotate the return as "
                "`AsyncIterator[Clients]`, or `AsyncIterator[None]`"
            )
        if _own(type_):
            raise DefinitionError(
                f"{where}: it yields {_shown(type_)}, which handlers are given by other means; yield a class of yours"
            )
        parameters = self.lifespan_parameters(where, function, scope)
        return Lifespan(function, None if type_ is type(None) else type_, parameters)

    def lifespan_parameters(
        self, where: str, function: Callable[..., Any], scope: Mapping[str, Any]
    ) -> dict[str, Value]:
        """Say what fills the parameters of a lifespan.

        Raises:
            DefinitionError: naming the lifespan, the parameter and the remedy.
        """
        inner = inspect.unwrap(function)
        hints = Hints(inner, where, scope)
        parameters = {}
        for parameter in inspect.signature(inner).parameters.values():
            hint = _bare(hints.of(parameter.name, parameter.annotation))
            if (value := self._value(hint)) is not None:
                parameters[parameter.name] = value
            elif parameter.default is inspect.Parameter.empty:
                raise DefinitionError(
                    f"{where}: parameter {parameter.name!r} cannot be filled; a lifespan takes settings (a "
                    "BaseSettings class), and what lifespans above it yield"
                )
        return parameters

    # ---- parameters ----------------------------------------------------------------------------------------------

    def source(
        self,
        where: str,
        parameter: inspect.Parameter,
        hint: Any,
        events: Sequence[type[Event]],
        scope: Mapping[str, Any],
    ) -> Value | Dependency | None:
        """Say what fills a parameter of a handler, if it is neither the event, nor the context, nor the transaction.

        Raises:
            DefinitionError: naming the handler, the parameter and the remedy.
        """
        return self._source(where, parameter, hint, events, scope, ())

    def _source(
        self,
        where: str,
        parameter: inspect.Parameter,
        hint: Any,
        events: Sequence[type[Event]],
        scope: Mapping[str, Any],
        path: tuple[Callable[..., Any], ...],
    ) -> Value | Dependency | None:
        default = parameter.default
        if isinstance(default, Depends):
            raise DefinitionError(
                f"{where}: parameter {parameter.name!r}: a dependency stands in the annotation; write "
                f"`{parameter.name}: Annotated[{_shown(hint)}, Depends({_name(default.function)})]`"
            )
        if get_origin(hint) is Annotated:
            marks = [each for each in hint.__metadata__ if isinstance(each, Depends)]
            if len(marks) > 1:
                raise DefinitionError(f"{where}: parameter {parameter.name!r} has {len(marks)} Depends; leave one")
            bare = next((each for each in hint.__metadata__ if inspect.isroutine(each) or each is Depends), None)
            if not marks and bare is not None:
                name = "open_session" if bare is Depends else _name(bare)
                raise DefinitionError(
                    f"{where}: parameter {parameter.name!r}: write `Annotated[{_shown(_bare(hint))}, Depends({name})]`"
                )
            if marks:
                _check_type(where, parameter.name, _bare(hint), marks[0].function, scope)
                return self._dependency(where, marks[0].function, events, scope, path)
        return self._value(_bare(hint))

    def _value(self, hint: Any) -> Value | None:
        if isinstance(hint, type) and issubclass(hint, BaseSettings):
            return Value(hint)
        try:
            return Value(hint) if hint is not None and hint in self.lifespans else None
        except TypeError:  # an annotation that has no hash is no lifespan's
            return None

    def _dependency(
        self,
        where: str,
        function: Callable[..., Any],
        events: Sequence[type[Event]],
        scope: Mapping[str, Any],
        path: tuple[Callable[..., Any], ...],
    ) -> Dependency:
        if function in path:
            names = " -> ".join(_name(each) for each in (*path[path.index(function) :], function))
            raise DefinitionError(f"{where}: {names} is a cycle of dependencies; give what both need a third function")
        inside = f"{where}: Depends({_name(function)})"
        kind = _kind(function)
        if kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
            _check_yields(inside, function)
        hints = Hints(function.__init__ if inspect.isclass(function) else function, inside, scope)
        parameters: dict[str, Source] = {}
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.of(parameter.name, parameter.annotation)
            source: Source | None = self._given(inside, parameter.name, hint, events)
            if source is None:
                source = self._source(inside, parameter, hint, events, scope, (*path, function))
            if source is not None:
                if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                    raise DefinitionError(f"{inside}: parameter {parameter.name!r} is positional only; remove the `/`")
                parameters[parameter.name] = source
            elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                raise DefinitionError(f"{inside}: parameter {parameter.name!r} cannot be filled; {self.remedy(hint)}")
        return Dependency(function, kind, parameters)

    def with_stand_ins(
        self,
        where: str,
        sources: Mapping[str, Source],
        functions: Mapping[Callable[..., Any], Callable[..., Any]],
        events: Sequence[type[Event]],
    ) -> dict[str, Source]:
        """Put other functions in the place of dependencies.

        Raises:
            DefinitionError: one cannot be filled.
        """
        found: dict[str, Source] = {}
        for name, source in sources.items():
            if isinstance(source, Dependency):
                if (function := functions.get(source.function)) is not None:
                    source = self._dependency(where, function, events, {}, ())
                else:
                    within = self.with_stand_ins(where, source.parameters, functions, events)
                    source = replace(source, parameters=within)
            found[name] = source
        return found

    def _given(self, where: str, parameter: str, hint: Any, events: Sequence[type[Event]]) -> Given | None:
        if hint is Context:
            return Given.CONTEXT
        if hint is Transaction:
            return Given.TX
        if (taken := events_of(hint)) is not None:
            fits_events(where, parameter, taken, events)
            return Given.EVENT
        return None

    def remedy(self, hint: Any) -> str:
        """Say how a parameter of this annotation could be filled."""
        shown = "Clients" if hint is inspect.Parameter.empty else _shown(_bare(hint))
        yielded = [_shown(each) for each, lifespan in self.lifespans.items() if lifespan.type is not None]
        known = f" (now {', '.join(yielded)})" if yielded else ""
        return (
            f"it can be {_EACH_CALL}, a BaseSettings class, what a @{self._service}.lifespan above yields{known}, or "
            f"`Annotated[{shown}, Depends(function)]`"
        )


def transactional(sources: Mapping[str, Source]) -> bool:
    """Say whether something among these, or what it needs, takes the `Transaction`."""
    return any(
        source is Given.TX or (isinstance(source, Dependency) and transactional(source.parameters))
        for source in sources.values()
    )


def in_order(sources: Mapping[str, Source]) -> list[Dependency]:
    """List the dependencies to be made for a call, what others need first, each function once."""
    found: dict[Callable[..., Any], Dependency] = {}
    for source in sources.values():
        if isinstance(source, Dependency):
            for each in (*in_order(source.parameters), source):
                found.setdefault(each.function, each)
    return list(found.values())


def values_of(sources: Mapping[str, Source]) -> set[Any]:
    """List the types of the values that these need, directly or through dependencies."""
    values = {source.type for source in sources.values() if isinstance(source, Value)}
    for each in in_order(sources):
        values |= {source.type for source in each.parameters.values() if isinstance(source, Value)}
    return values


def _kind(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return Kind.COROUTINE if inspect.iscoroutinefunction(function) else Kind.VALUE


def _check_yields(where: str, function: Callable[..., Any]) -> None:
    count = most_yields(function)
    if count is not None and count > 1:
        raise DefinitionError(
            f"{where}: it may yield {count} times in one run; write one `yield`: what stands before it opens, what "
            "stands after it closes"
        )


def _check_type(
    where: str, parameter: str, wanted: Any, function: Callable[..., Any], scope: Mapping[str, Any]
) -> None:
    """Compare what a dependency says it gives with the annotation, where both are plain classes."""
    if inspect.isclass(function):
        given: Any = function
    else:
        inner = inspect.unwrap(function)
        try:
            given = _yielded(Hints(inner, where, scope).of("return", inspect.signature(inner).return_annotation))
        except DefinitionError:
            return  # a class that is known to type checkers only
    plain = all(isinstance(each, type) and not getattr(each, "_is_protocol", False) for each in (wanted, given))
    if plain and given is not inspect.Signature.empty and not issubclass(given, wanted):
        raise DefinitionError(
            f"{where}: parameter {parameter!r} is a {_shown(wanted)}, but {_name(function)} gives {_shown(given)}; "
            "change the one or the other"
        )


def _yielded(hint: Any) -> Any:
    """Give what a generator, or another function, gives by its return annotation."""
    origin = get_origin(hint)
    if origin in _YIELDED:
        return (get_args(hint) or (inspect.Signature.empty,))[0]
    return inspect.Signature.empty if hint in _YIELDED else hint


def _own(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, (Event, Context, Transaction, BaseSettings))


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _name(function: object) -> str:
    return str(getattr(function, "__name__", repr(function)))


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
