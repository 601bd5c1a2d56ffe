"""Dead letters: the record as it came, with headers that say who gave up and why; and the news of it for sagas."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from ..events.clock import to_rfc3339
from ..events.codec import SECRET_FIELDS, Codec, to_record
from ..events.envelope import Delivery, Envelope, Headers, Record
from ..events.event import Event
from ..events.failures import HandlerFailed
from ..events.ids import derived_id
from ..events.outbox import MOST_RECORD_BYTES
from ..events.secret import scrub

PREFIX = "dlq-"
REPLAY = "replay-id"
"""Header of a dead letter that a person sent again: the inbox lets a failed event with it run once more."""

_MOST_MESSAGE = 300
_MOST_FRAMES = 3
_LONGEST_KEY = 10_000  # a longer one, twice in the news and escaped, might not fit a record


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handler gave up.

    Args:
        service: its name.
        handler: its name in the service; empty when no handler could be told.
        error: what was raised.
        attempts: how often it was tried; 0 for what could not be read.
        dead: True for a dead letter, False for an event that is tried again.
        now: microseconds.
        event: what was handled: its secrets are taken out of the error's text, which a library may have written.
        retry_topic: on which it waits for another try; empty where it is parked.
    """

    service: str
    handler: str
    error: BaseException
    attempts: int
    dead: bool
    now: int
    event: Event | None
    retry_topic: str = ""

    @property
    def error_class(self) -> str:
        """The error's class."""
        return type(self.error).__name__

    @property
    def message(self) -> str:
        """The first line of the error's text: where a library quotes values, it does so further down."""
        text = str(self.error)
        lines = (text if self.event is None else scrub(text, self.event)).splitlines()
        return lines[0][:_MOST_MESSAGE] if lines else ""

    @property
    def stack(self) -> str:
        """Where it was raised: file, line and function, the innermost first; places in code only, never a value."""
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(self.error.__traceback__)]
        told = [f"{PurePath(code.co_filename).name}:{line} {code.co_name}" for code, line in frames[-_MOST_FRAMES:]]
        return " < ".join(reversed(told))[:_MOST_MESSAGE]


def dead_letter(delivery: Delivery, failure: Failure, secrets: Iterable[str] = ()) -> Record:
    """Build the record for the dead-letter topic: key, value and headers as they came, and `dlq-*` headers.

    A value that does not fit beside the new headers is left out (`dlq-value: omitted`); the place it came from is told.

    Args:
        delivery: the record.
        failure: why it is given up.
        secrets: where it holds secrets, for those who show it and know no classes.
    """
    reasons = {
        "service": failure.service,
        "handler": failure.handler,
        "error": failure.error_class,
        "message": failure.message,
        "attempts": str(failure.attempts),
        "topic": delivery.topic,
        "partition": str(delivery.partition),
        "offset": str(delivery.offset),
        "time": to_rfc3339(failure.now),
    }
    kept = tuple((name, value) for name, value in delivery.headers if not name.startswith(PREFIX) and name != REPLAY)
    if failure.attempts and (stack := failure.stack):
        reasons["stack"] = stack
    if hidden := dict.fromkeys([*_told_secrets(delivery), *secrets]):
        kept = (*(each for each in kept if each[0] != SECRET_FIELDS), (SECRET_FIELDS, ",".join(hidden).encode()))
    headers = (*kept, *((PREFIX + name, text.encode()) for name, text in reasons.items()))
    record = Record(f"{delivery.topic}.dlq", delivery.key, delivery.value, headers, delivery.timestamp)
    if record.size() <= MOST_RECORD_BYTES and (delivery.key is not None or delivery.value is not None):
        return record
    key = delivery.key if delivery.key is not None and len(delivery.key) < MOST_RECORD_BYTES // 2 else b""
    few = tuple(header for header in headers if header[0].startswith(PREFIX))
    return Record(record.topic, key, None, (*few, (f"{PREFIX}value", b"omitted")), delivery.timestamp)


def _told_secrets(delivery: Delivery) -> list[str]:
    told = next((value for name, value in delivery.headers if name == SECRET_FIELDS), None) or b""
    return [each for each in told.decode(errors="replace").split(",") if each]


def handler_failed(
    delivery: Delivery, envelope: Envelope, failure: Failure, codec: Codec, extra: Headers = ()
) -> Record:
    """Build the `HandlerFailed` event, keyed like the handler's input (ruling R14), of the same saga.

    An input without a key, or with one of more than 10,000 characters, lends its id.

    Args:
        delivery: the handler's input.
        envelope: its envelope.
        failure: why it gave up.
        codec: prepared for `HandlerFailed`.
        extra: headers beside.
    """
    event = HandlerFailed(
        key=envelope.key if 0 < len(envelope.key) <= _LONGEST_KEY else envelope.id,
        service=failure.service,
        handler=failure.handler,
        event_id=envelope.id,
        event_type=envelope.type,
        topic=delivery.topic,
        partition=delivery.partition,
        offset=delivery.offset,
        dead=failure.dead,
        attempts=failure.attempts,
        error_class=failure.error_class,
        message=failure.message,
        retry_topic=failure.retry_topic,
    )
    kind = "dead" if failure.dead else "parked"
    news = Envelope(
        id=derived_id("failed", envelope.id, failure.service, failure.handler, kind),
        type=HandlerFailed.spec().type,
        source=failure.service,
        time=failure.now,
        key=event.key,
        causation_id=envelope.id,
        saga_id=envelope.saga_id,
        saga_type=envelope.saga_type,
        saga_run=envelope.saga_run,
        saga_step=envelope.saga_step if envelope.saga_attempt is not None else None,
        saga_occurrence=envelope.saga_occurrence if envelope.saga_attempt is not None else None,
        saga_attempt=envelope.saga_attempt,
        saga_traceparent=envelope.saga_traceparent,
        traceparent=envelope.traceparent,
        extra=extra,
    )
    return to_record(event, news, codec)
