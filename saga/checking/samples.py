"""Made-up events: any value that fits each field, to try a user's function with."""

from __future__ import annotations

import types
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError

from ...events.event import Event

_VALUES: dict[type, Any] = {
    bool: True,
    int: 1,
    float: 1.0,
    str: "sample",
    bytes: b"sample",
    Decimal: Decimal(1),
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
    date: date(2026, 1, 1),
    time: time(12),
    timedelta: timedelta(seconds=1),
    UUID: UUID(int=1),
}


def sample(cls: type[Event]) -> Event | None:
    """Make up an event; None where its rules refuse every value that comes to mind."""
    try:
        return cls.model_validate(_fields(cls))
    except (ValidationError, TypeError, KeyError):
        return None


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    wanted = {name: field for name, field in cls.model_fields.items() if field.is_required()}
    return {field.alias or name: _value(field.annotation) for name, field in wanted.items()}


def _value(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _value(get_args(annotation)[0])
    if origin is Literal:
        return get_args(annotation)[0]
    if origin in (Union, types.UnionType):
        options = get_args(annotation)
        return None if types.NoneType in options else _value(options[0])
    if origin in (list, tuple, set, frozenset, dict):
        return {} if origin is dict else []
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next(iter(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _fields(annotation)
    return _VALUES[annotation]
