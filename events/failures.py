"""The event that says a handler could not do its work (ruling R14)."""

from __future__ import annotations

from .event import Event

FAILURES_TOPIC = "choreo.failures"


class HandlerFailed(Event, topic=FAILURES_TOPIC, key="key", format="json"):
    """A handler gave an event up, or will try it again later.

    Args:
        key: of the event that failed, so that this one meets the same saga.
        service, handler: who failed.
        event_id, event_type, topic, partition, offset: the event that failed, and where it lies.
        dead: it went to the dead letters; False: it will be tried again.
        attempts: how often it was tried.
        error_class, message: the last error; the message of a handler's own error is the handler's responsibility.
        retry_topic: where it waits for that; empty where it is parked, and later events of its key wait behind it.
    """

    key: str
    service: str
    handler: str
    event_id: str
    event_type: str
    topic: str
    partition: int
    offset: int
    dead: bool
    attempts: int
    error_class: str
    message: str
    retry_topic: str = ""
