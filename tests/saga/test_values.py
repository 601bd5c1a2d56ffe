"""What the pure core is made of: values that nobody can change in place, so no decision reaches into its past."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import msgspec
import pytest

from choreo.saga import definition, inputs, instance, lock, policy, schedule
from choreo.saga.instance import Instance, Step

CHANGED = {Step, Instance, inputs.Transition}
"""What `advance` builds, from a copy."""


def names(cls: Any) -> list[str]:
    """The fields of a value; nothing for what is none."""
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return list(cls.__struct_fields__) if issubclass(cls, msgspec.Struct) else []


def blank(cls: Any) -> Any:
    """A value of which nothing is said."""
    return cls(*[None] * len(names(cls))) if issubclass(cls, msgspec.Struct) else cls.__new__(cls)


CLASSES = [
    found
    for module in (definition, inputs, instance, lock, policy, schedule)
    for found in vars(module).values()
    if inspect.isclass(found) and names(found)
    if found.__module__ == module.__name__
]


def test_there_are_values() -> None:
    assert len(CLASSES) > 20


@pytest.mark.parametrize("cls", CLASSES)
def test_a_value_cannot_be_changed(cls: type) -> None:
    value = blank(cls)
    field = names(cls)[0]
    if cls in CHANGED:
        setattr(value, field, 1)
        return
    with pytest.raises(AttributeError):
        setattr(value, field, 1)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.__module__ != definition.__name__])
def test_there_are_very_many_so_they_are_small(cls: type) -> None:
    assert not hasattr(blank(cls), "__dict__")


@pytest.mark.parametrize("cls", sorted(CHANGED, key=lambda each: each.__name__))
def test_what_is_built_has_no_field_that_it_was_not_declared_with(cls: type) -> None:
    with pytest.raises(AttributeError):
        blank(cls).nonsense = 1
