"""Which saga an event belongs to, where its record's key does not say: by a field, a header, or a function of the user.

What a definition keeps of it is text: a field's name or path, `key:FIELD` (the record's key, in a topic that others
write), `header:NAME`, or `call:FUNCTION`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..events.codec import Codec
from ..events.envelope import Delivery, Envelope
from ..events.errors import DecodeError, EventError
from ..events.event import Event
from ..events.intake import at_path, header_text
from .declaration import Declaration

Asked = Mapping[str, tuple[type[Event], Callable[[Any], str]]]
"""Functions of users that name the saga of an event, by `asked_by`."""

FieldReader = Callable[[Delivery, Envelope, str], str]
"""Reads what stands at a place of a record as text; raises DecodeError."""


def asked_by(saga_type: str, event_type: str) -> str:
    """Name the function that tells the key of a saga from an event."""
    return f"call:{saga_type}/{event_type}"


def asked_of(newest: Mapping[str, Declaration]) -> Asked:
    """Collect the functions of the newest declarations."""
    return {
        asked_by(type_, event_type): (declaration.events[event_type], function)
        for type_, declaration in newest.items()
        for event_type, function in declaration.correlators.items()
    }


def consumed_classes(declarations: Iterable[Declaration]) -> list[type[Event]]:
    """List the event classes that move sagas, each once: what their coordinator reads."""
    found = (each.events[type_] for each in declarations for type_ in sorted(each.definition.consumed))
    return list(dict.fromkeys(found))


def reader(codec: Codec, asked: Asked) -> FieldReader:
    """Make what reads places of records.

    Args:
        codec: opens values.
        asked: functions of users.
    """

    def read(delivery: Delivery, envelope: Envelope, where: str) -> str:
        value = (delivery.value if envelope.value is None else envelope.value) or b""
        kind, _, name = where.partition(":")
        found: object
        if where in asked:
            cls, function = asked[where]
            event = codec.decode(cls, value, envelope.content_type, envelope.key, envelope.id)
            found = _called(function, event, envelope.type)
            what = "no key by the function of correlate="
        elif kind == "header":
            found, what = header_text(delivery, name), f"no header {name!r}"
        else:
            found, what = (
                at_path(codec.decode_any(value, envelope.content_type, envelope.type, envelope.id), where),
                f"no {where!r}",
            )
        if found is None or found == "":
            raise DecodeError(f"an event of type {envelope.type} has {what}, so it belongs to no saga")
        return str(found)

    return read


def _called(function: Callable[[Any], str], event: Event, type_: str) -> object:
    try:
        found = function(event)
    except EventError:
        raise
    except Exception as error:
        raise DecodeError(f"the function of correlate= for {type_} raised {type(error).__name__}") from None
    if found is not None and (isinstance(found, bool) or not isinstance(found, (str, int))):
        raise DecodeError(f"the function of correlate= for {type_} gave {type(found).__name__}; let it give text")
    return found
