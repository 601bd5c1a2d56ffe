"""The occurrences of a step that runs once per element: their names, their ids on the wire, and their plans.

An occurrence is an ordinary step of an instance, named `reserve[sku-1]`; its plan is derived from the definition and
the instance. `unfold` gives a definition in which they stand as steps of their own, so that no rule of the saga has to
know of them. The step itself stays as their group: it comes after all of them, and its successors come after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from .definition import Definition, StepPlan

if TYPE_CHECKING:
    from .instance import Instance

MOST_ELEMENTS = 1_000
"""How many occurrences a step may have."""

LONGEST_ELEMENT = 200
"""Characters of an element's key at most."""

MOST_TRACED = 100
"""How many occurrences of a step have spans of their own: a trace of thousands shows nothing (docs/tracing.md)."""

_PERSON = b"choreo-occur/v1"
_REMEMBERED = 64


def occurrence_name(step: str, element: str) -> str:
    """Name one occurrence: the step, and the element's key percent-encoded as in a saga's name."""
    return f"{step}[{quote(element, safe='')}]"


def base_of(name: str) -> str:
    """Give the step of which this is an occurrence; a name without an element as it is."""
    return name.partition("[")[0]


def element_of(name: str) -> str | None:
    """Give the key of the element, None for a step that is no occurrence."""
    _, bracket, rest = name.partition("[")
    return unquote(rest[:-1]) if bracket else None


@lru_cache(maxsize=8_192)
def occurrence_id(element: str) -> str:
    """Give the `saga-occurrence` header of an element: its key, hashed (ruling R13). A public contract (wire.md)."""
    return blake2b(element.encode(), digest_size=8, person=_PERSON).hexdigest()


def wire_of(name: str) -> tuple[str, str]:
    """Give step and occurrence as they travel; the occurrence of an ordinary step is empty."""
    element = element_of(name)
    return base_of(name), "" if element is None else occurrence_id(element)


def is_group(plan: StepPlan) -> bool:
    """Whether a plan stands for all occurrences of a step together."""
    return plan.each is not None


def members(instance: Instance, group: str) -> list[str]:
    """List the occurrences of a step that an instance has, in the order of the elements."""
    prefix = f"{group}["
    return [name for name in instance.steps if name.startswith(prefix)]


def traced(instance: Instance, name: str) -> bool:
    """Whether what is done for a step has spans: of very many occurrences only the first ones do."""
    if name[-1] != "]" or len(instance.steps) <= MOST_TRACED:
        return True
    return name in members(instance, base_of(name))[:MOST_TRACED]


@dataclass(frozen=True)
class Unfolded(Definition):
    """A definition with the occurrences of one instance as steps; what events mean it asks of the `folded` one."""

    folded: Definition | None = None

    @cached_property
    def done_step(self) -> Mapping[str, StepPlan]:
        """The declared step whose success an event type tells."""
        assert self.folded is not None
        return self.folded.done_step

    @cached_property
    def failed_steps(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """The declared steps whose failure an event type tells."""
        assert self.folded is not None
        return self.folded.failed_steps

    @cached_property
    def undone_steps(self) -> Mapping[str, tuple[StepPlan, ...]]:
        """The declared steps whose undo an event type answers."""
        assert self.folded is not None
        return self.folded.undone_steps

    @cached_property
    def occurrences(self) -> Mapping[tuple[str, str], StepPlan]:
        """The occurrences by their step and their id on the wire."""
        return {wire_of(plan.name): plan for plan in self.steps if plan.name[-1] == "]"}


def occurrences(definition: Definition) -> Mapping[tuple[str, str], StepPlan]:
    """Give the occurrences that an unfolded definition has, by their step and their id on the wire."""
    return definition.occurrences if isinstance(definition, Unfolded) else {}


def unfold(definition: Definition, instance: Instance) -> Definition:
    """Give a definition as one instance sees it; without a step per element that is the definition itself."""
    if isinstance(definition, Unfolded):
        assert definition.folded is not None
        definition = definition.folded
    if not definition.fans:
        return definition
    names = tuple(name for name in instance.steps if name[-1] == "]")
    known = definition.unfoldings
    found = known.get(names)
    if found is None:
        if len(known) >= _REMEMBERED:
            known.clear()
        found = known[names] = _unfolded(definition, names)
    return found


def _unfolded(definition: Definition, names: tuple[str, ...]) -> Unfolded:
    steps: list[StepPlan] = []
    for plan in definition.steps:
        if plan.each is None:
            steps.append(plan)
            continue
        own = [name for name in names if base_of(name) == plan.name]
        steps.append(replace(plan, after=(*plan.after, *own), send=None, undo=None, undone=(), done=(), failed=()))
        steps += [replace(plan, name=name, each=None, when=False) for name in own]
    values = {name: getattr(definition, name) for name in Definition.__dataclass_fields__}
    return Unfolded(**{**values, "steps": tuple(steps)}, folded=definition)
