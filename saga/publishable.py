"""Which events a command line lets in: the classes that its targets name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from ..events.errors import ConfigurationError, DefinitionError
from ..events.event import Event
from ..services.service import Service
from .loading import load_object
from .saga import Saga


def load_events(targets: Iterable[str]) -> list[type[Event]]:
    """Load event classes, each once.

    Args:
        targets: each names an Event class, a list of these, a Service or a Saga (the events that it takes), or a module
            (the Event classes that it holds).

    Raises:
        ConfigurationError: nothing is there, it is something else, or its code raised.
    """
    found: dict[type[Event], None] = {}
    for target in targets:
        mine = list(_events_of(load_object(target), target))
        if not mine:
            raise ConfigurationError(f"{target} holds no Event class with a topic; name one, as in shop.py:OrderPlaced")
        found.update(dict.fromkeys(mine))
    return list(found)


def _events_of(found: Any, target: str) -> Iterator[type[Event]]:
    if isinstance(found, ModuleType):
        names = getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]
        values = [getattr(found, name) for name in names]
        yield from (each for each in values if isinstance(each, type) and issubclass(each, Event) and _has_topic(each))
    elif isinstance(found, type) and issubclass(found, Event):
        found.spec()
        yield found
    elif isinstance(found, Service):
        yield from (event for handler in found.handlers for event in handler.events)
    elif isinstance(found, type) and issubclass(found, Saga) and found.__declaration__ is not None:
        declaration = found.declaration()
        taken = sorted(declaration.definition.consumed)
        yield from (declaration.events[type_] for type_ in taken if type_ in declaration.events)
    elif isinstance(found, (list, tuple, set, frozenset)):
        for each in found:
            yield from _events_of(each, target)
    else:
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise ConfigurationError(
            f"{target} is {kind}; name an Event class, a Service, a Saga, a list of these, or a module with events"
        )


def _has_topic(cls: type[Event]) -> bool:
    """Leave out bases, and choreo's own events, which nobody else may say."""
    if cls.__module__.startswith("choreo.") and not cls.__module__.startswith("choreo.saga.demo."):
        return False
    try:
        cls.spec()
    except DefinitionError:
        return False
    return True
