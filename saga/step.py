"""`step()`: how one step of a saga is declared, and what its attribute gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Generic, Never, Protocol, Self, TypeVar, overload

from ..events.errors import NotYet
from ..events.event import Event
from ..services.retry import Retry
from .body import remember
from .definition import UNDO_WITHIN

D = TypeVar("D", bound=Event)
Duration = str | int | float | timedelta
Build = type[Event] | Callable[[Any], Event]
"""An event class, filled by name from the saga's events, or a function of the saga that makes one."""
BuildEach = type[Event] | Callable[[Any, Any], Event]
"""The same for a step that runs once per element; a function gets the saga and the element."""
AnyBuild = type[Event] | Callable[..., Event]
When = Callable[[Any], bool]
Each = str | Callable[[Any], Iterable[Any]]
"""A field of the saga's events that holds the elements, or a function of the saga that gives them."""
Due = str | Callable[[Any], datetime | date | None]
"""A field of the start event, or a function of the saga, that says when a step's success is expected."""


class Unsaid:
    """Marks an argument that was not given where None has a meaning of its own."""


UNSAID = Unsaid()


@dataclass(frozen=True, slots=True)
class StepOptions:
    """The arguments of `step()` as they were given."""

    failed: tuple[type[Event], ...]
    after: tuple[DeclaredStep[Any] | AnyOf, ...]
    within: Duration | None
    undo: AnyBuild | Unsaid | None
    undone: tuple[type[Event], ...]
    send: AnyBuild | None
    pivot: bool
    optional: bool
    retry: Retry | None
    undo_retry: Retry | None
    undo_within: Duration
    when: When | None = None
    instead_of: tuple[DeclaredStep[Any], ...] = ()
    final: bool = False
    each: Each | None = None
    by: str | None = None
    due: Due | None = None
    approval: str | None = None
    child: str | None = None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Steps of which one is enough; made by `any_of()`."""

    members: tuple[DeclaredStep[Any] | AnyOf, ...]


def any_of(*steps: DeclaredStep[Any]) -> AnyOf:
    """Say in `after=` that one of these steps is enough: the first success counts, nobody waits for the others.

    Those that have not had their turn are SKIPPED, those in flight are given up and undone by themselves. The saga does
    not fail while one of them may still succeed.

    Args:
        steps: two or more, none of which comes before another of them.
    """
    return AnyOf(steps)


class Viewed(Protocol):
    """A view on one saga's events: an instance of the saga class."""

    def maybe(self, step: DeclaredStep[D]) -> D | None:
        """Give the done event of a step, None before it is done."""

    def every(self, step: DeclaredStep[D]) -> list[D]:
        """Give the done events of a step that runs once per element."""


class DeclaredStep(Generic[D]):
    """A step of a saga class; on an instance the attribute gives the step's done event. Made by `step()`."""

    def __init__(self, done: tuple[type[D], ...], options: StepOptions) -> None:
        self.name = ""
        remember(self)
        self.done = done
        self.options = options

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Viewed, owner: type) -> D: ...
    def __get__(self, instance: Viewed | None, owner: type) -> Self | D:
        if instance is None:
            return self
        found = instance.maybe(self)
        if found is None:
            raise NotYet(
                f"step {self.name} of {owner.__name__} is not done; "
                f"ask saga.maybe({owner.__name__}.{self.name}) instead"
            )
        return found

    def __set__(self, instance: Viewed, value: Never) -> None:
        raise AttributeError(f"step {self.name} is told by the saga's events; nobody sets it")

    def __repr__(self) -> str:
        return f"<step {self.name}>"


class FannedStep(DeclaredStep[D]):
    """A step that runs once per element; on an instance the attribute gives the done events so far, in their order."""

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Viewed, owner: type) -> list[D]: ...
    def __get__(self, instance: Viewed | None, owner: type) -> Self | list[D]:
        return self if instance is None else instance.every(self)


After = DeclaredStep[Any] | AnyOf | tuple[DeclaredStep[Any] | AnyOf, ...]


