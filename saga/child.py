"""`child()`: a step that is a whole saga of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ..events.errors import DefinitionError
from ..events.event import Event
from .definition import UNDO_WITHIN, Definition, RetryPlan, StepPlan
from .names import is_saga_type
from .outcomes import DONE, FAILED, UNDONE, SagaCompleted, UndoSaga
from .step import After, Build, DeclaredStep, Duration, StepOptions, When


class Nested(Protocol):
    """A saga class."""

    @classmethod
    def definition(cls) -> Definition:
        """Give its definition."""


def child(
    saga: type[Nested] | str,
    *,
    start: Build,
    within: Duration,
    after: After = (),
    when: When | None = None,
    optional: bool = False,
    pivot: bool = False,
    undo_within: Duration = UNDO_WITHIN / 1_000_000,
) -> DeclaredStep[SagaCompleted]:
    """Declare a step that is a saga of its own, run here or by another coordinator.

    It is done when the child is COMPLETED; a child that is undone, or fails, fails the step. As long as the parent has
    not ended the child can be undone: one that runs is cancelled, one that ended well is opened again and compensated
    (row 21). A child whose pivot is passed, or whose own undo fails, refuses; a person is needed then.

    Args:
        saga: the child's class, or its type where another team has it, e.g. `"packing"`.
        start: the child's start event: a class that is filled by name from this saga's events, its key from this
            saga's key, or a function of the saga.
        within: the longest wait for its end.
        after, when, optional, pivot: as for `step()`.
        undo_within: the longest wait until it is undone.

    Raises:
        DefinitionError: the saga is none, or the event does not start it; otherwise when the class is defined.
    """
    type_ = saga if isinstance(saga, str) else _type_of(saga, start)
    if not is_saga_type(type_):
        raise DefinitionError(f'child({type_!r}): a saga type is in lower case with "-", e.g. "order-fulfilment"')
    options = StepOptions(
        failed=FAILED,
        after=after if isinstance(after, tuple) else (after,),
        within=within,
        undo=None if pivot else UndoSaga,
        undone=() if pivot else UNDONE,
        send=start,
        pivot=pivot,
        optional=optional,
        retry=None,
        undo_retry=None,
        undo_within=undo_within,
        when=when,
        child=type_,
    )
    return DeclaredStep(DONE, options)


def _type_of(saga: type[Nested], start: Build) -> str:
    definition = saga.definition()
    if definition.observe_only:
        raise DefinitionError(f"child({saga.__name__}): it only observes, so it would never say how it ends")
    if isinstance(start, type) and issubclass(start, Event) and start.spec().type not in definition.start:
        starts = " or ".join(definition.start)
        raise DefinitionError(f"child({saga.__name__}): start={start.__name__} does not start it; {starts} does")
    return definition.type


def fitted(definition: Definition) -> Definition:
    """Give a definition whose children are as children are.

    One that has failed is not begun again under the same key; one that comes after the pivot is never undone.
    """
    if not definition.children:
        return definition
    behind = frozenset() if definition.pivot is None else definition.descendants[definition.pivot.name]

    def fit(step: StepPlan) -> StepPlan:
        if step.child is None:
            return step
        step = replace(step, retry=RetryPlan(attempts=1))
        return replace(step, undo=None, undone=()) if step.name in behind else step

    return replace(definition, steps=tuple(fit(step) for step in definition.steps))
