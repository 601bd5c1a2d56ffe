"""What may be handed to `step()` and to a saga's class line: checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..events.clock import duration
from ..events.errors import DefinitionError
from ..events.event import Event
from ..events.foreign import Field, Header
from ..services.retry import Retry
from .step import AnyOf, DeclaredStep, Unsaid

Check = Callable[[Any], bool]


def is_event_class(value: object) -> bool:
    """Tell whether it is a class of events."""
    return isinstance(value, type) and issubclass(value, Event)


def _is_duration(value: object) -> bool:
    try:
        duration(value)  # type: ignore[arg-type]
    except DefinitionError:
        return False
    return True


def _is_build(value: object) -> bool:
    return is_event_class(value) or (callable(value) and not isinstance(value, type))


def _is_step(value: object) -> bool:
    return isinstance(value, DeclaredStep)


def _is_earlier(value: object) -> bool:
    return isinstance(value, DeclaredStep) or (isinstance(value, AnyOf) and all(map(_is_step_or_group, value.members)))


def _is_step_or_group(value: object) -> bool:
    return isinstance(value, (DeclaredStep, AnyOf))


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def _is_aware(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


_CLASSES = "name an event class, or several in a tuple: (Reserved, Booked)"
_DURATION = 'write it like "200ms", "30s", "5m", "2h", "3d", or as seconds or a timedelta'
_BUILD = "name an event class, or a function like: def undo(saga) -> ReleaseStock: ..."
_EARLIER = "name a step of this class, or several in a tuple: after=(reserve, any_of(card, transfer))"
_BOOL = "write True or False"
_FUNCTION = "write a function of the saga: lambda saga: saga.started.total > 100"
_RETRY = 'write Retry(attempts=5, first="1s", most="5m"); errors, jitter and within are for the handlers of services'

_EACH_OF: Mapping[str, tuple[Check, str]] = {
    "failed": (is_event_class, _CLASSES),
    "undone": (is_event_class, _CLASSES),
    "after": (_is_earlier, _EARLIER),
    "instead_of": (_is_step, "name the step of this class that it replaces"),
}
_ONE: Mapping[str, tuple[Check, str]] = {
    "within": (_is_duration, _DURATION),
    "undo_within": (_is_duration, _DURATION),
    "undo": (lambda value: isinstance(value, Unsaid) or _is_build(value), f"{_BUILD}; or None: nothing to undo"),
    "send": (_is_build, _BUILD),
    "when": (_is_function, _FUNCTION),
    "each": (
        lambda value: (isinstance(value, str) and bool(value)) or _is_function(value),
        'name a field of an event of the saga, each="lines", or write a function of the saga',
    ),
    "by": (lambda value: isinstance(value, str) and bool(value), 'name the field of the answers, by="sku"'),
    "pivot": (_is_bool, _BOOL),
    "optional": (_is_bool, _BOOL),
    "final": (_is_bool, _BOOL),
    "retry": (lambda value: isinstance(value, Retry) and value.timing_only, _RETRY),
    "undo_retry": (lambda value: isinstance(value, Retry) and value.timing_only, _RETRY),
}
_SAGA: Mapping[str, tuple[Check, str]] = {
    "start": (lambda value: all(map(is_event_class, value)), _CLASSES),
    "cancel": (lambda value: all(map(is_event_class, value)), _CLASSES),
    "key": (lambda value: isinstance(value, str), 'name the field of the business key, key="order_id"'),
    "type": (lambda value: isinstance(value, str), 'write it like type="order-fulfilment"'),
    "deadline": (_is_duration, _DURATION),
    "completed": (_is_build, _BUILD),
    "compensated": (_is_build, _BUILD),
    "correlate": (
        lambda value: (
            isinstance(value, Mapping)
            and all(
                is_event_class(cls) and (isinstance(each, (str, Header, Field)) or callable(each))
                for cls, each in value.items()
            )
        ),
        'write {LegacyShipped: "ref"}: the event class and the field that holds the key; or header("order-id"), '
        'value("order.id"), or a function of the event',
    ),
    "observe_only": (_is_bool, _BOOL),
    "rerun": (_is_bool, _BOOL),
    "unmatched": (lambda value: value in ("park", "ignore"), 'write "park" or "ignore"'),
    "active_from": (
        lambda value: (
            value in ("registration", "beginning") or (isinstance(value, datetime) and value.tzinfo is not None)
        ),
        'write "registration", "beginning", or a datetime with a time zone',
    ),
}


def check_saga(name: str, **given: object) -> None:
    """Check the arguments of a saga's class line; None is what was not given.

    Raises:
        DefinitionError: naming the saga, the argument and the remedy.
    """
    for option, value in given.items():
        right, remedy = _SAGA[option]
        if value is not None and not right(value):
            raise DefinitionError(f"{name}: {option}={_shown(value)} is not understood; {remedy}")


def check_steps(name: str, steps: Sequence[DeclaredStep[Any]], lost: Sequence[str] = ()) -> None:
    """Check the arguments of every `step()` of a saga.

    Args:
        name: of the saga.
        steps: that it has.
        lost: names of steps whose place something else has taken.

    Raises:
        DefinitionError: naming the saga, the step, the argument and the remedy.
    """
    for each in lost:
        raise DefinitionError(
            f"{name}, step {each}: the name is given twice, and the first would be lost; rename one of them", step=each
        )
    for number, step in enumerate(steps):
        if any(step is other for other in steps[:number]):
            raise DefinitionError(
                f"{name}, step {step.name}: one step() has two names; write a step(...) for each", step=step.name
            )
        for cls in step.done:
            _check(name, step, "done", cls, is_event_class, _CLASSES)
        for option, (right, remedy) in _EACH_OF.items():
            for value in getattr(step.options, option):
                _check(name, step, option, value, right, remedy)
        for option, (right, remedy) in _ONE.items():
            value = getattr(step.options, option)
            if value is not None:
                _check(name, step, option, value, right, remedy)


def _check(name: str, step: DeclaredStep[Any], option: str, value: object, right: Check, remedy: str) -> None:
    if not right(value):
        raise DefinitionError(
            f"{name}, step {step.name}: {option}={_shown(value)} is not understood; {remedy}", step=step.name
        )


def _shown(value: object) -> str:
    """Show a value in one line of some length; an event's fields are nobody's business."""
    if isinstance(value, Event):
        return f"an instance of {type(value).__name__}"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (tuple, list)) and len(value) > 0:
        return ", ".join(map(_shown, value))
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_bases(name: str, bases: Iterable[type]) -> None:
    """Refuse to inherit from a declared saga: its steps would be lost without a word.

    Raises:
        DefinitionError: naming both.
    """
    for base in bases:
        if getattr(base, "__declaration__", None) is not None:
            raise DefinitionError(
                f"{name}: {base.__name__} is a saga, and steps are not inherited; derive it from Saga and declare its "
                "steps, or use a version of its own: version=2"
            )