@overload
def step(
    *,
    done: type[D] | tuple[type[D], ...],
    failed: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    within: Duration | None = None,
    undo: Build | Unsaid | None = UNSAID,
    undone: type[Event] | tuple[type[Event], ...] = (),
    send: Build | None = None,
    when: When | None = None,
    due: Due | None = None,
    instead_of: DeclaredStep[Any] | None = None,
    final: bool = False,
    pivot: bool = False,
    optional: bool = False,
    retry: Retry | None = None,
    undo_retry: Retry | None = None,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> DeclaredStep[D]: ...
@overload
def step(
    *,
    done: type[D] | tuple[type[D], ...],
    each: Each,
    by: str,
    failed: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    within: Duration | None = None,
    undo: BuildEach | Unsaid | None = UNSAID,
    undone: type[Event] | tuple[type[Event], ...] = (),
    send: BuildEach | None = None,
    when: When | None = None,
    optional: bool = False,
    retry: Retry | None = None,
    undo_retry: Retry | None = None,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> FannedStep[D]: ...
@overload
def step(
    *,
    undo: Build,
    undone: type[Event] | tuple[type[Event], ...],
    after: After = (),
    when: When | None = None,
    undo_retry: Retry | None = None,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> DeclaredStep[Event]: ...
def step(
    *,
    done: type[Event] | tuple[type[Event], ...] = (),
    failed: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    within: Duration | None = None,
    undo: AnyBuild | Unsaid | None = UNSAID,
    undone: type[Event] | tuple[type[Event], ...] = (),
    send: AnyBuild | None = None,
    when: When | None = None,
    each: Each | None = None,
    by: str | None = None,
    due: Due | None = None,
    instead_of: DeclaredStep[Any] | None = None,
    final: bool = False,
    pivot: bool = False,
    optional: bool = False,
    retry: Retry | None = None,
    undo_retry: Retry | None = None,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> DeclaredStep[Any]:
    """Declare a step of a saga.

    Args:
        done: event class, or several, that tell its success. Without it the step has only an undo: it is DONE the
            moment its turn comes.
        failed: event classes that tell its failure.
        after: the step, or all the steps, that come before it, `any_of(...)` among them; none: it follows the start.
        within: the longest wait from its turn to its outcome, e.g. `"30s"`, `"3d"`.
        undo: the command that undoes it: an event class whose fields are filled by name from the saga's events (newest
            step first, start event last), or a function of the saga with a return annotation. None says that there is
            nothing to undo.
        undone: event classes that answer the undo.
        send: the command that the coordinator publishes when its turn comes; without it some service does the step by
            itself and the saga watches.
        when: a function of the saga, asked when the step's turn comes: False skips it, and what only it feeds.
        each: once for each element, side by side: a list field of the saga's events (of the steps before it, the newest
            first, or of the start event), or a function of the saga with a return annotation such as `list[Line]`. An
            element is a str, an int, a UUID, or a model that has the field `by`. Functions for `send=` and `undo=` get
            the element too: `def release(saga, line) -> ReleaseStock`.
        by: the field of every command and answer that names the element.
        due: when its success is expected, a promise of this one saga: a field of the start event (an aware datetime or
            a date), or a function of the saga, asked when it starts. Passing it makes the saga late, nothing else.
        instead_of: the step that this one replaces when it has failed for good, before anything is undone.
        final: it runs when the saga is about to end, whatever the end; its own failure changes nothing.
        pivot: once it is done there is no way back.
        optional: its failure does not fail the saga.
        retry: for a commanded step, after a known failure.
        undo_retry, undo_within: after a failure of the undo, and the longest wait for its answer.

    Raises:
        DefinitionError: when the saga class is defined, naming step, field and remedy.
    """
    options = StepOptions(
        failed=several(failed),
        after=after if isinstance(after, tuple) else (after,),
        within=within,
        undo=undo,
        undone=several(undone),
        send=send,
        pivot=pivot,
        optional=optional,
        retry=retry,
        undo_retry=undo_retry,
        undo_within=undo_within,
        when=when,
        instead_of=() if instead_of is None else (instead_of,),
        final=final,
        each=each,
        by=by,
        due=due,
    )
    return DeclaredStep(several(done), options) if each is None else FannedStep(several(done), options)


def several(given: type[D] | tuple[type[D], ...]) -> tuple[type[D], ...]:
    """Give one class, or several, as several."""
    return given if isinstance(given, tuple) else (given,)
