"""How a saga is declared: a class whose attributes are its steps.

```python
class Fulfilment(Saga, start=OrderPlaced, key="order_id", deadline="2h"):
    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="30s")
    ship = step(after=reserve, done=OrderShipped, within="3d", pivot=True)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import new_class
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, overload

from ..events.clock import duration, from_datetime
from ..events.errors import DefinitionError, NotYet
from ..events.event import Event
from ..services.retry import Retry
from .declaration import UNSAID, Build, Declaration, Facts, StepOptions, Unsaid, declare
from .definition import UNDO_WITHIN, Definition, Unmatched
from .names import kebab_case

D = TypeVar("D", bound=Event)
Duration = str | int | float | timedelta


class DeclaredStep(Generic[D]):
    """A step of a saga class; on an instance the attribute gives the step's done event. Made by `step()`."""

    def __init__(self, done: tuple[type[D], ...], options: StepOptions) -> None:
        self.name = ""
        self.done = done
        self.options = options

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Saga, owner: type) -> D: ...
    def __get__(self, instance: Saga | None, owner: type) -> Self | D:
        if instance is None:
            return self
        found = instance.maybe(self)
        if found is None:
            raise NotYet(
                f"step {self.name} of {owner.__name__} is not done; "
                f"ask saga.maybe({owner.__name__}.{self.name}) instead"
            )
        return found

    def __repr__(self) -> str:
        return f"<step {self.name}>"


def step(
    *,
    done: type[D] | tuple[type[D], ...],
    failed: type[Event] | tuple[type[Event], ...] = (),
    after: DeclaredStep[Any] | tuple[DeclaredStep[Any], ...] = (),
    within: Duration | None = None,
    undo: Build | Unsaid | None = UNSAID,
    undone: type[Event] | tuple[type[Event], ...] = (),
    send: Build | None = None,
    pivot: bool = False,
    optional: bool = False,
    retry: Retry | None = None,
    undo_retry: Retry | None = None,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> DeclaredStep[D]:
    """Declare a step of a saga.

    Args:
        done: event class, or several, that tell its success.
        failed: event classes that tell its failure.
        after: the step, or all the steps, that come before it; none: it follows the start.
        within: the longest wait from its turn to its outcome, e.g. `"30s"`, `"3d"`.
        undo: the command that undoes it: an event class whose fields are filled by name from the saga's events (newest
            step first, start event last), or a function of the saga with a return annotation. None says that there is
            nothing to undo.
        undone: event classes that answer the undo.
        send: the command that the coordinator publishes when its turn comes; without it some service does the step by
            itself and the saga watches.
        pivot: once it is done there is no way back.
        optional: its failure does not fail the saga.
        retry: for a commanded step, after a known failure.
        undo_retry, undo_within: after a failure of the undo, and the longest wait for its answer.

    Raises:
        DefinitionError: when the saga class is defined, naming step, field and remedy.
    """
    options = StepOptions(
        failed=_classes(failed),
        after=after if isinstance(after, tuple) else (after,),
        within=within,
        undo=undo,
        undone=_classes(undone),
        send=send,
        pivot=pivot,
        optional=optional,
        retry=retry,
        undo_retry=undo_retry,
        undo_within=undo_within,
    )
    return DeclaredStep(done if isinstance(done, tuple) else (done,), options)


def _classes(given: type[Event] | tuple[type[Event], ...]) -> tuple[type[Event], ...]:
    return given if isinstance(given, tuple) else (given,)


_OURS = ("key", "started", "maybe", "declaration", "definition", "observe_only")


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
        correlate: the key's field in event classes that call it otherwise.
        type: public name; default: the class's name in kebab-case.
        observe_only: track and never send: undoes need not be declared.
        active_from: where its history begins: "registration" (default), "beginning", or an aware datetime.
        rerun: a finished key may start again, as run 2, 3, ...
        unmatched: "park" an event whose saga does not exist yet, or "ignore" it (for shared topics).
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
        correlate: Mapping[type[Event], str] | None = None,
        type: str | None = None,  # noqa: A002 - the name users know from Event
        observe_only: bool = False,
        active_from: Literal["registration", "beginning"] | datetime = "registration",
        rerun: bool = False,
        unmatched: Unmatched = "park",
        declaration: Declaration | None = None,
    ) -> None:
        super().__init_subclass__()
        if declaration is not None:
            cls.__declaration__ = declaration
            return
        steps = [value for value in vars(cls).values() if isinstance(value, DeclaredStep)]
        cls.__declaration__ = declare(
            cls,
            cls.__name__,
            steps,
            reserved=[name for name in vars(cls) if name in _OURS],
            start=_classes(start),
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

    def maybe(self, step: DeclaredStep[D]) -> D | None:
        """Give the done event of a step, None before it is done."""
        found: D | None = self._facts.done(step.name)  # type: ignore[assignment]
        return found

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
