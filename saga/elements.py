"""The elements of a step that runs once per element: where they come from, their keys, and how they are kept.

They are asked for once, when the step's turn comes. Their keys go into the saga's state; they themselves are kept as
JSON beside that answer in the history, so that a command, and an undo days later, is filled from the same values.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..events.errors import ChoreoError, DecodeError, EncodeError
from ..events.event import Event
from ..events.keys import Keys
from ..events.sealed import open_json, seal_json
from ..events.secret import Showing, secret_paths
from .hints import returned
from .occurrence import LONGEST_ELEMENT, MOST_ELEMENTS
from .step import Each

KEYS = (str, int, UUID)
"""What an element's key may be: these have one textual form, in the payload of every answer as well."""

_LISTS = (list, tuple)


@dataclass(frozen=True)
class Fan:
    """How the elements of one step are found.

    Args:
        step: its name.
        each: a field, or a function of the saga.
        by: the field that holds an element's key, in the answers and in elements that are models.
        item: the type of one element.
    """

    step: str
    each: Each
    by: str
    item: Any

    @property
    def plain(self) -> bool:
        """Whether an element is its own key."""
        return self.item in KEYS

    @cached_property
    def _list(self) -> TypeAdapter[list[Any]]:
        return TypeAdapter(list[self.item])  # type: ignore[name-defined]

    @cached_property
    def _secret(self) -> bool:
        return not self.plain and bool(secret_paths(self.item))

    @cached_property
    def _key_type(self) -> Any:
        return self.item if self.plain else self.item.model_fields[self.by].annotation

    def find(self, before: Iterable[Event], view: Callable[[], Any]) -> dict[str, Any]:
        """Ask for the elements; give them by key, in their order.

        Args:
            before: the done events of the steps before it, newest first, and the start event last.
            view: makes the view of the saga that a function gets.

        Raises:
            EncodeError: there are none to be found, or they cannot be told apart; never with a payload's value.
            DecodeError: an event of the saga cannot be read.
        """
        return self._by_key(self._listed(before, view))

    def dump(self, elements: Mapping[str, Any], keys: Keys, saga: str) -> bytes:
        """Write elements as JSON; their secrets encrypted, where there are keys.

        Args:
            elements: by key.
            keys: that encrypt.
            saga: its name with the run, to which what is encrypted is bound.
        """
        listed = list(elements.values())
        if not keys or not self._secret:
            return self._list.dump_json(listed, context=Showing.VALUE)
        marked = self._list.dump_python(listed, mode="json", context=Showing.MARKED)
        return seal_json(marked, keys, self.step, saga, whole=False)

    def load(self, data: bytes, keys: Keys, saga: str) -> dict[str, Any]:
        """Read what `dump` wrote; the list is as it was checked then.

        Raises:
            DecodeError: the class of the elements has changed, or a key is missing.
        """
        data = open_json(data, keys, self.step, saga)
        try:
            return {self._key_of(element): element for element in self._list.validate_json(data)}
        except ValidationError:
            raise DecodeError(f"the elements of step {self.step} do not fit their class any more") from None

    def key_value(self, text: str) -> Any:
        """Turn an element's key back into what it is in a field."""
        return self._key_type(text)

    def _listed(self, before: Iterable[Event], view: Callable[[], Any]) -> list[Any]:
        if isinstance(self.each, str):
            for event in before:
                if self.each in type(event).model_fields:
                    return self._checked(getattr(event, self.each))
            raise EncodeError(f"step {self.step}: no event before it has a field {self.each!r}")
        try:
            found = self.each(view())
            listed = list(found)
        except (DecodeError, EncodeError):
            raise
        except ChoreoError as error:
            raise EncodeError(f"each= of step {self.step} says: {error.message}") from error
        except Exception as error:
            raise EncodeError(f"each= of step {self.step} raised {type(error).__name__}") from error
        return self._checked(listed)

    def _checked(self, found: Iterable[Any]) -> list[Any]:
        try:
            return self._list.validate_python(list(found))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise EncodeError(f"each= of step {self.step}: element {place}: {first['msg']}") from None

    def _by_key(self, listed: list[Any]) -> dict[str, Any]:
        if len(listed) > MOST_ELEMENTS:
            raise EncodeError(
                f"step {self.step} has {len(listed)} elements, at most {MOST_ELEMENTS} are run; put several into one"
            )
        found: dict[str, Any] = {}
        for number, element in enumerate(listed, start=1):
            key = self._key_of(element)
            if not key:
                raise EncodeError(f"step {self.step}: element {number} has no {self.by}, so no answer could name it")
            if len(key) > LONGEST_ELEMENT:
                raise EncodeError(
                    f"step {self.step}: the {self.by} of element {number} has {len(key)} characters, "
                    f"at most {LONGEST_ELEMENT} are taken"
                )
            try:
                key.encode()
            except UnicodeEncodeError:
                raise EncodeError(f"step {self.step}: the {self.by} of element {number} is not text") from None
            if key in found:
                raise EncodeError(
                    f"step {self.step}: elements {list(found).index(key) + 1} and {number} have the same {self.by}, "
                    "so no answer could tell them apart; merge them in a function each="
                )
            found[key] = element
        return found

    def _key_of(self, element: Any) -> str:
        value = element if self.plain else getattr(element, self.by)
        return "" if value is None else str(value)


def item_of(annotation: Any) -> Any:
    """Give the type of one element of a list's annotation; None where it is no list."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
    return arguments[0] if origin is list and len(arguments) == 1 else None


def item_made(function: Callable[..., Any]) -> Any:
    """Give the type of one element of what a function gives; None where it does not say."""
    made = returned(function)
    arguments = typing.get_args(made)
    origin = typing.get_origin(made)
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping) and arguments:
        return arguments[0]
    return None


def is_element(item: Any, by: str) -> str:
    """Say why a type cannot be that of an element; "" when it can."""
    if item in KEYS:
        return ""
    if not (isinstance(item, type) and issubclass(item, BaseModel)):
        return "is no str, int, UUID or pydantic model"
    if by not in item.model_fields:
        return f"has no field {by!r} to tell one from another"
    if item.model_fields[by].annotation not in KEYS:
        return f"has a field {by!r} that is no str, int or UUID"
    return ""
