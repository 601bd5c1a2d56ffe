"""`Secret[...]`: a value that shows itself to nobody who does not ask for it by name.

The value stands in a wrapper, so whatever prints, logs, formats, raises or dumps an event shows a mask: it is not left
to each of these to know which fields are secret. Only `reveal()` gives it, and what writes an event to the wire.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, Generic, NoReturn, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, SerializationInfo, ValidationError
from pydantic_core import PydanticCustomError, core_schema

T_co = TypeVar("T_co", covariant=True)

MASK: Final = "**********"
"""What is shown in place of a secret."""

_SHORTEST_SCRUBBED = 4
"""A shorter text (a CVC such as `123` is one) would be found inside words and numbers that tell nothing of it."""


class Showing(Enum):
    """Context of `model_dump*`: what stands in place of a secret; without it the mask does."""

    VALUE = "value"
    MARKED = "marked"


MARK: Final = "$secret"
"""With `Showing.MARKED` a secret stands as `{"$secret": value}`, for whoever encrypts it."""


class Secret(Generic[T_co]):
    """A value that is shown as `**********` wherever it is printed, logged, formatted or dumped.

    ```python
    class PaymentRequested(Event, topic="payments", key="order_id"):
        order_id: str
        card: Secret[str]

    PaymentRequested(order_id="1", card=Secret("4111111111111111")).card.reveal()
    ```

    As the type of a field it takes any type that the field could have: `Secret[Decimal]`, `Secret[Card]`,
    `Secret[list[str]]`, `Secret[str] | None`, `list[Secret[str]]`.

    Args:
        value: what is kept.
    """

    __slots__ = ("_value",)
    _value: T_co

    def __init__(self, value: T_co) -> None:
        object.__setattr__(self, "_value", value)

    def reveal(self) -> T_co:
        """Give the value; what is done with it from here on is the caller's care."""
        return self._value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed; make a new one")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec) if spec[-1:] in ("", "s") else MASK  # a number's format does not fit the mask

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, (self._value,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        inner = handler.generate_schema((*typing.get_args(source), Any)[0])

        def validate(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Secret[Any]:
            try:
                return Secret(check(value._value if isinstance(value, Secret) else value))
            except ValidationError as error:
                # Its text, and that of a user's own validator, may quote the value.
                kind = error.errors(include_input=False, include_url=False, include_context=False)[0]["type"]
                raise PydanticCustomError("secret", "a secret value is not valid ({rule})", {"rule": kind}) from None

        return core_schema.no_info_wrap_validator_function(
            validate,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(_show, schema=inner, info_arg=True),
        )


def _show(value: Any, dump: core_schema.SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    if not isinstance(value, Secret):
        return MASK  # `model_construct` took what is no Secret: a mask is what its field promises
    if info.context is Showing.VALUE:
        return dump(value._value)
    if info.context is Showing.MARKED:
        return {MARK: dump(value._value)}
    return value if info.mode == "python" else MASK


def secret_paths(model: type[BaseModel], *, aliases: bool = False) -> tuple[str, ...]:
    """List where a class holds secrets, `card` or `items.pin`: names joined by dots, through lists and maps.

    Args:
        model: the class.
        aliases: use the names of JSON in place of the fields'.
    """
    return tuple(sorted(set(_paths(model, (), aliases, ()))))


def _paths(model: type[BaseModel], within: tuple[str, ...], aliases: bool, seen: tuple[type, ...]) -> Iterator[str]:
    if model in seen:
        return
    for name, field in model.model_fields.items():
        shown = (field.serialization_alias or field.alias or name) if aliases else name
        yield from _in(field.annotation, (*within, shown), aliases, (*seen, model))


def _in(annotation: Any, path: tuple[str, ...], aliases: bool, seen: tuple[type, ...]) -> Iterator[str]:
    for alias in ("__value__", "__supertype__"):  # `type X = ...` and NewType
        if hasattr(annotation, alias):
            annotation = getattr(annotation, alias)
    if is_secret(annotation):
        yield ".".join(path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _paths(annotation, path, aliases, seen)
    else:
        for inner in typing.get_args(annotation):
            yield from _in(inner, path, aliases, seen)


def holds_secret(model: type[BaseModel], field: str) -> bool:
    """Whether a secret stands in a field, at any depth."""
    info = model.model_fields.get(field)
    return info is not None and any(True for _ in _in(info.annotation, (), False, (model,)))


def is_secret(annotation: Any) -> bool:
    """Whether an annotation is `Secret[...]` itself."""
    return annotation is Secret or typing.get_origin(annotation) is Secret


def masked(value: Any, paths: Iterable[str]) -> Any:
    """Give plain values again with the mask wherever a path leads; lists and maps on the way are walked through."""
    for path in paths:
        value = _masked(value, tuple(path.split(".")))
    return value


def _masked(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return None if value is None else MASK
    if isinstance(value, list):
        return [_masked(item, path) for item in value]
    if not isinstance(value, Mapping):
        return value
    if path[0] in value:
        return {name: _masked(inner, path[1:]) if name == path[0] else inner for name, inner in value.items()}
    # A map stands on the way, or fastavro's name of a union's branch.
    return {
        name: _masked(inner, path) if isinstance(inner, (Mapping, list)) else inner for name, inner in value.items()
    }


def scrub(text: str, *holders: object) -> str:
    """Take the secrets of events out of a text that somebody else wrote: a payment library quotes what it refuses.

    Args:
        text: for example an error's.
        holders: events and other values in which secrets stand; the longest goes first.
    """
    found = {shown for holder in holders for shown in _texts(holder, secret=False) if len(shown) >= _SHORTEST_SCRUBBED}
    for each in sorted(found, key=len, reverse=True):
        text = text.replace(each, MASK)
    return text


def _texts(value: object, *, secret: bool) -> Iterator[str]:
    if isinstance(value, Secret):
        yield from _texts(value._value, secret=True)
    elif isinstance(value, BaseModel):
        for inner in value.__dict__.values():
            yield from _texts(inner, secret=secret)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner, secret=secret)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            yield from _texts(inner, secret=secret)
    elif secret and value is not None and not isinstance(value, bool):
        yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)
