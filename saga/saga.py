"""How a saga is declared: a class whose attributes are its steps.

```python
class Fulfilment(Saga, start=OrderPlaced, key="order_id", deadline="2h"):
    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="30s")
    ship = step(after=reserve, done=OrderShipped, within="3d", pivot=True)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import new_class
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel

from ..events.clock import duration, from_datetime
from ..events.errors import DefinitionError
from ..events.event import Event
from .arguments import check_bases, check_saga, check_steps
from .body import lost_steps
from .declaration import Correlation, Declaration, Facts, declare
from .definition import Definition, Unmatched
from .lock import LockPlan
from .names import kebab_case
from .occurrence import occurrence_name
from .policy import Policy
from .schedule import Schedule
from .step import Build, D, DeclaredStep, Duration, several
from .terms import Terms

_OURS = ("key", "started", "maybe", "every", "declaration", "definition", "observe_only")


class Saga:
    """Base of all sagas; subclass it and declare steps.

    An instance of the class is a view on one saga's events, handed to functions such as an `undo`: `saga.charge` is the
    done event of step `charge` (`NotYet` before it is done), `saga.maybe(Fulfilment.charge)` gives None then.

    Args:
        start: event class, or several, that start an instance.
        key: the field with the business key, the same in all its events (see `correlate`).
        version: of this definition; raise it with every change that running instances must not see.
        deadline: the longest time for the whole.
        completed, compensated: event that the saga publishes when it ended well, or when it was undone.
        correlate: where the key stands in event classes that have it elsewhere: the name of a field, `header("...")`,
            `value("order.id")`, or a function of the event.
        type: public name; default: the class's name in kebab-case.
        observe_only: track and never send: undoes need not be declared.
        active_from: where its history begins: "registration" (default), "beginning", or an aware datetime.
        rerun: a finished key may start again, as run 2, 3, ...
        unmatched: "park" an event whose saga does not exist yet, or "ignore" it (for shared topics).
        cancel: event class, or several, that cancel it: before the pivot it is undone, afterwards that is refused.
        lock: what it holds while it runs, so that no other one does: `lock("customer_id")`.
        schedule: when it starts by the clock: `cron("0 2 * * *", tz="Europe/Berlin")`.
        max_open: how many may be open at a time, in one store; further ones wait to start, first come first served.
        policies: what to do with events that come in vain, by event class: `{OrderShipped: policy(late="ask")}`.
        tags: what people search by and want to know, e.g. `{"team": "checkout", "runbook": "https://..."}`; they
            change nothing of what it does.
        declaration: a finished declaration instead of all the others, for variants of a saga.

    Raises:
        DefinitionError: where the class is defined, naming step, field and remedy.
    """

    __declaration__: ClassVar[Declaration | None] = None

    def __init_subclass__(
        cls,
        *,
        start: type[Event] | tuple[type[Event], ...] = (),
        key: str = "",
        version: int = 1,
        deadline: Duration | None = None,
        completed: Build | None = None,
        compensated: Build | None = None,
        correlate: Mapping[type[Event], Correlation] | None = None,
        type: str | None = None,  # noqa: A002 - the name users know from Event
        observe_only: bool = False,
        active_from: Literal["registration", "beginning"] | datetime = "registration",
        rerun: bool = False,
        unmatched: Unmatched = "park",
        cancel: type[Event] | tuple[type[Event], ...] = (),
        lock: LockPlan | None = None,
        schedule: Schedule | None = None,
        policies: Mapping[type[Event], Policy] | None = None,
        tags: Mapping[str, str] | None = None,
        max_open: int | None = None,
        declaration: Declaration | None = None,
    ) -> None:
        super().__init_subclass__()
        if declaration is not None:
            cls.__declaration__ = declaration
            return
        check_bases(cls.__name__, cls.__bases__)
        check_saga(
            cls.__name__,
            start=several(start),
            cancel=several(cancel),
            key=key,
            type=type,
            deadline=deadline,
            completed=completed,
            compensated=compensated,
            correlate=correlate,
            observe_only=observe_only,
            active_from=active_from,
            rerun=rerun,
            unmatched=unmatched,
        )
        steps = [value for value in vars(cls).values() if isinstance(value, DeclaredStep)]
        check_steps(cls.__name__, steps, lost_steps(dict(vars(cls))))
        cls.__declaration__ = declare(
            cls,
            cls.__name__,
            steps,
            reserved=[name for name in vars(cls) if name in _OURS],
            start=several(start),
            key=key,
            type_=type or kebab_case(cls.__name__),
            version=version,
            deadline=None if deadline is None else duration(deadline),
            ends={"completed": completed, "compensated": compensated},
            correlate=dict(correlate or {}),
            observe_only=observe_only,
            active_from=from_datetime(active_from) if isinstance(active_from, datetime) else active_from,
            rerun=rerun,
            unmatched=unmatched,
            terms=Terms(several(cancel), dict(policies or {}), lock, schedule, dict(tags or {}), max_open),
        )

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def key(self) -> str:
        """The business key."""
        return self._facts.key

    @property
    def started(self) -> Any:
        """The event that started it."""
        return self._facts.start()

    def maybe(self, step: DeclaredStep[D], element: object = None) -> D | None:
        """Give the done event of a step, None before it is done.

        Args:
            step: which.
            element: of a step that runs once per element, the element or its key.

        Raises:
            DefinitionError: such a step without an element, or an element of another step.
        """
        found: D | None = self._facts.done(occurrence_of(step, element))  # type: ignore[assignment]
        return found

    def every(self, step: DeclaredStep[D]) -> list[D]:
        """Give the done events so far of a step that runs once per element, in the order of the elements."""
        return self._facts.every(step.name)  # type: ignore[return-value]

    @classmethod
    def declaration(cls) -> Declaration:
        """Give what was declared: the definition as data, with the classes and functions behind it.

        Raises:
            DefinitionError: `Saga` itself was asked.
        """
        if cls.__declaration__ is None:
            raise DefinitionError("Saga itself declares nothing; write class Fulfilment(Saga, start=..., key=...)")
        return cls.__declaration__

    @classmethod
    def definition(cls) -> Definition:
        """Give the definition as data."""
        return cls.declaration().definition

    @classmethod
    def observe_only(cls) -> type[Self]:
        """Give a variant of this saga that tracks and never sends: the way to adopt it beside a running system."""
        variant: type[Self] = new_class(cls.__name__, (cls,), {"declaration": cls.declaration().observing()})
        return variant


def occurrence_of(step: DeclaredStep[Any], element: object) -> str:
    """Name what is meant: a step, or one occurrence of it.

    Raises:
        DefinitionError: the step runs once per element and none is given, or the other way round.
    """
    by = step.options.by
    if by is None:
        if element is not None:
            raise DefinitionError(f"step {step.name} runs once, so it has no elements; write saga.maybe(step)")
        return step.name
    if element is None:
        raise DefinitionError(
            f"step {step.name} runs once per element; say which: saga.maybe(step, element), or saga.{step.name} for all"
        )
    return occurrence_name(step.name, str(getattr(element, by) if isinstance(element, BaseModel) else element))
