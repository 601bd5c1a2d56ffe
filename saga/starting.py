"""The record of a start event that no service publishes: a person asked for it, or the clock."""

from __future__ import annotations

from ..events.codec import Codec, to_record
from ..events.envelope import Envelope, Record
from ..events.errors import LimitExceeded
from ..events.event import Event
from ..events.outbox import MOST_RECORD_BYTES


def start_record(event: Event, id_: str, source: str, at: int, codec: Codec) -> Record:
    """Make the record of a start event.

    Args:
        event: what starts the saga.
        id_: its id; the same one for the same cause, so that it starts one saga only.
        source: who publishes it.
        at: its business time, microseconds.
        codec: prepared for its class.

    Raises:
        EventError: it cannot be encoded, or is too large.
    """
    spec = event.spec()
    record = to_record(event, Envelope(id_, spec.type, source, at, event.key_text()), codec)
    if record.size() > MOST_RECORD_BYTES:
        raise LimitExceeded(f"{spec.type} has {record.size()} bytes; at most {MOST_RECORD_BYTES} can be sent")
    return record
