"""The body of a saga class while it is run: which steps were made in it, also those whose name is given again.

A class keeps only the last value of a name. A metaclass would see every value, but type checkers do not check the
arguments of a class line whose class has one of its own.
"""

from __future__ import annotations

import inspect
from typing import Any

_MADE = "__steps__"
_DEPTH = 4


def remember(step: object) -> None:
    """Note in the class body that is being run, if one is, that a step was made in it."""
    frame = inspect.currentframe()
    for _ in range(_DEPTH):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return
        if "__qualname__" in frame.f_locals and "__module__" in frame.f_locals:  # the namespace of a class to be
            body = frame.f_locals
            made: list[list[Any]] = body.setdefault(_MADE, [])
            name_all(made, body)
            made.append([None, step])
            return


def name_all(made: list[list[Any]], body: dict[str, Any]) -> None:
    """Give each step that has no name yet the one that it has now."""
    for entry in made:
        if entry[0] is None:
            entry[0] = next((name for name, value in body.items() if value is entry[1]), None)


def lost_steps(body: dict[str, Any]) -> list[str]:
    """Name the steps of a class body that another value of their name has taken the place of."""
    kept = {id(value) for value in body.values()}
    return [name or "?" for name, step in body.get(_MADE, ()) if id(step) not in kept]
