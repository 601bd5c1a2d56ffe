"""A saga within one transaction: as it was, as it is now, and what was read of it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events.event import Event
from .definition import Definition
from .inputs import Output
from .instance import Instance, Parent

if TYPE_CHECKING:
    from . import early


class Moved(NamedTuple):
    """What one saga went through in a batch: its state before (None for a new one) and after."""

    definition: Definition
    before: Instance | None
    after: Instance


@dataclass(slots=True)
class Work:
    """A saga within the batch.

    Args:
        id: its public name.
        instance, before: as it is, and as it was when the transaction began (None for a new one).
        values: raw values of its events and answers, with their content types, by id.
        ends: what it was when it was opened again, by epoch.
        events: the same events, decoded.
        elements: those of its steps that run once per element, by the id of the answer that named them.
        causes: what led to outputs that were held back.
    """

    id: str
    instance: Instance
    before: Instance | None
    values: dict[str, tuple[bytes | None, str]] = field(default_factory=dict)
    ends: dict[int, Instance] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    elements: dict[str, dict[str, Any]] = field(default_factory=dict)
    causes: dict[Output, str] = field(default_factory=dict)

    def moves(self, definition: Definition) -> Iterator[Moved]:
        """Tell what it went through: one move, and one more for each end after which it was opened again."""
        before = self.before
        for epoch, end in sorted(self.ends.items()) if self.ends else ():
            if epoch < self.instance.epoch:  # else the reopening was taken back
                yield Moved(definition, before, end)
                before = end
        if before is None or self.instance.seq != before.seq:
            yield Moved(definition, before, self.instance)


class Kept(NamedTuple):
    """How one key stood before an input was applied to it."""

    key: tuple[str, str]
    instances: Mapping[int, Instance]
    sizes: tuple[int, int, int]
    parked: list[early.Parked] | None
    to_park: list[early.Parked] | None


def child_of(runs: Mapping[int, Work], parent: Parent | None) -> Work | None:
    """Give the run that a step of another saga has begun."""
    if parent is None:
        return None
    return next((w for w in runs.values() if w.instance.parent is not None and w.instance.parent.same(parent)), None)
