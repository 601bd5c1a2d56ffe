"""What the pure core is made of: values that nobody can change in place, so no decision reaches into its past."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from choreo.saga import definition, inputs, instance, lock, policy, schedule
from choreo.saga.instance import Instance, Step

CHANGED = {Step, Instance, inputs.Transition}
"""What `advance` builds, from a copy."""

CLASSES = [
    found
    for module in (definition, inputs, instance, lock, policy, schedule)
    for found in vars(module).values()
    if inspect.isclass(found) and dataclasses.is_dataclass(found) and dataclasses.fields(found)
    if found.__module__ == module.__name__
]


def test_there_are_values() -> None:
    assert len(CLASSES) > 20


@pytest.mark.parametrize("cls", CLASSES)
def test_a_value_cannot_be_changed(cls: type) -> None:
    value = cls.__new__(cls)
    field = dataclasses.fields(cls)[0].name
    if cls in CHANGED:
        setattr(value, field, 1)
        return
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, 1)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.__module__ != definition.__name__])
def test_there_are_very_many_so_they_are_small(cls: type) -> None:
    assert not hasattr(cls.__new__(cls), "__dict__")


@pytest.mark.parametrize("cls", sorted(CHANGED, key=lambda each: each.__name__))
def test_what_is_built_has_no_field_that_it_was_not_declared_with(cls: type) -> None:
    with pytest.raises(AttributeError):
        cls.__new__(cls).nonsense = 1
