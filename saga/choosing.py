"""Which sagas are meant by what their definitions say: the name of the key's field, and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, false, or_

from .definition import Definition
from .tables import saga
from .words import Condition, Phase

_ENDED_BADLY = saga.c.phase.in_((Phase.FAILED.value, Phase.COMPENSATED.value))

BY_STATE: Mapping[str, ColumnElement[bool]] = {
    Condition.DEGRADED: saga.c.state.contains('"state":"DEGRADED"', autoescape=True),
    Condition.TRACE_INCOMPLETE: and_(
        saga.c.ended_at.isnot(None),
        saga.c.state.contains('"sampled":false', autoescape=True),
        or_(_ENDED_BADLY, saga.c.conditions.contains(Condition.LATE.value)),
    ),
}
"""Conditions that nothing notes, as they follow from a saga's state; it is searched where somebody asks for them."""

Definitions = Mapping[tuple[str, int], Definition]
"""By type and version."""


def keyed(definitions: Callable[[], Definitions], keys: Sequence[str]) -> ColumnElement[bool]:
    """Choose by key, and by the name of the key's field where that stands before it; a key may hold a `=`, too.

    Args:
        definitions: gives them where they are needed.
        keys: any of these, each a key or `field=key`.
    """
    chosen: ColumnElement[bool] = saga.c.key.in_(keys)
    pairs = [each.partition("=") for each in keys if "=" in each]
    if pairs:
        fields = {(type_, each.key) for (type_, _), each in definitions().items()}
        for name, _, key in pairs:
            types = [type_ for type_, field in fields if field == name]
            chosen = or_(chosen, and_(saga.c.key == key, saga.c.type.in_(types)))
    return chosen


def tagged(definitions: Definitions, tags: Sequence[str]) -> ColumnElement[bool]:
    """Choose the versions that have all of these tags, each `name=value`: a tag is of the definition."""
    asked = [tag.partition("=")[::2] for tag in tags]
    found = [
        and_(saga.c.type == type_, saga.c.version == version)
        for (type_, version), each in definitions.items()
        if all(each.tags.get(name) == value for name, value in asked)
    ]
    return or_(false(), *found)
