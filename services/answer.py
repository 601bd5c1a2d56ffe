"""The answer to an undo that finds nothing to undo: built from the command alone, so that no handler has to run.

The undo handler itself is not called: it would undo what never happened. Row 15 of the semantics still wants an answer,
and the answer of an undo hardly ever says more than its command; so it is filled by name, or the author gives a
function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..events.errors import DefinitionError
from ..events.event import Event
from .signature import Signature

Empty = Callable[[Any], Event | None]
"""Gives the answer to a command when there was nothing to undo."""


def empty_answer(where: str, commands: tuple[type[Event], ...], signature: Signature) -> Empty:
    """Build the answer by filling the fields of the one class that the handler returns from the command's of that name.

    Args:
        where: service and handler, for messages.
        commands: the classes that the undo handler takes.
        signature: its signature.

    Raises:
        DefinitionError: it returns several classes, or a required field of the answer is not in the command.
    """
    if not signature.produces:
        return _nothing
    if len(signature.produces) > 1:
        names = ", ".join(each.__name__ for each in signature.produces)
        raise DefinitionError(
            f"{where}: which of {names} answers when there was nothing to undo? say so: "
            f"empty=lambda command: {signature.produces[0].__name__}(...)"
        )
    answer = signature.produces[0]
    for command in commands:
        for name, field in answer.model_fields.items():
            theirs = command.model_fields.get(name)
            if field.is_required() and (theirs is None or theirs.annotation != field.annotation):
                why = "it is not there" if theirs is None else "it has another type there"
                raise DefinitionError(
                    f"{where}: when there is nothing to undo, {answer.__name__} is filled from {command.__name__}, but "
                    f"{name!r} cannot be: {why}; add the field, give it a default, or say "
                    f"empty=lambda command: {answer.__name__}(...)"
                )
    return _Filled(answer)


def _nothing(_: Event) -> None:
    return None


class _Filled:
    def __init__(self, answer: type[Event]) -> None:
        self._answer = answer

    def __call__(self, command: Event) -> Event:
        values = {}
        for name, field in self._answer.model_fields.items():
            theirs = type(command).model_fields.get(name)
            if theirs is not None and theirs.annotation == field.annotation:
                values[field.alias or name] = getattr(command, name)
        return self._answer.model_validate(values)
