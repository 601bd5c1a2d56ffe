"""Numbers for values: a state of the model is made of small numbers, so that it is quick to compare and to keep."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Numbers(Generic[T]):
    """Gives each value a number, the same one whenever it is met again."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def of(self, value: T) -> int:
        """Give the number of a value."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)
