"""What is said of events that other systems write as they please: where their type, key, id and time stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from .envelope import Delivery, Envelope
from .errors import DefinitionError

if TYPE_CHECKING:
    from .event import Event


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the record, read as UTF-8 text."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the value, by its path: `"order.id"`."""

    path: str


Source: TypeAlias = "Header | Field | Callable[[Delivery], str | None]"
"""Where a text stands: a header, a field of the value, or what a function makes of the record (None: not there)."""

TimeSource: TypeAlias = "Header | Field | Callable[[Delivery], datetime | None]"
"""Where a time stands: RFC 3339 text or whole milliseconds since 1970; a function gives a datetime with a zone."""

Decoder: TypeAlias = "Callable[[Delivery, Envelope], tuple[Event, Envelope] | None]"
"""Reads a record: it gets the record and what is known of it without the value, and gives the event and its envelope.

None says that the record is nothing for us. What it raises makes the record a dead letter.
"""


def header(name: str) -> Header:
    """Say that something stands in a header of the record.

    Args:
        name: of the header, e.g. `"__TypeId__"`; where it stands twice the last one counts.
    """
    if not isinstance(name, str) or not name:
        raise DefinitionError(f'header({name!r}): name a header, header("order-id")')
    return Header(name)


def value(path: str) -> Field:
    """Say that something stands in a field of the value.

    Args:
        path: its name, or a path of names, e.g. `"meta.type"`.
    """
    if not isinstance(path, str) or not all(path.split(".")):
        raise DefinitionError(f'value({path!r}): name a field, value("order_id") or value("order.id")')
    return Field(path)


@dataclass(frozen=True, slots=True)
class Foreign:
    """How records are read that another system writes as it pleases; the `foreign=` of an event class.

    It says something of a whole topic, so one class of the topic may say it, or several the same. What a record with
    CloudEvents headers says of its own type, id and time counts; without them:

    Args:
        type: where the event's type stands; default: the topic's only class, or the name of the Avro record.
        types: names in it that are called otherwise here, `{"com.acme.Shipped": "OrderShipped"}`. A name that is no
            type is looked for once more without what stands before its last `.`, `$`, `/` or `:`.
        key: where the business key stands; default: the record's key, and where there is none the class's key field.
        id: where the event's id stands, so that copies are known as such; default: made of the record's place.
        time: where the time stands at which it happened; default: the record's timestamp.
        decode: a function that reads the record, for values that choreo cannot read.

    Raises:
        DefinitionError: what it says contradicts itself.
    """

    type: Source | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    key: Source | None = None
    id: Source | None = None
    time: TimeSource | None = None
    decode: Decoder | None = None

    def __post_init__(self) -> None:
        for name in ("type", "key", "id", "time"):
            source = getattr(self, name)
            if source is not None and not isinstance(source, (Header, Field)) and not callable(source):
                raise DefinitionError(
                    f'Foreign: {name}={source!r} is no place; write header("..."), value("...") or a function'
                )
        if self.decode is None:
            return
        if not callable(self.decode):
            raise DefinitionError(f"Foreign: decode={self.decode!r} is no function of the record and its envelope")
        if self.type is not None or self.types:
            raise DefinitionError("Foreign: decode= says by the event that it gives of which type it is; drop type=")
