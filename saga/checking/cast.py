"""Who plays in the model: a participant for every step, and for every element of a step that runs once per element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..definition import Definition, StepPlan
from ..occurrence import occurrence_name
from .nodes import ELEMENTS
from .participant import Role, Source
from .shape import Shape, declared, groups


def cast(definition: Definition) -> tuple[Role, ...]:
    """Make the participants of a definition, numbered in the order of its steps."""
    shape = Shape(definition)
    plans = [
        replace(plan, name=occurrence_name(plan.name, element), each=None, when=False) if element else plan
        for plan in definition.steps
        for element in (ELEMENTS if plan.each is not None else ("",))
    ]
    places: dict[str, list[int]] = {}
    for number, plan in enumerate(plans):
        places.setdefault(declared(plan.name), []).append(number)
    found = []
    for number, plan in enumerate(plans):
        waited = list(groups(plan)) if plan.send is None and plan.done else []
        waited = [(*group, *(other for name in group for other in shape.replacements(name))) for group in waited]
        if plan.instead_of is not None and plan.send is None:
            waited = [(plan.instead_of,)]
        wanted = [[source for name in group for source in _told(plans, places[name], plan)] for group in waited]
        sources = tuple(dict.fromkeys(source for group in wanted for source in group))
        needs = tuple(frozenset(sources.index(source) + 1 for source in group) for group in wanted)
        found.append(Role(number, plan.name, plan, sources, needs))
    return tuple(found)


def _told(plans: list[StepPlan], places: list[int], follower: StepPlan) -> Iterator[Source]:
    """What a step tells those that wait for it: its success; its failure, where that lets the process go on."""
    for place in places:
        plan = plans[place]
        replaced = declared(plan.name) == follower.instead_of
        if not replaced:
            yield Source(place, "done")
        if (replaced or plan.optional) and plan.failed:
            yield Source(place, "failed")
