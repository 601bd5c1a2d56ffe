"""What a handler's signature says: which event it takes, what is injected, and what it may publish."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from ..events.errors import DefinitionError
from ..events.event import Event
from .context import Context, Transaction

if TYPE_CHECKING:
    from .dependencies import Dependency, Value, Wiring

_MANY = (list, tuple, Sequence)


@dataclass(frozen=True, slots=True)
class Signature:
    """A handler's signature, read.

    Args:
        event: name of the parameter that takes the event.
        context: name of the `Context` parameter, if any.
        tx: name of the `Transaction` parameter, if any.
        produces: the event classes that it may return.
        silent: it may also return nothing.
        many: it returns several events at once.
        injected: what its other parameters are filled with.
        transactional: it takes the `Transaction`, itself or through a dependency.
        blocking: it is a plain `def`, so it runs in a thread.
        batch: it takes a list of events, and returns what it publishes for each.
    """

    event: str
    context: str | None
    tx: str | None
    produces: tuple[type[Event], ...]
    silent: bool
    many: bool
    injected: Mapping[str, Value | Dependency] = field(default_factory=dict)
    transactional: bool = False
    blocking: bool = False
    batch: bool = False


def read_signature(
    function: Callable[..., Any],
    events: Sequence[type[Event]],
    name: str,
    scope: Mapping[str, Any],
    wiring: Wiring,
) -> Signature:
    """Read and check a handler's signature.

    Args:
        function: the handler.
        events: the classes that it is declared for.
        name: service and handler, for messages.
        scope: names visible where it is defined, beside its module's.
        wiring: knows what else may be asked for.

    Raises:
        DefinitionError: naming the handler, the parameter and the remedy.
    """
    from .dependencies import transactional

    blocking = not inspect.iscoroutinefunction(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{name}: a handler returns its events; write `return [...]` in place of `yield`")
    hints = Hints(function, name, scope)
    event = context = tx = None
    batch = False
    injected: dict[str, Value | Dependency] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.of(parameter.name, parameter.annotation)
        if hint is Context and context is None:
            context = parameter.name
        elif hint is Transaction and tx is None:
            tx = parameter.name
        elif (taken := events_of(hint)) is not None and event is None:
            fits_events(name, parameter.name, taken, events)
            event = parameter.name
        elif event is None and get_origin(hint) is list and (taken := events_of(get_args(hint)[0])) is not None:
            fits_events(name, parameter.name, taken, events)
            event, batch = parameter.name, True
        elif hint in (Context, Transaction) or taken is not None:
            raise DefinitionError(
                f"{name}: parameter {parameter.name!r} cannot be filled; a handler takes one event, and at most one "
                "`Context` and one `Transaction`, each known by its annotation"
            )
        elif (source := wiring.source(name, parameter, hint, events, scope)) is not None:
            injected[parameter.name] = source
        elif parameter.default is inspect.Parameter.empty:
            raise DefinitionError(f"{name}: parameter {parameter.name!r} cannot be filled; {wiring.remedy(hint)}")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise DefinitionError(f"{name}: parameter {parameter.name!r} is positional only; remove the `/`")
    if event is None:
        wanted = " | ".join(each.__name__ for each in events)
        raise DefinitionError(f"{name}: no parameter takes the event; annotate one with `{wanted}`")
    returned = hints.of("return", inspect.signature(function).return_annotation)
    if batch:
        _check_batch(name, events, context, injected)
        returned = _of_each(name, returned)
    produces, silent, many = _read_return(name, returned)
    takes_tx = tx is not None or transactional(injected)
    if blocking and takes_tx:
        raise DefinitionError(
            f"{name}: a blocking handler cannot take a Transaction, whose statements are awaited; "
            f"write `async def {getattr(function, '__name__', 'handler')}`"
        )
    return Signature(event, context, tx, produces, silent, many, injected, takes_tx, blocking, batch)


def _check_batch(
    name: str, events: Sequence[type[Event]], context: str | None, injected: Mapping[str, Value | Dependency]
) -> None:
    from .dependencies import Given, in_order

    if len(events) > 1:
        raise DefinitionError(
            f"{name}: a batch holds events of one class; declare a handler for each of "
            f"{', '.join(each.__name__ for each in events)}"
        )
    if context is not None:
        raise DefinitionError(
            f"{name}: parameter {context!r}: a Context is of one event, a batch has many; leave it out"
        )
    for dependency in in_order(injected):
        if {Given.EVENT, Given.CONTEXT} & set(filter(Given.__instancecheck__, dependency.parameters.values())):
            raise DefinitionError(
                f"{name}: the dependency {dependency.name!r} asks for the event or its Context, a batch has many; "
                "let it do without"
            )


def _of_each(name: str, hint: Any) -> Any:
    """Give what a batch handler returns for each event."""
    if hint is None or hint is type(None) or hint is inspect.Signature.empty:
        return hint
    if get_origin(hint) is list:
        return get_args(hint)[0]
    raise DefinitionError(
        f"{name}: a batch handler returns a list with an entry for each event, in their order; annotate the return "
        "with `list[StockReserved | None]` or `list[list[StockReserved]]`, or with None"
    )


class Hints:
    """Resolves annotations one by one, so that a message can name the one that is wrong.

    Args:
        function: whose annotations.
        name: of it, for messages.
        scope: names visible where it is defined, beside its module's.
    """

    def __init__(self, function: Callable[..., Any], name: str, scope: Mapping[str, Any]) -> None:
        inner = inspect.unwrap(function)
        closure = inspect.getclosurevars(inner).nonlocals if inspect.isfunction(inner) else {}
        self._names = {**scope, **closure}
        self._globals = getattr(inner, "__globals__", {})
        self._name = name

    def of(self, parameter: str, annotation: Any) -> Any:
        """Resolve one.

        Raises:
            DefinitionError: it names what is not there.
        """
        if not isinstance(annotation, str):
            return annotation
        try:
            return eval(annotation, self._globals, self._names)  # noqa: S307 - the author's own code, as typing does
        except Exception as error:
            raise DefinitionError(
                f"{self._name}: the annotation {annotation!r} of {parameter!r} cannot be resolved ({error}); "
                "define or import the class before the handler"
            ) from None


def events_of(hint: Any) -> tuple[type[Event], ...] | None:
    """Give the event classes of a plain or union annotation; None for anything else."""
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if all(isinstance(choice, type) and issubclass(choice, Event) for choice in choices):
        return tuple(choices)
    return None


def fits_events(name: str, parameter: str, taken: tuple[type[Event], ...], events: Sequence[type[Event]]) -> None:
    """Refuse a parameter that does not take every event that the handler is declared for.

    Raises:
        DefinitionError: naming the parameter and the annotation that would.
    """
    missing = [each for each in events if not issubclass(each, taken)]
    if missing:
        raise DefinitionError(
            f"{name}: parameter {parameter!r} takes {' | '.join(each.__name__ for each in taken)}, but it is declared "
            f"for {missing[0].__name__} too; make the annotation `{' | '.join(each.__name__ for each in events)}`"
        )


def _read_return(name: str, hint: Any) -> tuple[tuple[type[Event], ...], bool, bool]:
    if hint is inspect.Signature.empty:
        raise DefinitionError(
            f"{name}: say what it publishes; annotate the return with an event class, a union or list of them, or None"
        )
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    produces: list[type[Event]] = []
    silent = many = False
    for choice in choices:
        if choice is None or choice is type(None):
            silent = True
        elif get_origin(choice) in _MANY:
            many = silent = True
            produces += _read_items(name, choice)
        else:
            produces += _produced(name, choice)
    return tuple(dict.fromkeys(produces)), silent, many


def _read_items(name: str, hint: Any) -> list[type[Event]]:
    items = [item for item in get_args(hint) if item is not Ellipsis]
    return [produced for item in items for produced in _produced(name, item)]


def _produced(name: str, hint: Any) -> tuple[type[Event], ...]:
    found = events_of(hint)
    if not found:
        raise DefinitionError(
            f"{name}: it returns {getattr(hint, '__name__', hint)!s}, which is no event; annotate the return with an "
            "event class, a union or list of them, or None"
        )
    for each in found:
        each.spec()  # an abstract class cannot be published; its message says so
    return found
