"""Stand-ins: what plays the services that a test does not have.

A stand-in takes one class of events and answers it as a service would, over the broker, with derived ids, retries and
dead letters. It keeps nothing and has no guard: it is as naive as a service in another language may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import Any

from pydantic import ValidationError

from ...events.clock import SECOND, duration
from ...events.errors import DefinitionError
from ...events.event import Event
from ...services.context import Context
from ...services.service import Service
from ..names import kebab_case

_CONCURRENCY = 1_000_000  # one that answers after a while must not hold up the others

Behave = Callable[[int, Event], "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a stand-in does with one event: wait, then raise or answer.

    Args:
        after: microseconds.
        error: raised.
        answers: published, in order.
    """

    after: int = 0
    error: Exception | None = None
    answers: tuple[Event, ...] = ()


class StandIn:
    """What plays a service for one class of events; made by `answers`, `silent`, `crashes` and `in_turn`.

    Args:
        produces: the classes that it may answer with.
        check: raises a DefinitionError where it cannot answer events of a class.
        behave: gives what it does with the nth call (from 0).
    """

    def __init__(self, produces: Iterable[type[Event]], check: Callable[[type[Event]], None], behave: Behave) -> None:
        self.produces = tuple(dict.fromkeys(produces))
        self.check = check
        self.behave = behave


def answers(*events: type[Event], after: str | float | timedelta | None = None, **fields: object) -> StandIn:
    """Play a service that answers with these events, in order.

    Args:
        events: their fields are filled by name from the event that is answered.
        after: how long it takes.
        fields: values of fields that are not in the event that is answered, or differ from it.

    Raises:
        DefinitionError: there is no event, or none of them has a field of that name. Fields that nothing fills are
            found when the harness is made.
    """
    if not events:
        raise DefinitionError("answers(...) takes the event classes of the answer; silent() is who says nothing")
    for name in fields:
        if not any(name in cls.model_fields for cls in events):
            raise DefinitionError(f"answers(...): none of {_names(events)} has a field {name!r}")
    pause = 0 if after is None else duration(after)

    def check(asked: type[Event]) -> None:
        for cls in events:
            for name, field in cls.model_fields.items():
                if field.is_required() and name not in fields and name not in asked.model_fields:
                    raise DefinitionError(
                        f"answers({cls.__name__}) to {asked.__name__}: {name!r} is not in {asked.__name__}; "
                        f"say it: answers({cls.__name__}, {name}=...)"
                    )

    def behave(_: int, event: Event) -> Step:
        return Step(pause, None, tuple(_filled(cls, event, fields) for cls in events))

    return StandIn(events, check, behave)


def silent() -> StandIn:
    """Play a service that takes the event and says nothing."""
    return StandIn((), _any, lambda _number, _event: Step())


def crashes(error: Exception, *, instead_of: type[Event], after: str | float | timedelta | None = None) -> StandIn:
    """Play a handler that raises: it is tried again as handlers are, and ends in the dead letters.

    Args:
        error: what it raises each time.
        instead_of: what it would have answered; by that a saga knows which of its steps the handler was to do.
        after: how long it takes.
    """
    step = Step(0 if after is None else duration(after), error)
    return StandIn((instead_of,), _any, lambda _number, _event: step)


def in_turn(*standins: StandIn) -> StandIn:
    """Play one stand-in at the first call, the next at the second, and so on; the last one goes on for ever.

    A handler that is tried again is called again: `in_turn(crashes(TimeoutError(), instead_of=Paid), answers(Paid))`
    fails once.

    Raises:
        DefinitionError: there is none.
    """
    if not standins:
        raise DefinitionError("in_turn(...) takes stand-ins, such as in_turn(silent(), answers(StockReserved))")

    def check(asked: type[Event]) -> None:
        for each in standins:
            each.check(asked)

    def behave(number: int, event: Event) -> Step:
        return standins[min(number, len(standins) - 1)].behave(number, event)

    return StandIn([cls for each in standins for cls in each.produces], check, behave)


def standin_services(play: Mapping[type[Event], StandIn | Sequence[StandIn]]) -> list[Service]:
    """Make a service for each stand-in, named after what it takes, e.g. `stand-in.order-placed`.

    Raises:
        DefinitionError: a stand-in cannot answer what it is to take.
    """
    services = []
    for asked, given in play.items():
        standins = [given] if isinstance(given, StandIn) else list(given)
        for number, standin in enumerate(standins, start=1):
            standin.check(asked)
            suffix = f".{number}" if len(standins) > 1 else ""
            services.append(_service(f"stand-in.{kebab_case(asked.__name__)}{suffix}", asked, standin))
    return services


def _service(name: str, asked: type[Event], standin: StandIn) -> Service:
    calls: dict[str, int] = {}

    async def play(event: Event, context: Context) -> list[Event]:
        # Counted per key: what happens to one saga says nothing of the next.
        number = calls[event.key_text()] = calls.get(event.key_text(), -1) + 1
        step = standin.behave(number, event)
        if step.after:
            await asyncio.sleep(step.after / SECOND)
        if step.error is not None:
            raise step.error.with_traceback(None)
        return list(step.answers)

    produces: Any = list[reduce(or_, standin.produces)] if standin.produces else None  # type: ignore[misc]
    play.__annotations__.update(event=asked, context=Context, **{"return": produces})
    service = Service(name, store=None, concurrency=_CONCURRENCY)
    service.on(asked, name="play")(play)
    return service


def _filled(cls: type[Event], event: Event, fields: Mapping[str, object]) -> Event:
    values = {name: getattr(event, name) for name in cls.model_fields if name in type(event).model_fields}
    values.update((name, value) for name, value in fields.items() if name in cls.model_fields)
    aliases = {name: field.alias or name for name, field in cls.model_fields.items()}
    try:
        return cls.model_validate({aliases[name]: value for name, value in values.items()})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DefinitionError(f"answers({cls.__name__}): {field}: {first['msg']}") from None


def _any(_: type[Event]) -> None:
    return None


def _names(classes: Iterable[type[Event]]) -> str:
    return ", ".join(cls.__name__ for cls in classes)
