"""What a saga cannot do without: a step whose event later commands are made of is not to be skipped."""

from __future__ import annotations

from collections.abc import Iterator

from ..events.event import Event
from .declaration import Declaration
from .definition import StepPlan
from .instance import Instance
from .occurrence import base_of
from .outcomes import UndoSaga
from .words import StepState


def needed_by(declaration: Declaration, instance: Instance, step: str) -> str:
    """Say what could not be made without a step's event; "" where nothing is known to need it.

    What is filled by name is known. What a function of the user makes is not: it is tried when its turn comes, and
    where it cannot be made that step fails as Unbuildable.

    Args:
        declaration: of the saga's version.
        instance: the saga.
        step: which.
    """
    name = base_of(step)
    own = [
        declaration.events[type_] for type_ in declaration.definition.by_name[name].done if type_ in declaration.events
    ]
    for type_, where, sources in _made_later(declaration, instance, name):
        cls = declaration.events[type_]
        for field, info in cls.model_fields.items():
            if field in (cls.spec().key, declaration.definition.key) or not info.is_required():
                continue
            there = any(field in source.model_fields for source in sources)
            if not there and any(field in source.model_fields for source in own):
                return f"{where} needs {field} for {type_}, which only {' or '.join(each.__name__ for each in own)} has"
    return ""


def _made_later(
    declaration: Declaration, instance: Instance, name: str
) -> Iterator[tuple[str, str, list[type[Event]]]]:
    """List what is still to be made by name, for what, and the events that it can be filled from."""
    definition = declaration.definition
    start = [declaration.events[type_] for type_ in definition.start]
    for plan in definition.steps:
        later = plan.name != name and plan.each is None and plan.name in definition.descendants[name]
        pending = instance.steps[plan.name].state is StepState.PENDING
        if later and pending and plan.send is not None and _by_name(declaration, plan.send):
            before = [each for each in definition.steps if each.name in definition.ancestors[plan.name]]
            yield plan.send, f"step {plan.name}", [*start, *_told(declaration, before, name)]
    if definition.completed is not None and _by_name(declaration, definition.completed):
        yield definition.completed, "its end", [*start, *_told(declaration, definition.steps, name)]


def _by_name(declaration: Declaration, type_: str) -> bool:
    return declaration.builds.get(type_) is None and type_ != UndoSaga.spec().type and type_ in declaration.events


def _told(declaration: Declaration, plans: tuple[StepPlan, ...] | list[StepPlan], skipped: str) -> list[type[Event]]:
    types = [type_ for plan in plans if plan.name != skipped and plan.each is None for type_ in plan.done]
    return [declaration.events[type_] for type_ in types if type_ in declaration.events]
